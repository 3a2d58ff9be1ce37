"""Output folder of an ingest; a later run continues from its content."""

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from vxlpro_jax.data.ingest.convert import ConvertedShard, copy_records, size_and_sha256
from vxlpro_jax.data.ingest.tfrecord import SourceShard
from vxlpro_jax.data.sources.paths import redact_url
from vxlpro_jax.utils.errors import InputError
from vxlpro_jax.utils.files import write_atomically


class OutputFolder:
    """The output folder; its subfolder `partial` holds unfinished work, one file per source."""

    def __init__(self, out: Path, shards: Sequence[SourceShard]):
        self._shards = shards
        self._sources = [{"url": redact_url(shard.url), "bytes": shard.bytes} for shard in shards]
        self._partial = out / "partial"
        self._plan = self._partial / "plan.json"
        self.manifest = out / "manifest.json"
        self.bad_records = out / "bad_records.jsonl"
        self._out = out

    def finished(self) -> dict[str, Any] | None:
        """Returns the manifest if an ingest of the same shards is complete; otherwise None.

        Raises:
            InputError: The folder holds an ingest of other shards.
        """
        if not self.manifest.exists():
            return None
        manifest = json.loads(self.manifest.read_text())
        self._compare([x["source"] for x in manifest["shards"]])
        shutil.rmtree(self._partial, ignore_errors=True)
        return manifest

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Locks out other ingests, and removes temporary files of one that was killed.

        Raises:
            InputError: Another ingest is running, or the folder holds an ingest of other shards.
        """
        self._partial.mkdir(parents=True, exist_ok=True)
        with open(self._partial / "lock", "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise InputError(
                    f"Another ingest is writing to {self._out}: wait until it ends, or give another"
                    " --out."
                ) from error
            if self._plan.exists():
                self._compare(json.loads(self._plan.read_text()))
            elif any(self._out.glob("*.arrayrecord")):
                raise InputError(f"{self._out} holds shards of unknown origin: give another --out.")
            for file in [*self._out.glob("*.tmp"), *self._partial.glob("*.tmp")]:
                file.unlink()
            write_atomically(self._plan, json.dumps(self._sources))
            yield

    def _compare(self, sources: list[dict]) -> None:
        if sources != self._sources:
            raise InputError(
                f"{self._out} holds an ingest of other shards, or the shards have changed in size"
                " since: give another --out."
            )

    def converted(self) -> dict[int, ConvertedShard]:
        """Returns the shards that are already converted, by the position of their source."""
        names = {i: self._result(i) for i in range(len(self._shards)) if self._result(i).exists()}
        return {i: ConvertedShard(**json.loads(name.read_text())) for i, name in names.items()}

    def temporary(self, index: int) -> Path:
        """Returns the path to which a worker writes records."""
        return self._partial / f"{index:05d}.arrayrecord.tmp"

    def keep(self, index: int, converted: ConvertedShard) -> None:
        """Marks a file that a worker wrote as converted."""
        os.replace(self.temporary(index), self._records(index))
        write_atomically(self._result(index), json.dumps(converted._asdict()))

    def publish(
        self, index: int, converted: ConvertedShard, *, without: set[str]
    ) -> dict[str, Any]:
        """Turns a converted file into an output shard and returns its entry in the manifest.

        Args:
            index: position of the source.
            converted: result of the conversion.
            without: ids to leave out, because an earlier shard contains them.
        """
        entry = {"source": self._sources[index], "records": len(converted.ids) - len(without)}
        staged, temporary = self._records(index), self.temporary(index)
        file = self._out / f"shard-{index:05d}-of-{len(self._shards):05d}.arrayrecord"
        if not entry["records"]:
            return entry | {"file": None, "bytes": 0, "sha256": None}
        if staged.exists():
            if without:
                copy_records(staged, temporary, keep=[x not in without for x in converted.ids])
                os.replace(temporary, file)
                staged.unlink()
            else:
                os.replace(staged, file)
        size, digest = size_and_sha256(file) if without else (converted.bytes, converted.sha256)
        return entry | {"file": file.name, "bytes": size, "sha256": digest}

    def write_bad_records(self, items: Iterable[dict[str, Any]]) -> None:
        """Writes one JSON object per line."""
        lines = (f"{json.dumps(item, ensure_ascii=False)}\n" for item in items)
        write_atomically(self.bad_records, "".join(lines))

    def close(self, manifest: dict[str, Any]) -> None:
        """Writes the manifest, whose presence means that the ingest is complete."""
        write_atomically(self.manifest, json.dumps(manifest, indent=1) + "\n")
        shutil.rmtree(self._partial)

    def _result(self, index: int) -> Path:
        return self._partial / f"{index:05d}.json"

    def _records(self, index: int) -> Path:
        return self._partial / f"{index:05d}.arrayrecord"

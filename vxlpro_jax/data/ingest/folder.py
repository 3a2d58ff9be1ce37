"""The output folder of an ingest, which continues from what is there."""

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
    """The output folder; what is not finished is under `partial`, one file a source."""

    def __init__(self, out: Path, shards: Sequence[SourceShard]):
        self._shards = shards
        self._sources = [{"url": redact_url(shard.url), "bytes": shard.bytes} for shard in shards]
        self._partial = out / "partial"
        self._plan = self._partial / "plan.json"
        self.manifest = out / "manifest.json"
        self.bad_records = out / "bad_records.jsonl"
        self._out = out

    def finished(self) -> dict[str, Any] | None:
        """The manifest, if an ingest of the same shards is complete.

        Raises:
            InputError: it was one of other shards.
        """
        if not self.manifest.exists():
            return None
        manifest = json.loads(self.manifest.read_text())
        self._compare([x["source"] for x in manifest["shards"]])
        shutil.rmtree(self._partial, ignore_errors=True)
        return manifest

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other ingests out, and clears away what a killed one was writing.

        Raises:
            InputError: another is at work, or what is there is not an ingest of these shards.
        """
        self._partial.mkdir(parents=True, exist_ok=True)
        with open(self._partial / "lock", "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise InputError(f"Another ingest is writing to {self._out}: wait.") from error
            if self._plan.exists():
                self._compare(json.loads(self._plan.read_text()))
            elif any(self._out.glob("*.arrayrecord")):
                raise InputError(f"{self._out} holds other shards: give another --out.")
            for file in [*self._out.glob("*.tmp"), *self._partial.glob("*.tmp")]:
                file.unlink()
            write_atomically(self._plan, json.dumps(self._sources))
            yield

    def _compare(self, sources: list[dict]) -> None:
        if sources != self._sources:
            raise InputError(
                f"{self._out} holds an ingest of other shards, or their sizes have changed since:"
                " give another --out."
            )

    def parts(self) -> dict[int, ConvertedShard]:
        """Those that are there, by the position of their source."""
        names = {i: self._part(i) for i in range(len(self._shards)) if self._part(i).exists()}
        return {i: ConvertedShard(**json.loads(name.read_text())) for i, name in names.items()}

    def temporary(self, index: int) -> Path:
        """Where a worker writes records."""
        return self._partial / f"{index:05d}.arrayrecord.tmp"

    def keep(self, index: int, part: ConvertedShard) -> None:
        """Makes what a worker has written a part."""
        os.replace(self.temporary(index), self._records(index))
        write_atomically(self._part(index), json.dumps(part._asdict()))

    def settle(self, index: int, part: ConvertedShard, *, without: set[str]) -> dict[str, Any]:
        """Makes a part an output shard, less some ids; returns its entry in the manifest."""
        entry = {"source": self._sources[index], "records": len(part.ids) - len(without)}
        staged, temporary = self._records(index), self.temporary(index)
        file = self._out / f"shard-{index:05d}-of-{len(self._shards):05d}.arrayrecord"
        if not entry["records"]:
            return entry | {"file": None, "bytes": 0, "sha256": None}
        if staged.exists():
            if without:
                copy_records(staged, temporary, keep=[x not in without for x in part.ids])
                os.replace(temporary, file)
                staged.unlink()
            else:
                os.replace(staged, file)
        size, digest = size_and_sha256(file) if without else (part.bytes, part.sha256)
        return entry | {"file": file.name, "bytes": size, "sha256": digest}

    def write_bad_records(self, items: Iterable[dict[str, Any]]) -> None:
        """Lists bad records, one object a line."""
        lines = (f"{json.dumps(item, ensure_ascii=False)}\n" for item in items)
        write_atomically(self.bad_records, "".join(lines))

    def close(self, manifest: dict[str, Any]) -> None:
        """Writes the manifest, which says that all is done."""
        write_atomically(self.manifest, json.dumps(manifest, indent=1) + "\n")
        shutil.rmtree(self._partial)

    def _part(self, index: int) -> Path:
        return self._partial / f"{index:05d}.json"

    def _records(self, index: int) -> Path:
        return self._partial / f"{index:05d}.arrayrecord"

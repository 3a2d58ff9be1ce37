"""TFRecord shards of tf.train.Example to ArrayRecord shards: `bash launch/ingest.sh`.

An example has `id`, `conversations` (LLaVA's JSON) and `video`: a file's bytes, or its path under
data.video_root; `data.record` tells them apart and says what is bad. Each source shard becomes one
shard of the good records in their order; of equal ids the first is kept. Beside them stand
`manifest.json` and `bad_records.jsonl`. All of it is the same, byte for byte, whatever the number
of workers and however often the command was killed.

Nothing here imports JAX or needs it installed.
"""

import argparse
import dataclasses
import math
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from vxlpro_jax.data.ingest.convert import (
    ConvertedShard,
    Task,
    convert_shard,
    find_shards,
    shard_size,
)
from vxlpro_jax.data.ingest.folder import OutputFolder
from vxlpro_jax.data.ingest.tfrecord import SourceShard
from vxlpro_jax.data.ingest.workers import Finished, IngestError, Workers
from vxlpro_jax.data.sources.paths import expand_braces, redact_url
from vxlpro_jax.utils.errors import InputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tally:
    """Sums over sources: records kept and bad, bytes read and lost behind damage."""

    kept: int = 0
    bad: int = 0
    read_bytes: int = 0
    lost_bytes: int = 0

    def add(self, shard: SourceShard, part: ConvertedShard, *, repeated: int = 0) -> "Tally":
        """The sums with one source more, of whose ids so many are an earlier one's."""
        return Tally(
            kept=self.kept + len(part.ids) - repeated,
            bad=self.bad + len(part.bad) + repeated,
            read_bytes=self.read_bytes + part.read_bytes,
            lost_bytes=self.lost_bytes + shard.bytes - part.read_bytes,
        )

    @property
    def lost(self) -> int:
        """Records behind damage, as many as those bytes hold on average; at least 1 if any."""
        read = self.kept + self.bad
        if not read:
            return min(1, self.lost_bytes)
        return math.ceil(self.lost_bytes * read / self.read_bytes)

    def bad_share(self, *, all_bytes: int) -> float:
        """The bad and lost as a share of all records, as many as all bytes hold on average."""
        seen = self.kept + self.bad + self.lost
        seen_bytes = self.read_bytes + self.lost_bytes
        return (self.bad + self.lost) * seen_bytes / (seen * all_bytes) if seen else 0.0


def ingest(patterns: Sequence[str], *, out: Path, workers: int, max_bad: float) -> dict[str, Any]:
    """Writes the shards that `patterns` name to folder `out`, or what of them is missing there.

    Returns the manifest: `records` kept, `bad` ones by kind, `lost` behind damage (an estimate),
    `bytes` of all shards, and of each of `shards` its source, records, file, bytes and SHA-256.

    Args:
        patterns: see `launch/ingest.sh --help`.
        out: a local folder.
        workers: processes that read, each one shard at a time.
        max_bad: the run ends when more than this share of all records is bad or lost.

    Raises:
        InputError: a shard that cannot be had, too many bad records, or an `out` of other shards.
        IngestError: a shard that did not answer though tried several times.
    """
    with Workers(workers) as pool:
        shards = _find_shards(patterns, pool=pool)
        folder = OutputFolder(out, shards)
        if (done := folder.finished()) is not None:
            return done
        with folder.locked():
            parts = _convert_all(shards, folder=folder, pool=pool, max_bad=max_bad)
            return _finish(shards, parts, folder=folder, max_bad=max_bad)


def _find_shards(patterns: Sequence[str], *, pool: Workers) -> list[SourceShard]:
    patterns = [name for pattern in _listed(patterns) for name in expand_braces(pattern)]
    urls = [url for found in pool.results(find_shards, patterns) for url in found]
    if twice := [url for url, count in Counter(urls).items() if count > 1]:
        raise InputError(f"Shard {redact_url(twice[0])} is named twice: name it once.")
    return [SourceShard(*pair) for pair in zip(urls, pool.results(shard_size, urls), strict=True)]


def _listed(patterns: Sequence[str]) -> Iterator[str]:
    """The patterns, and in place of `@FILE` the file's lines."""
    for pattern in patterns:
        if not pattern.startswith("@"):
            yield pattern
            continue
        try:
            lines = Path(pattern[1:]).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"List of shards {pattern[1:]} cannot be read: {error}.") from error
        yield from (line.strip() for line in lines if line.strip())


def _convert_all(
    shards: Sequence[SourceShard], *, folder: OutputFolder, pool: Workers, max_bad: float
) -> list[ConvertedShard]:
    parts = folder.parts()
    missing = [index for index in range(len(shards)) if index not in parts]
    tasks = [Task(shards[index], str(folder.temporary(index))) for index in missing]
    quota = _Quota(shards, folder=folder, max_bad=max_bad)
    with _progress(shards, parts) as bar:
        quota.check(parts)
        for message in pool.run(convert_shard, tasks):
            if not isinstance(message, Finished):
                bar.update(message.bytes)
                continue
            index = missing[message.index]
            folder.keep(index, message.result)
            parts[index] = message.result
            bar.set_postfix(shards=f"{len(parts)}/{len(shards)}", refresh=False)
            quota.check(parts)
    return [parts[index] for index in range(len(shards))]


class _Quota:
    """Ends a run as soon as too much is bad, whatever the order in which shards are done."""

    def __init__(self, shards: Sequence[SourceShard], *, folder: OutputFolder, max_bad: float):
        self._shards, self._folder, self._max_bad = shards, folder, max_bad
        self._tally, self._known = Tally(), []

    def check(self, parts: dict[int, ConvertedShard]) -> None:
        """Looks at what follows the parts looked at, up to the first that is missing.

        Raises:
            InputError: too many of their records are bad.
        """
        while (index := len(self._known)) in parts:
            self._known.append(parts[index])
            self._tally = self._tally.add(self._shards[index], parts[index])
            try:
                _check_quota(self._tally, self._shards, max_bad=self._max_bad, folder=self._folder)
            except InputError:
                known, none = self._known, [{}] * len(self._known)
                bad = _bad_records(self._shards[: len(known)], known, repeated=none)
                self._folder.write_bad_records(bad)
                raise


def _progress(shards: Sequence[SourceShard], parts: dict[int, ConvertedShard]) -> tqdm:
    """A bar of the bytes read, or a line every half minute where there is no terminal."""
    return tqdm(
        total=sum(shard.bytes for shard in shards),
        initial=sum(shards[index].bytes for index in parts),
        desc="ingest",
        unit="B",
        unit_scale=True,
        mininterval=0.1 if sys.stderr.isatty() else 30,
    )


def _finish(
    shards: Sequence[SourceShard],
    parts: list[ConvertedShard],
    *,
    folder: OutputFolder,
    max_bad: float,
) -> dict[str, Any]:
    repeated = _repeated(parts)
    tally = Tally()
    for shard, part, again in zip(shards, parts, repeated, strict=True):
        tally = tally.add(shard, part, repeated=len(again))
    bad = _bad_records(shards, parts, repeated=repeated)
    folder.write_bad_records(bad)
    _check_quota(tally, shards, max_bad=max_bad, folder=folder)
    entries = [
        folder.settle(index, part, without=set(again))
        for index, (part, again) in enumerate(zip(parts, repeated, strict=True))
    ]
    manifest = {
        "records": tally.kept,
        "bad": dict(sorted(Counter(x["kind"] for x in bad).items())),
        "lost": tally.lost,
        "bytes": sum(entry["bytes"] for entry in entries),
        "shards": entries,
    }
    folder.close(manifest)
    return manifest


def _repeated(parts: Sequence[ConvertedShard]) -> list[dict[str, int]]:
    """For each part, the ids that an earlier one has, and which one."""
    first: dict[str, int] = {}
    repeated = []
    for index, part in enumerate(parts):
        repeated.append({name: first[name] for name in part.ids if name in first})
        first |= dict.fromkeys(set(part.ids) - first.keys(), index)
    return repeated


def _check_quota(
    tally: Tally, shards: Sequence[SourceShard], *, max_bad: float, folder: OutputFolder
) -> None:
    share = tally.bad_share(all_bytes=sum(shard.bytes for shard in shards))
    if share > max_bad:
        raise InputError(
            f"{tally.bad} bad records, and about {tally.lost} lost behind damage, are {share:.1%}"
            f" of all, more than --max_bad={max_bad:g}: {folder.bad_records} lists them. Mend the"
            " shards, or allow more and start again."
        )


def _bad_records(
    shards: Sequence[SourceShard],
    parts: Sequence[ConvertedShard],
    *,
    repeated: Sequence[dict[str, int]],
) -> list[dict[str, Any]]:
    """One object for each bad record and each damaged shard, in order."""
    listed = []
    for shard, part, again in zip(shards, parts, repeated, strict=True):
        bad = {position: (kind, reason) for position, kind, reason in part.bad}
        kept = [x for x in range(len(part.ids) + len(bad)) if x not in bad]
        for position, name in zip(kept, part.ids, strict=True):
            if name in again:
                where = f"a record of {redact_url(shards[again[name]].url)}"
                bad[position] = ("duplicate", f"has the id {name!r} of {where}")
        if part.damage:
            behind = shard.bytes - part.read_bytes
            reason = f"{part.damage}: the last {behind} of {shard.bytes} bytes are lost"
            bad[len(kept) + len(part.bad)] = ("damage", reason)
        listed += [
            {"shard": redact_url(shard.url), "record": position, "kind": kind, "reason": reason}
            for position, (kind, reason) in sorted(bad.items())
        ]
    return listed


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""
    arguments = _arguments(argv)
    try:
        manifest = ingest(
            arguments.shards,
            out=arguments.out,
            workers=arguments.workers,
            max_bad=arguments.max_bad,
        )
    except (InputError, IngestError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, InputError) else 1
    except OSError as error:
        print(f"error: {error}. Mend that and start again.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    bad = ", ".join(f"{count} {kind}" for kind, count in manifest["bad"].items()) or "none"
    print(
        f"{arguments.out} holds {manifest['records']} records. Bad: {bad}; lost behind damage:"
        f" about {manifest['lost']}."
    )
    return 0


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="launch/ingest.sh",
        description="TFRecord shards of tf.train.Example to ArrayRecord shards.",
    )
    parser.add_argument(
        "shards",
        nargs="+",
        help="local paths or URLs (http, https, s3, gs, az); {a,b} and {000..099} are expanded, and"
        " * where files can be listed, which HTTP servers do not do; @FILE has one on each line",
    )
    parser.add_argument("--out", type=Path, required=True, help="a local folder")
    parser.add_argument(
        "--workers",
        type=_count,
        default=os.cpu_count() or 1,
        help="processes, each reading one shard at a time (the cores: %(default)s)",
    )
    parser.add_argument(
        "--max_bad",
        type=_share,
        default=0.01,
        help="end when more than this share of the records is bad or lost (%(default)s)",
    )
    return parser.parse_args(argv)


def _count(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text} is no number of processes")
    return int(text)


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = math.nan
    if not 0 <= share <= 1:
        raise argparse.ArgumentTypeError(f"{text} is no share from 0 to 1")
    return share


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

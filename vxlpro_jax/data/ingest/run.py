"""Runs an ingest: finds the shards, converts them in worker processes, writes a manifest."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from vxlpro_jax.data.ingest.convert import (
    ConversionTask,
    ConvertedShard,
    convert_shard,
    find_shards,
    shard_size,
)
from vxlpro_jax.data.ingest.folder import OutputFolder
from vxlpro_jax.data.ingest.quota import (
    Quota,
    Tally,
    check_tally,
    find_repeated_ids,
    list_bad_records,
)
from vxlpro_jax.data.ingest.tfrecord import SourceShard
from vxlpro_jax.data.ingest.workers import Finished, Workers
from vxlpro_jax.data.sources.paths import expand_braces, redact_url
from vxlpro_jax.utils import cli
from vxlpro_jax.utils.errors import InputError


def ingest(patterns: Sequence[str], *, out: Path, workers: int, max_bad: float) -> dict[str, Any]:
    """Converts the shards that match `patterns` to ArrayRecord shards in the folder `out`.

    An interrupted run continues: only shards that are missing in `out` are converted.

    Args:
        patterns: paths, URLs, brace patterns or lists `@FILE`, see `launch/ingest.sh --help`.
        out: local folder for the shards and the manifest.
        workers: number of processes; each reads one shard at a time.
        max_bad: share of all records that may be bad or lost.

    Returns:
        The manifest: `records` is the number kept, `bad` counts bad records by kind, `lost`
        estimates the number of records after damage, `bytes` is the size of all shards, and
        `shards` has the source, record count, file, size and SHA-256 of each.

    Raises:
        InputError: A shard cannot be read, too many records are bad, or `out` holds the output of
            an ingest of other shards.
        IngestError: A shard could not be reached in several attempts.
    """
    with Workers(workers) as pool:
        shards = _find_all(patterns, pool=pool)
        folder = OutputFolder(out, shards)
        if (manifest := folder.finished()) is not None:
            return manifest
        with folder.locked():
            converted = _convert_all(shards, folder=folder, pool=pool, max_bad=max_bad)
            return _finish(shards, converted, folder=folder, max_bad=max_bad)


def _find_all(patterns: Sequence[str], *, pool: Workers) -> list[SourceShard]:
    patterns = [name for pattern in _read_lists(patterns) for name in expand_braces(pattern)]
    urls = [url for found in pool.results(find_shards, patterns) for url in found]
    if twice := [url for url, count in Counter(urls).items() if count > 1]:
        raise InputError(f"Shard {redact_url(twice[0])} is named twice: name it once.")
    sizes = pool.results(shard_size, urls)
    return [SourceShard(*pair) for pair in zip(urls, sizes, strict=True)]


def _read_lists(patterns: Sequence[str]) -> Iterator[str]:
    """Yields the patterns; `@FILE` is replaced by the lines of the file."""
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
    converted = folder.converted()
    missing = [index for index in range(len(shards)) if index not in converted]
    tasks = [ConversionTask(shards[index], str(folder.temporary(index))) for index in missing]
    quota = Quota(shards, folder=folder, max_bad=max_bad)
    with _progress_bar(shards, converted) as bar:
        quota.check(converted)
        for message in pool.run(convert_shard, tasks):
            if not isinstance(message, Finished):
                bar.update(message.bytes)
                continue
            index = missing[message.position]
            folder.keep(index, message.result)
            converted[index] = message.result
            bar.set_postfix(shards=f"{len(converted)}/{len(shards)}", refresh=False)
            quota.check(converted)
    return [converted[index] for index in range(len(shards))]


def _progress_bar(shards: Sequence[SourceShard], converted: dict[int, ConvertedShard]) -> tqdm:
    """Makes a progress bar of bytes read; without a terminal it prints a line every 30 seconds."""
    return cli.progress_bar(
        total=sum(shard.bytes for shard in shards),
        initial=sum(shards[index].bytes for index in converted),
        desc="ingest",
        unit="B",
        unit_scale=True,
    )


def _finish(
    shards: Sequence[SourceShard],
    converted: list[ConvertedShard],
    *,
    folder: OutputFolder,
    max_bad: float,
) -> dict[str, Any]:
    repeated = find_repeated_ids(converted)
    tally = Tally()
    for shard, result, again in zip(shards, converted, repeated, strict=True):
        tally = tally.add(shard, result, repeated=len(again))
    bad = list_bad_records(shards, converted, repeated=repeated)
    folder.write_bad_records(bad)
    check_tally(tally, shards, max_bad=max_bad, folder=folder)
    entries = [
        folder.publish(index, result, without=set(again))
        for index, (result, again) in enumerate(zip(converted, repeated, strict=True))
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

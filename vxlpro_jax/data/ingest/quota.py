"""Counts good, bad and lost records, and ends an ingest above a limit."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from vxlpro_jax.data.ingest.convert import ConvertedShard
from vxlpro_jax.data.ingest.folder import OutputFolder
from vxlpro_jax.data.ingest.tfrecord import SourceShard
from vxlpro_jax.data.sources.paths import redact_url
from vxlpro_jax.utils.errors import InputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tally:
    """Totals over source shards.

    Attributes:
        kept: number of records that were written.
        bad: number of records that were left out.
        read_bytes: source bytes that could be read.
        lost_bytes: source bytes after the damage of a shard.
    """

    kept: int = 0
    bad: int = 0
    read_bytes: int = 0
    lost_bytes: int = 0

    def add(self, shard: SourceShard, converted: ConvertedShard, *, repeated: int = 0) -> "Tally":
        """Returns the totals with one more shard.

        Args:
            shard: source that was converted.
            converted: result of its conversion.
            repeated: number of its ids that an earlier shard contains too; they count as bad.
        """
        return Tally(
            kept=self.kept + len(converted.ids) - repeated,
            bad=self.bad + len(converted.bad) + repeated,
            read_bytes=self.read_bytes + converted.read_bytes,
            lost_bytes=self.lost_bytes + shard.bytes - converted.read_bytes,
        )

    @property
    def lost(self) -> int:
        """Estimated number of lost records, from the mean record size; at least 1 if any."""
        read = self.kept + self.bad
        if not read:
            return min(1, self.lost_bytes)
        return math.ceil(self.lost_bytes * read / self.read_bytes)

    def bad_share(self, *, all_bytes: int) -> float:
        """Share of bad and lost records among all records, whose number is estimated from bytes."""
        seen = self.kept + self.bad + self.lost
        seen_bytes = self.read_bytes + self.lost_bytes
        return (self.bad + self.lost) * seen_bytes / (seen * all_bytes) if seen else 0.0


class Quota:
    """Ends a run as soon as too many records are bad.

    Shards are counted in their order, so the outcome does not depend on which is finished first.
    """

    def __init__(self, shards: Sequence[SourceShard], *, folder: OutputFolder, max_bad: float):
        """Starts with no shard counted; `max_bad` is a share of all records."""
        self._shards, self._folder, self._max_bad = shards, folder, max_bad
        self._tally, self._counted = Tally(), []

    def check(self, converted: dict[int, ConvertedShard]) -> None:
        """Counts the next shards after those counted before, up to the first unconverted one.

        Raises:
            InputError: The share of bad records is larger than the limit.
        """
        while (index := len(self._counted)) in converted:
            self._counted.append(converted[index])
            self._tally = self._tally.add(self._shards[index], converted[index])
            try:
                check_tally(self._tally, self._shards, max_bad=self._max_bad, folder=self._folder)
            except InputError:
                counted, none = self._counted, [{}] * len(self._counted)
                bad = list_bad_records(self._shards[: len(counted)], counted, repeated=none)
                self._folder.write_bad_records(bad)
                raise


def check_tally(
    tally: Tally, shards: Sequence[SourceShard], *, max_bad: float, folder: OutputFolder
) -> None:
    """Compares the share of bad records with the limit.

    Raises:
        InputError: The share is larger than `max_bad`.
    """
    share = tally.bad_share(all_bytes=sum(shard.bytes for shard in shards))
    if share > max_bad:
        raise InputError(
            f"{tally.bad} bad records and about {tally.lost} records lost after damage are"
            f" {share:.1%} of all, more than --max_bad={max_bad:g}. They are listed in"
            f" {folder.bad_records}: repair the shards, or raise --max_bad and start again."
        )


def find_repeated_ids(converted: Sequence[ConvertedShard]) -> list[dict[str, int]]:
    """Returns for each shard its ids that an earlier shard contains, with that shard's position."""
    first: dict[str, int] = {}
    repeated = []
    for index, shard in enumerate(converted):
        repeated.append({name: first[name] for name in shard.ids if name in first})
        first |= dict.fromkeys(set(shard.ids) - first.keys(), index)
    return repeated


def list_bad_records(
    shards: Sequence[SourceShard],
    converted: Sequence[ConvertedShard],
    *,
    repeated: Sequence[dict[str, int]],
) -> list[dict[str, Any]]:
    """Returns one JSON object for each bad record and each damaged shard, in order."""
    listed = []
    for shard, result, again in zip(shards, converted, repeated, strict=True):
        bad = {position: (kind, reason) for position, kind, reason in result.bad}
        kept = [x for x in range(len(result.ids) + len(bad)) if x not in bad]
        for position, name in zip(kept, result.ids, strict=True):
            if name in again:
                where = f"a record of {redact_url(shards[again[name]].url)}"
                bad[position] = ("duplicate", f"has the id {name!r} of {where}")
        if result.damage:
            behind = shard.bytes - result.read_bytes
            reason = f"{result.damage}: the last {behind} of {shard.bytes} bytes are lost"
            bad[len(kept) + len(result.bad)] = ("damage", reason)
        listed += [
            {"shard": redact_url(shard.url), "record": position, "kind": kind, "reason": reason}
            for position, (kind, reason) in sorted(bad.items())
        ]
    return listed

"""Features of frozen parts on disk, found by what was encoded: `FeatureStore`.

Shapes: g groups of a visual, P places of the grid, C width of the tower.
"""

import dataclasses
import functools
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Self

from vxlpro_jax.data.features.blocks import GroupType, Visual
from vxlpro_jax.data.features.shards import (
    ShardWriter,
    VisualLocation,
    find_indices,
    open_shard,
    read_blocks,
    read_index,
)
from vxlpro_jax.data.sources.content_hash import content_hash, media_name, visual_key
from vxlpro_jax.data.sources.storage import StoredFile
from vxlpro_jax.utils.errors import InputError

_SHARD_BYTES = 1 << 30
_SHARD_SECONDS = 300.0  # The most work that is lost when a process dies.
_OPEN_SHARDS = 64


class FeatureStore:
    """The features that a folder held when it was last looked at; threads may share it."""

    def __init__(self, folder: Path, *, kind: GroupType):
        """Reads the indices of all shards; a folder that does not exist holds nothing.

        Args:
            folder: of features of one kind, made with the same weights.
            kind: of a group of them.
        """
        self.folder, self.kind = folder, kind
        self._spans: dict[str, VisualLocation] = {}
        self._indices: set[Path] = set()
        self._open = functools.lru_cache(_OPEN_SHARDS)(open_shard)
        self.look()

    def look(self) -> None:
        """Finds what has been added to the folder since, to be read instead of what was found."""
        for index in find_indices(self.folder):
            if index not in self._indices:
                self._spans |= read_index(index, kind=self.kind)
                self._indices.add(index)

    def __contains__(self, key: str) -> bool:
        return key in self._spans

    def __len__(self) -> int:
        return len(self._spans)

    def blocks(self, key: str) -> Iterator[Visual]:
        """A visual's groups a few at a time, in order; it must be there.

        Raises:
            InputError: it cannot be read.
        """
        span = self._spans[key]
        yield from read_blocks(self._open(span.shard), span, kind=self.kind)

    def read(self, key: str) -> Visual:
        """All groups of a visual; it must be there.

        Raises:
            InputError: it cannot be read.
        """
        whole, start = self.kind.blank(self._spans[key].groups), 0
        for block in self.blocks(key):
            taken = slice(start, start + len(block.times))
            whole.groups[taken], whole.times[taken] = block
            start = taken.stop
        return whole


class FeatureWriter:
    """Adds visuals to a folder, as a context: what is complete when it ends, however, is kept.

    A shard is finished, and its visuals are there for others, when it has a gigabyte or is five
    minutes old.
    """

    def __init__(
        self,
        folder: Path,
        *,
        kind: GroupType,
        shard_bytes: int = _SHARD_BYTES,
        shard_seconds: float = _SHARD_SECONDS,
    ):
        """Creates nothing before something is written.

        Args:
            folder: exists.
            kind: of each group.
            shard_bytes: about where a shard ends.
            shard_seconds: when it does.
        """
        self._begin = functools.partial(ShardWriter, folder, kind=kind)
        self._shard_bytes, self._shard_seconds = shard_bytes, shard_seconds
        self._shard: ShardWriter | None = None
        self._since = 0.0

    def write(self, key: str, blocks: Iterable[Visual]) -> None:
        """Adds a visual; memory holds no more of it than a block and a record of it.

        Args:
            key: names it.
            blocks: of any numbers of groups, written as they come.

        Raises:
            OSError: it cannot be written.
            ValueError: a block is of another kind.
        """
        if self._shard is None:
            self._shard, self._since = self._begin(), time.monotonic()
        self._shard.write(key, blocks)
        age = time.monotonic() - self._since
        if self._shard.bytes >= self._shard_bytes or age >= self._shard_seconds:
            self._finish()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_) -> None:
        self._finish()

    def _finish(self) -> None:
        shard, self._shard = self._shard, None
        if shard is not None:
            shard.finish()


@dataclasses.dataclass(frozen=True)
class RunFeatures:
    """Features of the files that a run's records name.

    Attributes:
        store: holds them.
        keys: there, by `media_name`; files that records hold themselves need none.
    """

    store: FeatureStore
    keys: Mapping[bytes, str]

    def read(self, media: Sequence[StoredFile], *, reading: str) -> Visual:
        """The features of what a record shows: [g,4,P,C], or [g,P,C] behind the DTS.

        Args:
            media: its files.
            reading: how they are read, as `SampleReader.reading` tells.

        Raises:
            InputError: there are none, or they cannot be read.
        """
        if content := media[0].content:
            key = visual_key([content_hash(content)], reading=reading)
        else:
            key = self.keys.get(media_name(media))
        if key is None or key not in self.store:
            raise InputError(
                f"{media[0].name} has no features in {self.store.folder}: start the run again to"
                " have them made."
            )
        return self.store.read(key)

    def nothing(self) -> Visual:
        """The features of a sample without a file."""
        return self.store.kind.blank(0)

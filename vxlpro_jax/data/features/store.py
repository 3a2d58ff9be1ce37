"""Stores features of frozen encoders on disk, under a key of the encoded content.

Shapes: g groups of a visual, P tokens of a frame, C width of the tower.
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
_SHARD_SECONDS = 300.0  # Largest amount of work that is lost if a process dies.
_OPEN_SHARDS = 64


class FeatureStore:
    """The features in a folder at the time of the last `refresh`; threads may share it."""

    def __init__(self, folder: Path, *, kind: GroupType):
        """Reads the indices of all shards; a folder that does not exist is empty.

        Args:
            folder: folder of features of one type, computed with one set of weights.
            kind: type of a group.
        """
        self.folder, self.kind = folder, kind
        self._spans: dict[str, VisualLocation] = {}
        self._indices: set[Path] = set()
        self._open = functools.lru_cache(_OPEN_SHARDS)(open_shard)
        self.refresh()

    def refresh(self) -> None:
        """Finds visuals added to the folder since then; they replace those of the same key."""
        for index in find_indices(self.folder):
            if index not in self._indices:
                self._spans |= read_index(index, kind=self.kind)
                self._indices.add(index)

    def __contains__(self, key: str) -> bool:
        return key in self._spans

    def __len__(self) -> int:
        return len(self._spans)

    def blocks(self, key: str) -> Iterator[Visual]:
        """Yields a stored visual's groups in order, a few at a time.

        Raises:
            InputError: The visual cannot be read.
        """
        span = self._spans[key]
        yield from read_blocks(self._open(span.shard), span, kind=self.kind)

    def read(self, key: str) -> Visual:
        """Returns all groups of a stored visual.

        Raises:
            InputError: The visual cannot be read.
        """
        whole, start = self.kind.blank(self._spans[key].groups), 0
        for block in self.blocks(key):
            taken = slice(start, start + len(block.times))
            whole.groups[taken], whole.times[taken] = block
            start = taken.stop
        return whole


class FeatureWriter:
    """Context manager that adds visuals to a folder; completely written visuals are always kept.

    A shard is finished, and becomes readable, at a gigabyte or at an age of five minutes.
    """

    def __init__(
        self,
        folder: Path,
        *,
        kind: GroupType,
        shard_bytes: int = _SHARD_BYTES,
        shard_seconds: float = _SHARD_SECONDS,
    ):
        """Prepares a writer; the first shard is created with the first visual.

        Args:
            folder: existing folder.
            kind: type of a group.
            shard_bytes: approximate size at which a shard is finished.
            shard_seconds: age at which a shard is finished.
        """
        self._begin = functools.partial(ShardWriter, folder, kind=kind)
        self._shard_bytes, self._shard_seconds = shard_bytes, shard_seconds
        self._shard: ShardWriter | None = None
        self._since = 0.0

    def write(self, key: str, blocks: Iterable[Visual]) -> None:
        """Adds a visual; memory holds at most one block and one record of it at a time.

        Args:
            key: key of the visual.
            blocks: blocks of any size.

        Raises:
            OSError: The shard cannot be written.
            ValueError: A block has another type.
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
        store: store of the features.
        keys: keys in the store by `media_name`; not needed for files whose content is in the
            record.
    """

    store: FeatureStore
    keys: Mapping[bytes, str]

    def read(self, media: Sequence[StoredFile], *, reading: str) -> Visual:
        """Returns the features of a record's visual: [g,4,P,C], or [g,P,C] after the DTS.

        Args:
            media: files of the record.
            reading: how the files are decoded, see `SampleReader.reading`.

        Raises:
            InputError: The features are missing or cannot be read.
        """
        if content := media[0].content:
            key = visual_key([content_hash(content)], reading=reading)
        else:
            key = self.keys.get(media_name(media))
        if key is None or key not in self.store:
            raise InputError(
                f"{media[0].name} has no features in {self.store.folder}: start the run again to"
                " compute them."
            )
        return self.store.read(key)

    def empty(self) -> Visual:
        """Returns the features of a sample without a file."""
        return self.store.kind.blank(0)

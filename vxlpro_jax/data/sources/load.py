"""Loads the samples of data.path as one sequence of records."""

import bisect
import dataclasses
import functools
import hashlib
import itertools
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from vxlpro_jax.config.schema import DataConfig
from vxlpro_jax.data.random_access import RandomAccess
from vxlpro_jax.data.sources import paths, schema, storage
from vxlpro_jax.data.sources.arrayrecord import SHARD, ShardRecords, shard_of_file, shards_of_folder
from vxlpro_jax.data.sources.json_files import JsonRecords
from vxlpro_jax.data.sources.mixture import Dataset, is_mixture, read_mixture
from vxlpro_jax.data.sources.paths import expand_braces, redact_url
from vxlpro_jax.data.sources.schema import Record, RecordSequence
from vxlpro_jax.utils.errors import InputError


class _Joined(RecordSequence):
    """Several sequences joined into one."""

    def __init__(self, parts: Sequence[RecordSequence]):
        self.parts = tuple(parts)
        self._ends = list(itertools.accumulate(map(len, parts)))

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> Record:
        part, place = self._at(index)
        return part[place]

    def outline(self, index: int) -> Record:
        """Returns an outline of the record, see `RecordSequence.outline`."""
        part, place = self._at(index)
        return part.outline(place)

    @functools.cached_property
    def digest(self) -> str:
        """Identifies the records of all parts."""
        return hashlib.sha256("\n".join(part.digest for part in self.parts).encode()).hexdigest()

    def _at(self, index):
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        part = bisect.bisect_right(self._ends, index)
        return self.parts[part], index - (self._ends[part - 1] if part else 0)


class Records(_Joined):
    """The records of all data sets, joined into one sequence.

    Access raises InputError if a shard or its record cannot be read.

    Attributes:
        parts: data sets.
        counts: number of records of each data set.
        weights: number of times that an epoch repeats the records of each data set.
        indices: index of each record among all records; the records may be a subset.
    """

    def __init__(
        self,
        parts: Sequence[RecordSequence],
        *,
        weights: Sequence[float],
        indices: RandomAccess[int] | None = None,
    ):
        super().__init__(parts)
        self.indices = range(len(self)) if indices is None else indices
        self.counts = tuple(map(len, parts))
        self.weights = tuple(weights)


def join_records(several: Iterable[Records]) -> Records:
    """Joins the data sets of several `Records`."""
    several = tuple(several)
    return Records(
        [part for records in several for part in records.parts],
        weights=[weight for records in several for weight in records.weights],
    )


def load_records(
    path: str | Path,
    *,
    video_root: str | Path = "",
    image_root: str | Path = "",
    seed: int = 0,
    cache_dir: str | Path = DataConfig.cache_dir,
) -> Records:
    """Loads and validates the samples of data files; see `schema.check_record` for their fields.

    Args:
        path: a JSON list or JSONL file (`*.jsonl`, `*.ndjson`) of samples, which may be compressed
            (`*.jsonl.gz`); ArrayRecord shards (`*.arrayrecord`) or the folder with their manifest;
            several of these, given with braces (`a/{x,y}.json`) or `*`; or a mixture (`*.yaml`).
            All may be URLs.
        video_root: folder or URL of the videos; if empty, the folder of each data file.
        image_root: folder or URL of the pictures; if empty, the folder of each data file.
        seed: seed of the strategy `random` of a mixture.
        cache_dir: folder for copies of remote shards.

    Raises:
        InputError: A file is missing or malformed, there are no samples, or a record cannot be
            used; the message names file, record and field. Records of shards are validated on
            access.
    """
    loader = RecordLoader(
        schema.check_record, lambda record: True, video_root, image_root, seed, cache_dir
    )
    return loader.load(expand_user(path))


def load_visual_records(
    path: str | Path,
    *,
    video_root: str | Path = "",
    image_root: str | Path = "",
    seed: int = 0,
    cache_dir: str | Path = DataConfig.cache_dir,
) -> Records:
    """Loads only samples that have a video or images; these need no `conversations`.

    Raises:
        InputError: As for `load_records`, or no sample has a visual.
    """
    check = schema.check_visual
    loader = RecordLoader(check, lambda r: r.has_visual, video_root, image_root, seed, cache_dir)
    records = loader.load(expand_user(path))
    if not records:
        raise InputError(
            f"Data file {path} names no video and no image, from which stage 1 learns: check"
            " data.path."
        )
    return records


@dataclasses.dataclass(frozen=True)
class RecordLoader:
    """Loads records of one kind.

    Attributes:
        check: function that validates a sample, see `schema.check_record`.
        keep: function that decides whether a record is kept.
        video_root: see `load_records`, which also describes the other attributes.
    """

    check: Callable[..., Record]
    keep: Callable[[Record], bool]
    video_root: str | Path
    image_root: str | Path
    seed: int
    cache_dir: str | Path

    def load(self, path: str) -> Records:
        """Loads the records of `path`, see `load_records`; there may be none.

        Raises:
            InputError: As for `load_records`.
        """
        datasets = read_mixture(_present(path)) if is_mixture(path) else [Dataset(path)]
        parts = [self._chosen(dataset, place) for place, dataset in enumerate(datasets)]
        return Records(parts, weights=[dataset.weight for dataset in datasets])

    def _chosen(self, dataset: Dataset, place: int) -> RecordSequence:
        found = [part for name in _names(dataset.path) for part in self._opened(name, dataset)]
        records = _Joined(found)
        if dataset.strategy.kind == "all":
            return records
        seed = int(np.random.SeedSequence((self.seed, place)).generate_state(1)[0])
        return RecordSubset(records, dataset.strategy.choose(len(records), seed=seed))

    def _opened(self, name: str, dataset: Dataset) -> list[RecordSequence]:
        """Opens a name: one file, or each shard of a folder."""
        copies = Path(self.cache_dir).expanduser() / "shards"
        is_folder, shards = _is_folder(name), []
        if is_folder:
            shards = shards_of_folder(name)
        elif name.endswith(SHARD):
            shards = [shard_of_file(_present(name), copies=copies)]
        folder = name if is_folder else paths.folder_of(name)
        video_root = expand_user(dataset.video_root or self.video_root) or folder
        image_root = expand_user(dataset.image_root or self.image_root) or folder
        if shards:
            return [
                ShardRecords(shard, check=self.check, video_root=video_root, copies=copies)
                for shard in shards
            ]
        return [
            JsonRecords(
                _present(name),
                check=self.check,
                keep=self.keep,
                video_root=video_root,
                image_root=image_root,
            )
        ]


class RecordSubset(RecordSequence):
    """The records of a sequence at some `indices`."""

    def __init__(self, records: RecordSequence, indices: RandomAccess[int]):
        self._records, self._indices = records, indices

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> Record:
        return self._records[int(self._indices[index])]

    def outline(self, index: int) -> Record:
        """Returns the outline of the underlying record."""
        return self._records.outline(int(self._indices[index]))

    @functools.cached_property
    def digest(self) -> str:
        """Identifies the underlying records and the chosen indices."""
        chosen = np.asarray(self._indices, np.int64)
        return f"{hashlib.sha256(chosen.tobytes()).hexdigest()} of {self._records.digest}"


def _names(path: str) -> list[str]:
    """Expands braces and wildcards of a path to names of files and folders."""
    if not paths.is_remote(path) and os.path.exists(path):
        return [path]
    return [
        found
        for name in expand_braces(path)
        for found in (storage.matching(name) if paths.has_wildcard(name) else [name])
    ]


def _is_folder(name: str) -> bool:
    if not paths.is_remote(name):
        return os.path.isdir(name)
    last = name.partition("?")[0].rstrip("/").rpartition("/")[2]
    return "." not in last


def _present(file: str) -> str:
    """Returns the name of a file that exists; a remote file is checked when it is read."""
    if not paths.is_remote(file) and not os.path.isfile(file):
        raise InputError(
            f"Data file {redact_url(file)} does not exist: check data.path or, in a mixture,"
            " json_path."
        )
    return file


def expand_user(place: str | Path) -> str:
    """Expands `~` to the user's home folder."""
    text = str(place)
    return text if paths.is_remote(text) else os.path.expanduser(text)

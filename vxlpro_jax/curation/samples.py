"""Samples of a manifest exactly as written there, and the clips that they show."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

from vxlpro_jax.config.schema import DataConfig
from vxlpro_jax.data.random_access import RandomAccess
from vxlpro_jax.data.sources import load
from vxlpro_jax.data.sources.schema import Record, check_record, check_visual
from vxlpro_jax.data.sources.storage import StoredFile
from vxlpro_jax.data.text.chat import Turn
from vxlpro_jax.utils.errors import InputError

ClipKind = Literal["video", "image"]


class ManifestSample(NamedTuple):
    """One sample.

    Attributes:
        position: position in the manifest.
        written: the sample as JSON, with all its fields.
        record: usable part of the sample; without turns if there is a fault.
        fault: reason why `check_record` refuses the sample, or "".
    """

    position: int
    written: str
    record: Record
    fault: str

    @property
    def id(self) -> str:
        """The sample's own `id`, or ""."""
        sample = json.loads(self.written)
        return str(sample.get("id", "")) if isinstance(sample, dict) else ""

    @property
    def key(self) -> str:
        """32 hexadecimal digits that identify the sample's text and the root of its files."""
        text = f"{self.record.root}\0{self.written}"
        return hashlib.sha256(text.encode(errors="backslashreplace")).hexdigest()[:32]


class Manifest(RandomAccess[ManifestSample]):
    """The samples of a manifest in order; each is parsed on access."""

    def __init__(self, records: load.Records):
        self._records = records

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> ManifestSample:
        held = self._records[index]
        written = held.turns[0].text
        record, fault = _checked(json.loads(written), held.name)
        return ManifestSample(index, written, record._replace(root=held.root), fault)


def load_manifest(
    manifest: str | Path,
    *,
    video_root: str = "",
    image_root: str = "",
    cache_dir: str | Path = DataConfig.cache_dir,
) -> Manifest:
    """Loads the samples of a manifest, including malformed ones.

    Args:
        manifest: data file, as `path` of `sources.load_records`.
        video_root: folder or URL of the videos; if empty, that of each data file.
        image_root: folder or URL of the images; if empty, that of each data file.
        cache_dir: folder for copies of remote shards.

    Raises:
        InputError: A file cannot be used as a whole; or it is a mixture with weights, or its
            records contain videos, neither of which JSON lines can hold.
    """
    loader = load.RecordLoader(
        _as_written, lambda record: True, video_root, image_root, 0, cache_dir
    )
    records = loader.load(load.expand_user(manifest))
    if set(records.weights) != {1.0}:
        raise InputError(
            f"{manifest} gives its datasets weights, which the list of kept samples cannot hold:"
            " prune each dataset by itself."
        )
    return Manifest(records)


def _as_written(sample: Any, where: str, *, content: bytes = b"") -> Record:
    """Makes a record with the sample's JSON as its only turn; loaders drop the other fields."""
    if content:
        raise InputError(
            f"{where} contains its video, but the list of kept samples cannot contain videos: prune"
            " the samples before they are ingested."
        )
    is_video = isinstance(sample, dict) and "video" in sample
    text = json.dumps(sample, ensure_ascii=False)
    return Record(where, (Turn("human", text),), video="video" if is_video else "")


def _checked(sample: Any, where: str) -> tuple[Record, str]:
    try:
        return check_record(sample, where), ""
    except InputError as error:
        fault = str(error)
    try:
        return check_visual(sample, where), fault
    except InputError:
        return Record(where, ()), fault


class Clip(NamedTuple):
    """A video or a set of pictures, shared by all samples that name the same files."""

    kind: ClipKind
    media: tuple[StoredFile, ...]

    @property
    def key(self) -> str:
        """Identifies the files of the clip."""
        return json.dumps([[file.root, file.name] for file in self.media])

    @property
    def name(self) -> str:
        """Names of the files, for messages."""
        return ", ".join(file.name for file in self.media)


class ClipIndex(NamedTuple):
    """The clips of a manifest.

    Attributes:
        clips: clips in order of first appearance.
        of_sample: index in `clips` of each sample's clip; -1 for text-only samples.
    """

    clips: list[Clip]
    of_sample: list[int]


def index_clips(samples: Iterable[ManifestSample]) -> ClipIndex:
    """Collects the clips that the samples show.

    Raises:
        InputError: Videos, or pictures, are in several folders, while a list of samples has only
            one root for each.
    """
    places: dict[Clip, int] = {}
    of = []
    for sample in samples:
        clip = clip_of(sample)
        of.append(-1 if clip is None else places.setdefault(clip, len(places)))
    clips = list(places)
    for kind in ("video", "image"):
        roots = sorted({clip.media[0].root for clip in clips if clip.kind == kind})
        if len(roots) > 1:
            raise InputError(
                f"The {kind}s have {len(roots)} roots ({', '.join(roots[:3])}), and the list of"
                f" kept samples can have one: prune each dataset by itself, or give --{kind}_root."
            )
    return ClipIndex(clips, of)


def clip_of(sample: ManifestSample) -> Clip | None:
    """Returns the clip of a sample; None for a text-only sample."""
    record = sample.record
    if not record.has_visual:
        return None
    return Clip("image" if record.images else "video", record.media)


def roots_of(clips: Iterable[Clip]) -> Iterator[tuple[str, str]]:
    """Yields each kind of clip that occurs, with the root of its files."""
    yield from sorted({(clip.kind, clip.media[0].root) for clip in clips})

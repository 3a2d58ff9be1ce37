"""The samples of a manifest as they are written there, and the clips that they show."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from vxlpro_jax.config.schema import DataConfig
from vxlpro_jax.data.sources import load
from vxlpro_jax.data.sources.schema import Record, check_record, check_visual
from vxlpro_jax.data.sources.storage import StoredFile
from vxlpro_jax.data.text.chat import Turn
from vxlpro_jax.utils.errors import InputError

ClipKind = Literal["video", "image"]


class ManifestSample(NamedTuple):
    """Attributes.

    index: its place in the manifest.
    written: the sample as JSON, with all its fields.
    record: what can be used of it; without turns if `fault` says why.
    fault: why `check_record` refuses it, or nothing.
    """

    index: int
    written: str
    record: Record
    fault: str

    @property
    def id(self) -> str:
        """Its own `id`, or nothing."""
        sample = json.loads(self.written)
        return str(sample.get("id", "")) if isinstance(sample, dict) else ""

    @property
    def key(self) -> str:
        """32 hexadecimal digits that stand for all that it says and where its files are."""
        text = f"{self.record.root}\0{self.written}"
        return hashlib.sha256(text.encode(errors="backslashreplace")).hexdigest()[:32]


class Manifest(Sequence[ManifestSample]):
    """Those of a manifest, in its order; each is made when it is asked for."""

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
    cache: str | Path = DataConfig.cache_dir,
) -> Manifest:
    """The samples that a manifest names, however badly formed each is.

    Args:
        manifest: as `path` of `sources.load_records`.
        video_root: likewise, and so are the others.
        image_root: of pictures.
        cache: folder for copies of remote shards.

    Raises:
        InputError: a file cannot be used as a whole, it is a mixture with weights, or a shard's
            records hold the videos themselves; none of the last two can be written as JSONL.
    """
    loader = load.RecordLoader(_as_written, lambda record: True, video_root, image_root, 0, cache)
    records = loader.load(load.expand_user(manifest))
    if set(records.weights) != {1.0}:
        raise InputError(
            f"{manifest} gives its datasets weights, which a list of samples cannot hold: prune"
            " each dataset by itself."
        )
    return Manifest(records)


def _as_written(sample: Any, where: str, *, content: bytes = b"") -> Record:
    """A record whose only turn is the sample as JSON; loaders keep nothing else of it."""
    if content:
        raise InputError(
            f"{where} holds its video itself, which a list of samples cannot: prune the samples"
            " before they are ingested."
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
    """A video, or the pictures that stand together; samples that name the same files share it."""

    kind: ClipKind
    media: tuple[StoredFile, ...]

    @property
    def key(self) -> str:
        """Names its files."""
        return json.dumps([[file.root, file.name] for file in self.media])

    @property
    def name(self) -> str:
        """For people."""
        return ", ".join(file.name for file in self.media)


class ClipIndex(NamedTuple):
    """Attributes: `clips` by first appearance; `of`, the place there of each sample's, or -1."""

    clips: list[Clip]
    of: list[int]


def index_clips(samples: Iterable[ManifestSample]) -> ClipIndex:
    """What the samples show.

    Raises:
        InputError: videos, or pictures, lie in several folders; a list of samples has one of each.
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
                f"The {kind}s are in {len(roots)} places ({', '.join(roots[:3])}), and a list of"
                f" samples can have one: prune each dataset by itself, or give --{kind}_root."
            )
    return ClipIndex(clips, of)


def clip_of(sample: ManifestSample) -> Clip | None:
    """What a sample shows; None if it is text alone."""
    record = sample.record
    if not record.has_visual:
        return None
    return Clip("image" if record.images else "video", record.media)


def roots_of(clips: Iterable[Clip]) -> Iterator[tuple[ClipKind, str]]:
    """Kinds of clips that there are, each with where its files lie."""
    yield from sorted({(clip.kind, clip.media[0].root) for clip in clips})

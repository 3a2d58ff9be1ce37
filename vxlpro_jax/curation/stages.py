"""The slow stages: this process measures and scores its share, with journals for resuming."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from vxlpro_jax.curation.measure import VERSION, ClipMeasurement, map_in_threads, measure_clip
from vxlpro_jax.curation.rules import Rejection, ReplyLosses
from vxlpro_jax.curation.samples import ClipIndex, Manifest
from vxlpro_jax.data.sources.schema import Record
from vxlpro_jax.data.video.pool import DecoderPool
from vxlpro_jax.utils.journal import Journal, Shard


class Scorer(Protocol):
    """A model that scores replies with and without the video.

    Attributes:
        name: text that differs for another model or other settings.
    """

    name: str

    def score(self, items: Iterable[tuple[int, Record]]) -> Iterator[tuple[int, ReplyLosses]]:
        """Yields the losses of numbered records, in any order."""
        ...


class WorkSettings(NamedTuple):
    """Settings of the work.

    Attributes:
        folder: folder of the journals.
        shard: share of the work that this process does.
        workers: number of decoder processes.
        seconds_per_file: time limit for decoding a file.
        progress: function that shows progress over an iterable, such as `cli.progress`.
    """

    folder: Path
    shard: Shard = Shard()
    workers: int = 1
    seconds_per_file: float = 120.0
    progress: Callable = lambda items, **_: items

    @property
    def decoders(self) -> DecoderPool:
        """Creates a new pool of decoders."""
        return DecoderPool(self.workers, time_limit=self.seconds_per_file)


def wanted_clips(texts: Sequence[Rejection | None], clip_index: ClipIndex) -> list[int]:
    """Returns the indices of clips of samples that the rule `text` keeps."""
    pairs = zip(texts, clip_index.of_sample, strict=True)
    return sorted({place for text, place in pairs if text is None and place >= 0})


def measure_clips(
    wanted: Sequence[int], clip_index: ClipIndex, *, work: WorkSettings
) -> dict[int, ClipMeasurement]:
    """Measures this process's share of the clips; returns all known measurements by index.

    A clip whose error may have disappeared is measured again.
    """
    journal = Journal(work.folder, name=f"clips-v{VERSION}", shard=work.shard)
    known = {
        place: ClipMeasurement.from_json(entry)
        for place in wanted
        if (entry := journal.entries.get(clip_index.clips[place].key))
    }
    todo = [
        place
        for number, place in enumerate(wanted)
        if work.shard.owns(number) and (place not in known or known[place].may_pass)
    ]
    with work.decoders as decoders:

        def measured(place: int) -> tuple[int, ClipMeasurement]:
            return place, measure_clip(clip_index.clips[place], decoders=decoders)

        with map_in_threads(measured, todo, workers=work.workers) as results:
            for place, found in work.progress(
                results, name="measuring", unit="clip", total=len(todo)
            ):
                journal.add(clip_index.clips[place].key, found.to_json())
                known[place] = ClipMeasurement.from_json(found.to_json())
    return known


def score_samples(
    indices: Sequence[int], samples: Manifest, *, scorer: Scorer, work: WorkSettings
) -> dict[int, ReplyLosses]:
    """Scores this process's share of the samples; returns all known losses by index."""
    journal = Journal(work.folder, name=f"blind-{scorer.name}", shard=work.shard)
    known: dict[int, ReplyLosses] = {}
    keys: dict[int, str] = {}
    for number, index in enumerate(indices):
        key = samples[index].key
        if entry := journal.entries.get(key):
            known[index] = ReplyLosses(**entry)
        elif work.shard.owns(number):
            keys[index] = key
    records = ((index, samples[index].record) for index in keys)
    scored = scorer.score(records)
    for index, losses in work.progress(scored, name="scoring", unit="sample", total=len(keys)):
        journal.add(keys[index], losses._asdict())
        known[index] = losses
    return known


def scorable_samples(
    samples: Manifest,
    rejections: Sequence[Rejection | None],
    clip_index: ClipIndex,
    measured: Mapping[int, ClipMeasurement],
) -> list[int]:
    """Returns samples that no rule has dropped, with a conversation and a readable visual."""
    return [
        index
        for index, (rejection, place) in enumerate(
            zip(rejections, clip_index.of_sample, strict=True)
        )
        if rejection is None
        and place >= 0
        and not (place in measured and measured[place].error)
        and not samples[index].fault
    ]

"""The work that takes long, a share of it, with what earlier runs and other shares have done."""

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
    """A model that is asked with the video and without.

    Attributes:
        name: another one if another model, or the same asked in another way, gives other losses.
    """

    name: str

    def score(self, items: Iterable[tuple[int, Record]]) -> Iterator[tuple[int, ReplyLosses]]:
        """The losses of numbered records, in any order."""


class WorkSettings(NamedTuple):
    """Attributes.

    folder: of the journals.
    shard: the share that is done here.
    workers: processes that decode.
    seconds_per_file: after which a decoder is killed.
    progress: `cli.progress`, or the like.
    """

    folder: Path
    shard: Shard = Shard()
    workers: int = 1
    seconds_per_file: float = 120.0
    progress: Callable = lambda items, **_: items

    @property
    def decoders(self) -> DecoderPool:
        """A new pool."""
        return DecoderPool(self.workers, time_limit=self.seconds_per_file)


def wanted_clips(texts: Sequence[Rejection | None], shown: ClipIndex) -> list[int]:
    """The places of the clips that are shown by samples that the rule on text leaves."""
    pairs = zip(texts, shown.of, strict=True)
    return sorted({place for text, place in pairs if text is None and place >= 0})


def measure_clips(
    wanted: Sequence[int], shown: ClipIndex, *, work: WorkSettings
) -> dict[int, ClipMeasurement]:
    """Measures this share of the wanted clips; all that are known of them, by place.

    What failed for a reason that may have passed is tried again.
    """
    journal = Journal(work.folder, name=f"clips-v{VERSION}", shard=work.shard)
    known = {
        place: ClipMeasurement.from_json(entry)
        for place in wanted
        if (entry := journal.entries.get(shown.clips[place].key))
    }
    todo = [
        place
        for number, place in enumerate(wanted)
        if work.shard.owns(number) and (place not in known or known[place].may_pass)
    ]
    with work.decoders as decoders:

        def measured(place: int) -> tuple[int, ClipMeasurement]:
            return place, measure_clip(shown.clips[place], decoders=decoders)

        with map_in_threads(measured, todo, workers=work.workers) as results:
            for place, found in work.progress(
                results, name="measuring", unit="clip", total=len(todo)
            ):
                journal.add(shown.clips[place].key, found.to_json())
                known[place] = ClipMeasurement.from_json(found.to_json())
    return known


def score_samples(
    indices: Sequence[int], samples: Manifest, *, scorer: Scorer, work: WorkSettings
) -> dict[int, ReplyLosses]:
    """Scores this share of the samples of `indices`; all losses that are known of them."""
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
    verdicts: Sequence[Rejection | None],
    shown: ClipIndex,
    measured: Mapping[int, ClipMeasurement],
) -> list[int]:
    """The samples that no rule has dropped, with a conversation and something that can be read."""
    return [
        index
        for index, (verdict, place) in enumerate(zip(verdicts, shown.of, strict=True))
        if verdict is None
        and place >= 0
        and not (place in measured and measured[place].error)
        and not samples[index].fault
    ]

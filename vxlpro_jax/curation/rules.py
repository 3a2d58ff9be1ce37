"""The rules: what drops a sample, and why."""

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple, get_args

from vxlpro_jax.curation.duplicates import find_duplicates
from vxlpro_jax.curation.measure import ClipMeasurement
from vxlpro_jax.curation.samples import ClipIndex, ManifestSample
from vxlpro_jax.curation.text import text_fault
from vxlpro_jax.utils.errors import InputError

Rule = Literal["text", "undecodable", "short", "static", "slides", "duplicate", "blind"]
RULES: tuple[Rule, ...] = get_args(Rule)  # In the order that they are asked.
CLIP_RULES: tuple[Rule, ...] = RULES[1:6]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """Where each rule begins.

    Attributes:
        min_seconds: shorter videos are too short. Two seconds are a group of four frames at two a
            second, the least that the compressor sees as motion.
        static: share of still frames from which on a video that shows one picture is static. Less
            than all, since the first and last frames of an encoding often tremble.
        slides: the same for a video of several pictures. At 0.8 each stays for 2.5 s or longer;
            films cut as often as that move between their cuts.
        similarity: cosine from which on two clips are the same. On drawn films, those encoded anew,
            scaled, brighter, slower or cut by a tenth of a second have 0.91 and more, and
            those of one scene in which something moves otherwise 0.65 and less.
        margin: nats a reply's id by which seeing must help. At a twentieth the video makes the
            right ids five percent likelier, which we take for no help.
    """

    min_seconds: float = 2.0
    static: float = 0.95
    slides: float = 0.8
    similarity: float = 0.9
    margin: float = 0.05

    def __post_init__(self):
        for name in ("static", "slides", "similarity"):
            if not 0 < getattr(self, name) <= 1:
                raise InputError(
                    f"--{name} is {getattr(self, name)}: give a share above 0, at most 1."
                )
        if not 0 <= self.min_seconds < float("inf"):
            raise InputError(f"--min_seconds is {self.min_seconds}: give 0 or more seconds.")
        if not abs(self.margin) < float("inf"):
            raise InputError(f"--margin is {self.margin}: give a number of nats.")


class ReplyLosses(NamedTuple):
    """Mean loss of a sample's replies, nats an id: with its video, and with blank ones.

    Both are None if `error` tells why it could not be read.
    """

    seen: float | None
    blind: float | None
    error: str = ""


class Rejection(NamedTuple):
    """The first rule that drops a sample, and a clause that says why.

    `like` is the place of the kept clip that a duplicate is like, if its clip is why.
    """

    rule: Rule
    reason: str
    like: int = -1


class ClipRuleResults(NamedTuple):
    """Attributes.

    verdicts: of each sample, None for what stays.
    nearest: of each clip, the kept one before it that is most like it (-1 if none), and how like.
    """

    verdicts: list[Rejection | None]
    nearest: list[tuple[int, float]]


def apply_text_rule(
    samples: Sequence[ManifestSample], *, rules: Sequence[Rule]
) -> list[Rejection | None]:
    """What the rule `text` says of each sample."""
    if "text" not in rules:
        return [None] * len(samples)
    faults = (sample.fault or text_fault(sample.record.turns) for sample in samples)
    return [Rejection("text", fault) if fault else None for fault in faults]


def apply_clip_rules(
    texts: Sequence[Rejection | None],
    shown: ClipIndex,
    measured: Mapping[int, ClipMeasurement],
    *,
    rules: Sequence[Rule],
    limits: Limits,
    progress: Callable = lambda items, **_: items,
) -> ClipRuleResults:
    """What the rules on clips say of the samples that `texts` leaves.

    A clip that several samples show is one clip. Clips that an earlier rule drops are not compared.

    Args:
        texts: of `judge_text`.
        shown: what each sample shows.
        measured: of each clip that a sample left shows, by its place; empty if no rule needs it.
        rules: those that are on.
        limits: where they begin.
        progress: `cli.progress`, or the like.
    """
    by_clip = {
        place: _judge_clip(found, rules=rules, limits=limits) for place, found in measured.items()
    }
    nearest = [(-1, 0.0)] * len(shown.clips)
    for kind in ("video", "image") if "duplicate" in rules else ():
        left = [
            place
            for place, verdict in sorted(by_clip.items())
            if verdict is None and shown.clips[place].kind == kind and not measured[place].error
        ]
        rows = [measured[place].embedding for place in left]
        found = find_duplicates(rows, threshold=limits.similarity, progress=progress)
        for place, other, cosine, is_duplicate in zip(left, *found, strict=True):
            nearest[place] = (left[other] if other >= 0 else -1, float(cosine))
            if is_duplicate:
                reason = f"like {shown.clips[left[other]].name}, cosine {cosine:.3f}"
                by_clip[place] = Rejection("duplicate", reason, like=left[other])
    verdicts = [text or by_clip.get(place) for text, place in zip(texts, shown.of, strict=True)]
    return ClipRuleResults(verdicts, nearest)


def apply_repeat_rule(
    samples: Sequence[ManifestSample],
    verdicts: Sequence[Rejection | None],
    *,
    rules: Sequence[Rule],
) -> list[Rejection | None]:
    """The verdicts, and what the rule `duplicate` says of samples that say and show the same."""
    if "duplicate" not in rules:
        return list(verdicts)
    first: dict[bytes, int] = {}
    judged = []
    for index, verdict in enumerate(verdicts):
        if verdict is None and not (sample := samples[index]).fault:
            original = first.setdefault(_content(sample), index)
            if original != index:
                verdict = Rejection("duplicate", f"repeats sample {original}")
        judged.append(verdict)
    return judged


def _content(sample: ManifestSample) -> bytes:
    """16 bytes that stand for the turns and the files of a sample."""
    text = repr((sample.record.turns, sample.record.media, sample.record.scale))
    return hashlib.sha256(text.encode()).digest()[:16]


def apply_blind_rule(
    verdicts: Sequence[Rejection | None], losses: Mapping[int, ReplyLosses], *, margin: float
) -> list[Rejection | None]:
    """The verdicts, and what the rule `blind` says of the samples that have losses."""
    return [
        verdict or (_judge_losses(losses[index], margin=margin) if index in losses else None)
        for index, verdict in enumerate(verdicts)
    ]


def _judge_losses(losses: ReplyLosses, *, margin: float) -> Rejection | None:
    if losses.error or losses.seen <= losses.blind - margin:
        return None
    return Rejection("blind", f"loss {losses.seen:.3f} with the video, {losses.blind:.3f} without")


def _judge_clip(
    measured: ClipMeasurement, *, rules: Sequence[Rule], limits: Limits
) -> Rejection | None:
    """The first rule that drops it, duplicates aside."""
    if measured.error:
        return Rejection("undecodable", measured.error) if "undecodable" in rules else None
    if measured.motion is None:
        return None
    motion = measured.motion
    still = f"{motion.still:.0%} still"
    reasons = {
        "short": f"{motion.seconds:.1f} s long" if motion.seconds < limits.min_seconds else "",
        "static": still if motion.slides <= 1 and motion.still >= limits.static else "",
        "slides": f"{motion.slides} pictures, {still}"
        if motion.slides > 1 and motion.still >= limits.slides
        else "",
    }
    return next((Rejection(r, why) for r, why in reasons.items() if why and r in rules), None)

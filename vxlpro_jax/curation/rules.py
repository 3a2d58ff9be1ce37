"""The rules, which decide which samples are dropped and why."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from vxlpro_jax.curation.duplicates import find_duplicates
from vxlpro_jax.curation.limits import Limits, Rule
from vxlpro_jax.curation.measure import ClipMeasurement
from vxlpro_jax.curation.samples import ClipIndex, ManifestSample
from vxlpro_jax.curation.text import text_fault
from vxlpro_jax.data.random_access import RandomAccess


class ReplyLosses(NamedTuple):
    """Mean loss of a sample's replies in nats per token, with its video and with blank ones.

    Both are None if the sample could not be scored; `error` is the reason.
    """

    seen: float | None
    blind: float | None
    error: str = ""


class Rejection(NamedTuple):
    """The first rule that drops a sample, and the reason.

    Attributes:
        rule: name of the rule.
        reason: clause that gives the reason.
        like: index of the kept clip that a duplicate clip resembles, else -1.
    """

    rule: Rule
    reason: str
    like: int = -1


class ClipRuleResults(NamedTuple):
    """Results of the rules on clips.

    Attributes:
        rejections: reason why each sample is dropped; None for kept ones.
        nearest: for each clip, the index of the most similar kept clip before it (-1 if none) and
            the cosine.
    """

    rejections: list[Rejection | None]
    nearest: list[tuple[int, float]]


def apply_text_rule(
    samples: RandomAccess[ManifestSample], *, rules: Sequence[Rule]
) -> list[Rejection | None]:
    """Applies the rule `text` to each sample."""
    if "text" not in rules:
        return [None] * len(samples)
    faults = (sample.fault or text_fault(sample.record.turns) for sample in samples)
    return [Rejection("text", fault) if fault else None for fault in faults]


def apply_clip_rules(
    texts: Sequence[Rejection | None],
    clip_index: ClipIndex,
    measured: Mapping[int, ClipMeasurement],
    *,
    rules: Sequence[Rule],
    limits: Limits,
    progress: Callable = lambda items, **_: items,
) -> ClipRuleResults:
    """Applies the clip rules to the samples that the rule `text` keeps.

    A clip that several samples show is judged once. Clips that an earlier rule drops are not
    compared with others.

    Args:
        texts: result of `apply_text_rule`.
        clip_index: clips that the samples show.
        measured: measurements by index, for each clip of a sample kept so far; may be empty if no
            rule needs them.
        rules: rules to apply.
        limits: limits of the rules.
        progress: function that shows progress over an iterable, such as `cli.progress`.
    """
    by_clip = {
        place: _judge_clip(found, rules=rules, limits=limits) for place, found in measured.items()
    }
    nearest = [(-1, 0.0)] * len(clip_index.clips)
    for kind in ("video", "image") if "duplicate" in rules else ():
        left = [
            place
            for place, rejection in sorted(by_clip.items())
            if rejection is None
            and clip_index.clips[place].kind == kind
            and not measured[place].error
        ]
        rows = [x for place in left if (x := measured[place].embedding) is not None]
        found = find_duplicates(rows, threshold=limits.similarity, progress=progress)
        for place, other, cosine, is_duplicate in zip(left, *found, strict=True):
            nearest[place] = (left[other] if other >= 0 else -1, float(cosine))
            if is_duplicate:
                reason = f"resembles {clip_index.clips[left[other]].name}, cosine {cosine:.3f}"
                by_clip[place] = Rejection("duplicate", reason, like=left[other])
    rejections = [
        text or by_clip.get(place) for text, place in zip(texts, clip_index.of_sample, strict=True)
    ]
    return ClipRuleResults(rejections, nearest)


def apply_repeat_rule(
    samples: RandomAccess[ManifestSample],
    rejections: Sequence[Rejection | None],
    *,
    rules: Sequence[Rule],
) -> list[Rejection | None]:
    """Adds rejections of samples that repeat the text and files of an earlier sample."""
    if "duplicate" not in rules:
        return list(rejections)
    first: dict[bytes, int] = {}
    judged = []
    for index, rejection in enumerate(rejections):
        if rejection is None and not (sample := samples[index]).fault:
            original = first.setdefault(_content(sample), index)
            if original != index:
                rejection = Rejection("duplicate", f"repeats sample {original}")
        judged.append(rejection)
    return judged


def _content(sample: ManifestSample) -> bytes:
    """Returns 16 bytes that identify the turns and the files of a sample."""
    text = repr((sample.record.turns, sample.record.media, sample.record.scale))
    return hashlib.sha256(text.encode()).digest()[:16]


def apply_blind_rule(
    rejections: Sequence[Rejection | None], losses: Mapping[int, ReplyLosses], *, margin: float
) -> list[Rejection | None]:
    """Adds rejections of samples whose loss the video lowers too little."""
    return [
        rejection or (_judge_losses(losses[index], margin=margin) if index in losses else None)
        for index, rejection in enumerate(rejections)
    ]


def _judge_losses(losses: ReplyLosses, *, margin: float) -> Rejection | None:
    seen, blind = losses.seen, losses.blind
    if seen is None or blind is None or seen <= blind - margin:
        return None
    return Rejection("blind", f"loss {seen:.3f} with the video, {blind:.3f} without")


def _judge_clip(
    measured: ClipMeasurement, *, rules: Sequence[Rule], limits: Limits
) -> Rejection | None:
    """Applies all clip rules except `duplicate`; returns the first rejection."""
    if measured.error:
        return Rejection("undecodable", measured.error) if "undecodable" in rules else None
    if measured.motion is None:
        return None
    motion = measured.motion
    still = f"{motion.still:.0%} still"
    reasons: dict[Rule, str] = {
        "short": f"{motion.seconds:.1f} s long" if motion.seconds < limits.min_seconds else "",
        "static": still if motion.slides <= 1 and motion.still >= limits.static else "",
        "slides": f"{motion.slides} pictures, {still}"
        if motion.slides > 1 and motion.still >= limits.slides
        else "",
    }
    return next((Rejection(r, why) for r, why in reasons.items() if why and r in rules), None)

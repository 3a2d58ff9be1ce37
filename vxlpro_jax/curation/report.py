"""Formats the report as Markdown."""

import collections
import dataclasses
import itertools
from collections.abc import Sequence

from vxlpro_jax.curation.decisions import Findings
from vxlpro_jax.curation.limits import RULES, Limits, Rule
from vxlpro_jax.curation.samples import roots_of

_MEANING: dict[Rule, str] = {
    "text": "the conversation is malformed",
    "undecodable": "the video or picture cannot be read",
    "short": "the video is shorter than {min_seconds:g} s",
    "static": "{static:.0%} or more of the video is still, and shows one picture",
    "slides": "{slides:.0%} or more of the video is still, and shows several pictures",
    "duplicate": "its clip resembles an earlier kept clip (cosine {similarity:g} or more), or it"
    " repeats an earlier sample",
    "blind": "the video lowers the loss of the replies by less than {margin:g} nats per token",
}


def render_markdown(
    findings: Findings, *, rules: Sequence[Rule], limits: Limits, pictures: Sequence[str]
) -> str:
    """Formats counts by rule, the roots of the files, and the pictures.

    Args:
        findings: measurements and decisions.
        rules: rules that were applied.
        limits: limits of the rules.
        pictures: file names of the pictures.
    """
    total = len(findings.rejections)
    counts = collections.Counter(v.rule for v in findings.rejections if v is not None)
    kept = total - counts.total()
    values = dataclasses.asdict(limits)
    lines = [
        "# Pruned samples",
        "",
        f"{kept:,} of {total:,} samples are kept ({_share(kept, total)}). Rules apply in this"
        " order; a dropped sample counts for the first rule that drops it.",
        "",
        "| rule | dropped | share | a sample is dropped if |",
        "| --- | --- | --- | --- |",
    ]
    for rule in RULES:
        meaning = _MEANING[rule].format(**values)
        row = (f"{counts[rule]:,}", _share(counts[rule], total)) if rule in rules else ("off", "")
        lines.append(f"| {rule} | {row[0]} | {row[1]} | {meaning} |")
    lines += ["", *_notes(findings), "", *(f"![{name}]({name})" for name in pictures)]
    return "\n".join(lines) + "\n"


def _notes(findings: Findings) -> list[str]:
    notes = [
        f"To train on `kept.jsonl`, set `data.{kind}_root` to `{root}`."
        for kind, root in roots_of(findings.clip_index.clips)
    ]
    kinds = collections.Counter(m.error_kind for m in findings.measured.values() if m.error)
    if kinds:
        counts = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
        notes.append(f"Clips that cannot be read, by kind: {counts}.")
    if unscored := sum(1 for losses in findings.losses.values() if losses.error):
        notes.append(f"{unscored:,} samples could not be scored by the model and are kept.")
    return list(itertools.chain.from_iterable((note, "") for note in notes))[:-1]


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "-"

"""The report in words."""

import collections
import dataclasses
import itertools
from collections.abc import Sequence

from vxlpro_jax.curation.decisions import Findings
from vxlpro_jax.curation.rules import RULES, Limits, Rule
from vxlpro_jax.curation.samples import roots_of

_MEANING: dict[Rule, str] = {
    "text": "the conversation is badly formed",
    "undecodable": "the video or picture cannot be read",
    "short": "the video is shorter than {min_seconds:g} s",
    "static": "{static:.0%} or more of the video is still, and shows one picture",
    "slides": "{slides:.0%} or more of the video is still, and shows several pictures",
    "duplicate": "its clip is like an earlier kept one (cosine {similarity:g} or more), or it"
    " repeats an earlier sample",
    "blind": "seeing lowers the loss of the replies by less than {margin:g} nats an id",
}


def render_markdown(
    findings: Findings, *, rules: Sequence[Rule], limits: Limits, pictures: Sequence[str]
) -> str:
    """Counts by rule, where the files lie, and the pictures by their names."""
    total = len(findings.verdicts)
    counts = collections.Counter(v.rule for v in findings.verdicts if v is not None)
    kept = total - counts.total()
    values = dataclasses.asdict(limits)
    lines = [
        "# Pruned samples",
        "",
        f"{kept:,} of {total:,} samples stay ({_share(kept, total)}). Rules are asked in this"
        " order; a sample counts for the first that drops it.",
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
        f"The {kind}s lie in `{root}` (`data.{kind}_root`)."
        for kind, root in roots_of(findings.shown.clips)
    ]
    kinds = collections.Counter(m.error_kind for m in findings.measured.values() if m.error)
    if kinds:
        told = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
        notes.append(f"Clips that cannot be read, by kind: {told}.")
    if unscored := sum(1 for losses in findings.losses.values() if losses.error):
        notes.append(f"{unscored:,} samples could not be shown to the model, and stay.")
    return list(itertools.chain.from_iterable((note, "") for note in notes))[:-1]


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "-"

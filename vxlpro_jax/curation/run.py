"""Prunes a data set: measures, applies the rules and writes the results.

Shapes: F frames, S side of a frame.
"""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np

from vxlpro_jax.curation import decisions, pictures, report, rules, stages
from vxlpro_jax.curation.decisions import Findings
from vxlpro_jax.curation.limits import CLIP_RULES, RULES, Limits, Rule
from vxlpro_jax.curation.measure import read_clip
from vxlpro_jax.curation.samples import Clip, Manifest, index_clips
from vxlpro_jax.data.video.pool import DecoderPool
from vxlpro_jax.utils.files import make_writable, write_atomically

KEPT = "kept.jsonl"
MEASURES = "measures"

LoadScorer = Callable[[DecoderPool], stages.Scorer]
Status = Literal["written", "share_done", "waiting"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrunePlan:
    """Settings of a run.

    Attributes:
        out: folder of the results and of the journals.
        rules: rules to apply.
        limits: limits of the rules.
        work: this process's share of the work, its processes and progress bar.
    """

    out: Path
    rules: tuple[Rule, ...]
    limits: Limits
    work: stages.WorkSettings


def prune(manifest: Manifest, plan: PrunePlan, *, load_scorer: LoadScorer) -> Status:
    """Prunes a data set, or does this process's share of the work.

    Args:
        manifest: samples of the data set.
        plan: settings of the run.
        load_scorer: function that loads the model for the rule `blind`; called only if it is on.

    Returns:
        `written` if the results are written, `share_done` if all shares are done but this process
        has only one of them, `waiting` if other shares are not finished.

    Raises:
        InputError: A file cannot be read or written, or the model cannot be used.
    """
    make_writable(plan.work.folder, flag="--out")
    findings = find(manifest, plan, load_scorer=load_scorer)
    if findings is None:
        return "waiting"
    if plan.work.shard.count > 1:
        return "share_done"
    write_results(findings, plan)
    return "written"


def find(manifest: Manifest, plan: PrunePlan, *, load_scorer: LoadScorer) -> Findings | None:
    """Measures the clips and applies the rules; returns None while other shares are unfinished.

    Raises:
        InputError: The manifest or the model cannot be used.
    """
    clip_index = index_clips(manifest)
    texts = rules.apply_text_rule(manifest, rules=plan.rules)
    measured = {}
    if set(plan.rules) & set(CLIP_RULES):
        wanted = stages.wanted_clips(texts, clip_index)
        measured = stages.measure_clips(wanted, clip_index, work=plan.work)
        if len(measured) < len(wanted):
            return None
    found = rules.apply_clip_rules(
        texts,
        clip_index,
        measured,
        rules=plan.rules,
        limits=plan.limits,
        progress=plan.work.progress,
    )
    rejections = rules.apply_repeat_rule(manifest, found.rejections, rules=plan.rules)
    losses = {}
    if "blind" in plan.rules:
        wanted = stages.scorable_samples(manifest, rejections, clip_index, measured)
        with plan.work.decoders as decoders:
            scorer = load_scorer(decoders)
            losses = stages.score_samples(wanted, manifest, scorer=scorer, work=plan.work)
        if len(losses) < len(wanted):
            return None
        rejections = rules.apply_blind_rule(rejections, losses, margin=plan.limits.margin)
    return Findings(manifest, clip_index, measured, found.nearest, losses, rejections)


def write_results(findings: Findings, plan: PrunePlan) -> None:
    """Writes decisions, pictures and report, then the list of kept samples.

    Raises:
        InputError: A file cannot be written.
    """
    decisions.write_decisions(findings, out=plan.out / "decisions.jsonl")
    pictures.draw_histograms(findings, limits=plan.limits, path=plan.out / "histograms.png")
    drawn = ["histograms.png", *_draw_sheets(findings, plan)]
    text = report.render_markdown(findings, rules=plan.rules, limits=plan.limits, pictures=drawn)
    write_atomically(plan.out / "report.md", text)
    decisions.write_kept(findings, out=plan.out / KEPT)
    print(text)


def _draw_sheets(findings: Findings, plan: PrunePlan) -> list[str]:
    """Draws a contact sheet for each rule that dropped samples; returns the file names."""
    names = []
    with plan.work.decoders as decoders:
        for rule in RULES:
            name = f"dropped-{rule}.png"
            (plan.out / name).unlink(missing_ok=True)  # From an earlier run.
            rows = pictures.sheet_rows(findings, rule)
            if rows:
                read = functools.partial(_read_frames, decoders=decoders)
                title = f"Some of the samples that the rule {rule} dropped"
                pictures.draw_sheet(rows, title=title, read=read, path=plan.out / name)
                names.append(name)
    return names


def _read_frames(clip: Clip, *, decoders: DecoderPool) -> np.ndarray:
    """Reads frames of a clip for a contact sheet: uint8 [F,S,S,3]."""
    return read_clip(
        clip, max_frames=pictures.SHEET_FRAMES, size=pictures.SHEET_SIDE, decoders=decoders
    ).frames

"""Leaves out of a data set what teaches little.

`python -m vxlpro_jax.prune --manifest IN --out OUT.jsonl --report DIR`

Started again it goes on where it was. On several hosts, with DIR on a disk that all see, each does
a share (`--shard 0/8` and so on, or as many processes as a launcher started); once all are done the
same command with `--shard 0/1` writes the results.
"""

import argparse
import dataclasses
import functools
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from vxlpro_jax.config.schema import DataConfig
from vxlpro_jax.curation import decisions, pictures, report, rules, samples, stages
from vxlpro_jax.curation.decisions import Findings
from vxlpro_jax.curation.measure import read_clip
from vxlpro_jax.curation.rules import CLIP_RULES, RULES, Limits, Rule
from vxlpro_jax.curation.samples import Clip
from vxlpro_jax.data.video.pool import DecoderPool
from vxlpro_jax.distributed.cluster import find_cluster
from vxlpro_jax.utils import cli
from vxlpro_jax.utils.errors import InputError
from vxlpro_jax.utils.files import write_atomically
from vxlpro_jax.utils.journal import Shard

LoadScorer = Callable[[argparse.Namespace, DecoderPool], stages.Scorer]


def main(argv: Sequence[str], *, load_scorer: LoadScorer | None = None) -> None:
    """Runs the command line `argv`, without the program's name.

    `load_scorer` makes the model that is asked; None loads that of `--model`.
    """
    args = parse_arguments(argv)
    if args.out.resolve() == Path(args.manifest).resolve():
        raise InputError(f"--out {args.out} is the manifest itself: choose another file.")
    plan = _Plan.of(args)
    _make_folder(plan.work.folder)
    findings = find(args, plan, load_scorer=load_scorer or _load_scorer)
    index, count = plan.work.shard
    if findings is None:
        print(
            f"Share {index} of {count} is done as far as the others let it: start this again when"
            " they have ended, or with --shard 0/1 to do what is left."
        )
    elif count > 1:
        print("All shares are done: start this with --shard 0/1 to write the results.")
    else:
        write(findings, args, plan)


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Reads the command line; argparse itself exits with 2 on a mistake."""
    parser = argparse.ArgumentParser(
        prog="python -m vxlpro_jax.prune",
        description=__doc__.split("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add, limits, data = parser.add_argument, Limits(), DataConfig()
    add("--manifest", required=True, help="data file, as `data.path` names it")
    add("--out", required=True, type=Path, help="JSONL of those that stay")
    add("--report", required=True, type=Path, help="folder of decisions, pictures and journals")
    add("--video_root", default="", help="folder or URL of the videos; else the manifest's")
    add("--image_root", default="", help="folder or URL of the pictures; else the manifest's")
    add("--skip", action="append", default=[], choices=RULES, help="a rule to leave out")
    add("--min_seconds", type=float, default=limits.min_seconds, help="shorter videos are dropped")
    add("--static", type=float, default=limits.static, help="share of still frames, one picture")
    add("--slides", type=float, default=limits.slides, help="the same, several pictures")
    add(
        "--similarity",
        type=float,
        default=limits.similarity,
        help="cosine of clips that are the same",
    )
    add("--model", help="model or training folder, which the rule `blind` asks; else it is off")
    add("--margin", type=float, default=limits.margin, help="nats an id that seeing must save")
    add("--max_frames", type=int, default=32, help="of a video that the model is shown")
    add("--keep_ratio", type=float, default=0.9, help="share of visual tokens kept")
    add("--num_workers", type=int, default=os.cpu_count() or 1, help="processes that decode")
    add("--seconds_per_file", type=float, default=data.seconds_per_file, help="then it is killed")
    add("--shard", type=_shard, help="INDEX/COUNT, this process's share of the work")
    add("--cache", type=Path, default=Path(data.cache_dir), help="copies of remote shards")
    return parser.parse_args(argv)


def _shard(text: str) -> Shard:
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match or int(match[1]) >= int(match[2]):
        raise argparse.ArgumentTypeError(f"{text!r} is no share: give 0/4 to 3/4, for example")
    return Shard(int(match[1]), int(match[2]))


@dataclasses.dataclass(frozen=True)
class _Plan:
    """Attributes: the `rules` that are on, their `limits`, and the `work` of this process."""

    rules: tuple[Rule, ...]
    limits: Limits
    work: stages.WorkSettings

    @classmethod
    def of(cls, args: argparse.Namespace) -> "_Plan":
        off = {*args.skip} if args.model else {*args.skip, "blind"}
        cluster = None if args.shard else find_cluster(os.environ)
        own = Shard(cluster.process_id, cluster.num_processes) if cluster else Shard()
        return cls(
            rules=tuple(rule for rule in RULES if rule not in off),
            limits=Limits(**{x.name: getattr(args, x.name) for x in dataclasses.fields(Limits)}),
            work=stages.WorkSettings(
                folder=args.report / "measures",
                shard=args.shard or own,
                workers=args.num_workers,
                seconds_per_file=args.seconds_per_file,
                progress=cli.progress,
            ),
        )


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"Folder {folder} cannot be written ({error.strerror}).") from error


def _load_scorer(args: argparse.Namespace, decoders: DecoderPool) -> stages.Scorer:
    from vxlpro_jax.curation.blind_loss import (
        BlindScorer,  # Only here, since it needs JAX and the device.
    )

    return BlindScorer.load(
        args.model,
        max_frames=args.max_frames,
        keep_ratio=args.keep_ratio,
        decoders=decoders,
        workers=args.num_workers,
    )


def find(args: argparse.Namespace, plan: _Plan, *, load_scorer: LoadScorer) -> Findings | None:
    """Measures, asks and judges; None as long as other shares' work is missing.

    Raises:
        InputError: the manifest or the model cannot be used.
    """
    found = samples.load_manifest(
        args.manifest, video_root=args.video_root, image_root=args.image_root, cache=args.cache
    )
    shown = samples.index_clips(found)
    texts = rules.apply_text_rule(found, rules=plan.rules)
    measured = {}
    if set(plan.rules) & set(CLIP_RULES):
        wanted = stages.wanted_clips(texts, shown)
        measured = stages.measure_clips(wanted, shown, work=plan.work)
        if len(measured) < len(wanted):
            return None
    judged = rules.apply_clip_rules(
        texts, shown, measured, rules=plan.rules, limits=plan.limits, progress=cli.progress
    )
    losses, verdicts = {}, rules.apply_repeat_rule(found, judged.verdicts, rules=plan.rules)
    if "blind" in plan.rules:
        asked = stages.scorable_samples(found, verdicts, shown, measured)
        with plan.work.decoders as decoders:
            scorer = load_scorer(args, decoders)
            losses = stages.score_samples(asked, found, scorer=scorer, work=plan.work)
        if len(losses) < len(asked):
            return None
        verdicts = rules.apply_blind_rule(verdicts, losses, margin=plan.limits.margin)
    return Findings(found, shown, measured, judged.nearest, losses, verdicts)


def write(findings: Findings, args: argparse.Namespace, plan: _Plan) -> None:
    """Writes `decisions.jsonl`, pictures and `report.md`, and the samples that stay last.

    Raises:
        InputError: a file cannot be written.
    """
    decisions.write_decisions(findings, out=args.report / "decisions.jsonl")
    pictures.draw_histograms(findings, limits=plan.limits, path=args.report / "histograms.png")
    drawn = ["histograms.png", *_draw_sheets(findings, args.report, plan.work)]
    text = report.render_markdown(findings, rules=plan.rules, limits=plan.limits, pictures=drawn)
    write_atomically(args.report / "report.md", text)
    decisions.write_kept(findings, out=args.out)
    print(text)


def _draw_sheets(findings: Findings, folder: Path, work: stages.WorkSettings) -> list[str]:
    """The names of the contact sheets, one for each rule that dropped something."""
    names = []
    with work.decoders as decoders:
        for rule in RULES:
            name = f"dropped-{rule}.png"
            (folder / name).unlink(missing_ok=True)  # Of an earlier run.
            rows = pictures.sheet_rows(findings, rule)
            if rows:
                read = functools.partial(_frames, decoders=decoders)
                title = f"Dropped by the rule {rule}: some of them"
                pictures.draw_sheet(rows, title=title, read=read, path=folder / name)
                names.append(name)
    return names


def _frames(clip: Clip, *, decoders: DecoderPool):
    return read_clip(
        clip, max_frames=pictures.SHEET_FRAMES, size=pictures.SHEET_SIDE, decoders=decoders
    ).frames


if __name__ == "__main__":
    cli.run(lambda: main(sys.argv[1:]))

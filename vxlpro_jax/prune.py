"""Drops the samples of a data set that teach little, by explicit rules.

`python -m vxlpro_jax.prune --manifest FILE --out DIR [--checkpoint MODEL]` writes to DIR the kept
samples (`kept.jsonl`), a line for each sample (`decisions.jsonl`), a report with pictures
(`report.md`) and the measurements (`measures/`). After an interruption the same command resumes
from these.

If DIR is on a disk that several hosts share, each host can do a share of the work: `--shard 0/8` to
`--shard 7/8`, or one share for each process of a launcher. After all of them have finished, the
same command with `--shard 0/1` writes the results.
"""

import argparse
import dataclasses
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from vxlpro_jax.config.schema import DataConfig
from vxlpro_jax.curation.limits import RULES, Limits
from vxlpro_jax.utils import cli
from vxlpro_jax.utils.arguments import ArgumentParser
from vxlpro_jax.utils.errors import InputError
from vxlpro_jax.utils.journal import Shard


def main(argv: Sequence[str], *, load_scorer: Callable[..., Any] | None = None) -> None:
    """Runs the command line `argv`, without the program's name.

    `load_scorer` builds the model of the rule `blind` from a pool of decoders; None loads the model
    of `--checkpoint`.
    """
    args = parse_arguments(argv)
    limits = Limits(**{x.name: getattr(args, x.name) for x in dataclasses.fields(Limits)})
    from vxlpro_jax.curation.run import KEPT, MEASURES, PrunePlan, prune
    from vxlpro_jax.curation.samples import load_manifest
    from vxlpro_jax.curation.stages import WorkSettings

    if (args.out / KEPT).resolve() == Path(args.manifest).resolve():
        raise InputError(f"--out {args.out} holds the manifest itself: choose another folder.")
    off = {*args.skip} if args.checkpoint else {*args.skip, "blind"}
    shard = args.shard or _shard_of_process()
    plan = PrunePlan(
        out=args.out,
        rules=tuple(rule for rule in RULES if rule not in off),
        limits=limits,
        work=WorkSettings(
            folder=args.out / MEASURES,
            shard=shard,
            workers=args.num_workers,
            seconds_per_file=args.seconds_per_file,
            progress=cli.progress,
        ),
    )
    manifest = load_manifest(
        args.manifest,
        video_root=args.video_root,
        image_root=args.image_root,
        cache_dir=args.cache_dir,
    )
    status = prune(manifest, plan, load_scorer=load_scorer or _scorer_loader(args))
    if status == "waiting":
        print(
            f"Share {shard.index} of {shard.count} is done as far as possible without the results"
            " of the others: start this command again when they have ended, or with --shard 0/1 to"
            " do what is left."
        )
    elif status == "share_done":
        print("All shares are done: start this command with --shard 0/1 to write the results.")


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Parses the command line; argparse exits with 2 on a mistake."""
    parser = ArgumentParser(
        prog="python -m vxlpro_jax.prune",
        description=__doc__,
        formatter_class=_HelpFormatter,
    )
    add, data = parser.add_argument, DataConfig()
    add("--manifest", required=True, help="data file, in the same formats as `data.path`")
    add("--out", required=True, type=Path, help="output folder")
    add("--video_root", default="", help="folder or URL of the videos (empty: the manifest's)")
    add("--image_root", default="", help="folder or URL of the images (empty: the manifest's)")
    add("--skip", action="append", default=[], choices=RULES, help="rule to switch off")
    _add_limits(parser)
    add("--checkpoint", help="model or run folder for the rule `blind`, which is off without it")
    add("--max_frames", type=int, default=32, help="frames sampled per video for the model")
    add("--keep_ratio", type=float, default=0.9, help="share of the visual tokens to keep")
    add("--num_workers", type=int, default=os.cpu_count() or 1, help="number of decoder processes")
    add(
        "--seconds_per_file",
        type=float,
        default=data.seconds_per_file,
        help="time limit in seconds for decoding a file",
    )
    add("--shard", type=_shard, help="share of the work of this process, INDEX/COUNT")
    cache = "folder of the copies of remote shards"
    add("--cache_dir", type=Path, default=Path(data.cache_dir), help=cache)
    return parser.parse_args(argv)


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keeps the paragraphs of the description and adds the defaults."""


def _add_limits(parser: argparse.ArgumentParser) -> None:
    meanings = {
        "min_seconds": "minimum length in seconds of a video",
        "static": "minimum share of still frames at which a video of one picture is dropped",
        "slides": "minimum share of still frames at which a video of several pictures is dropped",
        "similarity": "minimum cosine similarity at which two clips are duplicates",
        "margin": "minimum decrease of the loss, in nats per reply token, due to the video",
    }
    for name, meaning in meanings.items():
        parser.add_argument(f"--{name}", type=float, default=getattr(Limits(), name), help=meaning)


def _shard(text: str) -> Shard:
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match or int(match[1]) >= int(match[2]):
        raise argparse.ArgumentTypeError(f"{text!r} is not a share: give for example 0/4 to 3/4")
    return Shard(int(match[1]), int(match[2]))


def _shard_of_process() -> Shard:
    """Returns this process's shard among those that a launcher started; all if it is alone."""
    from vxlpro_jax.distributed.cluster import find_cluster

    cluster = find_cluster(os.environ)
    return Shard(cluster.process_id, cluster.num_processes) if cluster else Shard()


def _scorer_loader(args: argparse.Namespace) -> Callable[..., Any]:
    def load(decoders):
        from vxlpro_jax.curation.blind_loss import BlindScorer  # Imports JAX.

        return BlindScorer.load(
            args.checkpoint,
            max_frames=args.max_frames,
            keep_ratio=args.keep_ratio,
            decoders=decoders,
            workers=args.num_workers,
        )

    return load


if __name__ == "__main__":
    cli.run(lambda: main(sys.argv[1:]))

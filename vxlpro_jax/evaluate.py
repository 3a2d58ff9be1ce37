"""Asks a model the questions of a benchmark and scores its answers.

`python -m vxlpro_jax.evaluate --checkpoint DIR --benchmark embedded --out DIR`, or with a published
benchmark, `questions` or a Python file, and its `--annotations PATH --videos DIR`.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from vxlpro_jax.config.schema import DataConfig
from vxlpro_jax.distributed.cluster import find_cluster
from vxlpro_jax.evals import registry
from vxlpro_jax.evals.benchmark import Profile
from vxlpro_jax.evals.judge import Judge
from vxlpro_jax.inference import flags
from vxlpro_jax.utils import cli
from vxlpro_jax.utils.arguments import ArgumentParser
from vxlpro_jax.utils.errors import InputError
from vxlpro_jax.utils.files import make_writable
from vxlpro_jax.utils.journal import Shard

if TYPE_CHECKING:
    from vxlpro_jax.evals.runner import Run

EMBEDDED = "embedded"


def main(argv: Sequence[str]) -> None:
    """Runs the command line `argv`, without the program's name."""
    args = parse_arguments(argv)
    if args.benchmark == EMBEDDED:
        print(_ask_embedded(args))
        return
    from vxlpro_jax.evals import runner

    print(runner.run(_run(args)))


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Parses the command line; argparse itself exits with 2 on a mistake."""
    parser = ArgumentParser(
        prog="python -m vxlpro_jax.evaluate", description=(__doc__ or "").split("\n")[0]
    )
    add = parser.add_argument
    add("--checkpoint", required=True, help="model folder or training folder")
    names = ", ".join((EMBEDDED, *registry.find_all()))
    add("--benchmark", required=True, help=f"one of {names}, or the path of a Python file")
    add("--out", required=True, type=Path, help="output folder")
    cache = Path(DataConfig().cache_dir)
    clips = f"folder of the embedded clips (default: {cache})"
    add("--cache_dir", type=Path, default=cache, help=clips)
    flags.add_inference_flags(parser)
    flags.add_flags(parser)
    _add_benchmark_flags(parser)
    return parser.parse_args(argv)


def _add_benchmark_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that apply to all benchmarks except the embedded one."""
    add = parser.add_argument_group("benchmarks with annotations").add_argument
    add("--annotations", type=Path, help="file of questions, as published")
    add("--videos", type=Path, help="folder of the videos; subfolders are searched too")
    add("--subtitles", type=Path, help="folder of the SRT files, only for videomme_subtitles")
    profiles = get_args(Profile)
    whose = f"profile of prompts and parsers (default: {profiles[0]})"
    add("--profile", default=profiles[0], choices=profiles, help=whose)
    add("--chain", type=_count, help="V-STaR's chain of questions, 1 or 2 (default: 1)")
    add("--limit", type=_count, help="ask only the first LIMIT questions (default: all)")
    tokens = "maximum number of tokens per answer (default: the benchmark's setting)"
    add("--max_new_tokens", type=_count, help=tokens)
    add("--token_cache", default="", help="folder that caches visual tokens for later runs")
    unreadable = "number of unreadable videos that are tolerated (default: 10)"
    add("--max_unreadable", type=int, default=10, help=unreadable)
    process = "index of this process among those that share --out (default: the launcher's)"
    add("--process_id", type=int, help=process)
    add("--num_processes", type=_count, help="number of processes that share the videos")
    add("--judge_url", help="OpenAI-compatible endpoint; OPENAI_API_KEY is sent if set")
    add("--judge_model", help="name of the judge model at --judge_url")


def _ask_embedded(args: argparse.Namespace) -> str:
    if changed := flags.changed(args):
        raise InputError(
            f"--benchmark {EMBEDDED} takes no flags of the decoder: leave out"
            f" {', '.join(f'--{name}' for name in changed)}."
        )
    if args.max_frames is not None or args.fps is not None:
        raise InputError(
            f"--benchmark {EMBEDDED} reads all frames of its clips: leave out --max_frames and"
            " --fps."
        )
    from vxlpro_jax.evals import synthetic
    from vxlpro_jax.inference.engine import Engine

    make_writable(args.out, flag="--out")
    engine = Engine.load(args.checkpoint)
    asked = flags.inference_config_of(args, defaults=engine.inference_config)
    cache = args.cache_dir.expanduser()
    return synthetic.run(engine, cache_dir=cache, keep_ratio=asked.keep_ratio, out=args.out)


def _run(args: argparse.Namespace) -> "Run":
    """Returns the run that the flags describe.

    Raises:
        InputError: a flag is missing, is out of its range, or contradicts another one.
    """
    from vxlpro_jax.evals import runner

    benchmark = registry.find(args.benchmark, chain=args.chain)
    for flag in ("annotations", "videos"):
        if getattr(args, flag) is None:
            raise InputError(f"Benchmark {args.benchmark} needs --{flag}.")
    defaults = runner.default_sampling(args.checkpoint, benchmark=benchmark)
    sampling = flags.inference_config_of(args, defaults=defaults)
    return runner.Run(
        checkpoint=args.checkpoint,
        benchmark=benchmark,
        chain=args.chain,
        source=registry.source_digest(args.benchmark),
        annotations=args.annotations,
        videos=args.videos,
        subtitles=args.subtitles,
        out=args.out,
        profile=args.profile,
        limit=args.limit,
        sampling=sampling,
        budget=benchmark.budget.with_max_new_tokens(args.max_new_tokens),
        options=flags.options_of(args, keep_ratio=sampling.keep_ratio),
        decoder_flags=flags.settings_of(args),
        dtype=args.dtype,
        token_cache=args.token_cache,
        shard=_shard(args),
        max_unreadable=args.max_unreadable,
        judge=_judge(args),
    )


def _judge(args: argparse.Namespace) -> Judge | None:
    if (args.judge_url is None) != (args.judge_model is None):
        raise InputError("Give --judge_url and --judge_model together, or neither.")
    if args.judge_url is None:
        return None
    return Judge(args.judge_url, model=args.judge_model, key=os.environ.get("OPENAI_API_KEY", ""))


def _shard(args: argparse.Namespace) -> Shard:
    if (args.process_id is None) != (args.num_processes is None):
        raise InputError("Give --process_id and --num_processes together, or neither.")
    if args.process_id is None:
        cluster = find_cluster(os.environ)
        return Shard(cluster.process_id, cluster.num_processes) if cluster else Shard()
    if not 0 <= args.process_id < args.num_processes:
        raise InputError(
            f"--process_id is {args.process_id}: give 0 to {args.num_processes - 1}, as"
            f" --num_processes is {args.num_processes}."
        )
    return Shard(args.process_id, args.num_processes)


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return value


if __name__ == "__main__":
    cli.run(lambda: main(sys.argv[1:]))

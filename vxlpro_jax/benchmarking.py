"""The part of `vxlpro_jax.evaluate` that runs published benchmarks."""

import argparse
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_args

from vxlpro_jax.checkpoints.params import locate
from vxlpro_jax.distributed.cluster import find_cluster
from vxlpro_jax.evals import outcome, registry
from vxlpro_jax.evals.annotations import files_of
from vxlpro_jax.evals.campaign import Campaign, alone, check_settings
from vxlpro_jax.evals.folders import Folder
from vxlpro_jax.evals.judge import Judge
from vxlpro_jax.evals.outcome import Answers
from vxlpro_jax.evals.published import BUDGETS, Budget
from vxlpro_jax.evals.running import Asker
from vxlpro_jax.evals.scoring import Benchmark, Profile, rate_all, read_checked
from vxlpro_jax.inference import flags
from vxlpro_jax.inference.engine import Engine, Options
from vxlpro_jax.utils import cli
from vxlpro_jax.utils.errors import InputError
from vxlpro_jax.utils.journal import Shard


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags that only published benchmarks have."""
    flags.add_flags(parser)
    add = parser.add_argument_group("published benchmarks").add_argument
    add("--annotations", type=Path, help="the published file of questions")
    add("--videos", type=Path, help="folder of the videos, which may lie in folders below")
    add("--subtitles", type=Path, help="folder of the SRT files, for videomme_subtitles")
    profiles = get_args(Profile)
    add("--profile", default=profiles[0], choices=profiles, help="whose prompts and parsers")
    add("--chain", type=int, choices=registry.CHAINS, help="of V-STaR's questions; None for 1")
    add("--limit", type=_count, help="ask only so many questions, the first")
    add("--max_frames", type=_count, help="of a video; None for the benchmark's own")
    add("--max_new_tokens", type=_count, help="of an answer; None for the benchmark's own")
    add("--feature_cache", default="", help="folder where visual tokens are kept and found")
    add("--max_unreadable", type=int, default=10, help="videos that may fail before this stops")
    add(
        "--process_id", type=int, help="which of --num_processes on one --out; None asks a launcher"
    )
    add("--num_processes", type=_count, help="each takes a share of the videos")
    add("--judge_url", help="OpenAI-compatible endpoint; OPENAI_API_KEY is sent to it if set")
    add("--judge_model", help="name of the judge model there")


class _Run(NamedTuple):
    """What is asked, and where its answers go."""

    name: str
    benchmark: Benchmark
    records: Sequence[Any]
    profile: Profile
    out: Path


def run(args: argparse.Namespace) -> None:
    """Asks this process's share and, once all are answered, writes and prints the results.

    Raises:
        InputError: a flag, the annotations or the checkpoint cannot be used.
        Failure: too many videos cannot be read, tokens cannot be kept, or the judge does not
            answer.
    """
    benchmark = registry.find(args.benchmark, chain=args.chain)
    _check(args, benchmark)
    judge, shard = _judge(args), _shard(args)
    videos = Folder(args.videos)
    subtitles = Folder(args.subtitles) if args.subtitles else None
    records = read_checked(benchmark, args.annotations)[: args.limit]
    budget = BUDGETS[args.benchmark].with_limits(
        max_frames=args.max_frames, max_new_tokens=args.max_new_tokens
    )
    with alone(args.out):
        check_settings(args.out, _settings(args, budget))
    campaign = Campaign(args.out, records=records, shard=shard)
    if campaign.pending():
        asker = Asker(
            engine=Engine.load(args.checkpoint, dtype=args.dtype, feature_cache=args.feature_cache),
            benchmark=benchmark,
            profile=args.profile,
            videos=videos,
            subtitles=subtitles,
            budget=budget,
            options=_options(args),
        )
        campaign.run(asker, most_unreadable=args.max_unreadable, progress=cli.progress)
    answers = campaign.answers()
    if answers is None:
        print("This share is done; whichever process ends last writes the results.")
        return
    with alone(args.out):
        _finish(
            _Run(args.benchmark, benchmark, records, args.profile, args.out), answers, judge=judge
        )


def _finish(run: _Run, answers: Answers, *, judge: Judge | None) -> None:
    """Writes and prints the results; first those that need no judge, in case it does not answer.

    Raises:
        InputError: the judge refuses a request.
        Failure: it does not answer.
    """

    def write(judgements):
        found = outcome.results(
            run.name,
            run.benchmark,
            run.records,
            answers,
            profile=run.profile,
            judgements=judgements,
        )
        outcome.write(found, answers, out=run.out)
        return found

    found = write({})
    if judge:
        rated = rate_all(run.benchmark, run.records, answers.texts, profile=run.profile)
        found = write(outcome.ask_judge(judge, run.name, rated, out=run.out, progress=cli.progress))
    print(outcome.table(found))


def _check(args: argparse.Namespace, benchmark: Benchmark) -> None:
    _options(args)
    for flag in ("annotations", "videos"):
        if getattr(args, flag) is None:
            raise InputError(f"Benchmark {args.benchmark} needs --{flag}.")
    if (args.subtitles is not None) != (benchmark.prompt_with is not None):
        raise InputError("Give --subtitles with --benchmark videomme_subtitles, and only there.")


def _options(args: argparse.Namespace) -> Options:
    return flags.options_of(args, keep_ratio=args.keep_ratio)


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


def _settings(args: argparse.Namespace, budget: Budget) -> dict[str, Any]:
    """All that an answer depends on but its question."""
    params = locate(args.checkpoint).params
    return {
        "benchmark": args.benchmark,
        "chain": args.chain,
        "profile": args.profile,
        "annotations": hashlib.sha256(
            b"".join(file.read_bytes() for file in files_of(args.annotations))
        ).hexdigest(),
        "checkpoint": str(params),
        "checkpoint_time": params.stat().mtime,
        "max_frames": budget.max_frames,
        "max_new_tokens": budget.max_new_tokens,
        "keep_ratio": args.keep_ratio,
        **flags.settings_of(args),
    }


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return value

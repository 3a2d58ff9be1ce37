"""Scores existing predictions; needs no JAX and no model.

`python -m vxlpro_jax.score --benchmark NAME --annotations PATH --predictions FILE.jsonl`
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from vxlpro_jax.evals import registry
from vxlpro_jax.evals.annotations import read_predictions
from vxlpro_jax.evals.benchmark import Benchmark, Profile, ScoredRecord
from vxlpro_jax.evals.judge import read_replies
from vxlpro_jax.evals.results import Results
from vxlpro_jax.utils import cli
from vxlpro_jax.utils.arguments import ArgumentParser
from vxlpro_jax.utils.errors import InputError


def main(argv: Sequence[str]) -> None:
    """Runs the command line `argv`, without the program's name.

    Raises:
        InputError: a file or a record in it cannot be used.
    """
    args = parse_arguments(argv)
    benchmark = registry.find(args.benchmark, chain=args.chain)
    records = benchmark.read_unique(args.annotations)
    answers = read_predictions(args.predictions, ids=[record.id for record in records])
    scored = benchmark.score_all(records, answers, profile=args.profile)
    results = Results.of(benchmark, scored, profile=args.profile)
    if args.plot:
        _plot(benchmark, scored, path=args.plot)
    if args.judgements:
        results = _judged(results, benchmark, scored, path=args.judgements)
    print(json.dumps(results.to_json()) if args.json else results.to_text())


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Parses the command line; argparse itself exits with 2 on a mistake."""
    parser = ArgumentParser(
        prog="python -m vxlpro_jax.score", description=(__doc__ or "").split("\n")[0]
    )
    add = parser.add_argument
    names = ", ".join(registry.find_all())
    add("--benchmark", required=True, help=f"one of {names}, or the path of a Python file")
    add("--annotations", required=True, type=Path, help="file of questions, as published")
    add("--predictions", required=True, type=Path, help='JSON lines {"id": .., "prediction": ..}')
    profiles = get_args(Profile)
    whose = f"profile of parser and metrics (default: {profiles[0]})"
    add("--profile", default=profiles[0], choices=profiles, help=whose)
    add("--chain", type=int, help="V-STaR's chain of questions, 1 or 2 (default: 1)")
    replies = 'replies of a judge model, JSON lines {"id": .., "reply": ..}'
    add("--judgements", type=Path, help=replies)
    add("--json", action="store_true", help="print JSON with every item instead of a table")
    add("--plot", type=Path, help="PNG of predicted and true spans, if answers are time spans")
    return parser.parse_args(argv)


def _judged(
    results: Results, benchmark: Benchmark, scored: Sequence[ScoredRecord], *, path: Path
) -> Results:
    if benchmark.rubric is None:
        judged = ", ".join(name for name, b in registry.find_all().items() if b.rubric)
        raise InputError(
            f"Benchmark {benchmark.name} needs no judge: --judgements is only for {judged}."
        )
    replies = read_replies(path, rubric=benchmark.rubric, scored=scored)
    return results.with_judge(benchmark, scored, replies)


def _plot(benchmark: Benchmark, scored: Sequence[ScoredRecord], *, path: Path) -> None:
    true_span = benchmark.true_span
    if true_span is None:
        temporal = ", ".join(name for name, b in registry.find_all().items() if b.true_span)
        raise InputError(
            f"Benchmark {benchmark.name} has no spans to draw: --plot is only for {temporal}."
        )
    # Matplotlib takes longer to load than everything else here.
    from vxlpro_jax.evals import plots

    pairs = [
        plots.SpanPair(str(one.record.id), true_span(one.record), one.score.parsed)
        for one in scored
    ]
    plots.draw_spans(pairs, path=path)


if __name__ == "__main__":
    cli.run(lambda: main(sys.argv[1:]))

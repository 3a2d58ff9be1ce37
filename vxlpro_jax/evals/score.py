"""Scores given predictions; needs no JAX and no model.

`python -m vxlpro_jax.evals.score --benchmark NAME --annotations PATH --predictions FILE.jsonl`
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_args

from vxlpro_jax.evals import judging, registry
from vxlpro_jax.evals.predictions import read_predictions
from vxlpro_jax.evals.scoring import Profile, Rated, rate_all, read_checked
from vxlpro_jax.utils import cli
from vxlpro_jax.utils.errors import InputError


class Scores(NamedTuple):
    """Attributes: `metrics` in percent, by name; `rated`, every record in the file's order."""

    metrics: dict[str, float]
    rated: list[Rated]


def main(argv: Sequence[str]) -> None:
    """Runs the command line `argv`, without the program's name.

    Raises:
        InputError: a file or a record in it cannot be used.
    """
    args = parse_arguments(argv)
    scores = score(
        args.benchmark,
        annotations=args.annotations,
        predictions=args.predictions,
        profile=args.profile,
        chain=args.chain,
    )
    if args.plot:
        _plot(args.benchmark, scores, path=args.plot)
    reported = report(scores)
    if args.judgements:
        replies = read_judgements(args.judgements, name=args.benchmark, rated=scores.rated)
        reported = judging.with_judge(reported, args.benchmark, scores.rated, replies)
    found = {"benchmark": args.benchmark, "profile": args.profile, **reported}
    print(json.dumps(found) if args.json else table(found))


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Reads the command line; argparse itself exits with 2 on a mistake."""
    parser = argparse.ArgumentParser(
        prog="python -m vxlpro_jax.evals.score", description=__doc__.split("\n")[0]
    )
    add = parser.add_argument
    add("--benchmark", required=True, choices=registry.NAMES, help="what was asked")
    add("--annotations", required=True, type=Path, help="the published file")
    add("--predictions", required=True, type=Path, help='JSON lines {"id": .., "prediction": ..}')
    profiles = get_args(Profile)
    add("--profile", default=profiles[0], choices=profiles, help="whose parser and metrics")
    add("--chain", type=int, choices=registry.CHAINS, help="of V-STaR's questions; 1 by default")
    add(
        "--judgements",
        type=Path,
        help='what a judge model said, JSON lines {"id": .., "reply": ..}',
    )
    add("--json", action="store_true", help="print JSON with every item instead of a table")
    add("--plot", type=Path, help="PNG of predicted against true spans, of a temporal benchmark")
    return parser.parse_args(argv)


def score(
    name: str,
    *,
    annotations: Path,
    predictions: Path,
    profile: Profile = "official",
    chain: int | None = None,
) -> Scores:
    """Scores the predictions of a benchmark; a record without one has the empty answer.

    Raises:
        InputError: a file or a record in it cannot be used.
    """
    benchmark = registry.find(name, chain=chain)
    records = read_checked(benchmark, annotations)
    answers = read_predictions(predictions, ids=[record.id for record in records])
    rated = rate_all(benchmark, records, answers, profile=profile)
    return Scores(benchmark.summarise(rated, profile), rated)


def read_judgements(path: Path, *, name: str, rated: Sequence[Rated]) -> dict[Any, str | None]:
    """A judge's stored replies by id, None of answers that it need not see.

    Replies on what the benchmark does not ask a judge about are passed over.

    Raises:
        InputError: the file cannot be used, or no judge is asked in this benchmark.
    """
    how = judging.JUDGINGS.get(name)
    if how is None:
        judged = ", ".join(judging.JUDGINGS)
        raise InputError(f"Benchmark {name} needs no judge: leave --judgements to {judged}.")
    replies = read_predictions(path, ids=[one.record.id for one in rated], field="reply")
    asked = {one.record.id for one in rated if how.ask(one)}
    known = {id: reply for id, reply in replies.items() if id in asked}
    return dict.fromkeys(judging.settled(how, rated)) | known


def report(scores: Scores) -> dict[str, Any]:
    """`metrics`, `counts`, ids that are `unscored` for want of a judge or an answer, `per_item`.

    Counts are of all items, empty answers (null, missing or blank), answers in which nothing was
    found, and unscored ones.
    """
    rated = scores.rated
    unscored = [one.record.id for one in rated if one.verdict.is_pending]
    found = [one.verdict for one in rated if not one.verdict.is_pending]
    counts = {
        "items": len(rated),
        "empty": sum(not one.answer.strip() for one in rated),
        "unparsed": sum(verdict.parsed is None for verdict in found),
        "unscored": len(unscored),
    }
    per_item = [_item(one) for one in rated]
    return {
        "metrics": scores.metrics,
        "counts": counts,
        "unscored": unscored,
        "per_item": per_item,
    }


def table(found: dict[str, Any]) -> str:
    """The metrics a line each, under a line of counts."""
    counts = ", ".join(f"{count} {name}" for name, count in found["counts"].items())
    lines = [f"{found['benchmark']} ({found['profile']}): {counts}"]
    width = max(map(len, found["metrics"]), default=0)
    lines += [f"{name:{width}}  {value:6.2f}" for name, value in found["metrics"].items()]
    if found["unscored"]:
        lines.append(f"Without a judge model {len(found['unscored'])} items stay unscored.")
    return "\n".join(lines)


def _item(one: Rated) -> dict[str, Any]:
    verdict = one.verdict
    fields = {"id": one.record.id, "parsed": verdict.parsed, "correct": verdict.correct}
    return {**fields, **verdict.measures}


def _plot(name: str, scores: Scores, *, path: Path) -> None:
    if name not in registry.TEMPORAL:
        temporal = ", ".join(registry.TEMPORAL)
        raise InputError(f"Benchmark {name} has no spans to draw: leave --plot to {temporal}.")
    # Matplotlib takes longer to load than all else here.
    from vxlpro_jax.evals import timeline

    rows = [
        timeline.Pair(str(one.record.id), one.record.span, one.verdict.parsed)
        for one in scores.rated
    ]
    timeline.draw(rows, path=path)


if __name__ == "__main__":
    cli.run(lambda: main(sys.argv[1:]))

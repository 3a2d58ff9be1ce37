"""V-STaR's metrics over what, when and where together: AM, LGM, and shares right in several.

`python -m vxlpro_jax.evals.benchmarks.vstar_chains --what FILE --when FILE [FILE] --where FILE
[FILE]` reads `results.json` of `vxlpro_jax.evaluate`, or the output of `vxlpro_jax.score --json`.
"""

import argparse
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vxlpro_jax.evals.annotations import read_text
from vxlpro_jax.evals.benchmarks.vstar import arithmetic_mean, log_geometric_mean
from vxlpro_jax.evals.metrics import mean, percent
from vxlpro_jax.utils import cli
from vxlpro_jax.utils.arguments import ArgumentParser
from vxlpro_jax.utils.errors import InputError

# From which IoU the authors count a question as right beside others.
_RIGHT_WHEN, _RIGHT_WHERE = 0.3, 0.1

Measures = Mapping[Any, float]  # Of each question, by its id; from 0 to 1.


def main(argv: Sequence[str]) -> None:
    """Runs the command line `argv`, without the program's name.

    Raises:
        InputError: a file cannot be used, or two are not of the same questions.
    """
    args = _parse_arguments(argv)
    metrics = aggregate(
        read_measures(args.what, benchmark="vstar_what", measure=_right),
        when=[read_measures(file, benchmark="vstar_when", measure=_iou) for file in args.when],
        where=[read_measures(file, benchmark="vstar_where", measure=_iou) for file in args.where],
    )
    if args.json:
        finite = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        print(json.dumps({"benchmark": "vstar", "metrics": finite}))
        return
    width = max(map(len, metrics))
    print("\n".join(f"{name:{width}}  {value:6.2f}" for name, value in metrics.items()))


def aggregate(
    what: Measures, *, when: Sequence[Measures], where: Sequence[Measures]
) -> dict[str, float]:
    """Metrics in percent, over all questions; `when` and `where` have a member for each chain.

    `accuracy` is of `what`. Of each chain there are `m_tIoU`, `m_vIoU`, `AM`, `LGM` (infinite if
    one of the three is perfect) and the shares right in two and in `all`; `mAM` and `mLGM` are
    means over chains.

    Raises:
        InputError: the chains or the questions are not the same.
    """
    if len(when) != len(where):
        raise InputError(
            f"{len(when)} chains of when and {len(where)} of where: give the same ones, in order."
        )
    for name, chains in (("when", when), ("where", where)):
        if any(chain.keys() != what.keys() for chain in chains):
            raise InputError(f"Results of what and {name} are of other questions: score the same.")
    chains = [_chain(what, *pair) for pair in zip(when, where, strict=True)]
    metrics = {"accuracy": percent(what.values())}
    for number, chain in enumerate(chains, start=1):
        metrics |= {f"chain{number}/{name}": value for name, value in chain.items()}
    return metrics | {f"m{name}": mean(chain[name] for chain in chains) for name in ("AM", "LGM")}


def read_measures(
    path: Path, *, benchmark: str, measure: Callable[[Mapping[str, Any]], float | None]
) -> dict[Any, float]:
    """The `measure` of every item of a file of results.

    Raises:
        InputError: the file is no such results, or an item lacks the measure.
    """
    try:
        found = json.loads(read_text(path, "Results"))
        items = {item["id"]: measure(item) for item in found["per_item"]}
        name = found["benchmark"]
    except (ValueError, RecursionError, LookupError, TypeError) as error:
        raise InputError(
            f"Results {path} cannot be used ({error!r}): give results.json."
        ) from error
    if name != benchmark or not items:
        raise InputError(f"Results {path} are of {name!r}: give some of {benchmark}.")
    measures = {id: value for id, value in items.items() if value is not None}
    if missing := len(items) - len(measures):
        raise InputError(
            f"Results {path} have {missing} answers without a rating: let a judge model rate"
            " them (vxlpro_jax.evaluate --judge_url)."
        )
    return measures


def _right(item: Mapping[str, Any]) -> float | None:
    """1 or 0 by the judge's rating; an answer that needs none has its verdict."""
    if "judged" in item:
        return float(item["judged"]["right"])
    return None if item["correct"] is None else float(item["correct"])


def _iou(item: Mapping[str, Any]) -> float:
    return float(item["iou"])


def _chain(what: Measures, when: Measures, where: Measures) -> dict[str, float]:
    shares = [mean(measures.values()) for measures in (what, when, where)]
    right = [(what[id] == 1, when[id] >= _RIGHT_WHEN, where[id] >= _RIGHT_WHERE) for id in what]
    return {
        "m_tIoU": 100 * shares[1],
        "m_vIoU": 100 * shares[2],
        "AM": 100 * arithmetic_mean(*shares),
        "LGM": 100 * log_geometric_mean(*shares),
        "what_when": percent(a and b for a, b, _ in right),
        "what_where": percent(a and c for a, _, c in right),
        "when_where": percent(b and c for _, b, c in right),
        "all": percent(map(all, right)),
    }


def _parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = ArgumentParser(
        prog="python -m vxlpro_jax.evals.benchmarks.vstar_chains",
        description=(__doc__ or "").split("\n")[0],
    )
    add = parser.add_argument
    add("--what", required=True, type=Path, help="results of vstar_what, rated by a judge model")
    for name in ("when", "where"):
        chains = f"results of vstar_{name}, of one chain or of both in their order"
        add(f"--{name}", required=True, type=Path, nargs="+", help=chains)
    add("--json", action="store_true", help="print JSON instead of a table")
    return parser.parse_args(argv)


if __name__ == "__main__":
    cli.run(lambda: main(sys.argv[1:]))

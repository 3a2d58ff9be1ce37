"""V-STaR's metrics over what, when and where combined: AM, LGM, and shares right in several.

`python -m vxlpro_jax.evals.benchmarks.vstar_chains --what FILE --when FILE [FILE] --where FILE
[FILE]` reads `results.json` of `vxlpro_jax.evaluate`, or the output of `vxlpro_jax.score --json`.
"""

import argparse
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence, Set
from pathlib import Path
from typing import Any, NamedTuple

from vxlpro_jax.evals.benchmarks.vstar import arithmetic_mean, log_geometric_mean
from vxlpro_jax.evals.metrics import mean, percent
from vxlpro_jax.utils import cli
from vxlpro_jax.utils.arguments import ArgumentParser
from vxlpro_jax.utils.errors import InputError, short_repr
from vxlpro_jax.utils.files import read_text

# IoU from which the authors count an answer as right when they combine questions.
_RIGHT_WHEN, _RIGHT_WHERE = 0.3, 0.1

Measures = Mapping[Any, float]  # Values from 0 to 1, by question id.


def main(argv: Sequence[str]) -> None:
    """Runs the command line `argv`, without the program's name.

    Raises:
        InputError: a file cannot be used, or two files are about different questions.
    """
    args = _parse_arguments(argv)
    metrics = aggregate_groups(
        read_groups(args.what),
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
    """Computes metrics in percent over all questions; `when` and `where` have one member per chain.

    `accuracy` is that of `what`. Each chain has `m_tIoU`, `m_vIoU`, `AM`, `LGM` (infinite if one of
    the three is perfect) and the shares right in two questions and in `all`; `mAM` and `mLGM` are
    means over chains.

    Raises:
        InputError: the chains or the questions differ.
    """
    if len(when) != len(where):
        raise InputError(
            f"{len(when)} chains of when, {len(where)} of where: give the same chains, in order."
        )
    for name, chains in (("when", when), ("where", where)):
        if any(chain.keys() != what.keys() for chain in chains):
            raise InputError(
                f"Results of what and {name} have different questions: score the same ones in both."
            )
    chains = [_chain(what, *pair) for pair in zip(when, where, strict=True)]
    metrics = {"accuracy": percent(what.values())}
    for number, chain in enumerate(chains, start=1):
        metrics |= {f"chain{number}/{name}": value for name, value in chain.items()}
    return metrics | {f"m{name}": mean(chain[name] for chain in chains) for name in ("AM", "LGM")}


def aggregate_groups(
    groups: Mapping[str, Set[Any]],
    what: Measures,
    *,
    when: Sequence[Measures],
    where: Sequence[Measures],
) -> dict[str, float]:
    """Computes the metrics of `aggregate` over all questions, and per group under its name.

    Raises:
        InputError: As in `aggregate`.
    """
    metrics = aggregate(what, when=when, where=where)
    for name, ids in groups.items():
        part = aggregate(
            _only(what, ids),
            when=[_only(chain, ids) for chain in when],
            where=[_only(chain, ids) for chain in where],
        )
        metrics |= {f"{name}/{metric}": value for metric, value in part.items()}
    return metrics


def _only(measures: Measures, ids: Set[Any]) -> Measures:
    return {id: value for id, value in measures.items() if id in ids}


def read_groups(path: Path) -> dict[str, set[Any]]:
    """Reads the ids of each group (duration or domain) from a results file.

    Results of earlier versions have no groups.

    Raises:
        InputError: the file is not a results file.
    """
    groups: dict[str, set[Any]] = {}
    for id, names in _read(path, _groups).values.items():
        for name in names:
            groups.setdefault(name, set()).add(id)
    return groups


def read_measures(
    path: Path, *, benchmark: str, measure: Callable[[Mapping[str, Any]], float | None]
) -> dict[Any, float]:
    """Reads the `measure` of every item of a results file, from 0 to 1.

    Raises:
        InputError: the file is not such a results file, or an item lacks the measure.
    """
    name, items = _read(path, measure)
    if name != benchmark or not items:
        raise InputError(f"Results {path} are of {short_repr(name)}: give results of {benchmark}.")
    measures = {id: value for id, value in items.items() if value is not None}
    if missing := len(items) - len(measures):
        raise InputError(
            f"Results {path} have {missing} answers without a rating: let a judge model rate"
            " them (vxlpro_jax.evaluate --judge_url)."
        )
    if not all(0 <= value <= 1 for value in measures.values()):
        raise InputError(f"Results {path} have measures outside 0 to 1: score them again.")
    return measures


class _Read(NamedTuple):
    """Attributes: `benchmark`, its name; `values`, the value read from each item, by id."""

    benchmark: Any
    values: dict[Any, Any]


def _read(path: Path, value: Callable[[Mapping[str, Any]], Any]) -> _Read:
    text = read_text(path, what="Result file")
    try:
        found = json.loads(text)
        values = {item["id"]: value(item) for item in found["per_item"]}
        return _Read(found["benchmark"], values)
    except (ValueError, RecursionError, LookupError, TypeError, OverflowError) as error:
        reason = f"{type(error).__name__}: {error}"[:200]
        raise InputError(f"Results {path} cannot be used ({reason}): give results.json.") from error


def _groups(item: Mapping[str, Any]) -> list[str]:
    return list(map(str, item["groups"])) if "groups" in item else []


def _right(item: Mapping[str, Any]) -> float | None:
    """Returns 1 or 0 by the judge's rating, or by the verdict of an answer that needs no judge."""
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
        chains = f"results of vstar_{name}: of one chain, or of chain 1 and chain 2"
        add(f"--{name}", required=True, type=Path, nargs="+", help=chains)
    add("--json", action="store_true", help="print JSON instead of a table")
    return parser.parse_args(argv)


if __name__ == "__main__":
    cli.run(lambda: main(sys.argv[1:]))

"""Measures a trained model.

`python -m vxlpro_jax.evaluate --checkpoint DIR --benchmark embedded|needles --out DIR`, or with one
of the published benchmarks and its `--annotations PATH --videos DIR`.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from vxlpro_jax import benchmarking
from vxlpro_jax.config.schema import DataConfig
from vxlpro_jax.data.synthetic.clips import synthetic_set
from vxlpro_jax.data.synthetic.haystacks import needle_set
from vxlpro_jax.evals import embedded, registry
from vxlpro_jax.evals.embedded import Reply
from vxlpro_jax.inference import flags
from vxlpro_jax.inference.engine import Engine
from vxlpro_jax.utils import cli
from vxlpro_jax.utils.errors import InputError
from vxlpro_jax.utils.files import write_atomically


class Asked(NamedTuple):
    """What a benchmark needs.

    Attributes: `engine`, the model; `cache`, folder of the embedded clips; `keep_ratio`, share of
    the visual tokens that the selector keeps; `out`, an existing folder for pictures.
    """

    engine: Engine
    cache: Path
    keep_ratio: float
    out: Path


class Outcome(NamedTuple):
    """Attributes: `figures` for `results.json`, `table` in Markdown, the `replies` of each run."""

    figures: dict
    table: str
    replies: dict[str, list[Reply]]


def main(argv: Sequence[str]) -> None:
    """Runs the command line `argv`, without the program's name."""
    args = parse_arguments(argv)
    if args.benchmark in registry.NAMES:
        benchmarking.run(args)
        return
    if changed := flags.changed(args):
        raise InputError(
            f"--benchmark {args.benchmark} takes no flags of the decoder: leave out"
            f" {', '.join(changed)}, or use vxlpro_jax.needle."
        )
    args.out.mkdir(parents=True, exist_ok=True)
    engine = Engine.load(args.checkpoint)
    asked = Asked(engine, args.cache.expanduser(), args.keep_ratio, args.out)
    outcome = BENCHMARKS[args.benchmark](asked)
    write_outcome(outcome, out=args.out)
    print(outcome.table)


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Reads the command line; argparse itself exits with 2 on a mistake."""
    parser = argparse.ArgumentParser(
        prog="python -m vxlpro_jax.evaluate",
        description=__doc__.split("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--checkpoint", required=True, help="model folder or training folder")
    add("--benchmark", required=True, choices=(*BENCHMARKS, *registry.NAMES), help="what is asked")
    add("--out", required=True, type=Path, help="folder of the results")
    add("--keep_ratio", type=float, default=0.9, help="share of visual tokens kept")
    cache = Path(DataConfig().cache_dir)
    add("--cache", type=Path, default=cache, help="folder of the embedded clips")
    benchmarking.add_flags(parser)
    return parser.parse_args(argv)


def ask_embedded(asked: Asked) -> Outcome:
    """The embedded task's held-out questions.

    Figures are `accuracy`, `blind` (every clip black, the reply one of the possible answers) and
    `chance`, by kind of question.
    """
    file = synthetic_set(asked.cache).eval
    seen = embedded.ask(asked.engine, file, keep_ratio=asked.keep_ratio)
    blind = embedded.ask(asked.engine, file, keep_ratio=asked.keep_ratio, is_blind=True)
    replies = {"seen": _listed(seen, "seen"), "blind": _listed(blind, "blind")}
    figures = {
        "accuracy": embedded.by_kind(replies["seen"]),
        "blind": embedded.by_kind(replies["blind"]),
        "chance": embedded.chance(replies["seen"]),
    }
    return Outcome(figures, embedded.table(figures), replies)


def ask_needles(asked: Asked) -> Outcome:
    """Cards in ever longer haystacks; the figure is `needle_grid`, drawn in `needles.png`."""
    file = needle_set(asked.cache)
    replies = _listed(embedded.ask(asked.engine, file, keep_ratio=asked.keep_ratio), "needles")
    grid = embedded.needle_grid(replies)
    embedded.draw_needles(grid, path=asked.out / "needles.png")
    return Outcome({"needle_grid": grid}, embedded.needle_table(grid), {"needles": replies})


BENCHMARKS: dict[str, Callable[[Asked], Outcome]] = {
    "embedded": ask_embedded,
    "needles": ask_needles,
}


def write_outcome(outcome: Outcome, *, out: Path) -> None:
    """Writes `replies.jsonl`, `results.md` and, last, `results.json` into `out`."""
    lines = [
        json.dumps({"run": run, **reply._asdict()})
        for run, replies in outcome.replies.items()
        for reply in replies
    ]
    write_atomically(out / "replies.jsonl", "\n".join(lines) + "\n")
    write_atomically(out / "results.md", outcome.table)
    write_atomically(out / "results.json", json.dumps(outcome.figures, indent=2))


def _listed(replies: Iterable[Reply], name: str) -> list[Reply]:
    return list(cli.progress(replies, name=name, unit="question"))


if __name__ == "__main__":
    cli.run(lambda: main(sys.argv[1:]))

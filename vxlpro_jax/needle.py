"""Needle in a haystack.

`python -m vxlpro_jax.needle --checkpoint DIR --out DIR --mode mcq|teacher_forced`
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from vxlpro_jax.checkpoints.params import locate
from vxlpro_jax.config.schema import DataConfig
from vxlpro_jax.evals.needle import drawn, grid, haystack, needles, report
from vxlpro_jax.evals.needle.asking import MODES
from vxlpro_jax.evals.needle.replies import Replies, Reply
from vxlpro_jax.inference import flags
from vxlpro_jax.inference.engine import Engine
from vxlpro_jax.utils import cli
from vxlpro_jax.utils.errors import InputError
from vxlpro_jax.utils.files import write_atomically

_NATURAL = 10_000  # A vocabulary of at least so many ids is one of natural language.


def main(argv: Sequence[str]) -> None:
    """Runs the command line `argv`, without the program's name."""
    args = parse_arguments(argv)
    asked = grid.Grid(args.frames, args.depths, args.keep_ratio)
    _check(asked)
    options = flags.options_of(args)
    engine = Engine.load(args.checkpoint, dtype=args.dtype)
    hidden = _hidden(args, engine)
    files = haystack.find_files(args.haystack or [drawn.haystack(args.cache.expanduser())])
    replies = Replies(args.out, settings=_settings(args, files=files, hidden=hidden))
    cells = asked.cells(hidden)
    if missing := replies.missing(cells):
        new = grid.ask(
            engine,
            missing,
            files=files,
            hidden=hidden,
            mode=MODES[args.mode],
            options=options,
        )
        lasts = {cell.frames: cell for cell in missing}.values()
        for reply in new:
            replies.add(reply)
            if reply.cell in lasts:  # Something to look at meanwhile.
                _show(report.scores(replies.of(cells)), mode=args.mode, out=args.out)
    print(report.table(write_results(replies.of(cells), mode=args.mode, out=args.out)))


def _show(found: Sequence[report.Score], *, mode: str, out: Path) -> None:
    """Writes `needle.png` and `needle.csv`."""
    report.draw(found, title=mode, path=out / "needle.png")
    write_atomically(out / "needle.csv", report.to_csv(found))


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Reads the command line; argparse itself exits with 2 on a mistake."""
    parser = argparse.ArgumentParser(
        prog="python -m vxlpro_jax.needle",
        description="Hides pictures or clips in a long video and asks for them.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--checkpoint", required=True, help="model folder or training folder")
    add("--out", required=True, type=Path, help="folder of the results; started again it goes on")
    add("--mode", required=True, choices=tuple(MODES), help="Video-XL's test or LongVA's V-NIAH")
    add("--haystack", nargs="+", type=Path, help="videos or folders of them; else one is drawn")
    add("--needles", type=Path, help="JSON list beside its media; else some are drawn")
    add("--frames", type=_several(int), default="128,256,512", help="lengths of the haystack")
    add("--depths", type=_several(float), default="0,0.25,0.5,0.75,1", help="0 is the start")
    add("--keep_ratio", type=_several(float), default="0.9", help="shares of visual tokens kept")
    cache = Path(DataConfig().cache_dir)
    add("--cache", type=Path, default=cache, help="folder of what is drawn")
    flags.add_flags(parser)
    return parser.parse_args(argv)


def _several(kind: Callable[[str], Any]) -> Callable[[str], list]:
    """Reads values with commas between them; returns them sorted, each once."""

    def values(text: str) -> list:
        return sorted({kind(value) for value in text.split(",")})

    return values


def _check(asked: grid.Grid) -> None:
    limits = (
        ("frames", asked.frames, lambda value: value >= 1, "1 or more"),
        ("depths", asked.depths, lambda value: 0 <= value <= 1, "from 0 to 1"),
        ("keep_ratio", asked.keep_ratios, lambda value: 0 < value <= 1, "in (0, 1]"),
    )
    for name, values, fits, wanted in limits:
        for value in values:
            if not fits(value):
                raise InputError(f"--{name} has {value}: each must be {wanted}.")


def _hidden(args: argparse.Namespace, engine: Engine) -> dict[str, grid.Hidden]:
    """The needles by name, those of our own in words that the model's tokenizer has."""
    is_natural = engine.tokenizer.vocab_size >= _NATURAL
    draw = drawn.natural_needles if is_natural else drawn.tiny_needles
    found = needles.read_needles(args.needles or draw(args.cache.expanduser()))
    size = engine.config.vision.image_size
    return {
        needle.name: grid.Hidden(needle, needles.read_frames(needle, size=size, fps=haystack.FPS))
        for needle in found
    }


def _settings(args: argparse.Namespace, *, files: Iterable[Path], hidden: dict) -> dict[str, Any]:
    """All that a reply depends on but its cell."""
    params = locate(args.checkpoint).params
    return {
        "mode": args.mode,
        "checkpoint": str(params),
        "checkpoint_time": params.stat().mtime,
        "haystack": [[str(file.resolve()), file.stat().st_size] for file in files],
        "needles": [needles.digest(*each) for each in hidden.values()],
        **flags.settings_of(args),
    }


def write_results(replies: Sequence[Reply], *, mode: str, out: Path) -> list[report.Score]:
    """Writes `needle.png`, `needle.csv` and, last, `results.json`; returns the cells' scores."""
    found = report.scores(replies)
    _show(found, mode=mode, out=out)
    results = {
        "mode": mode,
        "accuracy": report.mean_accuracy(found),
        "grid": [score._asdict() for score in found],
    }
    write_atomically(out / "results.json", json.dumps(results, indent=2))
    return found


if __name__ == "__main__":
    cli.run(lambda: main(sys.argv[1:]))

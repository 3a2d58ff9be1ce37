"""Hides pictures or clips in a long video and asks a model about them.

`python -m vxlpro_jax.needle --checkpoint DIR --out DIR --mode mcq|teacher_forced|clips`
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from vxlpro_jax.config.schema import DataConfig
from vxlpro_jax.inference import flags
from vxlpro_jax.utils import cli
from vxlpro_jax.utils.arguments import ArgumentParser

MODES = {
    "mcq": "Video-XL's test, four options",
    "teacher_forced": "LongVA's V-NIAH",
    "clips": "short synthetic clips with a card, answered in free words",
}


def main(argv: Sequence[str]) -> None:
    """Runs the command line `argv`, without the program's name."""
    args = parse_arguments(argv)
    from vxlpro_jax.evals.needle import run

    request = run.Run(
        checkpoint=args.checkpoint,
        out=args.out,
        mode=args.mode,
        haystack=args.haystack or (),
        needles=args.needles,
        frames=args.frames,
        depths=args.depths,
        keep_ratios=args.keep_ratio,
        cache_dir=args.cache_dir.expanduser(),
        options=flags.options_of(args),
        decoder_flags=flags.settings_of(args),
        dtype=args.dtype,
    )
    print(run.run(request))


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Parses the command line; argparse itself exits with 2 on a mistake."""
    parser = ArgumentParser(
        prog="python -m vxlpro_jax.needle", description=(__doc__ or "").split("\n")[0]
    )
    add = parser.add_argument
    add("--checkpoint", required=True, help="model folder or training folder")
    add("--out", required=True, type=Path, help="output folder; an interrupted run is resumed")
    modes = "; ".join(f"{name}: {text}" for name, text in MODES.items())
    add("--mode", required=True, choices=tuple(MODES), help=modes)
    haystack = "videos, or folders of videos (default: a synthetic video)"
    add("--haystack", nargs="+", type=Path, help=haystack)
    needles = "JSON list of needles, in the folder of their media (default: synthetic needles)"
    add("--needles", type=Path, help=needles)
    frames = "lengths of the haystack in frames (default: 128,256,512; all lengths for clips)"
    add("--frames", type=_several(int), help=frames)
    depths = "positions of the needle, 0 is the start (default: 0,0.25,0.5,0.75,1)"
    add("--depths", type=_several(float), help=depths)
    ratios = "shares of the visual tokens to keep (default: the model folder's setting)"
    add("--keep_ratio", type=_several(float), help=ratios)
    cache = Path(DataConfig().cache_dir)
    synthetic = f"folder of the synthetic media (default: {cache})"
    add("--cache_dir", type=Path, default=cache, help=synthetic)
    flags.add_flags(parser)
    return parser.parse_args(argv)


def _several(kind: Callable[[str], Any]) -> Callable[[str], list]:
    """Returns a parser of comma-separated values, which it sorts and deduplicates."""

    def values(text: str) -> list:
        return sorted({kind(value) for value in text.split(",")})

    return values


if __name__ == "__main__":
    cli.run(lambda: main(sys.argv[1:]))

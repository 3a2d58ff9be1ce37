"""Assembles a model folder for training from stock parts.

python -m checkpoints_convert.assemble --decoder DIR --vision DIR [--dts FILE] --out DIR
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from checkpoints_convert import cli
from vxlpro_jax.utils.arguments import ArgumentParser


def main(arguments: Sequence[str]) -> None:
    """Runs the command line."""
    options = _parse(cli.with_new_names(arguments))
    from checkpoints_convert.stock_parts import assemble  # Imports JAX, which --help does not need.

    assemble(
        options.out,
        decoder=options.decoder,
        vision=options.vision,
        dts=options.dts,
        seed=options.seed,
    )
    print(f"Wrote {options.out}.")


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = ArgumentParser(
        prog="python -m checkpoints_convert.assemble", description=(__doc__ or "").split("\n")[0]
    )
    add = parser.add_argument
    add("--decoder", type=Path, required=True, help="Qwen2.5-3B-Instruct folder")
    add("--vision", type=Path, required=True, help="siglip-so400m folder")
    add("--dts", type=Path, help="state dict of the synthesizer (default: randomly initialized)")
    add("--out", type=Path, required=True, help="model folder to write")
    add("--seed", type=int, default=0, help="seed of the random initialization (default: 0)")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    cli.run(main)

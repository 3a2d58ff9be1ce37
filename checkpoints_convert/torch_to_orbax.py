"""Converts release-format PyTorch weights to a model folder.

    python -m checkpoints_convert.torch_to_orbax --checkpoint DIR --out DIR [--dtype keep]

Tensors stream: memory does not grow with the model.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from checkpoints_convert import cli
from checkpoints_convert.casting import DTYPES
from vxlpro_jax.utils.arguments import ArgumentParser


def main(arguments: Sequence[str]) -> None:
    """Runs the command line."""
    options = _parse(cli.with_new_names(arguments))
    from checkpoints_convert.to_orbax import convert  # Imports JAX, which --help does not need.

    convert(options.checkpoint, options.out, dtype=options.dtype)
    print(f"Wrote {options.out}.")


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = ArgumentParser(
        prog="python -m checkpoints_convert.torch_to_orbax",
        description=(__doc__ or "").split("\n")[0],
    )
    add = parser.add_argument
    add("--checkpoint", type=Path, required=True, help="release-format folder to read")
    add("--out", type=Path, required=True, help="model folder to write")
    kinds = "dtype of the result; keep leaves each tensor's dtype (default: keep)"
    add("--dtype", choices=["keep", *DTYPES], default="keep", help=kinds)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    cli.run(main)

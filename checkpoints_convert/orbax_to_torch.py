"""Converts a model folder, or the newest step of a training run, to release-format safetensors.

python -m checkpoints_convert.orbax_to_torch --checkpoint DIR --out DIR [--max_shard_size 5GB]
python -m checkpoints_convert.orbax_to_torch --part dts --checkpoint DIR --out FILE
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from checkpoints_convert import cli
from checkpoints_convert.sizes import parse_size
from vxlpro_jax.utils.arguments import ArgumentParser
from vxlpro_jax.utils.errors import InputError


def main(arguments: Sequence[str]) -> None:
    """Runs the command line."""
    options = _parse(cli.with_new_names(arguments))
    if options.part and options.max_shard_size:
        raise InputError("--max_shard_size does nothing with --part, which writes one file.")
    shard = parse_size(options.max_shard_size or "5GB")
    from checkpoints_convert import to_torch  # Imports JAX, which --help does not need.

    if options.part:
        to_torch.convert_dts(options.checkpoint, options.out)
    else:
        to_torch.convert(options.checkpoint, options.out, max_shard_bytes=shard)
    print(f"Wrote {options.out}.")


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = ArgumentParser(
        prog="python -m checkpoints_convert.orbax_to_torch",
        description=(__doc__ or "").split("\n")[0],
    )
    add = parser.add_argument
    add("--checkpoint", type=Path, required=True, help="model folder or training folder to read")
    out = "release-format folder to write, or with --part a .pth or .safetensors file"
    add("--out", type=Path, required=True, help=out)
    add("--part", choices=("dts",), help="write only this part, as one file")
    add("--max_shard_size", help="maximum size of each file, such as 5GB (default) or 500MiB")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    cli.run(main)

"""Writes a release-format folder of random weights at any preset's size, to measure conversion.

    python -m benchmarks.random_checkpoint --preset 3b --out DIR

Needs 7.2 GB of disk for `3b` and about 1 GB of memory; the same seed gives the same bytes. Then

    /usr/bin/time -v python -m checkpoints_convert.torch_to_orbax --checkpoint DIR --out DIR2
    /usr/bin/time -v python -m checkpoints_convert.orbax_to_torch --checkpoint DIR2 --out DIR3

show seconds and peak memory.
"""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from checkpoints_convert import cli, folders, mapping, progress
from checkpoints_convert.casting import DTYPES
from checkpoints_convert.safetensors_io import plan_shards, write_shards
from checkpoints_convert.sizes import parse_size
from vxlpro_jax.config.schema import PRESETS
from vxlpro_jax.models.video_xl_pro import abstract_params

_ITEMS_AT_ONCE = 2**24


def random_tensor(rng: np.random.Generator, name: str, struct: jax.ShapeDtypeStruct) -> np.ndarray:
    """Draws values like a new model's: deviation 0.02 around 0, scales of norms 0.1 around 1."""
    is_scale = name.endswith(".weight") and len(struct.shape) == 1
    mean, deviation = (1, 0.1) if is_scale else (0, 0.02)
    flat = np.empty(math.prod(struct.shape), struct.dtype)
    for start in range(0, flat.size, _ITEMS_AT_ONCE):
        part = flat[start : start + _ITEMS_AT_ONCE]
        part[:] = mean + deviation * rng.standard_normal(part.size, np.float32)
    return flat.reshape(struct.shape)


def main(arguments: Sequence[str]) -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(prog="benchmarks.random_checkpoint")
    parser.add_argument("--preset", choices=PRESETS, default="3b")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--dtype", choices=DTYPES, default="bfloat16")
    parser.add_argument("--max_shard_size", default="2GB")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    config = PRESETS[options.preset]
    structs = {
        name: jax.ShapeDtypeStruct(struct.shape, DTYPES[options.dtype])
        for name, struct in mapping.torch_structs(abstract_params(config)).items()
    }
    nbytes = folders.total_bytes(structs.values())
    rng = np.random.default_rng(options.seed)
    with (
        folders.new_folder(options.out, needed_bytes=nbytes) as folder,
        progress.track("Writing random tensors", total_bytes=nbytes) as advance,
    ):

        def arrays():
            for name, struct in structs.items():
                yield random_tensor(rng, name, struct)
                advance(math.prod(struct.shape) * struct.dtype.itemsize)

        shards = plan_shards(structs, max_shard_bytes=parse_size(options.max_shard_size))
        write_shards(folder, shards=shards, arrays=arrays())
        release = config.to_release() | {"torch_dtype": options.dtype}
        (folder / "config.json").write_text(json.dumps(release, indent=2) + "\n")
    count = sum(math.prod(struct.shape) for struct in structs.values())
    print(f"Wrote {count:,} parameters to {options.out}.", file=sys.stderr)


if __name__ == "__main__":
    cli.run(main)

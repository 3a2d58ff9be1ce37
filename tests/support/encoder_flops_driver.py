"""Compiles the encoder's gradient for eight devices; prints the FLOPs of each device as JSON.

Run by test_work.py in a process of its own, because the number of CPU devices is fixed once.
"""

import json

import jax
import jax.numpy as jnp
import numpy as np
from helpers import MICRO
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from vxlpro_jax.aot import products
from vxlpro_jax.config.schema import MeshConfig
from vxlpro_jax.models.microbatched_encoder import compress_and_project, group_features
from vxlpro_jax.models.video_xl_pro import abstract_params
from vxlpro_jax.ops.microbatch import microbatched_map
from vxlpro_jax.sharding.batch import batch_sharding
from vxlpro_jax.sharding.mesh import make_mesh

# Devices along fsdp and context, groups of a row, and groups that a device encodes at a time.
CASES = ((8, 1, 7, 1), (2, 4, 6, 0), (2, 4, 7, 1), (2, 4, 13, 2), (4, 2, 13, 0), (1, 8, 6, 1))


def main():
    group = {
        "whole": flops(MeshConfig(), rows=1, groups=1, microbatch=0),
        "in parts": flops(MeshConfig(), rows=1, groups=2, microbatch=1) / 2,
    }
    cases = []
    for fsdp, context, groups, microbatch in CASES:
        axes = MeshConfig(fsdp=fsdp, context=context)
        found = flops(axes, rows=fsdp, groups=groups, microbatch=microbatch)
        unit = group["in parts" if microbatch else "whole"]
        cases.append({"share": fsdp * groups / 8, "encoded": found / unit})
    print(json.dumps({"group": group, "cases": cases, "furthest": furthest()}))


def furthest():
    """Returns the largest difference that padding makes in gradients of a simple map, float64."""
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        weights, x = jnp.asarray(rng.normal(size=(16, 64))), jnp.asarray(rng.normal(size=(14, 16)))

        def loss(weights, x, microbatch):
            y = microbatched_map(lambda w, x: jnp.tanh(x @ w), weights, x, microbatch=microbatch)
            return (y * jnp.arange(14.0)[:, None]).sum()

        gradient = jax.jit(jax.grad(loss, (0, 1)), static_argnums=2)
        wanted = gradient(weights, x, 0)
        with jax.set_mesh(make_mesh(MeshConfig(fsdp=2, context=4))):
            found = [gradient(weights, x, microbatch) for microbatch in (0, 1)]
        return max(float(abs(a - b).max()) for g in found for a, b in zip(g, wanted, strict=True))


def flops(axes, *, rows, groups, microbatch):
    """Returns the FLOPs of one device."""
    size = MICRO.vision.image_size

    def loss(params, frames):
        features = group_features(params, frames, config=MICRO, microbatch=microbatch)
        tokens = compress_and_project(params, features, config=MICRO, microbatch=microbatch)
        return (tokens**2).sum()

    devices = jax.devices()[:1] if axes == MeshConfig() else jax.devices()
    mesh = make_mesh(axes, devices=devices)
    with jax.set_mesh(mesh):
        whole = NamedSharding(mesh, P())
        params = {name: abstract_params(MICRO)[name] for name in ("vision", "dts", "projector")}
        params = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, jnp.float32, sharding=whole), params
        )
        frames = jax.ShapeDtypeStruct(
            (rows, groups, 4, size, size, 3), jnp.uint8, sharding=batch_sharding(mesh)
        )
        return products.flops(jax.jit(jax.grad(loss)).lower(params, frames).compile().as_text())


if __name__ == "__main__":
    main()

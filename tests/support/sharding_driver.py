"""Trains a few steps on one device and on meshes of eight; prints the results as JSON.

Run by test_devices.py in a process of its own, because the number of CPU devices is fixed once.
"""

import dataclasses
import json
import sys

import jax
import numpy as np
from helpers import MICRO
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from vxlpro_jax.config.schema import IMAGE_TOKEN, MeshConfig, OptimConfig, RecotConfig, TrainConfig
from vxlpro_jax.sharding.batch import batch_sharding
from vxlpro_jax.sharding.mesh import AXES, make_mesh
from vxlpro_jax.sharding.params import state_shardings
from vxlpro_jax.training.objective import objective_of
from vxlpro_jax.training.plan import RunPlan
from vxlpro_jax.training.state import TrainState
from vxlpro_jax.training.step import make_train_step
from vxlpro_jax.utils import tree
from vxlpro_jax.utils.jit import jit

# With 27 ids a row has 79 positions, a prime, which no number of devices divides evenly.
STEPS, ROWS, GROUPS, TEXT = 3, 8, 2, 27


def main():
    vision = dataclasses.replace(MICRO.vision, image_size=28)
    model = dataclasses.replace(MICRO, vision=vision)
    # With a small eps, Adam would turn rounding into full steps where the true gradient is zero.
    optim_config = OptimConfig(lr=1e-2, warmup=0.5, weight_decay=0.01, eps=1e-2)
    recot = RecotConfig(decoder_width=16, decoder_depth=1, decoder_heads=2)
    config = TrainConfig(model=model, recot=recot, optim=optim_config, total_steps=STEPS)
    meshes = sys.argv[1:]
    # In float64, rounding changes neither parameters noticeably nor tokens of a mask.
    with jax.enable_x64(True):
        config = dataclasses.replace(config, compute_dtype="float64")
        gates = dataclasses.replace(model, selector_gradient="straight_through")
        skipping = dataclasses.replace(config, model=gates, pose_max_frames=64)
        results = {
            "answer, skipping": compare(skipping, meshes=meshes),
            "explicit": explicit_losses(skipping),
            "first losses": [first_loss(config), first_loss(skipping)],
            "recot": compare(dataclasses.replace(config, objective="recot"), meshes=meshes),
        }
    print(json.dumps(results))


def first_loss(config):
    """Returns the loss of the first batch on one device."""
    params, batches = begin(config)
    key = jax.random.key(1)  # Key 0 happens to skip nothing.
    return float(jit(objective_of(config).loss)(params, batches[0], key=key).value)


def explicit_losses(config):
    """Returns losses on a mesh with explicit axes, which treats the step as one operation."""
    auto = make_mesh(MeshConfig(data=2, fsdp=2, tensor=1, context=2))
    mesh = Mesh(auto.devices, auto.axis_names, axis_types=(AxisType.Explicit,) * 4)
    params, batches = begin(config)
    with jax.set_mesh(mesh):
        return train(config, params, batches, mesh=mesh)["losses"]


def begin(config):
    """Returns the parameters, and the batches of all steps."""
    params = jit(objective_of(config).init_params)(jax.random.key(0))
    batches = [random_batch(seed) for seed in range(STEPS)]
    return tree.cast(params, config.compute_dtype), batches


def compare(config, *, meshes):
    """Compares a run on one device with runs on each mesh, which encode a group at a time."""
    params, batches = begin(config)
    alone = train(config, params, batches)
    results = {"alone": alone["losses"], "meshes": {}}
    config = dataclasses.replace(config, encode_microbatch=1)
    for name in meshes:
        sizes = dict(zip(AXES, map(int, name.split(",")), strict=True))
        mesh = make_mesh(MeshConfig(**sizes))
        with jax.set_mesh(mesh):
            spread = train(config, params, batches, mesh=mesh)
        far = jax.tree.map(
            lambda a, b: float(np.abs(a - b).max()), spread["params"], alone["params"]
        )
        results["meshes"][name] = {
            "losses": spread["losses"],
            "furthest": max(jax.tree.leaves(far)),
            "specs": spread["specs"],
            "collectives": spread["collectives"],
        }
    return results


def train(config, params, batches, *, mesh=None):
    plan = RunPlan(config)
    state = TrainState.create(params, optimizer=plan.optimizer, seed=0)
    shardings = None
    if mesh is not None:
        shardings = state_shardings(state, params=state.params, mesh=mesh)
        state = jax.device_put(state, shardings)
        batches = [jax.device_put(batch, batch_sharding(mesh)) for batch in batches]
    step = make_train_step(plan)
    if mesh is not None and AxisType.Explicit in mesh.axis_types:
        step = jax.sharding.auto_axes(step, out_sharding=(shardings, NamedSharding(mesh, P())))
    step = jit(step, out_shardings=(shardings, None))
    step = step.lower(state, batches[0]).compile()
    losses = []
    for batch in batches:
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss"]))
    text = step.as_text()
    names = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
    return {
        "losses": losses,
        "params": jax.device_get(state.params),
        "specs": specs(state),
        "collectives": sum(text.count(f"{name}(") for name in names),
    }


def specs(state):
    """Returns sharding and shard shape of each parameter and moment after the last step."""

    def told(leaf):
        shard = leaf.sharding.shard_shape(leaf.shape)
        return {
            "shape": leaf.shape,
            "shard": shard,
            "spec": str(getattr(leaf.sharding, "spec", "")),
        }

    params = {path: told(leaf) for path, leaf in tree.flatten(state.params).items()}
    moments = []
    for key_path, leaf in jax.tree_util.tree_leaves_with_path(state.opt_state):
        name = jax.tree_util.keystr(key_path, simple=True, separator="/")
        owner = [path for path in params if name.endswith(f"/{path}")]
        if owner:
            moments.append({"of": max(owner, key=len), **told(leaf)})
    return {"params": params, "moments": moments}


def random_batch(seed):
    """Makes a batch of unequal videos, one row without video, one image position per row."""
    rng = np.random.default_rng(seed)
    group_segments = np.array([[1, 1], [1, 0], [0, 0], [1, 1]] * 2, np.int32)
    tokens = rng.integers(0, 400, (ROWS, TEXT), np.int32)
    tokens[group_segments[:, 0] > 0, 3] = IMAGE_TOKEN
    labels = np.where(np.arange(TEXT) > 10, tokens, -100).astype(np.int32)
    return {
        "frames": rng.integers(0, 256, (ROWS, GROUPS, 4, 28, 28, 3), np.uint8),
        "stamp_ids": rng.integers(0, 400, (ROWS, GROUPS, 10), np.int32),
        "group_segments": group_segments,
        "tokens": tokens,
        "token_segments": np.ones((ROWS, TEXT), np.int32),
        "labels": labels,
    }


if __name__ == "__main__":
    main()

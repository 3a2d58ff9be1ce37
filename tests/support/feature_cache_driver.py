"""Runs one of several processes that fill a cache: `feature_cache_driver.py CACHE DATA TENSOR`.

Run by test_feature_cache.py; prints a sum of the features of each of this process's rows.
"""

import dataclasses
import functools
import json
import os
import sys
from pathlib import Path

import jax
from distributed_driver import run_config

from vxlpro_jax.config.schema import MeshConfig
from vxlpro_jax.distributed import process_group
from vxlpro_jax.sharding import batch
from vxlpro_jax.sharding.mesh import make_mesh
from vxlpro_jax.training.feature_cache import fill_feature_cache
from vxlpro_jax.training.plan import RunPlan
from vxlpro_jax.training.setup import open_data
from vxlpro_jax.utils import cli
from vxlpro_jax.utils.jit import jit


def main(cache: str, data: Path, tensor: int) -> None:
    """Reads features with `tensor` devices along that axis and all others along `fsdp`."""
    config = run_config(data)
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, feature_cache=cache))
    with process_group.join(os.environ):
        mesh = make_mesh(MeshConfig(tensor=tensor))
        jax.set_mesh(mesh)
        plan = RunPlan(config)
        batches = open_data(plan, mesh=mesh)
        params = jit(plan.objective.init_params)(jax.random.key(config.seed))
        rows = batch.batch_sharding(mesh)
        place = functools.partial(jax.make_array_from_process_local_data, rows)
        features = fill_feature_cache(params, plan=plan, source=batches.source, to_devices=place)
        batches.read_features(features)
        sums = [float(row.sum()) for row in next(batches)["features"]]
        batches.close()
        print(json.dumps(sums))


if __name__ == "__main__":
    cli.run(lambda: main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])))

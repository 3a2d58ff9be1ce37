"""Compares eight devices with one, and tests meshes of a TPU topology."""

import itertools
import json
import os
from pathlib import Path

import numpy as np
import pytest
from helpers import python

from vxlpro_jax.aot.topology import topology_devices
from vxlpro_jax.config.schema import MeshConfig
from vxlpro_jax.sharding.mesh import AXES, make_mesh
from vxlpro_jax.sharding.params import spec_of

pytestmark = pytest.mark.slow

DRIVER = Path(__file__).parents[1] / "support" / "sharding_driver.py"
MESHES = ("2,2,2,1", "1,8,1,1", "1,2,1,4")  # data, fsdp, tensor, context
CASES = tuple(itertools.product(("answer, skipping", "recot"), MESHES))


def test_axes_may_share_a_side_of_the_torus():
    devices = topology_devices("v6e:16x16")
    mesh = make_mesh(MeshConfig(fsdp=32, context=8), devices=devices)
    assert mesh.devices.shape == (1, 32, 1, 8)


# ---- Eight devices ------------------------------------------------------------------------------


EVERYWHERE = pytest.mark.parametrize(("task", "mesh"), CASES)


@pytest.fixture(scope="module")
def runs():
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=8"
    paths = str(DRIVER.parent)
    process = python(DRIVER, *MESHES, XLA_FLAGS=flags, PYTHONPATH=f"{DRIVER.parents[2]}:{paths}")
    out, error = process.communicate()
    assert process.returncode == 0, error
    return json.loads(out.splitlines()[-1])


@EVERYWHERE
def test_eight_devices_give_the_losses_of_one(runs, task, mesh):
    np.testing.assert_allclose(
        runs[task]["meshes"][mesh]["losses"], runs[task]["alone"], rtol=1e-10
    )
    assert len(set(runs[task]["alone"])) == 3


def test_a_mesh_of_explicit_axes_gives_the_losses_of_one_device(runs):
    np.testing.assert_allclose(runs["explicit"], runs["answer, skipping"]["alone"], rtol=1e-10)


@EVERYWHERE
def test_eight_devices_give_the_parameters_of_one(runs, task, mesh):
    assert runs[task]["meshes"][mesh]["furthest"] < 1e-10


def test_position_skipping_changes_the_losses(runs):
    plain, skipping = runs["first losses"]
    assert abs(plain - skipping) > 1e-6


@EVERYWHERE
def test_shards_have_the_shapes_of_the_table(runs, task, mesh):
    sizes = dict(zip(AXES, map(int, mesh.split(",")), strict=True))
    told = runs[task]["meshes"][mesh]
    for path, leaf in told["specs"]["params"].items():
        spec = (*spec_of(path), *[None] * len(leaf["shape"]))
        expected = [
            size // sizes[axis] if axis and size % sizes[axis] == 0 else size
            for size, axis in zip(leaf["shape"], spec, strict=False)
        ]
        assert leaf["shard"] == expected, path
    assert told["collectives"] > 0


@EVERYWHERE
def test_moments_are_sharded_as_their_parameters(runs, task, mesh):
    specs = runs[task]["meshes"][mesh]["specs"]
    for moment in specs["moments"]:
        owner = specs["params"][moment["of"]]
        assert (moment["shape"], moment["shard"]) == (owner["shape"], owner["shard"]), moment
    sharded = [m for m in specs["moments"] if m["shape"] != m["shard"]]
    assert len(sharded) > (30 if "recot" in task else 40)

"""Tests the sharding table and meshes."""

import functools

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AbstractMesh
from jax.sharding import PartitionSpec as P

from vxlpro_jax.aot import param_report as sharding_command
from vxlpro_jax.config.schema import PRESETS, MeshConfig, RecotConfig
from vxlpro_jax.models import recot
from vxlpro_jax.models.video_xl_pro import abstract_params
from vxlpro_jax.sharding import batch
from vxlpro_jax.sharding.mesh import AXES, axis_sizes, make_mesh
from vxlpro_jax.sharding.params import RULES, current_specs, spec_of, state_shardings
from vxlpro_jax.utils import tree
from vxlpro_jax.utils.errors import InputError

# ---- The table ----------------------------------------------------------------------------------


def leaves(config):
    """Returns the shapes of all parameters of both tasks, by path."""
    recot_init = functools.partial(recot.init_params, config, options=RecotConfig())
    pretrained = jax.eval_shape(recot_init, key=jax.random.key(0))
    return tree.flatten(pretrained) | tree.flatten(abstract_params(config))


def test_every_parameter_has_exactly_one_rule_that_fits_its_rank():
    for config in PRESETS.values():
        for path, leaf in leaves(config).items():
            assert len(spec_of(path)) <= leaf.ndim, path


def test_every_rule_matches_a_parameter():
    paths = set().union(*map(leaves, PRESETS.values())) | {"decoder/lm_head/kernel"}
    used = {id(spec_of(path)) for path in paths}
    idle = [pattern for pattern, spec in RULES if id(spec) not in used]
    assert not idle


def test_large_parameters_are_sharded_over_both_axes():
    """At the released size, parameters that are not sharded must be small enough to replicate."""
    for path, leaf in leaves(PRESETS["3b"]).items():
        if leaf.size > 4 * 2**20:
            assert {"fsdp", "tensor"} <= set(spec_of(path)), path


def test_a_mesh_that_cannot_shard_a_large_parameter_is_refused():
    """1152 channels are not divisible by 256."""
    params = abstract_params(PRESETS["3b"])

    def place(fsdp):
        mesh = AbstractMesh((1, fsdp, 1, 4), AXES)
        return state_shardings(params, params=params, mesh=mesh)

    assert place(64)["dts"]["block0"]["conv"]["kernel"].spec[3] == "fsdp"
    with pytest.raises(
        InputError, match=r"dts/block0/conv/kernel .* would be replicated.* set mesh\."
    ):
        place(256)


def test_the_report_lists_every_parameter(capsys):
    argv = ["sharding", "--config=configs/stage2.py", "--config.mesh.tensor=2", "--devices=8"]
    sharding_command.main(argv)
    *rows, _, mesh, params, _ = capsys.readouterr().out.splitlines()
    told = {row.split()[0]: row for row in rows[1:]}
    leaves = tree.flatten(abstract_params(PRESETS["tiny"]))
    assert told.keys() == leaves.keys()
    assert "(tensor, fsdp)" in told["decoder/embed"]
    assert told["decoder/embed"].endswith(f" {512 * 128 * 4 // 8:,}")
    assert "'fsdp': 4, 'tensor': 2" in mesh
    assert f"{sum(x.size for x in leaves.values()):,} elements" in params


def test_unmatched_path_is_named():
    with pytest.raises(ValueError, match=r"'decoder/gate' must match one .* matches: none"):
        spec_of("decoder/gate")


def test_doubly_matched_path_is_named():
    again = (*RULES, (r"decoder/emb.*", P()))
    with pytest.raises(ValueError, match=r"matches: decoder/embed, decoder/emb\.\*"):
        spec_of("decoder/embed", rules=again)


# ---- Meshes -------------------------------------------------------------------------------------


def test_one_axis_takes_what_is_left():
    mesh = make_mesh(MeshConfig())
    assert mesh.axis_names == AXES
    assert dict(mesh.shape) == {"data": 1, "fsdp": jax.device_count(), "tensor": 1, "context": 1}


@pytest.mark.parametrize(
    "sizes",
    [
        {"data": -1, "fsdp": -1},
        {"fsdp": 3 * jax.device_count()},
        {"fsdp": -1, "tensor": 3 * jax.device_count()},
        {"data": 0},
        {"data": -2},
        {"data": 0, "fsdp": 1},
    ],
)
def test_mesh_that_does_not_fit_is_refused(sizes):
    with pytest.raises(InputError, match=r"does not fit \d+ devices: make the axes multiply"):
        make_mesh(MeshConfig(**sizes))


def test_slices_share_the_data_axis():
    assert axis_sizes(MeshConfig(data=4, num_slices=2), devices=8)["fsdp"] == 2
    with pytest.raises(InputError, match=r"num_slices is 2 and mesh.data 1: make data a multiple"):
        axis_sizes(MeshConfig(num_slices=2), devices=8)


def test_batch_must_share_evenly():
    class Mesh:
        shape = {"data": 2, "fsdp": 3, "tensor": 5, "context": 7}  # noqa: RUF012

    batch.check_batch(12, mesh=Mesh())
    with pytest.raises(InputError, match=r"data.batch_size 8 is not divisible by data x fsdp = 6"):
        batch.check_batch(8, mesh=Mesh())


def test_a_mesh_without_the_axes_of_the_table_shards_no_parameter():
    params = {"vision": {"patch_embed": {"bias": jnp.zeros(4), "kernel": jnp.zeros((8, 4))}}}
    with jax.set_mesh(jax.make_mesh((1,), ("mine",))):
        specs = current_specs(params)
    for spec in jax.tree.leaves(specs, is_leaf=lambda x: isinstance(x, P)):
        assert not any(spec)

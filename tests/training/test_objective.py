"""Objectives are found by name, or in one Python file that defines a whole stage."""

import json

import pytest
from helpers import write_clip

from vxlpro_jax.config.parsing import from_mapping
from vxlpro_jax.config.schema import TrainConfig
from vxlpro_jax.train import main
from vxlpro_jax.training.objective import objective_of
from vxlpro_jax.training.objectives.recot import Recot
from vxlpro_jax.training.objectives.sft import Sft
from vxlpro_jax.utils.errors import InputError

pytestmark = pytest.mark.slow

STAGE = '''
"""A stage of our own: learns the mean colour of the frames."""

import jax.numpy as jnp
from jax.sharding import PartitionSpec

from vxlpro_jax.training.flops import Forward
from vxlpro_jax.training.objective import Loss, Objective


def get_config():
    return {
        "objective": __file__,
        "total_steps": 6,
        "checkpoint_every": 3,
        "log_every": 1,
        "optim": {"lr": 0.5, "groups": ({"pattern": "^colour/", "lr_scale": 1.0},)},
        "data": {"batch_size": 1},
    }


class MeanColour(Objective):
    reads_text = False
    sharding_rules = ((r"colour/mean", PartitionSpec()),)

    def init_params(self, key):
        return {"colour": {"mean": jnp.zeros(3)}}

    def loss(self, params, batch, *, key):
        error = batch["frames"].mean((0, 1, 2, 3, 4)) / 255 - params["colour"]["mean"]
        frames = (batch["group_segments"] > 0).sum() * 4
        return Loss(jnp.square(error).mean(), frames, {"frames": frames})

    def forward_flops(self, *, groups, text_tokens=0.0, targets=0.0):
        return Forward(vision=groups, dts=0.0 * groups)


OBJECTIVE = MeanColour
'''


@pytest.mark.parametrize(("name", "kind"), [("sft", Sft), ("recot", Recot)])
def test_objectives_are_found_by_the_name_of_their_module(name, kind):
    config = TrainConfig(objective=name)
    found = objective_of(config)
    assert type(found) is kind
    assert found.config is config


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("sftt", "Unknown objective 'sftt': did you mean 'sft'"),
        ("nowhere.py", "nowhere.py does not exist"),
    ],
)
def test_unknown_objectives_are_refused(name, message):
    with pytest.raises(InputError, match=message):
        objective_of(TrainConfig(objective=name))


def test_a_file_without_an_objective_is_refused(tmp_path):
    file = tmp_path / "empty.py"
    file.write_text("OBJECTIVE = 3\n")
    with pytest.raises(InputError, match=r"empty.py has no OBJECTIVE"):
        objective_of(TrainConfig(objective=str(file)))


@pytest.mark.parametrize(("name", "reads_text"), [("sft", True), ("recot", False)])
def test_batches_hold_text_only_where_it_is_read(name, reads_text):
    config = from_mapping(TrainConfig, {"objective": name, "data": {"batch_size": 3}})
    spec = objective_of(config).batch_spec()
    assert spec["frames"].shape == (3, 2, 4, 112, 112, 3)
    assert ("labels" in spec) == reads_text


def test_a_stage_of_ones_own_is_one_file(tmp_path, no_mesh, capsys):
    """It is trained, stopped and resumed from the command line with only its config file."""
    write_clip(tmp_path / "clip.mp4", frames=8)
    (tmp_path / "data.json").write_text(json.dumps([{"video": "clip.mp4"}]))
    (tmp_path / "colour.py").write_text(STAGE)
    run = tmp_path / "run"
    argv = [
        "train",
        f"--config={tmp_path / 'colour.py'}",
        f"--config.data.path={tmp_path / 'data.json'}",
        f"--workdir={run}",
    ]
    assert main([*argv, "--config.total_steps=4"]) == 0
    assert "colour           3  1 x, adamw" in capsys.readouterr().out
    assert main(argv) == 0
    assert "Continues at step 4" in capsys.readouterr().out
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, 7))
    assert [row["frames"] for row in rows] == [8] * 6
    assert rows[3]["loss"] < rows[0]["loss"]

"""Tests command lines with a config file: values, mistakes, `--help`, and the search for files."""

import pytest
from absl import flags
from helpers import ROOT

from vxlpro_jax.config import schema_table
from vxlpro_jax.config.flags import read_run
from vxlpro_jax.config.schema import TrainConfig
from vxlpro_jax.utils.errors import InputError

STAGE2 = f"--config={ROOT / 'configs/stage2.py'}"


def define(values):
    flags.DEFINE_string("workdir", "here", "Folder of the run.", flag_values=values)
    flags.DEFINE_enum("what", "a", ["a", "b"], "The program.", flag_values=values)


def read(*words):
    return read_run(["command", *words], define=define, doc="Does a thing.")


@pytest.mark.parametrize(
    ("words", "path", "value"),
    [
        (["--config.total_steps=3"], "total_steps", 3),
        (["--config.total_steps", "3"], "total_steps", 3),
        (["-config.total_steps=3"], "total_steps", 3),
        (["--config.optim.lr=1"], "optim.lr", 1.0),
        (["--config.mesh.fsdp", "-1"], "mesh.fsdp", -1),
        (["--config.model.decoder.tied_head=false"], "model.decoder.tied_head", False),
        (["--config.keep_ratio=(0.5, 1)"], "keep_ratio", (0.5, 1.0)),
        (["--config.data.frame_buckets=4"], "data.frame_buckets", (4,)),
        (["--config.data.frame_buckets=(4,8)"], "data.frame_buckets", (4, 8)),
        (["--config.data.path=a=b.json"], "data.path", "a=b.json"),
        (["--config.model.dts.layout=temporal"], "model.dts.layout", "temporal"),
        (["--config.model.decoder.depth=2"], "model.decoder.depth", 2),
        (["--config.model.preset=3b"], "model.dts.grid", 24),
    ],
)
def test_values_of_the_command_line_replace_those_of_the_file(words, path, value):
    found = read(STAGE2, *words).config
    for name in path.split("."):
        found = getattr(found, name)
    assert found == value
    assert type(found) is type(value)


def test_groups_of_parameters_are_set_as_a_tuple_of_mappings():
    config = read(STAGE2, '--config.optim.groups=({"pattern": "^dts/", "lr_scale": 0},)').config
    assert [(group.pattern, group.lr_scale) for group in config.optim.groups] == [("^dts/", 0.0)]


def test_other_flags_and_the_name_of_the_run():
    run = read(f"{STAGE2}:3b", "--workdir=there", "--what", "b")
    assert (run.name, run.flags.workdir, run.flags.what) == ("stage2-3b", "there", "b")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([STAGE2, "--config.total_step=3"], "config.total_step: did you mean 'total_steps'"),
        ([STAGE2, "--config.optim.rate=3"], "Unknown key config.optim.rate"),
        ([STAGE2, "--config.seed.x=3"], "config.seed has no fields"),
        ([STAGE2, "--config.data=3"], "config.data is a group of fields: set one of them"),
        ([STAGE2, "--config.total_steps=many"], "total_steps is 'many': expected int"),
        ([STAGE2, "--config.optim.lr=x"], "optim.lr is 'x': expected float"),
        ([STAGE2, "--config.model.decoder.tied_head=2"], "tied_head is '2': expected bool"),
        ([STAGE2, "--config.keep_ratio=(1"], "keep_ratio is '\\(1': expected tuple"),
        ([STAGE2, "--config.seed"], "--config.seed lacks its value"),
        ([STAGE2, "--work_dir=x"], "work_dir.*workdir"),
        ([STAGE2, "extra"], "got .* extra"),
        ([], "give --config=configs/stage2.py"),
        (["--config=nowhere.py"], "nowhere.py does not exist"),
        (["--config=configs/nowhere.py"], "nowhere.py is in none of .*configs, .*configs"),
    ],
)
def test_command_lines_that_do_not_fit_are_refused(words, message):
    with pytest.raises(InputError, match=message):
        read(*words)


def test_a_config_file_that_fails_is_named(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("def get_config():\n    return {}.missing\n")
    with pytest.raises(InputError, match=r"mine.py: AttributeError: .*missing"):
        read(f"--config={file}")


def test_a_config_file_may_return_a_plain_dict(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("def get_config():\n    return {'seed': 4}\n")
    run = read(f"--config={file}")
    assert (run.config, run.name) == (TrainConfig(seed=4), "mine-tiny")


def test_installed_config_files_are_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert read("--config=configs/stage2.py").config == read(STAGE2).config
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/stage2.py").write_text("def get_config():\n    return {'seed': 9}\n")
    assert read("--config=configs/stage2.py").config == TrainConfig(seed=9)


# ---- --help -------------------------------------------------------------------------------------


def test_help_names_every_flag_and_every_field(capsys):
    with pytest.raises(SystemExit) as exit_info:
        read("--help")
    assert exit_info.value.code == 0
    out = capsys.readouterr().out
    assert out.startswith("Does a thing.")
    assert "--workdir=here  (string)\n      Folder of the run." in out
    assert "--what=a  (a | b)" in out
    assert "--config.optim.lr=0.001  (float)\n      Peak learning rate." in out
    for row in schema_table.rows():
        assert f"--config.{row.path}=" in out


def test_every_field_has_a_meaning():
    assert [row.path for row in schema_table.rows() if not row.meaning] == []


def test_table_for_the_documentation_has_a_row_for_each_field():
    lines = schema_table.markdown().splitlines()
    for row in schema_table.rows():
        assert sum(line.startswith(f"| `{row.path}` |") for line in lines) == 1
    assert "| `seed` | `int` | `0` | Seed of initialisation, shuffling and random draws. |" in lines


# ---- Repeated flags -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ([STAGE2, STAGE2], "--config is given more than once"),
        ([STAGE2, "--config.seed=1", "--config.seed=2"], "--config.seed is given more than once"),
        ([STAGE2, "--config.seed=1", "-config.seed", "1"], "--config.seed is given more"),
        ([STAGE2, "--config.task=sft", "--config.objective=recot"], "--config.objective is given"),
        ([STAGE2, "--workdir=a", "--workdir=b"], "workdir=b: already defined as a"),
        ([STAGE2, "--what=a", "--what", "b"], "what=b: already defined as a"),
    ],
)
def test_a_flag_that_is_given_twice_is_refused(words, named):
    with pytest.raises(InputError, match=named):
        read(*words)

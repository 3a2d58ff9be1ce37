"""Data files of a run may be moved, but other records are refused."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
from helpers import write_dataset
from mean_objective import mean_config

from vxlpro_jax.train import train
from vxlpro_jax.utils.errors import InputError

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    """A config, and the folder of a run with it."""
    folder = tmp_path_factory.mktemp("run")
    config = mean_config(folder, data=write_dataset(folder))
    config = dataclasses.replace(config, total_steps=2, checkpoint_every=2)
    train(config, workdir=folder / "run")
    return config, folder / "run"


def on(config, path):
    data = dataclasses.replace(config.data, path=str(path), video_root=str(path.parent))
    return dataclasses.replace(config, data=data)


def test_other_records_are_refused_by_name(started, tmp_path, no_mesh):
    config, run = started
    records = json.loads(Path(config.data.path).read_text())
    other = Path(config.data.path).with_name("other.json")  # In the same folder as its videos.
    other.write_text(json.dumps(records[::-1]))
    with pytest.raises(InputError, match=r"other data: config\.data\.path had") as caught:
        train(on(config, other), workdir=run)
    assert "--config.init_from=" in str(caught.value)


def test_moved_data_are_read(started, tmp_path, no_mesh, capsys):
    config, run = started
    moved = tmp_path / "moved"
    shutil.copytree(run.parent, moved, ignore=shutil.ignore_patterns("run"))
    path = moved / config.data.path.rpartition("/")[2]
    assert train(on(config, path), workdir=run) == 0
    out = capsys.readouterr().out
    assert f"config.data.path was {config.data.path!r}"[:40] in out
    assert out.splitlines()[-1].startswith("Done: ")

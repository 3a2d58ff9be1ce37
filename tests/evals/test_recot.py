"""The figures of stage 1, on a micro model and real files."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from helpers import MICRO, write_clip

from vxlpro_jax.config import DataConfig, InputError, RecotConfig, TrainConfig
from vxlpro_jax.data import pipeline, synthetic
from vxlpro_jax.evals import recot as recot_eval
from vxlpro_jax.models import recot

SIZES = recot_eval.Sizes(groups=6, probe_train=12, probe_test=8)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """Clips without any text, other ones held out."""
    folder = tmp_path_factory.mktemp("data")
    for name, seed in (("train", 1), ("eval", 2)):
        write_clip(folder / f"{name}.mp4", frames=8, seed=seed)
        (folder / f"{name}.json").write_text(json.dumps([{"video": f"{name}.mp4"}]))
    data = DataConfig(
        path=str(folder / "train.json"), eval_path=str(folder / "eval.json"), batch_size=1
    )
    options = RecotConfig(decoder_width=8, decoder_depth=1, decoder_heads=2)
    return TrainConfig(task="recot", model=MICRO, recot=options, data=data)


def test_report_and_picture(config, tmp_path):
    params = recot.init_params(config.model, options=config.recot, key=jax.random.key(0))
    report = recot_eval.evaluate(params, config=config, workdir=tmp_path, sizes=SIZES)
    assert json.loads((tmp_path / "recot.json").read_text()) == report
    assert {path.name for path in tmp_path.iterdir()} == {"recot.json", "recot.png"}
    errors = report["reconstruction"]
    assert list(errors) == ["model", "copy_mean", "interpolate", "untrained"]
    assert all(np.isfinite(error) and error > 0 for error in errors.values())
    # A decoder that has learned nothing restores nothing.
    assert errors["model"] > 0.9
    assert errors["untrained"] < errors["model"]
    assert -1 <= report["shuffle_similarity"] < 1
    assert set(report["direction_probe"]) == {"compressed", "single_frame"}
    again = recot_eval.evaluate(params, config=config, workdir=tmp_path, sizes=SIZES)
    assert again == report


def test_own_data_needs_held_out_clips(config):
    data = dataclasses.replace(config.data, eval_path="")
    with pytest.raises(InputError, match=r"set --config.data.eval_path"):
        pipeline.held_out(data)


def test_place_of_a_moving_shape_does_not_tell_its_direction():
    clips = synthetic.motion_clips(400, side=32)
    picked = clips.frames[np.arange(400), clips.picked].astype(float)
    bright = picked.mean(-1) - picked.mean((1, 2, 3))[:, None, None]
    at = np.stack([(bright.mean(axis) * np.arange(32)).sum(-1) for axis in (1, 2)], axis=-1)
    for one, other in ((0, 1), (2, 3)):
        gap = at[clips.labels == one].mean(0) - at[clips.labels == other].mean(0)
        spread = at.std(0) * np.sqrt(4 / 200)
        assert np.all(np.abs(gap) < 4 * spread)
    assert len(set(clips.labels)) == 4

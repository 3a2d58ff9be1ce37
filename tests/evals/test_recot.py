"""Tests the metrics of stage 1 on a micro model and real files."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from helpers import MICRO, write_clip

from vxlpro_jax.config.schema import DataConfig, RecotConfig, TrainConfig
from vxlpro_jax.data.loader import build
from vxlpro_jax.evals import recot as recot_eval
from vxlpro_jax.models import recot
from vxlpro_jax.utils.errors import InputError

pytestmark = pytest.mark.slow

SIZES = recot_eval.Sizes(groups=6, probe_train=12, probe_test=8)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """A config of clips without text, with other clips held out."""
    folder = tmp_path_factory.mktemp("data")
    for name, seed in (("train", 1), ("eval", 2)):
        write_clip(folder / f"{name}.mp4", frames=8, seed=seed)
        (folder / f"{name}.json").write_text(json.dumps([{"video": f"{name}.mp4"}]))
    data = DataConfig(
        path=str(folder / "train.json"), eval_path=str(folder / "eval.json"), batch_size=1
    )
    options = RecotConfig(decoder_width=8, decoder_depth=1, decoder_heads=2)
    return TrainConfig(objective="recot", model=MICRO, recot=options, data=data)


def test_report_and_picture(config, tmp_path):
    params = recot.init_params(config.model, options=config.recot, key=jax.random.key(0))
    arguments = {"config": config, "workdir": tmp_path, "step": 7, "sizes": SIZES}
    report = recot_eval.evaluate(params, **arguments)
    assert json.loads((tmp_path / "recot.json").read_text()) == report
    assert report["step"] == 7
    assert {path.name for path in tmp_path.iterdir()} == {"recot.json", "recot.png"}
    errors = report["reconstruction"]
    assert list(errors) == ["model", "copy_mean", "interpolate", "untrained"]
    assert all(np.isfinite(error) and error > 0 for error in errors.values())
    # An untrained decoder restores nothing.
    assert errors["model"] > 0.9
    assert report["masks"].keys() == {"own", "random"}
    assert recot_eval.evaluate(params, **arguments) == report


def test_masks_of_random_choice_have_no_pattern_and_those_of_motion_do(config, tmp_path):
    frames = build.read_first_groups(config.data, image_size=56, count=2)
    patterns = {}
    for policy in ("random", "motion"):
        options = dataclasses.replace(config.recot, policy=policy)
        own = dataclasses.replace(config, recot=options)
        params = recot.init_params(config.model, options=options, key=jax.random.key(0))
        model = recot_eval.Model(params, own)
        targets = model.restore(frames).targets
        patterns[policy] = recot_eval.mask_pattern(model.visible_share(frames), targets=targets)
    assert abs(patterns["random"]["unevenness"] - np.sqrt(0.25 * 0.75 / 16)) < 0.02
    assert abs(patterns["random"]["motion"]) < 0.2
    assert patterns["motion"]["unevenness"] > 0.2
    assert patterns["motion"]["motion"] > 0.5


def test_pattern_of_masks_that_never_vary():
    targets = np.random.default_rng(0).normal(size=(2, 4, 9, 3))
    pattern = recot_eval.mask_pattern(np.full((2, 4, 9), 0.25), targets=targets)
    assert pattern == {"unevenness": 0.0, "motion": 0.0}


def mean(frames):
    """Compresses by the mean, which loses the order: [G, f, S, S, 3] -> [G, 64, 3]."""
    return blocks(frames).mean(1)


def blocks(frames):
    grouped = frames.reshape(*frames.shape[:2], 8, 4, 8, 4, 3).mean((3, 5))
    return grouped.reshape(*frames.shape[:2], 64, 3)


def concatenate(frames):
    """Keeps all frames: [G, f, S, S, 3] -> [G, 64, 12]."""
    return blocks(frames).transpose(0, 2, 1, 3).reshape(len(frames), 64, 12)


def test_compressor_without_order_cannot_tell_a_shuffle_or_a_direction():
    frames = np.random.default_rng(0).integers(0, 256, (5, 4, 32, 32, 3), np.uint8)
    sizes = recot_eval.Sizes(probe_train=400, probe_test=400)
    assert abs(recot_eval.shuffle_similarity(mean, frames) - 1) < 1e-6
    assert recot_eval.direction_probe(mean, sizes, side=32)["compressed"] < 0.65


def test_compressor_with_order_can():
    frames = np.random.default_rng(0).integers(0, 256, (5, 4, 32, 32, 3), np.uint8)
    sizes = recot_eval.Sizes(probe_train=400, probe_test=400)
    assert recot_eval.shuffle_similarity(concatenate, frames) < 0.99
    probed = recot_eval.direction_probe(concatenate, sizes, side=32)
    assert probed["compressed"] > 0.9
    # Five standard deviations of a share of a quarter among 400.
    assert abs(probed["single_frame"] - 0.25) < 0.11


def test_shuffle_of_still_clips_has_no_similarity():
    still = np.zeros((2, 4, 32, 32, 3), np.uint8)
    assert recot_eval.shuffle_similarity(mean, still) is None


def test_own_data_needs_held_out_clips(config):
    data = dataclasses.replace(config.data, eval_path="")
    with pytest.raises(InputError, match=r"set --config.data.eval_path"):
        build.evaluation_data(data)


def test_every_clip_is_read_once_in_order(config, tmp_path):
    write_clip(tmp_path / "a.mp4", frames=8, seed=3)
    write_clip(tmp_path / "b.mp4", frames=4, seed=4)
    names = ["a.mp4", "gone.mp4", "b.mp4", "a.mp4"]
    (tmp_path / "data.json").write_text(json.dumps([{"video": name} for name in names]))
    data = dataclasses.replace(config.data, path=str(tmp_path / "data.json"), eval_path="")
    groups = build.read_first_groups(data, image_size=56, count=99)
    assert groups.shape == (3, 4, 56, 56, 3)
    np.testing.assert_array_equal(build.read_first_groups(data, image_size=56, count=2), groups[:2])

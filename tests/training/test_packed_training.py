"""Packed rows from the pipeline give loss and gradients of the same samples unpacked."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from helpers import MICRO, write_clip

from vxlpro_jax.config.schema import IGNORE_LABEL, DataConfig, TrainConfig
from vxlpro_jax.data.loader.batches import stack_rows
from vxlpro_jax.data.loader.build import build_pipeline
from vxlpro_jax.data.loader.samples import Sample
from vxlpro_jax.training.objective import objective_of
from vxlpro_jax.utils import tree
from vxlpro_jax.utils.jit import jit

pytestmark = pytest.mark.slow


@pytest.fixture
def config(tmp_path):
    """Clips of 1 to 13 frames and texts, all of unequal length; a row of 24 holds up to four."""
    samples = []
    for frames in range(1, 14):
        write_clip(tmp_path / f"{frames}.mp4", frames=frames, seed=frames)
        question = "<image>\n" + "What is it? " * (1 + frames % 3)
        turns = [("human", question), ("gpt", "Noise. " * (1 + frames % 5))]
        samples.append({"video": f"{frames}.mp4"} | _conversation(turns))
        samples.append(_conversation([("human", "Hi " * frames), ("gpt", "Ho " * frames)]))
    (tmp_path / "data.json").write_text(json.dumps(samples))
    data = DataConfig(
        path=str(tmp_path / "data.json"),
        batch_size=2,
        max_frames=24,
        max_text_tokens=260,
        samples_per_row=4,
    )
    return TrainConfig(model=MICRO, data=data, keep_ratio=(1.0, 1.0), compute_dtype="float64")


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def _conversation(turns):
    return {"conversations": [{"from": role, "value": value} for role, value in turns]}


def apart(batch):
    """Returns the samples of a batch."""
    for row in range(len(batch["tokens"])):
        for segment in range(1, batch["token_segments"][row].max() + 1):
            seen = batch["group_segments"][row] == segment
            spoken = batch["token_segments"][row] == segment
            yield Sample(
                groups=batch["frames"][row][seen],
                stamp_ids=batch["stamp_ids"][row][seen],
                tokens=batch["tokens"][row][spoken],
                labels=batch["labels"][row][spoken],
            )


def test_loss_and_gradients_are_those_of_the_samples_apart(config, no_mesh):
    data = build_pipeline(config.data, image_size=MICRO.vision.image_size, seed=0)
    packed, shape = next(data), data.source.reader.shape
    data.close()
    samples = list(apart(packed))
    assert len(samples) > 4
    single = dataclasses.replace(
        config, data=dataclasses.replace(config.data, samples_per_row=1, batch_size=len(samples))
    )
    unpacked = stack_rows([[sample] for sample in samples], shape=shape)
    params = tree.cast(objective_of(config).init_params(jax.random.key(0)), "float64")

    def run(config, batch):
        def loss(params):
            found = objective_of(config).loss(params, batch, key=jax.random.key(1))
            return found.value, found

        (_, found), grads = jit(jax.value_and_grad(loss, has_aux=True))(params)
        return found, grads

    (ours, ours_grads), (theirs, theirs_grads) = run(config, packed), run(single, unpacked)
    assert int(ours.weight) == (unpacked["labels"] != IGNORE_LABEL).sum()
    np.testing.assert_allclose(ours.value, theirs.value, rtol=1e-10)
    assert {k: int(v) for k, v in ours.metrics.items()} == {
        k: int(v) for k, v in theirs.metrics.items()
    }
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-12),
        ours_grads,
        theirs_grads,
    )


def test_positions_are_skipped_only_up_to_the_longest_video(config, no_mesh):
    data = build_pipeline(config.data, image_size=MICRO.vision.image_size, seed=0)
    batch = next(data)
    data.close()
    params = tree.cast(objective_of(config).init_params(jax.random.key(0)), "float64")

    def loss(frames):
        skipping = dataclasses.replace(config, pose_max_frames=frames)
        return float(objective_of(skipping).loss(params, batch, key=jax.random.key(1)).value)

    assert loss(4) == loss(0)
    assert loss(4000) == pytest.approx(loss(0), rel=0.1)
    assert loss(4000) != loss(0)

"""Tests longer videos of the embedded task: real files with correct descriptions."""

import json
from collections import Counter

import numpy as np
import pytest

from vxlpro_jax.config.schema import DataConfig
from vxlpro_jax.data.loader.build import build_pipeline
from vxlpro_jax.data.sources.load import load_records
from vxlpro_jax.data.synthetic import clips, haystacks
from vxlpro_jax.data.synthetic.drawing import COLOURS
from vxlpro_jax.data.synthetic.haystacks import needle_set, training_set
from vxlpro_jax.data.video.reader import read_video

pytestmark = pytest.mark.slow


def test_haystacks_of_every_length_and_depth(monkeypatch, tmp_path):
    monkeypatch.setattr(haystacks, "NEEDLE_FRAMES", (8, 16))
    monkeypatch.setattr(haystacks, "NEEDLES", 1)
    file = needle_set(tmp_path)
    samples = json.loads(file.read_text())
    assert len(samples) == len(load_records(file)) == 2 * len(haystacks.NEEDLE_DEPTHS)
    for sample in samples:
        video = read_video(file.parent / sample["video"], max_frames=99, size=64)
        assert len(video.frames) == sample["frames"]


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(haystacks, "TRAIN_CLIPS", 4)
    monkeypatch.setattr(clips, "SIZES", {"train": 4, "eval": 2})


def colour_of(frame) -> str | None:
    distance = {
        colour: np.abs(frame.astype(int) - rgb).sum(-1).min() for colour, rgb in COLOURS.items()
    }
    nearest = min(distance, key=distance.get)
    return nearest if distance[nearest] < 60 else None


def test_training_haystacks_show_one_card_of_the_answer_colour(few, tmp_path):
    files = training_set(tmp_path, most_frames=40)
    assert [file.name for file in files] == ["16.json", "32.json"]
    for frames, file in zip((16, 32), files, strict=True):
        samples = {sample["video"]: sample for sample in json.loads(file.read_text())}
        assert len(samples) == 4
        answers = set()
        for name, sample in samples.items():
            shown = read_video(file.parent / name, max_frames=99, size=64).frames
            assert len(shown) == frames == sample["duration"] * clips.FPS
            colours = Counter(map(colour_of, shown))
            answer = sample["conversations"][1]["value"]
            assert colours == {None: frames - 4, answer: 4}
            answers.add(answer)
        assert answers == set(COLOURS)


def test_a_clip_comes_with_several_time_scales(few, tmp_path):
    records = load_records(training_set(tmp_path, most_frames=16)[0])
    scales = {}
    for record in records:
        scales.setdefault(record.video, set()).add(record.scale)
    assert all(len(found) == 8 for found in scales.values())
    assert all(1 <= scale <= 256 for found in scales.values() for scale in found)


@pytest.mark.parametrize(
    ("frames", "of_sample", "lengths"), [(8, 0, {8}), (32, 0, {8, 16, 32}), (32, 8, {8})]
)
def test_a_row_holds_the_haystacks_that_fit(few, tmp_path, frames, of_sample, lengths):
    data = DataConfig(
        frames_per_sample=of_sample,
        cache_dir=str(tmp_path),
        max_frames=frames,
        batch_size=8,
        max_text_tokens=80,
    )
    batches = build_pipeline(data, image_size=16, seed=0)
    seen = {4 * int((row > 0).sum()) for _ in range(6) for row in next(batches)["group_segments"]}
    batches.close()
    assert seen == lengths

"""The embedded set: real files, told truthfully, written once."""

import json
import threading

import numpy as np
import pytest

from vxlpro_jax.config import DataConfig, InputError
from vxlpro_jax.data.chat import encode_conversation
from vxlpro_jax.data.pipeline import tokenizer_for
from vxlpro_jax.data.sources import load_records
from vxlpro_jax.data.synthetic import (
    COLOURS,
    DIRECTIONS,
    EVAL_CLIPS,
    FPS,
    TRAIN_CLIPS,
    make_clip,
    motion_clips,
    synthetic_set,
)
from vxlpro_jax.data.video import read_video


@pytest.fixture
def embedded(cache):
    return synthetic_set(cache)


@pytest.fixture
def few_clips(monkeypatch):
    monkeypatch.setattr("vxlpro_jax.data.synthetic.TRAIN_CLIPS", 4)
    monkeypatch.setattr("vxlpro_jax.data.synthetic.EVAL_CLIPS", 2)


def test_records_are_usable_and_fit_the_default_row(embedded):
    train, held_out = load_records(embedded.train), load_records(embedded.eval)
    assert len({record.video for record in train}) == TRAIN_CLIPS
    assert len({record.video for record in held_out}) == EVAL_CLIPS
    assert not {record.video for record in train} & {record.video for record in held_out}
    tokenizer = tokenizer_for(DataConfig())
    lengths = [
        len(encode_conversation(record.turns, tokenizer=tokenizer).ids)
        for record in (*train, *held_out)
    ]
    assert max(lengths) <= DataConfig().max_text_tokens


def test_files_show_the_frames_that_were_drawn(embedded):
    for index in range(0, TRAIN_CLIPS, 13):
        clip = make_clip(index)
        video = read_video(embedded.root / f"clip{index:03d}.mp4", max_frames=99, size=112)
        assert len(video.frames) == len(clip.frames)
        np.testing.assert_allclose(video.times, np.arange(len(clip.frames)) / FPS)
        for drawn, shown in zip(clip.frames, video.frames, strict=True):
            assert abs(drawn.mean() - shown.mean()) < 4


def answers(index: int) -> dict[str, str]:
    return {question.text: question.answer for question in make_clip(index).questions}


def colour_mask(frame: np.ndarray, colour: str) -> np.ndarray:
    return (frame == np.array(COLOURS[colour], np.uint8)).all(-1)


def test_directions_are_true():
    for index in range(0, TRAIN_CLIPS, 4):
        told = answers(index)
        way = next(answer for answer in told.values() if answer in DIRECTIONS)
        colour = next(answer for answer in told.values() if answer in COLOURS)
        first, last = (
            np.argwhere(colour_mask(make_clip(index).frames[i], colour)).mean(0) for i in (0, -1)
        )
        moved = (last - first)[::-1]
        assert np.argmax(np.abs(moved)) == (0 if DIRECTIONS[way][0] else 1)
        assert np.sign(moved).tolist()[np.argmax(np.abs(moved))] == sum(DIRECTIONS[way])


def test_flash_times_are_true():
    for index in range(2, TRAIN_CLIPS, 4):
        for text, answer in answers(index).items():
            if text.startswith("When"):
                colour = text.split()[3]
                filled = [colour_mask(f, colour).mean() > 0.5 for f in make_clip(index).frames]
                assert answer == f"{filled.index(True) / FPS:.1f}s"


def test_answers_vary():
    for kind in range(4):
        seen = {a for index in range(kind, TRAIN_CLIPS, 4) for a in answers(index).values()}
        assert len(seen) >= 9


def test_clips_are_always_the_same(few_clips, embedded, tmp_path):
    for clip in synthetic_set(tmp_path).root.glob("clip00[0-3].mp4"):
        assert clip.read_bytes() == (embedded.root / clip.name).read_bytes()


def test_written_once_even_by_rivals(few_clips, tmp_path):
    threads = [threading.Thread(target=synthetic_set, args=(tmp_path,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = synthetic_set(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [found.root.name]
    marked = json.loads(found.train.read_text())[:1]
    found.train.write_text(json.dumps(marked))
    assert json.loads(synthetic_set(tmp_path).train.read_text()) == marked


def test_an_interrupted_write_leaves_nothing(tmp_path, monkeypatch):
    def interrupted(*_args, **_kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("vxlpro_jax.data.synthetic.write_mp4", interrupted)
    with pytest.raises(KeyboardInterrupt):
        synthetic_set(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_cache_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"set data.workdir_cache"):
        synthetic_set(tmp_path / "file")


def test_place_of_a_moving_shape_does_not_tell_its_direction():
    count, side = 2000, 32
    clips = motion_clips(count, side=side)
    frames = clips.frames[np.arange(count), clips.picked].astype(float)
    bright = np.abs(frames - np.median(frames, axis=(1, 2), keepdims=True)).sum(-1)
    bright /= bright.sum((1, 2), keepdims=True)
    at = np.stack([(bright.sum(axis) * np.arange(side)).sum(-1) for axis in (1, 2)], axis=-1)
    for label in range(4):
        own = at[clips.labels == label]
        error = at.std(0) / np.sqrt(len(own))
        assert np.all(np.abs(own.mean(0) - at.mean(0)) < 5 * error)
        np.testing.assert_allclose(own.std(0), at.std(0), rtol=0.15)

"""Tests the embedded set: real files with correct descriptions, which are written once."""

import itertools
import json
import threading
from collections import Counter, defaultdict

import numpy as np
import pytest

from configs import stage2, stage3, stage3_long
from vxlpro_jax.config.schema import DataConfig
from vxlpro_jax.data.loader.build import tokenizer_for
from vxlpro_jax.data.sources.load import load_records
from vxlpro_jax.data.synthetic import clips as synthetic
from vxlpro_jax.data.synthetic.clips import (
    DIRECTIONS,
    FPS,
    FRAMES,
    NUMBERS,
    SIZES,
    haystack,
    make_clip,
    motion_clips,
    synthetic_set,
)
from vxlpro_jax.data.synthetic.drawing import COLOURS, SHAPES, Canvas, Figure
from vxlpro_jax.data.text.chat import encode_conversation
from vxlpro_jax.data.video.reader import read_video
from vxlpro_jax.utils.errors import InputError

pytestmark = pytest.mark.slow


@pytest.fixture
def embedded(cache):
    return synthetic_set(cache)


@pytest.fixture
def few_clips(monkeypatch):
    monkeypatch.setattr(synthetic, "SIZES", {"train": 4, "eval": 2})


def test_records_are_usable_and_fit_the_tiny_row(embedded):
    train, held_out = load_records(embedded.train), load_records(embedded.eval)
    assert len({record.video for record in train}) == SIZES["train"]
    assert len({record.video for record in held_out}) == SIZES["eval"]
    assert not {record.video for record in train} & {record.video for record in held_out}
    tokenizer = tokenizer_for(DataConfig())
    lengths = [
        len(encode_conversation(record.turns, tokenizer=tokenizer).ids)
        for record in (*train, *held_out)
    ]
    for stage in (stage2, stage3, stage3_long):
        assert max(lengths) <= stage.get_config().data.max_text_tokens


def test_every_field_is_known(embedded, caplog):
    load_records(embedded.train)
    load_records(embedded.eval)
    assert not caplog.messages


def test_files_show_the_frames_that_were_drawn(embedded):
    for index in range(0, SIZES["eval"], 13):
        clip = make_clip(index, split="eval")
        video = read_video(embedded.root / f"eval{index:04d}.mp4", max_frames=99, size=112)
        assert len(video.frames) == len(clip.frames) == FRAMES
        np.testing.assert_allclose(video.times, np.arange(FRAMES) / FPS)
        for drawn, shown in zip(clip.frames, video.frames, strict=True):
            assert abs(drawn.mean() - shown.mean()) < 4


def asked(kind: str, *, split: str):
    """Returns the clips of a split with a question of `kind`, and the answers."""
    for index in range(SIZES["eval"]):
        clip = make_clip(index, split=split)
        found = {q.text: q.answer for q in clip.questions if q.kind == kind}
        if found:
            yield clip, found


def colour_mask(frame: np.ndarray, colour: str) -> np.ndarray:
    return (frame == np.array(COLOURS[colour], np.uint8)).all(-1)


def colour_of(frame: np.ndarray) -> str:
    """Returns the colour that fills most of a frame, or None."""
    largest = max(COLOURS, key=lambda colour: colour_mask(frame, colour).sum())
    return largest if colour_mask(frame, largest).any() else ""


def test_directions_are_true():
    for clip, answers in asked("direction", split="train"):
        [way] = answers.values()
        colour = colour_of(clip.frames[0])
        first, last = (np.argwhere(colour_mask(clip.frames[i], colour)).mean(0) for i in (0, -1))
        moved = (last - first)[::-1] / clip.frames[0].shape[1::-1]
        # Its middle moves by 0.7, but it is partly outside the frame at both ends.
        np.testing.assert_allclose(moved, np.multiply(DIRECTIONS[way], 0.6), atol=0.12)


def test_colours_are_true():
    for clip, answers in asked("appearance", split="eval"):
        assert answers["What colour is the shape?"] == colour_of(clip.frames[3])


def test_numbers_are_true():
    for clip, answers in asked("count", split="train"):
        frame = clip.frames[0]
        mask = colour_mask(frame, colour_of(frame))
        middles = np.array(mask.shape) // 2
        quarters = [
            half
            for rows in np.split(mask, middles[:1])
            for half in np.split(rows, middles[1:], axis=1)
        ]
        assert answers["How many shapes are there?"] == str(sum(q.mean() > 0.06 for q in quarters))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [(160, 208), (208, 160), (176, 176)])
def test_shapes_of_one_radius_fill_one_share_of_every_canvas(shape, size):
    figure = Figure(shape, "red", (0.5, 0.5), 0.14)
    share = colour_mask(Canvas(*size, grey=128).draw([figure]), "red").mean()
    # Pillow also fills pixels on an edge; four shapes have a third more pixels than three.
    assert share == pytest.approx(np.pi * 0.14**2, rel=0.12)


def test_flashes_are_true():
    for clip, answers in asked("order", split="eval"):
        seen = [colour for colour in map(colour_of, clip.frames) if colour]
        assert answers["Which flash comes first?"] == seen[0] == seen[1]
        assert answers["Which flash comes last?"] == seen[-1] == seen[-2]


def test_time_spans_are_true():
    for clip, answers in asked("when", split="train"):
        [(question, answer)] = answers.items()
        lit = [i for i, frame in enumerate(clip.frames) if colour_of(frame) in question.split()]
        assert len(lit) == 2
        assert answer == f"{lit[0] / FPS:.1f}s to {(lit[1] + 1) / FPS:.1f}s"


def test_the_card_lies_where_the_depth_says():
    for depth, group in ((0.0, 0), (0.5, 4), (1.0, 8)):
        clip = haystack(np.random.default_rng(0), colour="blue", groups=9, depth=depth)
        shown = [bool(colour_of(frame)) for frame in clip.frames]
        assert np.flatnonzero(shown).tolist() == list(range(4 * group, 4 * group + 4))
        assert clip.questions[0].answer == "blue" == colour_of(clip.frames[4 * group])


def flashes(split: str) -> set[tuple[str, ...]]:
    """Returns the colour of every frame of the flashing clips of a split."""
    return {tuple(map(colour_of, clip.frames)) for clip, _ in asked("order", split=split)}


def test_held_out_combinations_are_new():
    train, held_out = flashes("train"), flashes("eval")
    assert not train & held_out
    assert len(held_out) == 16 / 2  # Questions ask for the time of either flash.
    for shown, _ in synthetic._KINDS[:3]:
        assert not set(shown("train")) & set(shown("eval"))


@pytest.mark.parametrize("split", ["train", "eval"])
def test_every_answer_is_right_equally_often(split):
    counts = defaultdict(Counter)
    for index in range(SIZES[split]):
        for question in make_clip(index, split=split).questions:
            assert question.answer in question.choices
            counts[question.text][question.answer] += 1
    assert len(counts) == 6 + len(COLOURS)
    for question, answers in counts.items():
        assert len(answers) == 4, question
        assert len(set(answers.values())) == 1, question


def test_one_answer_does_not_tell_another():
    pairs = Counter()
    for index in range(SIZES["train"]):
        found = [q.answer for q in make_clip(index, split="train").questions if q.kind != "when"]
        pairs.update(itertools.permutations(found, 2))
    for first in (*DIRECTIONS, *NUMBERS):
        assert len({pairs[first, second] for second in COLOURS}) == 1


def test_questions_come_in_any_order_in_training():
    first = Counter(make_clip(i, split="train").questions[0].text for i in range(0, 300, 4))
    assert len(first) == 2
    assert min(first.values()) > 75 / 3


def test_clips_are_always_the_same(few_clips, embedded, tmp_path):
    clips = list(synthetic_set(tmp_path).root.glob("*.mp4"))
    assert len(clips) == 6
    for clip in clips:
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

    monkeypatch.setattr("vxlpro_jax.data.synthetic.clips.write_mp4", interrupted)
    with pytest.raises(KeyboardInterrupt):
        synthetic_set(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_cache_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"set data.cache_dir"):
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

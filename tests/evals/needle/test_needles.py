"""Tests needle lists, and the synthetic needles and haystack."""

import json

import numpy as np
import pytest
from helpers import write_clip
from PIL import Image

from vxlpro_jax.data.text.tiny_tokenizer import TINY_TOKENIZER
from vxlpro_jax.data.text.tokenizer import Tokenizer
from vxlpro_jax.data.video import reader
from vxlpro_jax.evals.needle import modes, needles, synthetic
from vxlpro_jax.utils.errors import InputError

GOOD = {
    "media": "red.png",
    "question": "Which colour?",
    "answer": "red",
    "options": ["red", "green", "blue", "yellow"],
}


def test_a_needle_without_options_is_a_whole_prompt(write_needles):
    [needle] = needles.read_needles(
        write_needles([{"media": "red.png", "question": "\nWhat?\nA. x\nB. y", "answer": "B"}])
    )
    assert (needle.question, needle.options, needle.is_plain) == ("What?\nA. x\nB. y", (), False)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"media": "../red.png"}, "leads out of its folder"),
        ({"media": "/etc/passwd"}, "leads out of its folder"),
        ({"media": ""}, "'media' is ''"),
        ({"question": 3}, "'question' is 3"),
        ({"answer": "pink"}, "'answer' is 'pink': expected one of the options"),
        ({"options": ["red", "green"]}, "expected 4 different ones"),
        ({"options": ["red", "red", "blue", "green"]}, "expected 4 different ones"),
        ({"plain": "yes"}, "'plain' is 'yes': expected true or false"),
        ({"options": None, "plain": True}, "since 'plain' is true"),
        ({"frames": 0}, "'frames' is 0"),
        ({"frames": 1.5}, "'frames' is 1.5"),
    ],
)
def test_lists_that_cannot_be_used(write_needles, change, complaint):
    with pytest.raises(InputError, match=complaint):
        needles.read_needles(write_needles([GOOD, GOOD | change]))


def test_a_link_out_of_the_folder(write_needles, tmp_path, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside") / "secret.png"
    Image.new("RGB", (8, 8)).save(outside)
    (tmp_path / "link.png").symlink_to(outside)
    with pytest.raises(InputError, match="leads out of its folder"):
        needles.read_needles(write_needles([GOOD | {"media": "link.png"}]))


def read(path, *, size=14):
    return [needles.read_frames(n, size=size, fps=1) for n in needles.read_needles(path)]


def test_a_picture_takes_one_frame_or_as_many_as_it_is_told(write_needles):
    one, three = read(write_needles([GOOD, GOOD | {"frames": 3}]))
    assert (one.shape, three.shape) == ((1, 14, 14, 3), (3, 14, 14, 3))
    assert (three == one).all()
    assert one[0, 0, 0].tolist() == [225, 40, 40]


def test_a_clip_takes_its_frames_at_the_rate_of_the_haystack(write_needles, tmp_path):
    clip = write_clip(tmp_path / "clip.mp4", frames=12)  # Two per second.
    path = write_needles([GOOD | {"media": "clip.mp4"}, GOOD | {"media": "clip.mp4", "frames": 4}])
    at_rate, four = read(path)
    every = reader.read_video(clip, max_frames=12, size=14).frames
    np.testing.assert_array_equal(at_rate, every[::2])
    np.testing.assert_array_equal(four, reader.read_video(clip, max_frames=4, size=14).frames)
    with pytest.raises(InputError, match="has 12 frames, fewer than the 13"):
        read(write_needles([GOOD | {"media": "clip.mp4", "frames": 13}]))


def test_an_animated_picture_is_a_clip(write_needles, tmp_path):
    pictures = [Image.new("RGB", (8, 8), (60 * i, 0, 0)) for i in range(4)]
    for name in ("moving.gif", "moving.webp"):
        pictures[0].save(
            tmp_path / name, save_all=True, append_images=pictures[1:], duration=1000, loop=0
        )
        [frames] = read(write_needles([GOOD | {"media": name}]))
        assert len({frame.tobytes() for frame in frames}) == 4


def test_media_that_cannot_be_read(write_needles, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    for name, complaint in (("broken.png", "broken.png"), ("none.mp4", "does not exist")):
        with pytest.raises(InputError, match=complaint):
            read(write_needles([GOOD | {"media": name}]))


@pytest.mark.parametrize("draw", [synthetic.tiny_needles, synthetic.natural_needles])
def test_drawn_needles_are_a_list_like_any_other(draw, tmp_path):
    path = draw(tmp_path)
    found = needles.read_needles(path)
    frames = read(path, size=56)
    assert len({pixels.tobytes() for pixels in frames}) == len(found)
    digests = {needles.needle_digest(*pair) for pair in zip(found, frames, strict=True)}
    assert len(digests) == len(found)
    before = path.stat().st_mtime_ns
    assert draw(tmp_path).stat().st_mtime_ns == before


def test_natural_needles_have_the_published_letters(tmp_path):
    found = needles.read_needles(synthetic.natural_needles(tmp_path))
    assert [modes.mcq_letter(needle) for needle in found] == list("DCCBA")


def test_tiny_needles_are_asked_in_words_that_the_tokenizer_learned(tmp_path):
    records = json.loads(synthetic.tiny_needles(tmp_path).read_text())
    tokenizer = Tokenizer.from_folder(str(TINY_TOKENIZER))
    assert len({record["question"] for record in records}) == 1
    for record in records:
        assert len(tokenizer.encode("\n" + record["question"])) <= 8
        assert sorted(record["options"]) == sorted(other["answer"] for other in records)


def test_the_haystack_is_long_grey_and_changes(tmp_path, monkeypatch):
    assert synthetic.FRAMES >= 8192
    monkeypatch.setattr(synthetic, "FRAMES", 64)
    frames = reader.read_video(synthetic.haystack(tmp_path), max_frames=64, size=28).frames
    assert len({frame.tobytes() for frame in frames}) == len(frames) == 64
    colourful = frames.max(-1).astype(int) - frames.min(-1)
    assert colourful.max() <= 8

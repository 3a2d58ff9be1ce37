"""A haystack is encoded once, and hiding a needle equals encoding the whole edited video."""

import shutil

import numpy as np
import pytest

from vxlpro_jax.data.synthetic.drawing import write_mp4
from vxlpro_jax.data.video import reader
from vxlpro_jax.data.video.sampling import Video
from vxlpro_jax.evals.needle import haystack, synthetic
from vxlpro_jax.inference.engine import Engine
from vxlpro_jax.utils.errors import InputError

DEPTHS = (0, 0.1, 0.25, 0.5, 0.75, 0.99, 1)


@pytest.mark.parametrize("length", [1, 3, 4, 8])
def test_places_run_from_the_first_frame_to_the_last(length):
    for frames in (8, 13, 100, 373):
        starts = [haystack.place(d, frames=frames, length=length).start for d in DEPTHS]
        assert starts == sorted(starts)
        assert starts[0] == 0
        least = frames - length if length % 4 else (frames - length) // 4 * 4
        assert starts[-1] == least
        assert all(start + length <= frames for start in starts)
        if length % 4 == 0:
            assert not any(start % 4 for start in starts)


def test_a_needle_of_one_frame_lies_where_the_published_tests_put_it():
    for depth in DEPTHS[:-1]:  # At depth 1 the originals put it behind the last frame.
        for frames in (1, 200, 3000, 8192):
            at = haystack.place(depth, frames=frames + 1, length=1)
            assert at.start == int(depth * frames)


def test_a_needle_longer_than_the_haystack():
    with pytest.raises(InputError, match=r"--frames has 3, but a needle takes 4"):
        haystack.place(0.5, frames=3, length=4)


@pytest.mark.slow
@pytest.mark.parametrize(("frames", "length"), [(1, 1), (7, 1), (8, 4), (13, 5), (22, 4), (24, 2)])
def test_hiding_equals_encoding_the_edited_video(micro_folder, film, frames, length):
    engine = Engine.load(micro_folder)
    size = engine.config.vision.image_size
    needle = np.random.default_rng(1).integers(0, 256, (length, size, size, 3), np.uint8)
    pixels, times = haystack.open_files([film], count=24, size=size).collect()
    for depth in (0, 0.4, 1):
        at = haystack.place(depth, frames=frames, length=length)
        stream = haystack.open_files([film], count=24, size=size)
        hay = haystack.encode(engine, stream, keep=at.touched())
        hidden = hay.hide(engine, needle, at=at)
        edited = pixels[:frames].copy()
        edited[at.start : at.start + length] = needle
        groups = reader.group_video(Video(edited, times[:frames]))
        whole = engine.encode_groups(groups.frames, times=groups.times)
        # The batches of groups have other sizes, so sums are added in another order: over all
        # layers this gives a few float32 roundings (1e-7) of the largest feature.
        atol = 5e-6 * np.abs(whole.visual).max()
        np.testing.assert_allclose(hidden.visual, whole.visual, atol=atol)
        np.testing.assert_array_equal(hidden.stamp_ids, whole.stamp_ids)


def test_the_haystack_is_encoded_once_and_what_needles_touch_again(seer, film):
    engine = seer()
    stream = haystack.open_files([film], count=40, size=14)
    places = [haystack.place(d, frames=n, length=2) for n in (9, 40) for d in DEPTHS]
    hay = haystack.encode(engine, stream, keep={g for at in places for g in at.touched()})
    assert engine.encoded_groups == 10
    needle = np.zeros((2, 14, 14, 3), np.uint8)
    for at in places:
        before, raw = engine.encoded_groups, {k: v.copy() for k, v in hay.raw.items()}
        hay.hide(engine, needle, at=at)
        assert engine.encoded_groups - before == len(at.touched()) <= 3
        assert all((hay.raw[k] == raw[k]).all() for k in raw)


def test_shorter_haystacks_are_beginnings_of_longer_ones(film, tmp_path):
    more = tmp_path / "more.mp4"
    write_mp4(more, (255 - frame for frame in synthetic.scenes(12)), fps=2)  # Six seconds.
    longest = haystack.open_files([film, more], count=46, size=16).collect()
    np.testing.assert_allclose(longest.times, np.arange(46))
    second = haystack.open_files([more], count=6, size=16).collect()
    np.testing.assert_array_equal(longest.frames[40:], second.frames)
    for count in (1, 5, 40, 43):
        shorter = haystack.open_files([film, more], count=count, size=16).collect()
        np.testing.assert_array_equal(shorter.frames, longest.frames[:count])
        np.testing.assert_array_equal(shorter.times, longest.times[:count])
    with pytest.raises(InputError, match=r"has 46 frames at 1 per second, fewer than 47"):
        haystack.open_files([film, more], count=47, size=16)


def test_files_of_a_folder(film, tmp_path):
    for name in ("b.mp4", "a.MP4"):
        shutil.copy(film, tmp_path / name)
    (tmp_path / "notes.txt").write_text("none")
    found = haystack.find_files([film, tmp_path])
    assert [path.name for path in found] == ["film.mp4", "a.MP4", "b.mp4"]


def test_haystacks_that_cannot_be_used(tmp_path):
    with pytest.raises(InputError, match=r"nowhere does not exist"):
        haystack.find_files([tmp_path / "nowhere"])
    with pytest.raises(InputError, match=r"has no videos"):
        haystack.find_files([tmp_path])
    (tmp_path / "broken.mp4").write_bytes(b"no video" * 100)
    with pytest.raises(InputError, match=r"broken\.mp4 cannot be read"):
        haystack.open_files([tmp_path / "broken.mp4"], count=1, size=14)

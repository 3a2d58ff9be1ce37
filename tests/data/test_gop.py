"""Decoding from key frames, without frames that no sampled frame needs, changes no bit."""

import time

import numpy as np
import pytest
from encoded import GROUPS, all_decoded, encoded, streamed

from vxlpro_jax.data.video import decode
from vxlpro_jax.data.video.media_file import MediaFile
from vxlpro_jax.data.video.packets import read_packets
from vxlpro_jax.data.video.reader import read_video
from vxlpro_jax.data.video.sampling import Sampling

SKIPPED = ("libx264", "libx265", "libvpx-vp9")


@pytest.mark.slow
@pytest.mark.parametrize("rate", ["steady", "varying"])
@pytest.mark.parametrize("groups", GROUPS)
def test_skipping_gives_the_bits_of_decoding_all(groups, rate, tmp_path):
    codec, option, value, suffix = GROUPS[groups]
    steps = np.full(150, 40) if rate == "steady" else np.random.default_rng(2).integers(9, 90, 150)
    path = encoded(
        tmp_path / f"a.{suffix}", codec=codec, options={option: value}, times=np.cumsum(steps)
    )
    frames, times = all_decoded(path)
    assert len(frames) == 150
    for max_frames in (1, 2, 5, 11, 40, 150):
        picks = np.linspace(0, 149, max_frames, dtype=int)
        video = read_video(path, max_frames=max_frames, size=32)
        np.testing.assert_array_equal(video.frames, frames[picks])
        np.testing.assert_allclose(video.times, times[picks], atol=1e-9)
        in_turn = streamed(path, max_frames=max_frames, size=32)
        np.testing.assert_array_equal(in_turn.frames, video.frames)
        np.testing.assert_array_equal(in_turn.times, video.times)
    video = read_video(path, max_frames=150, size=32, fps=2)
    np.testing.assert_array_equal(video.frames, frames[np.searchsorted(times, video.times - 1e-6)])


@pytest.mark.slow
@pytest.mark.parametrize("groups", [g for g, (codec, *_) in GROUPS.items() if codec in SKIPPED])
def test_what_is_skipped_is_not_needed(groups, tmp_path):
    """The frames are right without the fallback of decoding the whole file."""
    codec, option, value, suffix = GROUPS[groups]
    path = encoded(
        tmp_path / f"a.{suffix}", codec=codec, options={option: value}, times=range(0, 6000, 40)
    )
    media, sampling = MediaFile("Video", path), Sampling(max_frames=150, fps=None, size=32)
    packets = read_packets(media)
    if groups == "interlaced":
        assert not packets.one_frame_each
        return
    assert packets.one_frame_each
    frames, _ = all_decoded(path)
    alone = ([0, index] for index in range(30, 75))
    for picks in (*alone, [0, 44, 45, 46, 90, 149], list(range(0, 150, 7)), list(range(150))):
        for threads in (1, 4):
            source = decode._Source(media, packets=packets, sampling=sampling, threads=threads)
            taken = [frame.pixels for frame in decode._from_spans(source, np.array(picks))]
            # Some key frames of "refresh" are not real ones; nothing else may be refused.
            assert len(taken) == len(picks) or "refresh" in groups
            np.testing.assert_array_equal(np.stack(taken), frames[picks[: len(taken)]])


@pytest.mark.slow
def test_sparse_frames_cost_less_than_all(tmp_path):
    path = encoded(
        tmp_path / "a.mp4",
        codec="libx264",
        options={"x264-params": "keyint=25:bframes=3:scenecut=0"},
        times=range(0, 750 * 40, 40),
        height=192,
        width=256,
    )

    def seconds(max_frames):
        def once():
            started = time.process_time()
            read_video(path, max_frames=max_frames, size=8)
            return time.process_time() - started

        return min(once() for _ in range(3))

    assert seconds(4) < seconds(750) / 3

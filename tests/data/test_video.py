"""Frames of real files: which, when, upright, and what happens to broken ones."""

import wave
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from vxlpro_jax.config import InputError
from vxlpro_jax.data.video import Video, group_frames, read_video

STEADY = range(0, 60 * 40, 40)  # 60 frames, 25 a second.


@pytest.mark.parametrize("max_frames", [1, 2, 4, 7, 8, 16, 59, 60, 61, 500])
def test_uniform_frames_and_their_times(max_frames, write_video, codes):
    video = read_video(write_video(STEADY), max_frames=max_frames, size=64)
    expected = np.linspace(0, 59, min(max_frames, 60), dtype=int)
    assert codes(video.frames) == expected.tolist()
    np.testing.assert_array_equal(video.times, expected / 25)
    assert video.frames.dtype == np.uint8
    assert video.frames.shape == (len(expected), 64, 64, 3)


@pytest.mark.parametrize(
    ("name", "codec"),
    [("a.mkv", "libx264"), ("a.avi", "mpeg4"), ("a.ts", "libx264"), ("a.webm", "libvpx")],
)
def test_other_containers(name, codec, write_video, codes):
    video = read_video(write_video(STEADY, name=name, codec=codec), max_frames=9, size=64)
    expected = np.linspace(0, 59, 9, dtype=int)
    assert codes(video.frames) == expected.tolist()
    np.testing.assert_allclose(video.times, expected / 25, atol=1e-3)


def test_a_bare_stream_counts_frames_and_uses_its_rate(write_video, codes):
    path = write_video(STEADY, name="a.h264")
    with av.open(str(path)) as container:
        assert container.streams.video[0].frames == 0  # No header to trust.
    video = read_video(path, max_frames=4, size=64)
    assert codes(video.frames) == [0, 19, 39, 59]
    np.testing.assert_allclose(video.times, np.array([0, 19, 39, 59]) / 25)


def test_variable_rate_gives_presentation_times(write_video, codes):
    times = np.cumsum(np.random.default_rng(0).integers(5, 700, 40))
    video = read_video(write_video(times), max_frames=13, size=64)
    picks = np.linspace(0, 39, 13, dtype=int)
    assert codes(video.frames) == picks.tolist()
    np.testing.assert_allclose(video.times, (times[picks] - times[0]) / 1000, atol=1e-9)


@pytest.mark.parametrize("rotation", [90, 180, -90])
def test_rotation_metadata_turns_frames_upright(rotation, write_video, codes):
    frames = range(0, 100 * 40, 40)
    turned = read_video(write_video(frames, rotation=rotation), max_frames=100, size=64).frames
    # The file asks for a turn against the clock, so turning back shows what was drawn.
    assert codes(np.rot90(turned, k=-rotation // 90, axes=(1, 2))) == list(range(100))
    assert codes(turned) != list(range(100))


def test_frames_are_resized_as_pillow_does_it(write_video):
    path = write_video([0, 40], height=48, width=160)
    with av.open(str(path)) as container:
        picture = next(container.decode(video=0)).to_image()
    expected = np.asarray(picture.resize((96, 96), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(read_video(path, max_frames=1, size=96).frames[0], expected)


def test_the_same_file_gives_the_same_bits(write_video):
    path = write_video(STEADY)
    first, second = (read_video(path, max_frames=8, size=56) for _ in range(2))
    np.testing.assert_array_equal(first.frames, second.frames)


@pytest.mark.parametrize("count", range(1, 10))
def test_groups_repeat_only_the_last_frame(count):
    frames = np.arange(count, dtype=np.uint8)[:, None, None, None] * np.ones((1, 8, 8, 3), np.uint8)
    groups = group_frames(Video(frames, np.arange(count) / 2))
    padded = -(-count // 4)
    assert groups.frames.shape == (padded, 4, 8, 8, 3)
    shown = groups.frames[..., 0, 0, 0].ravel().tolist()
    assert shown == [*range(count), *[count - 1] * (padded * 4 - count)]
    np.testing.assert_array_equal(groups.times, np.arange(0, count, 4) / 2)


def sound_file(path):
    with wave.open(str(path), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(bytes(16_000))
    return path


def test_sound_without_pictures_is_named(tmp_path):
    with pytest.raises(InputError, match=r"sound.wav has no video stream"):
        read_video(sound_file(tmp_path / "sound.wav"), max_frames=4, size=32)


def test_a_cover_picture_is_no_video(tmp_path):
    path = tmp_path / "song.mp4"
    with av.open(str(path), "w") as container:
        cover = container.add_stream("mjpeg", rate=1)
        cover.width = cover.height = 32
        cover.pix_fmt = "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        sound = container.add_stream("aac", rate=8000, layout="mono")
        frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
        container.mux(cover.encode(frame.reformat(format="yuvj420p")))
        container.mux(cover.encode())
        silence = av.AudioFrame.from_ndarray(
            np.zeros((1, 8000), np.float32), format="fltp", layout="mono"
        )
        silence.rate, silence.pts, silence.time_base = 8000, 0, Fraction(1, 8000)
        container.mux(sound.encode(silence))
        container.mux(sound.encode())
    with pytest.raises(InputError, match=r"song.mp4 has no video stream"):
        read_video(path, max_frames=4, size=32)


@pytest.mark.parametrize("content", [b"", b"not a video\n" * 100, bytes(5000)])
def test_files_that_are_no_video(content, tmp_path):
    path = tmp_path / "fake.mp4"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"fake.mp4 (cannot be read|has no)"):
        read_video(path, max_frames=4, size=32)


def test_a_file_without_frames(tmp_path):
    path = tmp_path / "empty.avi"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        container.start_encoding()
    with pytest.raises(InputError, match=r"empty.avi (has no frames|cannot be read)"):
        read_video(path, max_frames=4, size=32)


def test_missing_files_and_folders(tmp_path):
    for path in (tmp_path / "none.mp4", tmp_path, tmp_path / ("x" * 3000)):
        with pytest.raises(InputError, match="does not exist"):
            read_video(path, max_frames=4, size=32)


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("plain.mp4", "libx264", None),
        ("front.mp4", "libx264", {"movflags": "faststart"}),
        ("pieces.mp4", "libx264", {"movflags": "frag_keyframe+empty_moov"}),
        ("a.mkv", "libx264", None),
        ("a.webm", "libvpx", None),
    ],
)
@pytest.mark.parametrize("part", [0.5, 0.8])
def test_truncated_files(name, codec, options, part, write_video, tmp_path):
    whole = write_video(STEADY, name=name, codec=codec, options=options).read_bytes()
    cut = tmp_path / f"cut-{name}"
    cut.write_bytes(whole[: int(len(whole) * part)])
    with pytest.raises(InputError, match=f"{cut.name} (is|cannot be read.*) cut off"):
        read_video(cut, max_frames=60, size=32)


def test_damage_in_the_middle(write_video):
    path = write_video(STEADY, options={"movflags": "faststart"}, height=128, width=256)
    data = bytearray(path.read_bytes())
    middle = slice(len(data) // 2, len(data) // 2 + 600)
    data[middle] = np.random.default_rng(0).bytes(600)
    path.write_bytes(data)
    with pytest.raises(InputError, match="damaged"):
        read_video(path, max_frames=60, size=32)


def test_a_request_for_no_frames(write_video):
    with pytest.raises(InputError, match="at least one frame"):
        read_video(write_video([0, 40]), max_frames=0, size=32)

"""Streams give the same frames as `read_video`, in little memory, and close the file."""

import io
import os

import av
import helpers
import numpy as np
import pytest
from encoded import GROUPS, encoded, streamed
from PIL import Image

from vxlpro_jax.data.errors import BadFile
from vxlpro_jax.data.video.reader import (
    Video,
    group_video,
    read_video,
    stream_groups,
    stream_video,
)
from vxlpro_jax.data.video.sampling import FrameStream, TimedFrame
from vxlpro_jax.utils.errors import InputError

STEADY = range(0, 60 * 40, 40)
UNEVEN = np.cumsum(np.random.default_rng(3).integers(5, 700, 60))
ASKS = [{"max_frames": count} for count in (1, 7, 500)] + [{"max_frames": 60, "fps": 2}]


def pictures(count=12):
    noise = np.random.default_rng(0).integers(0, 256, (count, 30, 40, 3), np.uint8)
    return [Image.fromarray(pixels) for pixels in noise]


def animation(path, **options):
    first, *others = pictures()
    first.save(path, save_all=True, append_images=others, duration=[100, 300, 700] * 4, **options)
    return path


def folder(path, count=12):
    path.mkdir()
    for index, picture in enumerate(pictures(count)):
        picture.save(path / f"{index}.png")
    return path


def array(path):
    np.save(path, np.stack([np.asarray(picture) for picture in pictures()]))
    return path


def started_late(path):
    """A file that begins inside a group of pictures: its first packets give no frames."""
    codec, option, value, _ = GROUPS["open ts"]
    encoded(path, codec=codec, options={option: value}, times=STEADY)
    with av.open(str(path)) as container:
        packets = [p for p in container.demux(video=0) if p.size]
    path.write_bytes(path.read_bytes()[packets[8].pos // 188 * 188 :])
    return path


def with_silent_packet(path, whole):
    """The file `whole`, but packet 40 is a valid packet that gives no frame."""
    with av.open(str(whole)) as source, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for index, packet in enumerate(p for p in source.demux(video=0) if p.size):
            kept = av.Packet(b"\0\0\0\x03\x46\x01\x50") if index == 40 else packet  # A delimiter.
            kept.pts, kept.dts, kept.duration = packet.pts, packet.dts, packet.duration
            kept.time_base, kept.stream = packet.time_base, stream
            target.mux(kept)
    return path


def made(kind, tmp_path, write_video):
    path = tmp_path / kind
    match kind:
        case "a.gif" | "a.png":
            return animation(path)
        case "a.webp":
            return animation(path, lossless=True)
        case "a.npy":
            return array(path)
        case "folder":
            return folder(path)
        case "late.ts":
            return started_late(path)
        case "turned.mp4":
            return write_video(UNEVEN, name=kind, rotation=90)
        case "b.avi":
            return encoded(path, codec="mpeg4", options={"bf": "2"}, times=STEADY)
    return write_video(STEADY if kind == "a.h264" else UNEVEN, name=kind)


KINDS = ["a.gif", "a.png", "a.webp", "a.npy", "folder", "late.ts", "turned.mp4", "b.avi", "a.h264"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_stream_gives_what_read_video_gives(kind, tmp_path, write_video):
    path = made(kind, tmp_path, write_video)
    for ask in ASKS:
        expected = read_video(path, size=24, **ask)
        given = [path] if kind == "folder" else [path, io.BytesIO(path.read_bytes())]
        for file in given:
            with stream_video(file, size=24, **ask) as stream:
                assert stream.times.dtype == np.float64
                np.testing.assert_array_equal(stream.times, expected.times)
                frames = list(stream)
            assert all(f.dtype == np.uint8 and f.shape == (24, 24, 3) for f in frames)
            np.testing.assert_array_equal(np.stack(frames), expected.frames)


def test_a_packet_without_a_frame_repeats_the_frame_before(tmp_path):
    codec, option, value, _ = GROUPS["hevc closed"]
    whole = encoded(tmp_path / "a.mp4", codec=codec, options={option: value}, times=STEADY)
    path = with_silent_packet(tmp_path / "b.mp4", whole)
    stream = streamed(path, max_frames=60, size=24)
    np.testing.assert_array_equal(stream.times, read_video(whole, max_frames=60, size=24).times)
    (same,) = np.flatnonzero((stream.frames[1:] == stream.frames[:-1]).all((1, 2, 3)))
    others = read_video(path, max_frames=60, size=24)
    np.testing.assert_array_equal(np.delete(stream.frames, same + 1, 0), others.frames)
    np.testing.assert_array_equal(np.delete(stream.times, same + 1), others.times)


LONG = 10_000


@pytest.fixture(scope="module")
def long_clip(tmp_path_factory):
    """10,000 frames of 32 x 32: one group of frames, repeated."""
    folder = tmp_path_factory.mktemp("long")
    options = {"x264-params": "keyint=100:scenecut=0:bframes=2"}
    part = encoded(
        *(folder / "part.mp4",),
        **{"codec": "libx264", "options": options, "times": range(0, 4000, 40)},
        **{"height": 32, "width": 32},
    )
    with av.open(str(part)) as source, av.open(str(folder / "long.mp4"), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for start in range(0, LONG * 40, 4000):
            source.seek(0)
            for packet in source.demux(video=0):
                if packet.size:
                    shift = int(start / 1000 / packet.time_base)
                    packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                    packet.stream = stream
                    target.mux(packet)
    return folder / "long.mp4"


@pytest.mark.slow
def test_memory_does_not_grow_with_frames(long_clip):
    program = f"""
import resource
from vxlpro_jax.data.video.reader import stream_groups, stream_video
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
with stream_video({str(long_clip)!r}, max_frames={LONG}, size=64, threads=1) as stream:
    groups = stream_groups(stream, groups=16)
    count, start = len(next(groups).times), peak()
    for part in groups:
        count += len(part.times)
    print(len(stream.times), count, peak() - start)
"""
    output, _ = helpers.python("-c", program).communicate(timeout=120)
    frames, groups, grown = map(int, output.split())
    assert (frames, groups) == (LONG, LONG // 4)
    assert grown < 24  # The limit is in MiB; all frames take 117.


def open_files(path):
    names = (f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd"))
    return [name for name in names if os.path.realpath(name) == str(path)]


def threads_here():
    return len(os.listdir("/proc/self/task"))


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs /proc")
@pytest.mark.parametrize("kind", ["a.mp4", "b.avi", "a.webp", "a.npy"])
def test_closing_early_lets_go_of_file_and_decoder(kind, tmp_path, write_video):
    path = made(kind, tmp_path, write_video).resolve()
    running = threads_here()
    with stream_video(path, max_frames=60, size=24, threads=4) as stream:
        assert not open_files(path)  # This holds until the first frame is requested.
        next(stream)
        assert open_files(path)
        if path.suffix in (".mp4", ".avi"):
            assert threads_here() > running
    assert not open_files(path)
    assert threads_here() <= running  # Threads of earlier tests may end meanwhile.
    assert next(stream, None) is None
    never = stream_video(path, max_frames=60, size=24)
    never.close()
    assert next(never, None) is None


def test_a_file_object_stays_open(write_video):
    with write_video(STEADY).open("rb") as file:
        with stream_video(file, max_frames=60, size=24) as stream:
            next(stream)
        assert not file.closed
        assert len(streamed(file, max_frames=60, size=24).frames) == 60


def test_an_error_midway_comes_after_the_good_frames(tmp_path, write_video):
    options = {"movflags": "faststart"}
    path = write_video(STEADY, options=options, height=128, width=256)
    whole, data = read_video(path, max_frames=60, size=24), bytearray(path.read_bytes())
    middle = slice(len(data) * 3 // 4, len(data) * 3 // 4 + 600)
    data[middle] = np.random.default_rng(0).bytes(600)
    path.write_bytes(data)
    frames = []
    with pytest.raises(BadFile, match="damaged") as error:
        frames.extend(stream_video(path, max_frames=60, size=24))
    assert error.value.kind == "damaged"
    assert 10 < len(frames) < 60
    np.testing.assert_array_equal(np.stack(frames), whole.frames[: len(frames)])
    assert not open_files(path)


def test_broken_picture_of_a_folder_raises_with_its_frame(tmp_path):
    path = folder(tmp_path / "frames", count=8)
    (path / "5.png").write_bytes(b"broken")
    with stream_video(path, max_frames=8, size=24) as stream:
        assert [next(stream).shape for _ in range(5)] == [(24, 24, 3)] * 5
        with pytest.raises(BadFile, match=r"5\.png cannot be read"):
            next(stream)


def test_bad_sampling_raises_before_reading(write_video):
    path = write_video([0, 40])
    for ask in ({"max_frames": 0}, {"max_frames": 4, "fps": -1}):
        with pytest.raises(InputError, match=r"max_frames is|fps is"):
            stream_video(path, size=24, **ask)


@pytest.mark.parametrize("count", range(1, 10))
@pytest.mark.parametrize("groups", [1, 2, 50])
def test_groups_in_turn_are_the_groups_of_the_whole(count, groups):
    frames = np.random.default_rng(count).integers(0, 256, (count, 8, 8, 3), np.uint8)
    video, drawn = Video(frames, np.arange(count) / 2), []

    def source():
        for frame in map(TimedFrame, video.frames, video.times):
            drawn.append(frame)
            yield frame

    parts = []
    for part in stream_groups(FrameStream(video.times, source()), groups=groups):
        parts.append(part)
        assert len(part.frames) == len(part.times) <= groups
        assert len(drawn) == min(count, 4 * groups * len(parts))
    whole = group_video(video)
    np.testing.assert_array_equal(np.concatenate([part.frames for part in parts]), whole.frames)
    np.testing.assert_array_equal(np.concatenate([part.times for part in parts]), whole.times)

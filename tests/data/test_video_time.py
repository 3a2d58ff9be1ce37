"""Times equal those of players: joined recordings, late starts, raw streams, wrong headers."""

import logging
import re
import struct
from fractions import Fraction

import av
import numpy as np
import pytest
from encoded import CODE_BITS, coded_frame, streamed

from vxlpro_jax.data.errors import BadFile
from vxlpro_jax.data.video.reader import read_video
from vxlpro_jax.data.video.sampling import continued

READERS = pytest.mark.parametrize("read", [read_video, streamed])
COUNT = 40
H264 = {"x264-params": "keyint=10:bframes=3:scenecut=0"}


def recording(
    path, *, first=0, count=COUNT, rate=10, start=0.0, codec="libx264", options=None, muxer=None
):
    """Returns frames from index `first` on, the first of which is shown at `start` seconds."""
    muxer = (muxer or {}) | {"avoid_negative_ts": "disabled"}
    with av.open(str(path), "w", options=muxer) as container:
        stream = container.add_stream(codec, rate=Fraction(rate), options=options or {})
        stream.width, stream.height, stream.pix_fmt = 16 * CODE_BITS, 64, "yuv420p"
        stream.codec_context.time_base = 1 / Fraction(rate)
        for index in range(count):
            picture = coded_frame(first + index, height=64, width=16 * CODE_BITS)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = index + round(start * rate), 1 / Fraction(rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@READERS
@pytest.mark.parametrize("second", [0, 8, 99.7, 40, 1000])
@pytest.mark.parametrize(
    ("suffix", "codec", "options"),
    [("ts", "libx264", H264), ("ts", "mpeg2video", {"bf": "2"}), ("mpg", "mpeg2video", {})],
)
def test_joined_recordings_go_on(second, suffix, codec, options, read, tmp_path, codes):
    parts = [
        recording(
            tmp_path / f"{place}.{suffix}",
            first=place * COUNT,
            start=start,
            codec=codec,
            options=options,
        )
        for place, start in enumerate((100, second))
    ]
    path = tmp_path / f"joined.{suffix}"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    video = read(path, max_frames=200, size=64)
    shown = codes(video.frames)
    if second > 100:  # A gap is different: the file declares that nothing is shown meanwhile.
        assert shown[-1] == 2 * COUNT - 1
        return
    assert shown[0] == 0
    assert set(range(COUNT, 2 * COUNT)) - set(shown) <= {COUNT, COUNT + 1}  # Before a key frame.
    assert shown == sorted(shown)
    np.testing.assert_allclose(video.times, np.array(shown) / 10, atol=0.35)
    np.testing.assert_allclose(np.diff(video.times)[:30], 0.1, atol=1e-3)
    sampled = read(path, max_frames=200, size=64, fps=1)
    assert len(sampled.frames) == 8


def test_three_recordings_in_a_row(tmp_path, codes):
    part = recording(tmp_path / "a.ts", options=H264).read_bytes()
    path = tmp_path / "joined.ts"
    path.write_bytes(part * 3)
    video = read_video(path, max_frames=200, size=64)
    assert codes(video.frames) == list(range(COUNT)) * 3
    np.testing.assert_allclose(video.times, np.arange(3 * COUNT) / 10, atol=1e-3)


@READERS
@pytest.mark.parametrize("codec", ["libx264", "mpeg2video"])
def test_the_clock_of_a_transport_stream_wraps(codec, read, tmp_path, codes):
    """The clock has 33 bits at 90 kHz and wraps around within the recording."""
    start = round(2**33 / 90_000 - 2, 1)
    path = recording(tmp_path / "a.ts", start=start, codec=codec, muxer={"mpegts_copyts": "1"})
    video = read(path, max_frames=200, size=64)
    assert codes(video.frames) == list(range(COUNT))
    np.testing.assert_allclose(video.times, np.arange(COUNT) / 10, atol=0.15)


@READERS
@pytest.mark.parametrize("suffix", ["mkv", "mp4", "mov", "ts", "flv", "avi"])
@pytest.mark.parametrize("start", [0.5, 20, 5000])
def test_a_late_start(suffix, start, read, tmp_path, codes):
    path = recording(tmp_path / f"a.{suffix}", start=start)
    video = read(path, max_frames=200, size=64)
    assert codes(video.frames) == list(range(COUNT))
    np.testing.assert_allclose(video.times, np.arange(COUNT) / 10, atol=0.01)


@pytest.mark.parametrize("start", [0, 20, 5000])
@pytest.mark.parametrize("part", [0.6, 0.8])
def test_a_late_start_that_is_cut_off(start, part, tmp_path):
    whole = recording(tmp_path / "a.mkv", start=start).read_bytes()
    path = tmp_path / "cut.mkv"
    path.write_bytes(whole[: int(len(whole) * part)])
    with pytest.raises(BadFile, match="cut off"):
        read_video(path, max_frames=200, size=64)


@READERS
@pytest.mark.parametrize("rate", [5, 10, Fraction(24_000, 1001), 25, 60])
@pytest.mark.parametrize(
    ("suffix", "codec", "options"),
    [
        ("h264", "libx264", H264),
        ("h264", "libx264", {"bf": "0"}),
        ("hevc", "libx265", {"x265-params": "log-level=none"}),
        ("m2v", "mpeg2video", {}),
        ("m4v", "mpeg4", {}),
    ],
)
def test_the_rate_of_a_bare_stream(rate, suffix, codec, options, read, tmp_path, codes):
    if codec == "mpeg2video" and rate in (5, 10):
        pytest.skip("MPEG-2 has no such rate.")
    path = recording(tmp_path / f"a.{suffix}", rate=rate, codec=codec, options=options, count=24)
    video = read(path, max_frames=200, size=64)
    assert codes(video.frames) == list(range(24))
    np.testing.assert_allclose(video.times, np.arange(24) / float(rate), atol=1e-3)


def declare(data, suffix, *, times=1000):
    """Multiplies the duration in a file's header."""
    data = bytearray(data)
    if suffix == "avi":
        for place in (data.index(b"avih") + 24, data.index(b"strh") + 40):
            (frames,) = struct.unpack_from("<I", data, place)
            struct.pack_into("<I", data, place, frames * times)
    elif suffix in ("mkv", "webm"):
        place = data.index(b"\x44\x89\x88") + 3
        struct.pack_into(">d", data, place, times * struct.unpack_from(">d", data, place)[0])
    elif suffix == "flv":
        place = data.index(b"duration") + 9
        struct.pack_into(">d", data, place, times * struct.unpack_from(">d", data, place)[0])
    elif suffix == "wmv":
        guid = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
        for place in (data.index(guid) + 64, data.index(guid) + 72):
            struct.pack_into("<Q", data, place, times * struct.unpack_from("<Q", data, place)[0])
    else:
        for box, offset in ((b"mvhd", 20), (b"tkhd", 24), (b"mdhd", 20)):
            place = data.index(box) + offset
            (ticks,) = struct.unpack_from(">I", data, place)
            struct.pack_into(">I", data, place, ticks * times)
    return data


FORMS = [
    ("avi", "mpeg4"),
    ("mkv", "libx264"),
    ("webm", "libvpx"),
    ("mp4", "libx264"),
    ("mov", "libx264"),
    ("flv", "flv"),
    ("wmv", "wmv2"),
]


@READERS
@pytest.mark.parametrize(("suffix", "codec"), FORMS)
def test_a_header_that_declares_too_much(suffix, codec, read, tmp_path, codes, caplog):
    path = recording(tmp_path / f"a.{suffix}", codec=codec)
    path.write_bytes(declare(path.read_bytes(), suffix))
    with caplog.at_level(logging.WARNING):
        video = read(path, max_frames=200, size=64)
    assert codes(video.frames) == list(range(COUNT))
    np.testing.assert_allclose(video.times, np.arange(COUNT) / 10, atol=0.01)
    notes = [record.getMessage() for record in caplog.records]
    if codec != "libx264" or suffix == "mkv":  # FFmpeg itself corrects the duration of mp4 files.
        assert len(notes) == 1
        assert re.search(rf"{re.escape(str(path))} declares .* holds (3\.9|4\.0) s;", notes[0])


@pytest.mark.parametrize(("suffix", "codec"), FORMS)
@pytest.mark.parametrize("part", [0.4, 0.7])
@pytest.mark.parametrize("times", [1, 1000])
def test_a_file_that_is_cut_off_whatever_it_declares(suffix, codec, part, times, tmp_path):
    muxer = {"movflags": "faststart"} if suffix in ("mp4", "mov") else {}
    path = recording(tmp_path / f"a.{suffix}", codec=codec, muxer=muxer)
    whole = declare(path.read_bytes(), suffix, times=times)
    path.write_bytes(whole[: int(len(whole) * part)])
    with pytest.raises(BadFile, match=r"cut off|has no frames"):
        read_video(path, max_frames=200, size=64)


@READERS
@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
@pytest.mark.parametrize("frames_between", [0, 1, 3])
def test_frames_that_avi_stores_out_of_order(codec, frames_between, read, tmp_path, codes):
    """AVI stores the decoding time of a frame, not its display time."""
    path = recording(tmp_path / "a.avi", codec=codec, options={"bf": str(frames_between)})
    video = read(path, max_frames=200, size=64)
    assert codes(video.frames) == list(range(COUNT))
    np.testing.assert_allclose(video.times, np.arange(COUNT) / 10, atol=1e-6)
    assert codes(read(path, max_frames=7, size=64).frames) == [0, 6, 13, 19, 26, 32, 39]


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ([0, 1, 2, 3], [0, 1, 2, 3]),
        ([0, 1, 2, 0, 1, 2], [0, 1, 2, 3, 4, 5]),
        ([0, 1, 2, 0, 1, 0, 1], [0, 1, 2, 3, 4, 5, 6]),
        ([5, 6, 1, 2, 9], [5, 6, 7, 8, 15]),
        ([0, 1, 0.5, 2, 3], [0, 1, 1, 2, 3]),  # One frame's time is wrong.
        ([0, 1, 0.95, 0.96, 2], [0, 1, 1, 1, 2]),
        ([0, 1, 2, 0], [0, 1, 2, 3]),
        ([3], [3]),
    ],
)
def test_time_goes_on_where_it_jumps_back(times, expected):
    np.testing.assert_allclose(continued(np.array(times, float), step=1.0), expected)

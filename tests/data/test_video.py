"""Tests frames of real files: selection, times, orientation, and broken files."""

import io
import os
import pickle
import socket
import wave
from fractions import Fraction

import av
import helpers
import numpy as np
import pytest
from encoded import streamed
from PIL import Image

from vxlpro_jax.data.errors import BadFile
from vxlpro_jax.data.video.containers import MOST_PIXELS
from vxlpro_jax.data.video.reader import Video, group_video, read_video
from vxlpro_jax.utils.errors import InputError

STEADY = range(0, 60 * 40, 40)  # 60 frames, 25 per second.


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
        assert container.streams.video[0].frames == 0  # It declares no number of frames.
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
    # The file requests a counterclockwise rotation, so rotating back restores the drawn frame.
    assert codes(np.rot90(turned, k=-rotation // 90, axes=(1, 2))) == list(range(100))
    assert codes(turned) != list(range(100))


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv"])
def test_a_title_that_is_not_utf8_does_no_harm(name, write_video, codes):
    path = write_video([0, 40, 80], name=name, title="a title")
    content = path.read_bytes()
    assert b"a title" in content
    path.write_bytes(content.replace(b"a title", b"\xff\xfe\xa0\xe9\xe8\xc0\x80"))
    assert codes(read_video(path, max_frames=60, size=32).frames) == [0, 1, 2]


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


@pytest.mark.parametrize("fps", [0.5, 1, 2, 3, 12.5, 25, 100])
def test_frames_at_a_rate(fps, write_video, codes):
    video = read_video(write_video(STEADY), max_frames=100, size=64, fps=fps)
    multiples = np.arange(0, 59 / 25 + 1e-9, 1 / fps)
    expected = np.unique(np.floor(multiples * 25 + 1e-6).astype(int))
    assert codes(video.frames) == expected.tolist()
    np.testing.assert_array_equal(video.times, expected / 25)


def test_a_rate_picks_by_time_where_it_varies(write_video, codes):
    times = np.cumsum(np.random.default_rng(1).integers(5, 1500, 60))
    video = read_video(write_video(times), max_frames=100, size=64, fps=1)
    since = (times - times[0]) / 1000
    shown = [np.flatnonzero(since <= second)[-1] for second in range(int(since[-1]) + 1)]
    assert codes(video.frames) == sorted(set(shown))
    np.testing.assert_allclose(video.times, since[sorted(set(shown))], atol=1e-9)


def test_a_slide_is_taken_once_however_long_it_stays(write_video, codes):
    video = read_video(write_video([0, 5000, 5100, 9400, 9500]), max_frames=100, size=64, fps=1)
    assert codes(video.frames) == [0, 1, 2]
    assert video.times.tolist() == [0, 5, 5.1]


def test_a_rate_that_needs_too_many_frames_gives_uniform_ones(write_video, codes):
    path = write_video(STEADY)
    assert codes(read_video(path, max_frames=5, size=64, fps=2).frames) == [0, 12, 25, 37, 50]
    capped = read_video(path, max_frames=4, size=64, fps=2)
    assert codes(capped.frames) == [0, 19, 39, 59]


@pytest.mark.parametrize("fps", [0, -1, float("nan"), float("inf")])
def test_a_rate_that_cannot_be(fps, write_video):
    with pytest.raises(InputError, match="fps is"):
        read_video(write_video([0, 40]), max_frames=4, size=32, fps=fps)


def test_a_file_object_is_read_as_its_path_is(write_video, tmp_path):
    for name, codec in (("a.mp4", "libx264"), ("a.mkv", "libx264"), ("a.avi", "mpeg4")):
        path = write_video(STEADY, name=name, codec=codec)
        expected = read_video(path, max_frames=7, size=32)
        with path.open("rb") as file:
            for given in (file, io.BytesIO(path.read_bytes())):
                for _ in range(2):
                    video = read_video(given, max_frames=7, size=32)
                    np.testing.assert_array_equal(video.frames, expected.frames)
                    np.testing.assert_array_equal(video.times, expected.times)
    with pytest.raises(BadFile, match="Video given as bytes cannot be read"):
        read_video(io.BytesIO(b"no video"), max_frames=7, size=32)


DELAYS = [100, 200, 300, 100, 1000, 500, 100, 700]
STARTS = np.cumsum([0, *DELAYS[:-1]]) / 1000


def slides():
    return [Image.new("RGB", (40, 30), (30 * i, 255 - 30 * i, 0)) for i in range(len(DELAYS))]


def colours(frames):
    """Returns the index that each slide's colour encodes."""
    return np.rint(frames[:, 4, 4, 0] / 30).astype(int).tolist()


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png", "wrong.mp4"])
def test_animated_pictures(name, tmp_path):
    path = tmp_path / name
    first, *others = slides()
    kind = {".mp4": "WEBP"}.get(path.suffix)
    lossless = {"lossless": True} if path.suffix in (".webp", ".mp4") else {}
    first.save(path, kind, save_all=True, append_images=others, duration=DELAYS, loop=0, **lossless)
    video = read_video(path, max_frames=20, size=8)
    assert colours(video.frames) == list(range(8))
    np.testing.assert_allclose(video.times, STARTS, atol=1e-9)
    at_two = read_video(path, max_frames=20, size=8, fps=2)
    shown = sorted({int(np.searchsorted(STARTS, t / 2 + 1e-9) - 1) for t in range(6)})
    assert colours(at_two.frames) == shown


def test_a_folder_of_frames(tmp_path):
    for index, picture in enumerate(slides()):
        picture.save(tmp_path / f"frame{index + 5}.png")
    (tmp_path / "notes.txt").write_text("not a frame")
    (tmp_path / ".hidden.png").write_bytes(b"nor this")
    video = read_video(tmp_path, max_frames=20, size=8)
    assert colours(video.frames) == list(range(8))  # 5 .. 12 are sorted by number.
    np.testing.assert_array_equal(video.times, np.arange(8))
    assert colours(read_video(tmp_path, max_frames=3, size=8).frames) == [0, 3, 7]
    slow = read_video(tmp_path, max_frames=20, size=8, fps=0.5)
    assert colours(slow.frames) == [0, 2, 4, 6]
    (tmp_path / "frame9.png").write_bytes(b"broken")
    with pytest.raises(BadFile, match=r"frame9\.png cannot be read") as error:
        read_video(tmp_path, max_frames=20, size=8)
    assert error.value.kind == "damaged"


def test_an_array_of_frames(tmp_path):
    frames = np.stack([np.asarray(picture) for picture in slides()])
    path = tmp_path / "a.npy"
    np.save(path, frames)
    for given in (path, io.BytesIO(path.read_bytes())):
        video = read_video(given, max_frames=3, size=8)
        assert colours(video.frames) == [0, 3, 7]
        assert video.times.tolist() == [0, 3, 7]
    assert colours(read_video(path, max_frames=20, size=8, fps=0.5).frames) == [0, 2, 4, 6]


def test_a_huge_array_is_not_loaded(tmp_path):
    path = tmp_path / "huge.npy"
    count, step = 400_000, 360 * 640 * 3
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": "|u1", "fortran_order": False, "shape": (count, 360, 640, 3)}
        )
        file.truncate(file.tell() + count * step)  # A sparse file of 276 GB.
    assert read_video(path, max_frames=3, size=8).times.tolist() == [0, 199_999, 399_999]
    with path.open("r+b") as file:
        file.truncate(count * step)
    with pytest.raises(BadFile, match="cut off") as error:
        read_video(path, max_frames=3, size=8)
    assert error.value.kind == "cut_off"


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 8, 8, 3), np.float32),
        np.zeros((4, 8, 8), np.uint8),
        np.zeros((4, 8, 8, 4), np.uint8),
        np.asfortranarray(np.zeros((4, 8, 8, 3), np.uint8)),
        np.array([{"not": "frames"}], object),
    ],
)
def test_other_arrays_are_refused(array, tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, array)
    with pytest.raises(BadFile, match=r"save frames as uint8 \[F,H,W,3\]") as error:
        read_video(path, max_frames=3, size=8)
    assert error.value.kind == "no_video"


HEADER = "{{'descr': {}, 'fortran_order': False, 'shape': {}}}"


@pytest.mark.parametrize(
    ("header", "size"),
    [
        (HEADER.format("'|u1'", "(3000000000, 1, 1, 3)"), 9_000_000_000),
        (HEADER.format("'|u1'", "(3000000000, 1, 1, 3)"), 0),
        (HEADER.format("'|u1'", f"({'9' * 4000}, 4, 4, 3)"), 0),
        (HEADER.format("'|u1'", f"(4, {'9' * 4000}, 4, 3)"), 0),
        (HEADER.format("'|u1'", f"(4, {'9' * 5000}, 4, 3)"), 0),
        (HEADER.format("'|u1'", f"({'9, ' * 2000})"), 0),
        (HEADER.format(f"[('{'a' * 5000}', 'u1')]", "(1, 4, 4, 3)"), 0),
        (HEADER.format("'|V99999999999999'", "(1, 4, 4, 3)"), 0),
        (HEADER.format("(" * 3000 + "'|u1'" + ")" * 3000, "(1, 4, 4, 3)"), 0),
        (HEADER.format("'|u1'", "(-1, -4, 4, 3)"), 0),
        (HEADER.format("'|u1'", "[1, 4, 4, 3]"), 0),
    ],
)
def test_the_header_of_an_array_is_not_taken_at_its_word(header, size, tmp_path):
    path = tmp_path / "a.npy"
    with path.open("wb") as file:
        file.write(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode())
        file.truncate(file.tell() + size)
    for read in (read_video, streamed):
        with pytest.raises(BadFile) as error:
            read(path, max_frames=4, size=8)
        assert len(str(error.value)) < 500
        assert "\n" not in str(error.value)


def wide(path, *, height, codec="mjpeg", pix_fmt="yuvj420p"):
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=1)
        stream.width, stream.height, stream.pix_fmt = 16_384, height, pix_fmt
        frame = av.VideoFrame(16_384, height, pix_fmt)
        for plane in frame.planes:
            plane.update(bytes(plane.buffer_size))
        frame.pts, frame.time_base = 0, Fraction(1, 1)
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.mark.slow
def test_16384_pixels_wide(tmp_path):
    thin = wide(tmp_path / "thin.mp4", height=64, codec="libx264", pix_fmt="yuv420p")
    assert read_video(thin, max_frames=4, size=32).frames.shape == (1, 32, 32, 3)
    for name in ("huge.mkv", "huge.avi"):
        huge = wide(tmp_path / name, height=4096)
        with pytest.raises(BadFile, match=r"16384 x 4096 pixels, more than 35 million") as error:
            read_video(huge, max_frames=4, size=32)
        assert error.value.kind == "too_large"


def test_arrays_and_pictures_that_are_too_large(tmp_path):
    side = int(MOST_PIXELS**0.5) + 1
    with (tmp_path / "a.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": "|u1", "fortran_order": False, "shape": (1, side, side, 3)}
        )
        file.truncate(file.tell() + side * side * 3)
    Image.new("RGB", (16_383, 2_200)).save(tmp_path / "a.webp", quality=0, method=0)
    for name in ("a.npy", "a.webp"):
        with pytest.raises(BadFile, match="pixels, more than 35 million, too many") as error:
            read_video(tmp_path / name, max_frames=1, size=8)
        assert error.value.kind == "too_large"


@pytest.mark.slow
def test_memory_for_a_4k_video(tmp_path):
    path = encoded_4k(tmp_path / "a.mp4")
    program = f"""
from pathlib import Path
from vxlpro_jax.data.video.reader import read_video
video = read_video({str(path)!r}, max_frames=24, size=384, threads=4)
peak = Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]
print(len(video.frames), int(peak) // 1024)
"""
    output, _ = helpers.python("-c", program).communicate(timeout=120)
    count, mebibytes = map(int, output.split())
    assert count == 24
    assert mebibytes < 512


def encoded_4k(path):
    options = {"x264-params": "keyint=24:bframes=3:ref=5", "preset": "ultrafast"}
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = 3840, 2160, "yuv420p"
        for index in range(24):
            picture = np.full((2160, 3840, 3), 10 * index, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize("count", range(1, 10))
def test_groups_repeat_only_the_last_frame(count):
    frames = np.arange(count, dtype=np.uint8)[:, None, None, None] * np.ones((1, 8, 8, 3), np.uint8)
    groups = group_video(Video(frames, np.arange(count) / 2))
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


@pytest.mark.parametrize("content", [b"not a video\n" * 100, bytes(5000)])
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
    for path in (tmp_path / "none.mp4", tmp_path / ("x" * 3000)):
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


def broken_files(folder, whole):
    """Files broken in ways that occur in data sets, with the kind of each fault."""
    noise = np.random.default_rng(0).bytes(20_000)
    contents = {
        "zero-bytes.mp4": (b"", "empty"),
        "zeros.mp4": (bytes(20_000), "damaged"),
        "noise.mp4": (noise, "damaged"),
        "text.mp4": (b"<html>404 Not Found</html>\n" * 50, "damaged"),
        "headless.mp4": (whole[len(whole) // 2 :], "damaged"),
        "head.mp4": (whole[:30], "damaged"),
        "cut.mp4": (whole[: len(whole) * 6 // 10], "cut_off"),
        "empty.npy": (b"\x93NUMPY", "damaged"),
        "half.webp": (b"RIFF\x00\x10\x00\x00WEBPVP8 " + noise[:100], "damaged"),
    }
    for name, (content, kind) in contents.items():
        (folder / name).write_bytes(content)
        yield folder / name, kind
    yield sound_file(folder / "sound.mp4"), "no_video"
    yield folder / "nowhere.mp4", "missing"
    os.mkfifo(folder / "fifo.mp4")
    yield folder / "fifo.mp4", "missing"
    (folder / "folder.mp4").mkdir()
    yield folder / "folder.mp4", "empty"


def test_every_way_to_be_broken_has_its_kind(write_video, tmp_path):
    whole = write_video(STEADY, options={"movflags": "faststart"}).read_bytes()
    for path, kind in broken_files(tmp_path, whole):
        for read in (read_video, streamed):
            with pytest.raises(BadFile) as error:
                read(path, max_frames=60, size=32)
            assert (path.name, error.value.kind) == (path.name, kind)
            assert str(path) in str(error.value)
            again = pickle.loads(pickle.dumps(error.value))
            assert (str(again), again.kind) == (str(error.value), kind)


@pytest.mark.parametrize("name", ["clip.txt", "clip.jpg", "clip"])
def test_a_wrong_extension_does_no_harm(name, write_video, tmp_path, codes):
    path = write_video(STEADY).rename(tmp_path / name)
    assert codes(read_video(path, max_frames=4, size=64).frames) == [0, 19, 39, 59]


def test_names_that_look_like_protocols(write_video, tmp_path, monkeypatch, codes):
    write_video([0, 40]).rename(tmp_path / "concat:a.mp4")
    monkeypatch.chdir(tmp_path)
    assert codes(read_video("concat:a.mp4", max_frames=4, size=64).frames) == [0, 1]


def test_a_playlist_reaches_no_network(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        path = tmp_path / "list.m3u8"
        path.write_text(
            "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n"
            f"http://127.0.0.1:{server.getsockname()[1]}/a.ts\n#EXT-X-ENDLIST\n"
        )
        with pytest.raises(BadFile):
            read_video(path, max_frames=4, size=32)
        with pytest.raises(TimeoutError):
            server.accept()


def test_a_request_for_no_frames(write_video):
    with pytest.raises(InputError, match="at least one frame"):
        read_video(write_video([0, 40]), max_frames=0, size=32)

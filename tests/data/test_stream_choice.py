"""Among several video streams the default or best one is read, not simply the first."""

from fractions import Fraction

import av
import numpy as np
import pytest
from av.stream import Disposition
from encoded import streamed

from vxlpro_jax.data.video.reader import read_video

READERS = pytest.mark.parametrize("read", [read_video, streamed])
DEFAULT_MODE = {".mkv": {"default_mode": "passthrough"}}
NONE, DEFAULT = Disposition(0), Disposition.default


def written(path, *streams):
    """Writes streams, each of one shade: (shade, number of frames, side, disposition, codec)."""
    with av.open(str(path), "w", options=DEFAULT_MODE.get(path.suffix)) as container:
        added = []
        for shade, count, side, disposition, codec in streams:
            stream = container.add_stream(codec, rate=10)
            stream.width = stream.height = side
            stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
            stream.disposition = disposition
            stream.codec_context.time_base = Fraction(1, 10)
            added.append((stream, shade, count, side))
        for stream, shade, count, side in added:
            for index in range(count):
                picture = np.full((side, side, 3), shade, np.uint8)
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                frame = frame.reformat(format=stream.pix_fmt)
                frame.pts, frame.time_base = index, Fraction(1, 10)
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
    return path


VIDEO = (200, 20, 64, DEFAULT, "libx264")
CASES = {
    "poster first": [(50, 1, 64, NONE, "mjpeg"), VIDEO],
    "poster first and large": [(50, 1, 256, NONE, "mjpeg"), VIDEO],
    "poster first and default": [(50, 1, 256, DEFAULT, "mjpeg"), VIDEO],
    "only the poster is default": [(50, 1, 64, DEFAULT, "mjpeg"), (200, 20, 64, NONE, "libx264")],
    "poster last": [VIDEO, (50, 1, 64, DEFAULT, "mjpeg")],
    "cover": [(50, 1, 64, Disposition.attached_pic, "mjpeg"), VIDEO],
    "second is default": [(50, 20, 64, NONE, "libx264"), VIDEO],
    "second is default and small": [(50, 20, 128, NONE, "libx264"), VIDEO],
    "none is default": [(50, 20, 32, NONE, "libx264"), (200, 20, 64, NONE, "libx264")],
    "both are default": [(50, 20, 32, DEFAULT, "libx264"), VIDEO],
    "equal": [(200, 20, 64, NONE, "libx264"), (50, 20, 64, NONE, "libx264")],
}


@READERS
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("suffix", ["mkv", "mov"])
def test_the_video_is_read(case, suffix, read, tmp_path):
    if suffix == "mov" and case == "none is default":
        pytest.skip("PyAV makes the first one default.")
    path = written(tmp_path / f"a.{suffix}", *CASES[case])
    video = read(path, max_frames=50, size=32)
    assert len(video.frames) == 20
    assert abs(video.frames.mean() - 200) < 5


@READERS
def test_a_single_picture_is_read_if_there_is_no_more(read, tmp_path):
    path = written(tmp_path / "a.mkv", (200, 1, 64, NONE, "mjpeg"))
    assert abs(read(path, max_frames=50, size=32).frames.mean() - 200) < 5

"""Writes videos of many codings with dependent frames, and reads them in simple ways."""

from fractions import Fraction

import av
import numpy as np
from PIL import Image

from vxlpro_jax.data.video.reader import Video, stream_video

H264, HEVC = ("libx264", "x264-params"), ("libx265", "x265-params")
GROUPS = {
    "closed": (*H264, "keyint=12:scenecut=0:bframes=0", "mp4"),
    "pyramid": (*H264, "keyint=25:scenecut=0:bframes=3:b-pyramid=normal", "mp4"),
    "mkv": (*H264, "keyint=25:scenecut=0:bframes=3", "mkv"),
    "ts": (*H264, "keyint=25:scenecut=0:bframes=3", "ts"),
    "flv": (*H264, "keyint=25:scenecut=0:bframes=3", "flv"),
    "one": (*H264, "keyint=infinite:bframes=3", "mp4"),
    "all": (*H264, "keyint=1", "mp4"),
    "open": (*H264, "keyint=20:scenecut=0:bframes=3:open-gop=1", "mp4"),
    "open mkv": (*H264, "keyint=16:scenecut=0:bframes=8:ref=5:open-gop=1", "mkv"),
    "open ts": (*H264, "keyint=20:scenecut=0:bframes=3:open-gop=1", "ts"),
    "refresh": (*H264, "keyint=20:intra-refresh=1", "mp4"),
    "refresh ts": (*H264, "keyint=20:intra-refresh=1", "ts"),
    "interlaced": (*H264, "keyint=20:tff=1", "ts"),
    "hevc closed": (*HEVC, "keyint=24:open-gop=0:bframes=4:log-level=none", "mp4"),
    "hevc open": (*HEVC, "keyint=24:scenecut=0:bframes=4:log-level=none", "mkv"),
    "vp9": ("libvpx-vp9", "lag-in-frames", "16", "webm"),
    "vp8": ("libvpx", "lag-in-frames", "16", "webm"),
    "mpeg4": ("mpeg4", "bf", "2", "mkv"),
}


CODE_BITS = 8


def coded_frame(index: int, *, height: int, width: int) -> np.ndarray:
    """Draws `index` in binary: eight black or white vertical bars, the highest bit at the left."""
    bits = [(index >> bit) & 1 for bit in reversed(range(CODE_BITS))]
    bars = np.repeat(np.array(bits, np.uint8) * 255, width // CODE_BITS)
    return np.broadcast_to(bars[None, :, None], (height, width, 3)).copy()


def encoded(path, *, codec, options, times, height=48, width=64):
    """Writes moving noise, so that frames depend on each other, shown at `times` (ms)."""
    noise = np.random.default_rng(5).integers(0, 256, (40, 60, 3), np.uint8)
    noise = np.kron(noise, np.ones((5, 5, 1), np.uint8))
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options)
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        if "keyint" not in str(options):
            stream.codec_context.gop_size = 20
        for index, moment in enumerate(times):
            y, x = index % (200 - height), 3 * index % (300 - width)
            picture = noise[y : y + height, x : x + width].copy()
            picture = 255 - picture if index % 70 == 35 else picture
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = int(moment), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def all_decoded(path):
    """Decodes every frame and its time in one thread."""
    frames, pts = [], []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "NONE"
        for frame in container.decode(stream):
            picture = Image.fromarray(frame.to_ndarray(format="rgb24"))
            frames.append(np.asarray(picture.resize((32, 32), Image.Resampling.BICUBIC)))
            pts.append(frame.time)
    return np.stack(frames), np.array(pts) - pts[0]


def streamed(file, **ask):
    """Collects `stream_video` into the result of `read_video`."""
    with stream_video(file, **ask) as stream:
        times = stream.times.copy()
        return Video(np.stack(list(stream)), times)

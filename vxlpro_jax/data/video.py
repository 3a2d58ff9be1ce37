"""Video files to frames, with PyAV.

Shapes: F sampled frames, G groups of four frames, S side of a frame.
"""

import contextlib
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from PIL import Image

from vxlpro_jax.config import FRAMES_PER_GROUP, InputError

# Several readers run at once, so one decoder does not take every core of a large host.
_DECODER_THREADS = min(4, os.cpu_count() or 1)

# A file that ends before this part of the length that it declares has been cut off.
_COMPLETE = 0.9

_ROTATIONS = {
    90: Image.Transpose.ROTATE_90,
    180: Image.Transpose.ROTATE_180,
    270: Image.Transpose.ROTATE_270,
}


class Video(NamedTuple):
    """Sampled frames uint8 [F,S,S,3] and their times float64 [F], seconds after the first frame."""

    frames: np.ndarray
    times: np.ndarray


class FrameGroups(NamedTuple):
    """frames uint8 [G,4,S,S,3] and the time of each group's first frame, float64 [G], seconds."""

    frames: np.ndarray
    times: np.ndarray


def read_video(path: str | Path, *, max_frames: int, size: int) -> Video:
    """At most `max_frames` frames, uniformly spaced, upright, resized to `size` x `size`.

    Of n frames those at `linspace(0, n - 1, max_frames)` are taken, as in the release's demo. When
    n is not more, all are taken once, which differs because the demo then repeats frames at full
    cost. A time is the frame's presentation time less the first frame's; it differs from the demo's
    `index / average rate` only where that is wrong, in files of variable rate.

    The aspect is not kept; PIL's bicubic filter, rounded to uint8. Frames are counted by reading
    the file, not taken from its header, and resized as they come, so memory holds one full-size
    frame beside the decoder's own.

    Raises:
        InputError: no such file, not a video, no video stream, no frames, cut off or damaged.
    """
    if max_frames < 1:
        raise InputError(f"max_frames is {max_frames}: ask for at least one frame.")
    path = Path(path)
    count = _count_packets(path)
    while True:
        picks = _uniform(count, max_frames)
        decoded = _decode(path, picks=picks, size=size)
        if len(decoded.frames) == len(picks):
            return Video(np.stack(decoded.frames), np.maximum.accumulate(decoded.times))
        # Some packets gave no frame of their own (such as leading frames of an open group), so
        # what came out is the count.
        count = decoded.count


def group_frames(video: Video) -> FrameGroups:
    """Groups of four; a last group that is not full repeats the last frame.

    This differs because the release duplicates frames at random places; it is the same when F is a
    multiple of 4.
    """
    missing = -len(video.frames) % FRAMES_PER_GROUP
    frames = np.concatenate([video.frames, np.repeat(video.frames[-1:], missing, axis=0)])
    grouped = frames.reshape(-1, FRAMES_PER_GROUP, *frames.shape[1:])
    return FrameGroups(grouped, video.times[::FRAMES_PER_GROUP])


class _Decoded(NamedTuple):
    frames: list[np.ndarray]
    times: list[float]
    count: int


def _uniform(count: int, wanted: int) -> np.ndarray:
    if count == 0:
        return np.zeros(0, int)
    return np.linspace(0, count - 1, min(count, wanted), dtype=int)


class _Opened(NamedTuple):
    container: av.container.InputContainer
    stream: av.VideoStream


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[_Opened]:
    """The open file; whatever FFmpeg objects to meanwhile becomes an InputError."""
    if not os.path.isfile(path):
        raise InputError(f"Video {path} does not exist: check the path.")
    try:
        with av.open(str(path), metadata_errors="ignore") as container:
            stream = next(filter(_moving, container.streams.video), None)
            if stream is None:
                raise InputError(
                    f"{path} has no video stream, only sound or data: give a video file."
                )
            yield _Opened(container, stream)
    except (av.error.FFmpegError, EOFError) as error:
        raise InputError(
            f"Video {path} cannot be read, it is damaged, cut off or no video"
            f" ({error.strerror or error}): replace or remove the file."
        ) from error


def _moving(stream: av.VideoStream) -> bool:
    """False for the cover picture of a sound file."""
    return not stream.disposition & av.stream.Disposition.attached_pic


def _count_packets(path: Path) -> int:
    """Packets that should each give one frame.

    Raises:
        InputError: none, or the file has been cut off.
    """
    with _opened(path) as (container, stream):
        count, start, end, cut = 0, math.inf, -math.inf, False
        for packet in container.demux():
            if packet.size == 0 or packet.is_discard:
                continue
            cut = packet.is_corrupt
            count += packet.stream_index == stream.index
            time = packet.pts if packet.pts is not None else packet.dts
            if time is not None and packet.time_base:
                tick = float(packet.time_base)
                start = min(start, time * tick)
                end = max(end, (time + (packet.duration or 0)) * tick)
        if count == 0:
            raise InputError(f"Video {path} has no frames: replace or remove the file.")
        declared = (container.duration or 0) / av.time_base
        if cut or 0 <= end - start < declared * _COMPLETE:
            raise InputError(
                f"Video {path} is cut off before the {declared:.1f} s that it declares: copy it"
                " again or remove it."
            )
        return count


def _decode(path: Path, *, picks: np.ndarray, size: int) -> _Decoded:
    """The frames at the (increasing) `picks`, as far as the file holds them."""
    frames, times, first, index = [], [], None, -1
    with _opened(path) as (container, stream):
        stream.thread_type = "AUTO"
        stream.codec_context.thread_count = _DECODER_THREADS
        to_rgb = VideoReformatter()
        for index, frame in enumerate(container.decode(stream)):
            first = frame.pts if index == 0 else first
            if index == picks[len(frames)]:
                rgb = to_rgb.reformat(frame, format="rgb24", threads=1).to_ndarray()
                frames.append(_upright(rgb, frame.rotation, size=size))
                times.append(_seconds(frame, first=first, index=index, stream=stream))
            if len(frames) == len(picks):
                break
    if not frames:
        raise InputError(f"Video {path} has no frames that decode: replace or remove the file.")
    return _Decoded(frames, times, index + 1)


def _upright(rgb: np.ndarray, rotation: int, *, size: int) -> np.ndarray:
    """The frame turned by `rotation` degrees against the clock, then resized."""
    picture = Image.fromarray(rgb)
    turn = _ROTATIONS.get(round(rotation / 90) * 90 % 360)
    upright = picture if turn is None else picture.transpose(turn)
    return np.asarray(upright.resize((size, size), Image.Resampling.BICUBIC))


def _seconds(
    frame: av.VideoFrame, *, first: int | None, index: int, stream: av.VideoStream
) -> float:
    if frame.pts is None or first is None or frame.time_base is None:
        # A bare stream carries no times: its rate is all there is.
        return float(index / (stream.average_rate or stream.guessed_rate or 25))
    return float((frame.pts - first) * frame.time_base)

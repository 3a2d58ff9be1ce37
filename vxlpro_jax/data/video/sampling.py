"""Samples a video's frames: which ones, at what times, resized and streamed.

Shapes: n frames of a file, F sampled frames, S side of a sampled frame.
"""

import itertools
import math
from collections.abc import Generator
from typing import NamedTuple, Self

import numpy as np
from PIL import Image

from vxlpro_jax.utils.errors import InputError

# Smaller time differences are rounding errors of float64 seconds.
_SAME = 1e-6

# A longer step back in seconds is a jump; FFmpeg's command uses the same value. Shorter steps are
# faults of single times.
JUMP = 0.1


class Video(NamedTuple):
    """Sampled frames of a video.

    Attributes:
        frames: uint8 [F,S,S,3].
        times: float64 [F], seconds after the first frame of the file.
    """

    frames: np.ndarray
    times: np.ndarray


class TimedFrame(NamedTuple):
    """A sampled frame.

    Attributes:
        pixels: uint8 [S,S,3].
        seconds: time after the first frame of the file.
    """

    pixels: np.ndarray
    seconds: float


class FrameStream:
    """Sampled frames of an open video in order, uint8 [S,S,3] each; memory does not grow with F.

    It can be iterated once. The file and its decoder are open from the first frame until the last
    frame, an error, or `close`, which the end of a `with` block calls. In that time a file object
    must not be used. Any frame may raise `BadFile`.

    Attributes:
        times: float64 [F], time of each frame in seconds after the first frame of the file.
    """

    def __init__(self, times: np.ndarray, frames: Generator[TimedFrame, None, None]):
        """Stores the times, and a generator that opens the file and yields a frame per time."""
        self.times = times
        self._frames = frames

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> np.ndarray:
        return next(self._frames).pixels

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file and the decoder."""
        self._frames.close()

    def collect(self) -> Video:
        """Reads all frames into memory and closes the stream; none may have been read before."""
        with self:
            first = next(self._frames)
            frames = np.empty((len(self.times), *first.pixels.shape), np.uint8)
            times = np.empty(len(self.times))
            for place, frame in enumerate(itertools.chain([first], self._frames)):
                frames[place], times[place] = frame
        return Video(frames, times)


class FrameTimes(NamedTuple):
    """The times at which the frames of a file are shown.

    Attributes:
        times: float64 [n], seconds, not decreasing.
        end: end of the last frame in seconds.
    """

    times: np.ndarray
    end: float


class Sampling(NamedTuple):
    """The rule by which frames are sampled: `max_frames` uniformly, or at `fps` up to that number.

    Attributes:
        max_frames: largest number of frames.
        fps: frames per second; None samples uniformly.
        size: S, the side that frames are resized to.
    """

    max_frames: int
    fps: float | None
    size: int

    def check(self) -> None:
        """Validates the settings.

        Raises:
            InputError: `max_frames` or `fps` is not above 0.
        """
        if self.max_frames < 1:
            raise InputError(f"max_frames is {self.max_frames}: ask for at least one frame.")
        if self.fps is not None and not 0 < self.fps < float("inf"):
            raise InputError(f"fps is {self.fps}: give frames per second, above 0.")

    def most(self, duration: float | None) -> int:
        """Returns the most frames that a video of `duration` seconds (None: unknown) gives."""
        if self.fps is None or duration is None:
            return self.max_frames
        return min(self.max_frames, max(1, math.ceil((duration - _SAME) * self.fps)))

    def picks(self, shown: FrameTimes) -> np.ndarray:
        """Returns the indices of the frames to take, int [F], increasing."""
        count = len(shown.times)
        if self.fps is not None:
            picks = _at_rate(shown, fps=self.fps)
            if len(picks) <= self.max_frames:
                return picks
        return np.linspace(0, count - 1, min(count, self.max_frames), dtype=int)

    def resized(self, picture: Image.Image) -> np.ndarray:
        """Resizes a picture to uint8 [S,S,3] with PIL's bicubic filter; its aspect is not kept."""
        return np.asarray(picture.resize((self.size, self.size), Image.Resampling.BICUBIC))


def continued(times: np.ndarray, *, step: float) -> np.ndarray:
    """Returns non-decreasing times: where time jumps back, it continues from the latest time.

    A single frame with an earlier time than its neighbours gets the previous frame's time.

    Args:
        times: float64 [n], in the order of the frames.
        step: seconds between the last frame before a jump and the first frame after it.
    """
    result, offset, latest = np.empty_like(times), 0.0, times[0]
    following = np.append(times[1:], -np.inf)
    for index, (seconds, after) in enumerate(zip(times, following, strict=True)):
        if seconds + offset < latest - JUMP and after + offset <= latest:
            offset = latest + step - seconds
        latest = max(latest, seconds + offset)
        result[index] = latest
    return result


def _at_rate(shown: FrameTimes, *, fps: float) -> np.ndarray:
    """Returns indices of the frames on screen at any multiple of 1/fps seconds after the first."""
    starts = shown.times - shown.times[0]
    ends = np.append(starts[1:], shown.end - shown.times[0])
    # First multiple at or after the start of each frame, and at or after its end.
    first, past = (np.ceil((seconds - _SAME) * fps) for seconds in (starts, ends))
    past[-1] = max(past[-1], np.floor((starts[-1] + _SAME) * fps) + 1)
    return np.flatnonzero(past > first)

"""Which frames of a video are taken, when they are shown, how they are resized and handed out.

Shapes: n frames of a file, F taken ones, S side of a taken frame.
"""

import itertools
import math
from collections.abc import Generator
from typing import NamedTuple, Self

import numpy as np
from PIL import Image

from vxlpro_jax.utils.errors import InputError

# Times that differ by less are the same: float64 seconds are exact to this for any video.
_SAME = 1e-6


class Video(NamedTuple):
    """Sampled frames uint8 [F,S,S,3] and their times float64 [F], seconds after the first frame."""

    frames: np.ndarray
    times: np.ndarray


class TimedFrame(NamedTuple):
    """A taken frame uint8 [S,S,3] and its time, seconds after the first frame of the file."""

    pixels: np.ndarray
    seconds: float


class FrameStream:
    """Sampled frames of an open video in order, uint8 [S,S,3] each; memory does not grow with F.

    It can be iterated once. The file and its decoder are open from the first frame until the last,
    an error, or `close`, which leaving it as a context does. A file object must be left alone
    meanwhile. Any frame may raise `BadFile`.

    Attributes:
        times: float64 [F], seconds after the first frame of the file, one for each frame.
    """

    def __init__(self, times: np.ndarray, frames: Generator[TimedFrame, None, None]):
        """Of `frames`, which gives as many as there are `times`, or raises, and opens the file."""
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
        """Closes the file and ends the decoder; no more frames come."""
        self._frames.close()

    def collect(self) -> Video:
        """All frames in memory, if none has been taken; closes it, raises as iterating does."""
        with self:
            first = next(self._frames)
            frames = np.empty((len(self.times), *first.pixels.shape), np.uint8)
            times = np.empty(len(self.times))
            for place, frame in enumerate(itertools.chain([first], self._frames)):
                frames[place], times[place] = frame
        return Video(frames, times)


class Shown(NamedTuple):
    """When frames are shown: times float64 [n], seconds, not decreasing; the last one's end."""

    times: np.ndarray
    end: float


class Sampling(NamedTuple):
    """Which frames to take: `max_frames` uniformly or, up to as many, `fps` a second.

    Attributes:
        max_frames: the most that are taken.
        fps: frames a second; None takes them uniformly.
        size: S, the side that they are resized to.
    """

    max_frames: int
    fps: float | None
    size: int

    def check(self) -> None:
        """Refuses what cannot be asked for.

        Raises:
            InputError: no frames, or a rate that is not above 0.
        """
        if self.max_frames < 1:
            raise InputError(f"max_frames is {self.max_frames}: ask for at least one frame.")
        if self.fps is not None and not 0 < self.fps < float("inf"):
            raise InputError(f"fps is {self.fps}: give frames a second, more than 0.")

    def most(self, duration: float | None) -> int:
        """How many frames a video gives at most, if it is of `duration` seconds; None is any."""
        if self.fps is None or duration is None:
            return self.max_frames
        return min(self.max_frames, max(1, math.ceil((duration - _SAME) * self.fps)))

    def picks(self, shown: Shown) -> np.ndarray:
        """The indices of the frames to take, int [F], increasing."""
        count = len(shown.times)
        if self.fps is not None:
            picks = _at_rate(shown, fps=self.fps)
            if len(picks) <= self.max_frames:
                return picks
        return np.linspace(0, count - 1, min(count, self.max_frames), dtype=int)

    def resized(self, picture: Image.Image) -> np.ndarray:
        """The picture as uint8 [S,S,3]; the aspect is not kept; PIL's bicubic filter."""
        return np.asarray(picture.resize((self.size, self.size), Image.Resampling.BICUBIC))


def _at_rate(shown: Shown, *, fps: float) -> np.ndarray:
    """The frames on the screen at any multiple of 1/fps seconds after the first."""
    starts = shown.times - shown.times[0]
    ends = np.append(starts[1:], shown.end - shown.times[0])
    # The first multiple that is not before a start, and the first not before the end.
    first, past = (np.ceil((seconds - _SAME) * fps) for seconds in (starts, ends))
    past[-1] = max(past[-1], np.floor((starts[-1] + _SAME) * fps) + 1)
    return np.flatnonzero(past > first)

"""A long video that is encoded once, and in which needles are hidden.

Shapes: n frames, G groups of four frames, N tokens of a group, D the decoder's width, M frames of a
needle, S side of a frame.
"""

import dataclasses
import sys
from collections.abc import Collection, Generator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vxlpro_jax.config.schema import FRAMES_PER_GROUP
from vxlpro_jax.data.video import reader
from vxlpro_jax.data.video.formats import VIDEO_SUFFIXES
from vxlpro_jax.data.video.sampling import FrameStream, TimedFrame
from vxlpro_jax.inference.engine import Encoded, Engine
from vxlpro_jax.utils import cli
from vxlpro_jax.utils.errors import InputError

FPS = 1.0  # Frames per second, as in LongVA's test.


class Place(NamedTuple):
    """A needle's place: `length` frames starting at `start`, among `frames` of a haystack."""

    frames: int
    start: int
    length: int

    @property
    def groups(self) -> int:
        """The number of groups of four frames."""
        return -(-self.frames // FRAMES_PER_GROUP)

    def touched(self) -> list[int]:
        """Groups that differ from the haystack's: the needle's, and an incomplete last one."""
        last = (self.start + self.length - 1) // FRAMES_PER_GROUP
        groups = set(range(self.start // FRAMES_PER_GROUP, last + 1))
        if self.frames % FRAMES_PER_GROUP:
            groups.add(self.frames // FRAMES_PER_GROUP)
        return sorted(groups)


def place(depth: float, *, frames: int, length: int) -> Place:
    """Returns the place of a needle at `depth`, from 0 at the start to 1 at the end.

    A needle whose length is a multiple of four starts at the start of a group.

    Raises:
        InputError: the needle is longer than the haystack.
    """
    if length > frames:
        raise InputError(
            f"--frames has {frames}, but a needle takes {length} frames: leave that length out."
        )
    start = int(depth * (frames - length))
    if length % FRAMES_PER_GROUP == 0:
        start -= start % FRAMES_PER_GROUP
    return Place(frames, start, length)


@dataclasses.dataclass(frozen=True)
class Haystack:
    """An encoded haystack.

    Attributes:
        encoded: all groups.
        times: float64 [G], seconds.
        raw: frames, uint8 [4,S,S,3], of those groups that needles touch, by group.
    """

    encoded: Encoded
    times: np.ndarray
    raw: dict[int, np.ndarray]

    def hide(self, engine: Engine, needle: np.ndarray, *, at: Place) -> Encoded:
        """Returns the first `at.frames` frames, encoded, with some replaced by the needle.

        Args:
            engine: model that encoded the haystack.
            needle: uint8 [M,S,S,3].
            at: place; `raw` must hold all groups that it touches.
        """
        groups = np.array(at.touched())
        frames = np.concatenate([self.raw[group] for group in groups])
        index = (groups[:, None] * FRAMES_PER_GROUP + np.arange(FRAMES_PER_GROUP)).ravel()
        hidden = (index >= at.start) & (index < at.start + at.length)
        frames[hidden] = needle[index[hidden] - at.start]
        frames[index >= at.frames] = frames[index == at.frames - 1]
        again = engine.encode_groups(
            frames.reshape(len(groups), FRAMES_PER_GROUP, *frames.shape[1:]),
            times=self.times[groups],
        )
        visual = self.encoded.visual[: at.groups].copy()
        visual[groups] = again.visual
        return dataclasses.replace(
            self.encoded,
            visual=visual,
            stamp_ids=self.encoded.stamp_ids[: at.groups],
            times=self.encoded.times[: at.groups],
        )


def encode(engine: Engine, stream: FrameStream, *, keep: Collection[int]) -> Haystack:
    """Encodes a video and closes it; memory holds only a few frames of it at a time.

    Args:
        engine: model.
        stream: unread frames; it is read to its end.
        keep: groups whose frames needles will replace.

    Raises:
        InputError: a frame cannot be read.
    """
    kept: dict[int, list[np.ndarray]] = {group: [] for group in keep}

    def frames() -> Generator[TimedFrame, None, None]:
        shown = cli.progress(stream, name="haystack", unit="frame", total=len(stream.times))
        for index, (pixels, time) in enumerate(zip(shown, stream.times, strict=True)):
            if index // FRAMES_PER_GROUP in kept:
                kept[index // FRAMES_PER_GROUP].append(pixels)
            yield TimedFrame(pixels, time)

    with stream, FrameStream(stream.times, frames()) as watched:
        encoded = engine.encode_stream(watched)
    raw = {
        group: np.stack([*pixels, *[pixels[-1]] * (FRAMES_PER_GROUP - len(pixels))])
        for group, pixels in kept.items()
    }
    return Haystack(encoded, stream.times[::FRAMES_PER_GROUP], raw)


def open_files(files: Sequence[Path], *, count: int, size: int) -> FrameStream:
    """Opens the first `count` frames of the files at `FPS`, one file after another.

    Args:
        files: videos.
        count: number of frames, n.
        size: side of a frame, S.

    Raises:
        InputError: a file cannot be read, or the files have fewer frames.
    """
    streams, times, start, taken = [], [], 0.0, 0
    for file in files:
        stream = reader.stream_video(file, max_frames=sys.maxsize, fps=FPS, size=size)
        streams.append(stream)
        times.append(start + stream.times[: count - taken])
        taken += len(times[-1])
        if taken == count:
            return FrameStream(np.concatenate(times), _frames(streams, times))
        start = times[-1][-1] + 1 / FPS
    raise InputError(
        f"The haystack has {taken} frames at {FPS:g} per second, fewer than {count}: add files to"
        " --haystack or lower --frames."
    )


def _frames(
    streams: Sequence[FrameStream], times: Sequence[np.ndarray]
) -> Generator[TimedFrame, None, None]:
    """Yields the frames of all streams; each stream must give one frame for each of its `times`."""
    for stream, seconds in zip(streams, times, strict=True):
        with stream:
            for time in seconds:
                yield TimedFrame(next(stream), time)


def find_files(places: Sequence[Path]) -> list[Path]:
    """Returns the given videos, and the videos in the given folders sorted by name.

    Raises:
        InputError: a path does not exist, or a folder has no videos.
    """
    files = []
    for given in places:
        if not given.exists():
            raise InputError(f"--haystack {given} does not exist: check the path.")
        if given.is_dir():
            inside = sorted(
                file for file in given.iterdir() if file.suffix.lower() in VIDEO_SUFFIXES
            )
            if not inside:
                raise InputError(
                    f"Haystack folder {given} has no videos ({', '.join(VIDEO_SUFFIXES)})."
                )
            files += inside
        else:
            files.append(given)
    return files

"""Reads videos in any form: containers, folders of frames, arrays and animated pictures.

Shapes: F sampled frames, G groups of four frames, S side of a frame.
"""

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from vxlpro_jax.config.schema import FRAMES_PER_GROUP
from vxlpro_jax.data.video import decode, image_sequences
from vxlpro_jax.data.video.formats import check_form
from vxlpro_jax.data.video.known_good import check_decoding
from vxlpro_jax.data.video.media_file import MediaFile
from vxlpro_jax.data.video.sampling import FrameStream, Sampling, Video

# Several readers run at once, so a decoder must not take all cores of a large host.
DECODER_THREADS = min(4, os.cpu_count() or 1)

_START = 64  # Number of first bytes that identify the form.


class FrameGroups(NamedTuple):
    """Frames in groups of four.

    Attributes:
        frames: uint8 [G,4,S,S,3].
        times: float64 [G], time of each group's first frame in seconds.
    """

    frames: np.ndarray
    times: np.ndarray


def read_video(
    file: str | Path | BinaryIO,
    *,
    max_frames: int,
    size: int,
    fps: float | None = None,
    threads: int = DECODER_THREADS,
) -> Video:
    """Reads at most `max_frames` frames, upright and resized to `size` x `size`.

    Without `fps`, frames are spaced uniformly: of n frames, those at `linspace(0, n - 1,
    max_frames)`, as in the release's demo. If n is not larger, every frame is read once; in that
    case the demo repeats frames, at full cost.

    With `fps`, they are the frames on the screen at 0, 1/fps, 2/fps ... seconds after the first
    frame, each once. If that gives more than `max_frames`, frames are spaced uniformly over the
    whole video instead, as in LLaVA. LLaVA takes every k-th frame, which differs only if the frame
    rate varies or is not a multiple of `fps`.

    A time is the frame's presentation time minus the first frame's. The demo computes `index /
    average rate`, which is wrong in files of variable frame rate. A folder of frames (in natural
    order of their names) and an `.npy` array (uint8 [F,H,W,3]) have no times: each frame lasts one
    second.

    Frames are resized with PIL's bicubic filter, without keeping the aspect ratio, and rounded to
    uint8. Frames are counted by reading the file, not from its header, and resized one by one, so
    memory holds the result and one full-size frame besides the decoder's own.

    `stream_video` decodes some containers twice; this function does so only if frames do not match
    the packets.

    Args:
        file: path of a video file or of a folder of frames, or a seekable binary file object; the
            form is recognized by content, not by name.
        max_frames: largest number of frames.
        size: S, side of a frame.
        fps: frames per second; None samples uniformly.
        threads: number of decoder threads.

    Raises:
        BadFile: The file is missing, empty, not a video, without frames, cut off or damaged, or its
            frames have more than 35 million pixels.
        InputError: `max_frames` or `fps` is not above 0.
        ProgramError: A clip that is known to be good cannot be decoded either.
    """
    sampling = Sampling(max_frames=max_frames, fps=fps, size=size)
    sampling.check()
    media = MediaFile("Video", file)
    with media.reading():
        stream = _stills_stream(media)
        if stream is None:
            check_decoding()
            return decode.read_container(media, sampling=sampling, threads=threads)
        return stream(media, sampling=sampling).collect()


def stream_video(
    file: str | Path | BinaryIO,
    *,
    max_frames: int,
    size: int,
    fps: float | None = None,
    threads: int = DECODER_THREADS,
) -> FrameStream:
    """Streams the frames of `read_video`; all their times are known before the first frame.

    For any number of frames, memory holds a few of them, one full-size frame besides the decoder's
    own, and about a hundred bytes per frame of the file. If only decoding gives the times, the file
    is decoded twice, first for its times alone: this concerns codecs other than H.264, HEVC, VP9
    and AV1, packets without times or with half a frame, and WebP.

    Frames and times equal those of `read_video` bit for bit. The only exception is a damaged packet
    that gives neither a frame nor an error: this function repeats the previous frame, because the
    times are fixed, and `read_video` leaves the frame out.

    Args:
        file: as in `read_video`; a file object must not be used until the stream is closed.
        max_frames: largest number of frames.
        size: S, side of a frame.
        fps: frames per second; None samples uniformly.
        threads: number of decoder threads.

    Returns:
        A stream with F `times` that yields F frames uint8 [S,S,3]; close it unless all frames are
        read.

    Raises:
        BadFile: As in `read_video`; raised now, or with the affected frame.
        InputError: `max_frames` or `fps` is not above 0.
        ProgramError: As in `read_video`.
    """
    sampling = Sampling(max_frames=max_frames, fps=fps, size=size)
    sampling.check()
    media = MediaFile("Video", file)
    with media.reading():
        stream = _stills_stream(media)
        if stream is None:
            check_decoding()
            return decode.stream_container(media, sampling=sampling, threads=threads)
        return stream(media, sampling=sampling)


def _stills_stream(media: MediaFile) -> Callable[..., FrameStream] | None:
    """Returns the function that streams a file of stills; None if it must be a container."""
    if media.path is not None and os.path.isdir(media.path):
        return image_sequences.stream_folder
    media.check()
    with media.opened() as opened:
        start = opened.read(_START)
    check_form(media, start)
    if image_sequences.is_array(start):
        return image_sequences.stream_array
    return image_sequences.stream_webp if image_sequences.is_webp(start) else None


def group_video(video: Video) -> FrameGroups:
    """Groups frames by four; an incomplete last group repeats the last frame.

    The release duplicates frames at random places instead, unless F is a multiple of 4.
    """
    missing = -len(video.frames) % FRAMES_PER_GROUP
    frames = np.concatenate([video.frames, np.repeat(video.frames[-1:], missing, axis=0)])
    grouped = frames.reshape(-1, FRAMES_PER_GROUP, *frames.shape[1:])
    return FrameGroups(grouped, video.times[::FRAMES_PER_GROUP])


def stream_groups(stream: FrameStream, *, groups: int) -> Iterator[FrameGroups]:
    """Yields the groups of `group_video`, at most `groups` at a time.

    Args:
        stream: stream from which no frame has been read; its owner closes it.
        groups: largest number of groups in memory, at least one.

    Yields:
        `groups` groups each time, and the remaining ones at the end.

    Raises:
        BadFile: As in `stream`.
    """
    most = groups * FRAMES_PER_GROUP
    for start in range(0, len(stream.times), most):
        frames = np.stack(list(itertools.islice(stream, most)))
        yield group_video(Video(frames, stream.times[start : start + most]))

"""Videos of any form to frames: containers, folders of frames, arrays, animated pictures.

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
from vxlpro_jax.data.video.known_good import check_decoding
from vxlpro_jax.data.video.media_file import MediaFile
from vxlpro_jax.data.video.sampling import FrameStream, Sampling, Video

# Several readers run at once, so one decoder does not take every core of a large host.
DECODER_THREADS = min(4, os.cpu_count() or 1)

_START = 16  # Bytes that tell the form.


class FrameGroups(NamedTuple):
    """frames uint8 [G,4,S,S,3] and the time of each group's first frame, float64 [G], seconds."""

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
    """At most `max_frames` frames, upright, resized to `size` x `size`.

    Without `fps` they are spaced uniformly: of n frames those at `linspace(0, n - 1, max_frames)`
    are taken, as in the release's demo. When n is not more, all are taken once, which differs
    because the demo then repeats frames at full cost.

    With `fps` they are the frames on the screen at 0, 1/fps, 2/fps ... seconds after the first
    frame, each once. If these are more than `max_frames`, the frames are spaced uniformly over the
    whole video instead, as LLaVA does. It differs from LLaVA's every so many-th frame only where
    the rate varies or is no multiple of `fps`.

    A time is the frame's presentation time less the first frame's; it differs from the demo's
    `index / average rate` only where that is wrong, in files of variable rate. A folder of frames
    (in natural order of their names) and an `.npy` array (uint8 [F,H,W,3]) have no times: their
    frames last a second each.

    The aspect is not kept; PIL's bicubic filter, rounded to uint8. Frames are counted by reading
    the file, not taken from its header, and resized as they come, so memory holds the result and
    one full-size frame beside the decoder's own.

    Where `stream_video` decodes a container twice, this does so only if frames do not come as
    packets say.

    Args:
        file: the path of a video file or of a folder of frames, or a binary file object that can
            seek; what it is shows in its bytes, not in its name.
        max_frames: the most frames to take.
        size: S.
        fps: frames a second; None means uniformly.
        threads: of the decoder.

    Raises:
        BadFile: it is missing, empty, no video, without frames, cut off, damaged, or has frames of
            more than 35 million pixels.
        InputError: `max_frames` or `fps` is not above 0.
        ProgramError: not even a clip that is known to be good can be decoded.
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
    """The frames of `read_video`, one at a time, and all their times before the first.

    However many are taken, memory holds a few of them and one full-size frame beside the decoder's
    own, and about a hundred bytes for each frame of the file. Where only decoding tells for sure
    when frames are shown, the file is decoded twice, first for the times alone: codecs other than
    H.264, HEVC, VP9 and AV1, packets that carry no times or half a frame, and WebP.

    Frames and times are those of `read_video`, bit for bit. Only where a damaged packet gives no
    frame, and no error, does the frame before it stay here, since times have been told;
    `read_video` leaves it out.

    Args:
        file: as for `read_video`; a file object must be left alone until the stream is closed.
        max_frames: the most frames to take.
        size: S.
        fps: frames a second; None means uniformly.
        threads: of the decoder.

    Returns:
        F `times` and an iterator of F frames uint8 [S,S,3]; close it if you do not take all.

    Raises:
        BadFile: as `read_video`; now, or with the frame where it shows.
        InputError: `max_frames` or `fps` is not above 0.
        ProgramError: as `read_video`.
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
    """What reads its frames; None if only a container can hold them."""
    if media.path is not None and os.path.isdir(media.path):
        return image_sequences.stream_folder
    media.check()
    with media.opened() as opened:
        start = opened.read(_START)
    if image_sequences.is_array(start):
        return image_sequences.stream_array
    return image_sequences.stream_webp if image_sequences.is_webp(start) else None


def group_frames(video: Video) -> FrameGroups:
    """Groups of four; a last group that is not full repeats the last frame.

    This differs because the release duplicates frames at random places; it is the same when F is a
    multiple of 4.
    """
    missing = -len(video.frames) % FRAMES_PER_GROUP
    frames = np.concatenate([video.frames, np.repeat(video.frames[-1:], missing, axis=0)])
    grouped = frames.reshape(-1, FRAMES_PER_GROUP, *frames.shape[1:])
    return FrameGroups(grouped, video.times[::FRAMES_PER_GROUP])


def stream_groups(stream: FrameStream, *, groups: int) -> Iterator[FrameGroups]:
    """What `group_frames` gives for the whole, at most `groups` groups at a time.

    Args:
        stream: of which no frame has been taken; who opened it closes it.
        groups: the most groups to hold, at least one.

    Yields:
        `groups` groups, and at last those that are left.

    Raises:
        BadFile: as `stream`.
    """
    most = groups * FRAMES_PER_GROUP
    for start in range(0, len(stream.times), most):
        frames = np.stack(list(itertools.islice(stream, most)))
        yield group_frames(Video(frames, stream.times[start : start + most]))

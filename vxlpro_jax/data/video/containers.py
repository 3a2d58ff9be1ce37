"""Opens video containers (mp4, mkv, webm, avi, gif, ...) with PyAV."""

import contextlib
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

import av
import av.container
import av.stream

from vxlpro_jax.data.video.formats import FORMATS
from vxlpro_jax.data.video.media_file import MediaFile

# Largest picture of H.264 and HEVC up to level 6.2, 8192 x 4352; 8K has 33 million pixels.
MOST_PIXELS = 35_651_584

# Longest wait in seconds for the header or the next packet; no normal file needs even a second.
_PATIENCE = 60.0

# PyAV before 19 refuses a file whose title is not UTF-8 unless it is asked to be lenient. Later
# versions always are, and do not take the option.
_LENIENT: dict[str, Any] = (
    {"metadata_errors": "ignore"} if hasattr(av.container.InputContainer, "metadata_errors") else {}
)


class Opened(NamedTuple):
    """An open container and the video stream to read."""

    container: av.container.InputContainer
    stream: av.VideoStream


@contextlib.contextmanager
def opened(media: MediaFile, *, index: int, threads: int) -> Iterator[Opened]:
    """Opens a file to decode stream `index`; meanwhile FFmpeg's errors become a `BadFile`.

    Raises:
        BadFile: The file is not a video, or its pictures are too large.
    """
    with opened_container(media) as container:
        stream = container.streams[index]
        assert isinstance(stream, av.VideoStream)
        if not stream.width:
            _check_size(media)
        stream.codec_context.options = {"max_pixels": str(MOST_PIXELS)}
        stream.thread_type = "AUTO"
        stream.codec_context.thread_count = threads
        yield Opened(container, stream)


def moving_streams(media: MediaFile, container: av.container.InputContainer) -> list:
    """Returns the video streams, without cover pictures of audio files.

    Raises:
        BadFile: There is no such stream, or its codec is unknown.
    """
    streams = [stream for stream in container.streams.video if _moving(stream)]
    if not streams:
        raise media.bad(
            "has no video stream, only sound or data: give a video file", kind="no_video"
        )
    known = [stream for stream in streams if stream.codec_context is not None]
    if not known:
        raise media.bad(
            "is in a codec that FFmpeg does not know: convert or remove the file", kind="damaged"
        )
    return known


@contextlib.contextmanager
def opened_container(
    media: MediaFile, *, most_pixels: int = MOST_PIXELS, **options: str
) -> Iterator[av.container.InputContainer]:
    """Opens a container; meanwhile FFmpeg's errors become a `BadFile`.

    FFmpeg gets an open file without its name and may not open other files, so that neither name nor
    content can lead it elsewhere: a name could be taken for a pattern of pictures, and a playlist
    names files or addresses.

    Raises:
        BadFile: The file is not a video.
    """
    options |= {"max_pixels": str(most_pixels), "format_whitelist": FORMATS}
    # Otherwise FFmpeg turns a backward jump of over a minute into a forward jump of 26 hours.
    options |= {"correct_ts_overflow": "0"}
    with media.reading(), media.opened() as file:
        if media.path is None:
            source, options["protocol_whitelist"] = _Nameless(file), "none"
        else:
            source, options["protocol_whitelist"] = "fd:", "fd"
            options["fd"] = str(file.fileno())
        with av.open(source, options=options, timeout=_PATIENCE, **_LENIENT) as container:
            yield container


class _Nameless:
    """A file object without its name, which FFmpeg would use as a hint or a pattern."""

    def __init__(self, file: BinaryIO):
        self.read, self.seek, self.tell = file.read, file.seek, file.tell


def _check_size(media: MediaFile) -> None:
    """Finds out why the size is unknown, since FFmpeg does not report that a size is too large.

    Raises:
        BadFile: Always.
    """
    with opened_container(
        media, most_pixels=4 * MOST_PIXELS, skip_frame="all", probesize="32"
    ) as container:
        for stream in moving_streams(media, container):
            media.check_pixels(stream.width, stream.height, most=MOST_PIXELS)
    raise media.bad("has no readable picture size: replace or remove the file", kind="damaged")


def _moving(stream: av.VideoStream) -> bool:
    """Returns whether a stream is a video and not the cover picture of an audio file."""
    return not stream.disposition & av.stream.Disposition.attached_pic

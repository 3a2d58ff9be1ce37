"""Opens video containers (mp4, mkv, webm, avi, gif, ...) with PyAV."""

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import av
import av.container
import av.stream

from vxlpro_jax.data.video.media_file import MediaFile

# Largest picture of H.264 and HEVC up to level 6.2, 8192 x 4352; 8K has 33 million pixels.
MOST_PIXELS = 35_651_584

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
def opened(media: MediaFile, *, threads: int = 1) -> Iterator[Opened]:
    """Opens a file; errors of FFmpeg meanwhile become a `BadFile`.

    Raises:
        BadFile: The file is not a video, has no video stream, or is too large.
    """
    with media.reading(), _av_open(media, most_pixels=MOST_PIXELS) as container:
        stream = next(filter(_moving, container.streams.video), None)
        if stream is None:
            raise media.bad(
                "has no video stream, only sound or data: give a video file", kind="no_video"
            )
        if stream.codec_context is None:
            raise media.bad(
                "is in a codec that FFmpeg does not know: convert or remove the file",
                kind="damaged",
            )
        if not stream.width:
            _check_size(media)
        stream.codec_context.options = {"max_pixels": str(MOST_PIXELS)}
        stream.thread_type = "AUTO"
        stream.codec_context.thread_count = threads
        yield Opened(container, stream)


@contextlib.contextmanager
def _av_open(media: MediaFile, *, most_pixels: int, **options: str) -> Iterator:
    # Playlists and the like may name other files, but nothing on a network.
    options |= {"max_pixels": str(most_pixels), "protocol_whitelist": "file"}
    if media.path is None:
        file = media.stream
        file.seek(0)
    else:
        file = f"file:{media.path}"
    with av.open(file, options=options, **_LENIENT) as container:
        yield container


def _check_size(media: MediaFile) -> None:
    """Finds out why the size is unknown, since FFmpeg does not say that a size is over the limit.

    Raises:
        BadFile: Always.
    """
    with _av_open(
        media, most_pixels=4 * MOST_PIXELS, skip_frame="all", probesize="32"
    ) as container:
        known = (s for s in container.streams.video if _moving(s) and s.codec_context is not None)
        for stream in known:
            media.check_pixels(stream.width, stream.height, most=MOST_PIXELS)
    raise media.bad(
        "has no picture size that can be read: replace or remove the file", kind="damaged"
    )


def _moving(stream: av.VideoStream) -> bool:
    """Whether a stream is a video and not the cover picture of a sound file."""
    return not stream.disposition & av.stream.Disposition.attached_pic

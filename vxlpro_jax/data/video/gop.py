"""Decodes ranges of packets that start at a key frame, for the frames that are taken.

Shapes: F taken frames.
"""

from collections.abc import Container, Iterator
from typing import NamedTuple

import av
import numpy as np
from av.video.frame import PictureType

from vxlpro_jax.data.video.containers import Opened
from vxlpro_jax.data.video.media_file import MediaFile
from vxlpro_jax.data.video.packets import Packets

# Codecs whose decoder can skip frames that no other frame depends on.
_SKIPPING = ("h264",)
# Restarting the decoder at a key frame costs about as much as decoding this many frames.
_RESTART = 8


class PacketRange(NamedTuple):
    """Packets to decode in one go, starting at a key frame: positions in the file, inclusive."""

    start: int
    last: int


def packet_ranges(packets: Packets, picks: np.ndarray) -> list[PacketRange]:
    """Returns the packets to decode for the frames at `picks`.

    A frame needs the last key frame shown no later than itself, and the packets from there to its
    own.
    """
    order = np.argsort(packets.pts)
    key_at = np.flatnonzero(packets.keys)
    nearest = np.searchsorted(packets.pts[key_at], packets.pts[order[picks]], side="right") - 1
    spans: list[PacketRange] = []
    for start, last in zip(key_at[nearest].tolist(), order[picks].tolist(), strict=True):
        if spans and start <= spans[-1].last + _RESTART:
            spans[-1] = spans[-1]._replace(last=max(last, spans[-1].last))
        else:
            spans.append(PacketRange(start, last))
    return spans


def decode_range(
    media: MediaFile,
    file: Opened,
    *,
    packets: Packets,
    span: PacketRange,
    wanted: Container[int | None],
) -> Iterator[av.VideoFrame]:
    """Yields the frames of a range, starting at its key frame.

    Raises:
        BadFile: The range does not start with a key frame, or a frame does not decode.
    """
    key = int(packets.pts[span.start])
    found_key = False
    for frame in _span_output(file, packets=packets, span=span, wanted=wanted):
        if not found_key:
            is_key = frame.pts == key and frame.key_frame and frame.pict_type == PictureType.I
            found_key = is_key
        if frame.is_corrupt or not found_key:
            raise media.bad("cannot be decoded from a key frame", kind="damaged")
        yield frame


def _span_output(
    file: Opened, *, packets: Packets, span: PacketRange, wanted: Container[int | None]
) -> Iterator[av.VideoFrame]:
    container, stream = file
    context = stream.codec_context
    if span.start > 0:
        context.flush_buffers()
        container.seek(int(packets.dts[span.start]), stream=stream)
    position = span.start
    for packet in container.demux(stream):
        if packet.size == 0:
            break
        if packet.pts != packets.pts[position]:
            if position == span.start:
                continue  # Not all formats seek exactly.
            break
        if packets.codec in _SKIPPING:
            context.skip_frame = "DEFAULT" if packet.pts in wanted else "NONREF"
        yield from packet.decode()
        if position == span.last:
            break
        position += 1
    yield from stream.decode(None)

"""Reads frame times and key frames of a video container from its packets, without decoding.

Shapes: P packets in file order.
"""

import math
from array import array
from fractions import Fraction
from typing import NamedTuple

import av
import av.container
import numpy as np
from av.format import Flags
from av.stream import Disposition

from vxlpro_jax.data.video.completeness import Extent, check_complete
from vxlpro_jax.data.video.containers import moving_streams, opened_container
from vxlpro_jax.data.video.media_file import MediaFile
from vxlpro_jax.data.video.sampling import JUMP, FrameTimes

# Codecs in which each packet gives one frame, and a key frame needs no earlier packet.
_SEEKABLE = ("h264", "hevc", "vp9", "av1", "libdav1d")
# FFmpeg's field orders "unknown" and "progressive", in which a packet is a whole frame.
_WHOLE = (0, 1)


class Packets(NamedTuple):
    """Packets of the video stream; arrays are [P].

    Attributes:
        stream: index of the stream in the file.
        pts: int64, presentation time in ticks; meaningless if `timed` is False.
        dts: int64, decoding time in ticks, where known.
        keys: bool, whether decoding can start at the packet.
        timed: whether every packet has a time.
        goes_back: whether time jumps back, for example where recordings were joined.
        in_decode_order: whether times increase from packet to packet although the codec reorders
            frames, as in AVI: the first shown frame has the first of these times, and so on.
        one_frame_each: whether each packet is known to give one frame, at its own time.
        tick: seconds per tick.
        rate: mean frames per second.
        last: duration of the last frame in seconds.
        codec: FFmpeg's name of the codec.
    """

    stream: int
    pts: np.ndarray
    dts: np.ndarray
    keys: np.ndarray
    timed: bool
    goes_back: bool
    in_decode_order: bool
    one_frame_each: bool
    tick: Fraction
    rate: float
    last: float
    codec: str

    def shown(self) -> FrameTimes:
        """Returns the times of the frames, assuming one frame per packet."""
        if self.timed:
            pts = np.sort(self.pts)
            times = (pts - pts[0]) * self.tick.numerator / self.tick.denominator
        else:
            times = np.arange(len(self.pts)) / self.rate
        return FrameTimes(times, times[-1] + self.last)


class _Track:
    """Packets of one stream, in file order."""

    def __init__(self, stream: av.VideoStream):
        self.stream = stream
        self.pts, self.dts, self.keys = array("q"), array("q"), array("b")
        self.last, self.timed, self.plain, self.goes_back = 0, True, True, False
        self._latest = -math.inf

    def add(self, packet: av.Packet) -> None:
        time = _time(packet)
        self.timed &= packet.pts is not None
        self.pts.append(time or 0)
        self.dts.append((time or 0) if packet.dts is None else packet.dts)
        self.keys.append(packet.is_keyframe)
        self.last = packet.duration or 0
        if packet.dts is not None:
            seconds = packet.dts * float(packet.time_base)
            self.goes_back |= seconds < self._latest - JUMP
            self._latest = seconds

    def rank(self) -> tuple:
        """Sort key: prefers the default stream, then the one with the largest pictures.

        A stream of a single picture, such as a poster, comes last even if it is the default.
        """
        stream = self.stream
        return (
            len(self.pts) > 1,
            bool(stream.disposition & Disposition.default),
            stream.width * stream.height,
            len(self.pts),
            -stream.index,
        )


def read_packets(media: MediaFile) -> Packets:
    """Reads all packets without decoding, and chooses the video stream by `_Track.rank`.

    Raises:
        BadFile: There is no video stream or no frame, or the file has been cut off.
    """
    with opened_container(media) as container:
        tracks = {s.index: _Track(s) for s in moving_streams(media, container)}
        extent = _read(media, container, tracks)
        if not any(track.pts for track in tracks.values()):
            raise media.bad("has no frames: replace or remove the file", kind="no_frames")
        check_complete(media, container, extent)
        return _packets(max(tracks.values(), key=_Track.rank), container)


def _read(
    media: MediaFile, container: av.container.InputContainer, tracks: dict[int, _Track]
) -> Extent:
    start, end, cut = math.inf, -math.inf, False
    for packet in container.demux():
        if packet.size == 0:
            continue
        track = tracks.get(packet.stream_index)
        if packet.is_discard:
            if track is not None:
                track.plain = False
            continue
        cut = packet.is_corrupt
        if track is not None:
            track.add(packet)
            media.check_frames(len(track.pts))
        time = _time(packet)
        if time is not None and packet.time_base:
            seconds = float(packet.time_base)
            start = min(start, time * seconds)
            end = max(end, (time + (packet.duration or 0)) * seconds)
    return Extent(start, end, cut)


def _packets(track: _Track, container: av.container.InputContainer) -> Packets:
    stream = track.stream
    # A raw stream has no times, only a rate that FFmpeg finds in its packets.
    is_bare = container.format.flags & Flags.no_timestamps.value
    rate = (is_bare and stream.guessed_rate) or stream.average_rate or stream.guessed_rate or 25
    tick = stream.time_base
    assert tick is not None
    packets = Packets(
        stream=stream.index,
        pts=np.array(track.pts, np.int64),
        dts=np.array(track.dts, np.int64),
        keys=np.array(track.keys, bool),
        timed=track.timed,
        goes_back=track.goes_back,
        in_decode_order=False,
        one_frame_each=False,
        tick=tick,
        rate=float(rate),
        last=float(track.last * tick),
        codec=stream.codec_context.name,
    )
    increasing = packets.timed and bool((np.diff(packets.pts) > 0).all())
    packets = packets._replace(
        in_decode_order=increasing and stream.codec_context.has_b_frames,
    )
    plain = track.plain and stream.codec_context.field_order in _WHOLE
    return packets._replace(one_frame_each=plain and _gives_one_frame_each(packets))


def _time(packet: av.Packet) -> int | None:
    return packet.pts if packet.pts is not None else packet.dts


def _gives_one_frame_each(packets: Packets) -> bool:
    """Returns whether each packet is known to give exactly one frame, at the packet's time."""
    pts = packets.pts
    return bool(
        packets.timed
        and not packets.goes_back
        and not packets.in_decode_order
        and packets.codec in _SEEKABLE
        and packets.keys[0]
        and pts[0] == pts.min()
        and len(np.unique(pts)) == len(pts)
        and (np.diff(pts[packets.keys]) > 0).all()
    )

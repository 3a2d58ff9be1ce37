"""Frame times and key frames of a video container, from its packets and without decoding.

Shapes: P packets in the order of the file.
"""

import math
from array import array
from fractions import Fraction
from typing import NamedTuple

import av
import numpy as np

from vxlpro_jax.data.video.containers import opened
from vxlpro_jax.data.video.media_file import MediaFile
from vxlpro_jax.data.video.sampling import FrameTimes

# A file that ends before this share of its declared length has been cut off.
_COMPLETE = 0.9

# Codecs in which each packet gives one frame and a key frame needs no earlier packet.
_SEEKABLE = ("h264", "hevc", "vp9", "av1", "libdav1d")
# FFmpeg's field orders "unknown" and "progressive", in which a packet is a whole frame.
_WHOLE = (0, 1)


class Packets(NamedTuple):
    """Packets of the video stream; arrays are [P].

    Attributes:
        pts: int64, presentation time in ticks; meaningless if `timed` is False.
        dts: int64, decoding time in ticks, where it is known.
        keys: bool, whether decoding can start at the packet.
        timed: whether every packet has a time.
        one_frame_each: whether each packet is known to give one frame, at its own time.
        tick: seconds per tick.
        rate: mean frames per second.
        last: duration of the last frame in seconds.
        codec: FFmpeg's name of the codec.
    """

    pts: np.ndarray
    dts: np.ndarray
    keys: np.ndarray
    timed: bool
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


def read_packets(media: MediaFile) -> Packets:
    """Reads all packets without decoding.

    Raises:
        BadFile: There are no frames, or the file has been cut off.
    """
    pts, dts, keys = array("q"), array("q"), array("b")
    last, timed, plain = 0, True, True
    start, end, cut = math.inf, -math.inf, False
    with opened(media) as (container, stream):
        for packet in container.demux():
            if packet.size == 0:
                continue
            if packet.is_discard:
                plain = False
                continue
            cut = packet.is_corrupt
            time = packet.pts if packet.pts is not None else packet.dts
            if packet.stream_index == stream.index:
                timed &= packet.pts is not None
                pts.append(time or 0)
                dts.append((time or 0) if packet.dts is None else packet.dts)
                keys.append(packet.is_keyframe)
                last = packet.duration or 0
            if time is not None and packet.time_base:
                seconds = float(packet.time_base)
                start = min(start, time * seconds)
                end = max(end, (time + (packet.duration or 0)) * seconds)
        if not pts:
            raise media.bad("has no frames: replace or remove the file", kind="no_frames")
        declared = (container.duration or 0) / av.time_base
        if cut or 0 <= end - start < declared * _COMPLETE:
            raise media.bad(
                f"is cut off before the {declared:.1f} s that it declares: copy it again or"
                " remove it",
                kind="cut_off",
            )
        # A raw stream has no times, only a rate.
        rate = stream.average_rate or stream.guessed_rate or 25
        tick = stream.time_base
        assert tick is not None
        packets = Packets(
            pts=np.array(pts, np.int64),
            dts=np.array(dts, np.int64),
            keys=np.array(keys, bool),
            timed=timed,
            one_frame_each=False,
            tick=tick,
            rate=float(rate),
            last=float(last * tick),
            codec=stream.codec_context.name,
        )
        plain &= stream.codec_context.field_order in _WHOLE
        return packets._replace(one_frame_each=plain and _gives_one_frame_each(packets))


def _gives_one_frame_each(packets: Packets) -> bool:
    """Whether there are as many frames as packets, each at its packet's time."""
    pts = packets.pts
    return bool(
        packets.timed
        and packets.codec in _SEEKABLE
        and packets.keys[0]
        and pts[0] == pts.min()
        and len(np.unique(pts)) == len(pts)
        and (np.diff(pts[packets.keys]) > 0).all()
    )

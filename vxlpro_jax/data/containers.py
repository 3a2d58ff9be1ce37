"""Frames of video containers (mp4, mkv, webm, avi, gif, ...) with PyAV.

A file is read twice: its packets first, which cost little and tell when frames are shown; then the
frames that are wanted. Where packets tell all, decoding starts at key frames and skips what no
wanted frame needs.

Shapes: P packets in the order of the file, n frames in the order of time, F taken frames.
"""

import contextlib
import functools
import math
from collections.abc import Container, Iterator
from fractions import Fraction
from typing import NamedTuple

import av
import numpy as np
from av.video.frame import PictureType
from av.video.reformatter import VideoReformatter
from PIL import Image

from vxlpro_jax.data.errors import BadFile
from vxlpro_jax.data.frames import Sampling, Shown, Video
from vxlpro_jax.data.media_file import MediaFile

# The largest picture of H.264 and HEVC up to level 6.2, 8192 x 4352; 8K has 33 million.
MOST_PIXELS = 35_651_584

# A file that ends before this part of the length that it declares has been cut off.
_COMPLETE = 0.9

# Codecs of which each packet gives one frame, and a key frame needs nothing before it.
_SEEKABLE = ("h264", "hevc", "vp9", "av1", "libdav1d")
# Of these the decoder leaves out frames that no other refers to, where they are not wanted.
_SKIPPING = ("h264",)
_WHOLE = (
    0,
    1,
)  # FFmpeg's field orders "unknown" and "progressive": a packet is no half of a frame.
# To stop the decoder and start it at a key frame costs about as much as this many frames.
_RESTART = 8

_ROTATIONS = {
    90: Image.Transpose.ROTATE_90,
    180: Image.Transpose.ROTATE_180,
    270: Image.Transpose.ROTATE_270,
}


def read_container(media: MediaFile, *, sampling: Sampling, threads: int) -> Video:
    """The frames that `sampling` asks for.

    Raises:
        BadFile: not a video, no video stream, no frames, too large, cut off or damaged.
    """
    packets = _read_packets(media)
    picks = sampling.picks(packets.shown())
    if packets.tell_all:
        video = _decode_spans(
            media, packets=packets, picks=picks, sampling=sampling, threads=threads
        )
        if video:
            return video
    decode_all = functools.partial(
        _decode_all, media, packets=packets, sampling=sampling, threads=threads
    )
    decoded = decode_all(picks=picks, expected=np.sort(packets.pts) if packets.timed else None)
    if decoded.video is None:
        # Some packets gave no frame of their own (such as leading frames of an open group), so
        # what came out is what there is.
        decoded = decode_all(picks=sampling.picks(decoded.shown), expected=None)
    if decoded.video is None:
        raise media.bad(
            "gives other frames each time that it is decoded: replace or remove the file",
            kind="damaged",
        )
    return decoded.video


class _Opened(NamedTuple):
    container: av.container.InputContainer
    stream: av.VideoStream


@contextlib.contextmanager
def _opened(media: MediaFile, *, threads: int = 1) -> Iterator[_Opened]:
    """The open file; whatever FFmpeg objects to meanwhile becomes a `BadFile`."""
    with media.reading(), _av_open(media, most_pixels=MOST_PIXELS) as container:
        stream = next(filter(_moving, container.streams.video), None)
        if stream is None:
            raise media.bad(
                "has no video stream, only sound or data: give a video file", kind="no_video"
            )
        if not stream.width:
            _check_size(media)
        stream.codec_context.options = {"max_pixels": str(MOST_PIXELS)}
        stream.thread_type = "AUTO"
        stream.codec_context.thread_count = threads
        yield _Opened(container, stream)


@contextlib.contextmanager
def _av_open(media: MediaFile, *, most_pixels: int, **options: str) -> Iterator:
    # Playlists and the like may name other files, but nothing on a network.
    options |= {"max_pixels": str(most_pixels), "protocol_whitelist": "file"}
    if media.path is None:
        media.file.seek(0)
    file = media.file if media.path is None else f"file:{media.path}"
    with av.open(file, options=options, metadata_errors="ignore") as container:
        yield container


def _check_size(media: MediaFile) -> None:
    """Finds out why the size is not known: FFmpeg does not tell one that it was not allowed.

    Raises:
        BadFile: always.
    """
    with _av_open(
        media, most_pixels=4 * MOST_PIXELS, skip_frame="all", probesize="32"
    ) as container:
        for stream in filter(_moving, container.streams.video):
            media.check_pixels(stream.width, stream.height, most=MOST_PIXELS)
    raise media.bad(
        "has no picture size that can be read: replace or remove the file", kind="damaged"
    )


def _moving(stream: av.VideoStream) -> bool:
    """False for the cover picture of a sound file."""
    return not stream.disposition & av.stream.Disposition.attached_pic


class _Packets(NamedTuple):
    """What the packets of the video stream tell, each [P].

    Attributes:
        pts: when the frame is shown, in ticks, int64; without meaning if `timed` is False.
        dts: when it is decoded, in ticks, where that is known.
        keys: whether decoding can start there.
        timed: whether every packet has a time.
        tell_all: whether each is known to give one frame, at its own time.
        tick: seconds.
        rate: frames a second on average.
        last: seconds that the last frame lasts.
        codec: FFmpeg's name of it.
    """

    pts: np.ndarray
    dts: np.ndarray
    keys: np.ndarray
    timed: bool
    tell_all: bool
    tick: Fraction
    rate: float
    last: float
    codec: str

    def shown(self) -> Shown:
        """When the frames are shown if each packet gives one."""
        if self.timed:
            pts = np.sort(self.pts)
            times = (pts - pts[0]) * self.tick.numerator / self.tick.denominator
        else:
            times = np.arange(len(self.pts)) / self.rate
        return Shown(times, times[-1] + self.last)


def _read_packets(media: MediaFile) -> _Packets:
    """Reads every packet, decodes none.

    Raises:
        BadFile: no frames, or the file has been cut off.
    """
    pts, dts, keys, last, timed, plain = [], [], [], 0, True, True
    start, end, cut = math.inf, -math.inf, False
    with _opened(media) as (container, stream):
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
                tick = float(packet.time_base)
                start = min(start, time * tick)
                end = max(end, (time + (packet.duration or 0)) * tick)
        if not pts:
            raise media.bad("has no frames: replace or remove the file", kind="no_frames")
        declared = (container.duration or 0) / av.time_base
        if cut or 0 <= end - start < declared * _COMPLETE:
            raise media.bad(
                f"is cut off before the {declared:.1f} s that it declares: copy it again or"
                " remove it",
                kind="cut_off",
            )
        # A bare stream carries no times: its rate is all there is.
        rate = stream.average_rate or stream.guessed_rate or 25
        packets = _Packets(
            pts=np.array(pts, np.int64),
            dts=np.array(dts, np.int64),
            keys=np.array(keys, bool),
            timed=timed,
            tell_all=False,
            tick=stream.time_base,
            rate=float(rate),
            last=float(last * stream.time_base),
            codec=stream.codec_context.name,
        )
        plain &= stream.codec_context.field_order in _WHOLE
        return packets._replace(tell_all=plain and _tell_all(packets))


def _tell_all(packets: _Packets) -> bool:
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


class _Span(NamedTuple):
    """Packets to decode in one go, from a key frame on: positions in the file, both inclusive."""

    start: int
    last: int


def _spans(packets: _Packets, picks: np.ndarray) -> list[_Span]:
    """What has to be decoded for the frames at `picks`.

    A frame needs the last key frame that is not shown after it, and the packets from there to its
    own.
    """
    order = np.argsort(packets.pts)
    key_at = np.flatnonzero(packets.keys)
    nearest = np.searchsorted(packets.pts[key_at], packets.pts[order[picks]], side="right") - 1
    spans = []
    for start, last in zip(key_at[nearest].tolist(), order[picks].tolist(), strict=True):
        if spans and start <= spans[-1].last + _RESTART:
            spans[-1] = spans[-1]._replace(last=max(last, spans[-1].last))
        else:
            spans.append(_Span(start, last))
    return spans


class _Converter:
    """Frames to upright uint8 [S,S,3]."""

    def __init__(self, media: MediaFile, sampling: Sampling):
        self._media = media
        self._sampling = sampling
        self._to_rgb = VideoReformatter()

    def __call__(self, frame: av.VideoFrame) -> np.ndarray:
        """Turned by the file's rotation, against the clock, then resized."""
        self._media.check_pixels(frame.width, frame.height, most=MOST_PIXELS)
        rgb = self._to_rgb.reformat(frame, format="rgb24", threads=1).to_ndarray()
        picture = Image.fromarray(rgb)
        turn = _ROTATIONS.get(round(frame.rotation / 90) * 90 % 360)
        return self._sampling.resized(picture if turn is None else picture.transpose(turn))


def _decode_spans(
    media: MediaFile, *, packets: _Packets, picks: np.ndarray, sampling: Sampling, threads: int
) -> Video | None:
    """The frames at `picks`; None unless they are sure to be those that decoding all would give."""
    wanted = np.sort(packets.pts)[picks]
    place = {pts: index for index, pts in enumerate(wanted.tolist())}
    frames, convert = sampling.empty(len(picks)), _Converter(media, sampling)
    found = 0
    try:
        with _opened(media, threads=threads) as opened:
            for span in _spans(packets, picks):
                for frame in _span_frames(media, opened, packets=packets, span=span, wanted=place):
                    if frame.pts in place:
                        frames[place[frame.pts]] = convert(frame)
                        found += 1
    except BadFile:
        return None  # Whether it is damaged shows when all is decoded.
    return Video(frames, packets.shown().times[picks]) if found == len(picks) else None


def _span_frames(
    media: MediaFile,
    opened: _Opened,
    *,
    packets: _Packets,
    span: _Span,
    wanted: Container[int],
) -> Iterator[av.VideoFrame]:
    """What a span's packets give, from its key frame on.

    Raises:
        BadFile: the key frame is none, or something does not decode from there.
    """
    key = int(packets.pts[span.start])
    found_key = False
    for frame in _span_output(opened, packets=packets, span=span, wanted=wanted):
        if not found_key:
            is_key = frame.pts == key and frame.key_frame and frame.pict_type == PictureType.I
            found_key = is_key
        if frame.is_corrupt or not found_key:
            raise media.bad("cannot be decoded from a key frame", kind="damaged")
        yield frame


def _span_output(
    opened: _Opened, *, packets: _Packets, span: _Span, wanted: Container[int]
) -> Iterator[av.VideoFrame]:
    container, stream = opened
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


class _Decoded(NamedTuple):
    """`video` is None if frames did not come when they should have; then `shown` tells when."""

    video: Video | None
    shown: Shown


def _decode_all(
    media: MediaFile,
    *,
    picks: np.ndarray,
    packets: _Packets,
    expected: np.ndarray | None,
    sampling: Sampling,
    threads: int,
) -> _Decoded:
    """Decodes from the first frame on, as far as `picks` reach.

    If frames are not at the `expected` times, in ticks, decodes everything and takes none.
    """
    frames, convert, times, first, strayed = (
        *(sampling.empty(len(picks)), _Converter(media, sampling)),
        *([], None, False),
    )
    taken = 0
    with _opened(media, threads=threads) as (container, stream):
        for index, frame in enumerate(container.decode(stream)):
            first = frame.pts if index == 0 else first
            times.append(_seconds(frame, first=first, index=index, packets=packets))
            if expected is not None and not strayed:
                strayed = index >= len(expected) or frame.pts != expected[index]
            if not strayed and taken < len(picks) and index == picks[taken]:
                frames[taken] = convert(frame)
                taken += 1
            if taken == len(picks) and not strayed:
                break
    if not times:
        raise media.bad("has no frames that decode: replace or remove the file", kind="no_frames")
    seconds = np.maximum.accumulate(times)
    shown = Shown(seconds, seconds[-1] + packets.last)
    complete = taken == len(picks) and not strayed
    return _Decoded(Video(frames, seconds[picks]) if complete else None, shown)


def _seconds(frame: av.VideoFrame, *, first: int | None, index: int, packets: _Packets) -> float:
    if frame.pts is None or first is None or frame.time_base is None:
        return index / packets.rate
    return float((frame.pts - first) * frame.time_base)

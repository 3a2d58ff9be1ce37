"""Frames of video containers, decoded in order, one at a time.

A file is read twice: its packets first, which cost little and tell when frames are shown; then the
frames that are wanted. Where packets tell all, decoding starts at key frames and skips what no
wanted frame needs.

Shapes: n frames in the order of time, F taken frames, S side of a taken frame.
"""

import contextlib
from array import array
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import NamedTuple

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from PIL import Image

from vxlpro_jax.data.errors import BadFile
from vxlpro_jax.data.video.containers import MOST_PIXELS, opened
from vxlpro_jax.data.video.gop import decode_range, packet_ranges
from vxlpro_jax.data.video.media_file import MediaFile
from vxlpro_jax.data.video.packets import Packets, read_packets
from vxlpro_jax.data.video.sampling import FrameStream, Sampling, Shown, TimedFrame, Video

# Frames kept back until it is sure that they are right: codecs let one come later than, or need,
# at most so many that are shown after it, and those may turn out damaged.
_HELD = 16

_SMALL = 320 * 240  # Pixels.

_STRAYED = "gives other frames each time that it is decoded: replace or remove the file"

_ROTATIONS = {
    90: Image.Transpose.ROTATE_90,
    180: Image.Transpose.ROTATE_180,
    270: Image.Transpose.ROTATE_270,
}

_Convert = Callable[[av.VideoFrame], np.ndarray]
_Frames = Generator[TimedFrame, None, None]


def stream_container(media: MediaFile, *, sampling: Sampling, threads: int) -> FrameStream:
    """The frames that `sampling` asks for, one at a time.

    Where packets do not tell all, everything is decoded once before, to learn the times. Where one
    that should gives no frame, as it may when damaged, the frame before it stays in its place.

    Raises:
        BadFile: not a video, no video stream, no frames, too large, cut off or damaged; now, or
            with the frame where it shows.
    """
    source = _Source(media, packets=read_packets(media), sampling=sampling, threads=threads)
    return _as_told(source, _on_screen) if source.packets.tell_all else _as_measured(source)


def read_container(media: MediaFile, *, sampling: Sampling, threads: int) -> Video:
    """The frames that `sampling` asks for, in memory.

    Decodes everything once more only where frames do not come as packets tell. Then what comes out
    is what there is: some packets give no frame (such as leading frames of an open group).

    Raises:
        BadFile: as `stream_container`.
    """
    source = _Source(media, packets=read_packets(media), sampling=sampling, threads=threads)
    try:
        return _as_told(source, _expected).collect()
    except _Strayed:
        return _as_measured(source).collect()


class _Strayed(BadFile):
    """Frames do not come as they should."""


class _Source(NamedTuple):
    media: MediaFile
    packets: Packets
    sampling: Sampling
    threads: int


def _as_told(source: _Source, rest: Callable[[_Source, np.ndarray], _Frames]) -> FrameStream:
    """Trusts what the packets tell; if they have no times, those that come with the frames count.

    Args:
        source: of the frames.
        rest: gives those that decoding parts of the file is not sure to give.
    """
    shown = source.packets.shown()
    picks = source.sampling.picks(shown)

    def frames() -> _Frames:
        came = (yield from _from_spans(source, picks)) if source.packets.tell_all else 0
        if came < len(picks):
            yield from rest(source, picks[came:])

    return FrameStream(shown.times[picks], frames())


def _as_measured(source: _Source) -> FrameStream:
    """Decodes everything to learn when frames are shown, then again for those that are taken."""
    times = np.array(array("d", (seconds for _, seconds in _decoded(source))))
    shown = Shown(times, times[-1] + source.packets.last)
    picks = source.sampling.picks(shown)
    return FrameStream(shown.times[picks], _from_start(source, picks, expected=None))


def _from_spans(source: _Source, picks: np.ndarray) -> Generator[TimedFrame, None, int]:
    """The frames at `picks`, as long as they are sure to be those that decoding all would give.

    Returns:
        How many those are.
    """
    media, packets = source.media, source.packets
    times, wanted = packets.shown().times[picks], np.sort(packets.pts)[picks].tolist()
    places, held, came = set(wanted), {}, 0
    # Whether a file is damaged shows when all is decoded.
    with (
        contextlib.suppress(BadFile),
        _beside(_converter(source)) as convert,
        opened(media, threads=source.threads) as file,
    ):
        for span in packet_ranges(packets, picks):
            for frame in decode_range(media, file, packets=packets, span=span, wanted=places):
                if frame.pts in places:
                    held[frame.pts] = convert(frame)
                if len(held) > _HELD:
                    if wanted[came] not in held:
                        return came
                    yield TimedFrame(held.pop(wanted[came]).result(), times[came])
                    came += 1
            while held:
                if came == len(wanted) or wanted[came] not in held:
                    return came
                yield TimedFrame(held.pop(wanted[came]).result(), times[came])
                came += 1
    return came


def _on_screen(source: _Source, picks: np.ndarray) -> _Frames:
    """Decodes from the first frame on; where one of `picks` does not come, the one before stays."""
    pts, times = np.sort(source.packets.pts)[picks], source.packets.shown().times[picks]
    convert, taken, before = _converter(source), 0, None
    with source.media.reading(), contextlib.closing(_decoded(source)) as decoded:
        for frame, _ in decoded:
            while before is not None and taken < len(picks) and pts[taken] < frame.pts:
                yield TimedFrame(convert(before), times[taken])
                taken += 1
            if taken == len(picks):
                return
            before = frame
        for seconds in times[taken:]:
            yield TimedFrame(convert(before), seconds)


def _expected(source: _Source, picks: np.ndarray) -> _Frames:
    """Decodes from the first frame on; `_Strayed` unless frames are at their packets' times."""
    expected = np.sort(source.packets.pts) if source.packets.timed else None
    return _from_start(source, picks, expected=expected)


def _from_start(source: _Source, picks: np.ndarray, *, expected: np.ndarray | None) -> _Frames:
    """Decodes from the first frame on, as far as `picks` reach.

    Raises:
        BadFile: `_Strayed` if frames end before, or are not at the `expected` times, in ticks.
    """
    strayed = _Strayed(*source.media.bad(_STRAYED, kind="damaged").args, kind="damaged")
    convert, taken = _converter(source), 0
    with source.media.reading(), contextlib.closing(_decoded(source)) as decoded:
        for index, (frame, seconds) in enumerate(decoded):
            if expected is not None and (index >= len(expected) or frame.pts != expected[index]):
                raise strayed
            if index == picks[taken]:
                yield TimedFrame(convert(frame), seconds)
                taken += 1
                if taken == len(picks):
                    return
    raise strayed


def _decoded(source: _Source) -> Generator[tuple[av.VideoFrame, float], None, None]:
    """Every frame and when it is shown, in seconds after the first, not decreasing.

    Raises:
        BadFile: there are none, or the file is damaged.
    """
    first, latest, index = None, 0.0, -1
    with opened(source.media, threads=source.threads) as (container, stream):
        for index, frame in enumerate(container.decode(stream)):
            first = frame.pts if index == 0 else first
            seconds = _seconds(frame, first=first, index=index, packets=source.packets)
            latest = seconds if index == 0 else max(latest, seconds)
            yield frame, latest
    if index < 0:
        raise source.media.bad(
            "has no frames that decode: replace or remove the file", kind="no_frames"
        )


def _seconds(frame: av.VideoFrame, *, first: int | None, index: int, packets: Packets) -> float:
    if frame.pts is None or first is None or frame.time_base is None:
        return index / packets.rate
    return float((frame.pts - first) * frame.time_base)


def _converter(source: _Source) -> _Convert:
    """Makes frames upright uint8 [S,S,3]."""
    to_rgb = VideoReformatter()

    def convert(frame: av.VideoFrame) -> np.ndarray:
        """Turned by the file's rotation, against the clock, then resized."""
        source.media.check_pixels(frame.width, frame.height, most=MOST_PIXELS)
        rgb = to_rgb.reformat(frame, format="rgb24", threads=1).to_ndarray()
        picture = Image.fromarray(rgb)
        turn = _ROTATIONS.get(round(frame.rotation / 90) * 90 % 360)
        return source.sampling.resized(picture if turn is None else picture.transpose(turn))

    return convert


@contextlib.contextmanager
def _beside(convert: _Convert) -> Generator[Callable[[av.VideoFrame], Future[np.ndarray]]]:
    """`convert` in a thread of its own while decoding goes on; memory holds one frame more.

    Small frames, with which a thread takes longer than it saves, are converted at once.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="frames") as converter:
        last: Future[np.ndarray] | None = None

        def begin(frame: av.VideoFrame) -> Future[np.ndarray]:
            nonlocal last
            if frame.width * frame.height < _SMALL:
                done: Future[np.ndarray] = Future()
                done.set_result(convert(frame))
                return done
            if last is not None:
                wait([last])
            last = converter.submit(convert, frame)
            return last

        yield begin

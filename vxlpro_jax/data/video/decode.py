"""Decodes frames of video containers, in order and one at a time.

A file is read twice: first its packets, which is cheap and gives the times of frames; then the
sampled frames. If the packets give all times, decoding starts at key frames and skips packets that
no sampled frame needs.

Shapes: n frames in order of time, F sampled frames, S side of a sampled frame.
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
from vxlpro_jax.data.video.containers import MOST_PIXELS, Opened, opened
from vxlpro_jax.data.video.gop import decode_range, packet_ranges
from vxlpro_jax.data.video.media_file import MediaFile
from vxlpro_jax.data.video.orientation import upright
from vxlpro_jax.data.video.packets import Packets, read_packets
from vxlpro_jax.data.video.sampling import (
    FrameStream,
    FrameTimes,
    Sampling,
    TimedFrame,
    Video,
    continued,
)

# Number of frames held back until they are known to be correct. A codec may output a frame after,
# or make it depend on, at most 16 frames that are shown later and may turn out damaged.
_HELD = 16

_SMALL = 320 * 240  # Pixels.

_UNEXPECTED = "decodes to different frames each time: replace or remove the file"

_Convert = Callable[[av.VideoFrame], np.ndarray]
_Frames = Generator[TimedFrame, None, None]


def stream_container(media: MediaFile, *, sampling: Sampling, threads: int) -> FrameStream:
    """Streams the sampled frames.

    If the packets do not give all times, the whole file is decoded once beforehand to determine
    them. If a packet that should give a frame does not, for example because it is damaged, the
    previous frame is repeated.

    Raises:
        BadFile: The file is not a video, has no video stream or frames, is too large, cut off or
            damaged; raised now, or with the affected frame.
    """
    source = _Source(media, packets=read_packets(media), sampling=sampling, threads=threads)
    return (
        _stream_by_packets(source, _on_screen)
        if source.packets.one_frame_each
        else _stream_by_decoding(source)
    )


def read_container(media: MediaFile, *, sampling: Sampling, threads: int) -> Video:
    """Reads the sampled frames into memory.

    Everything is decoded a second time only if frames do not match the packets. Then the decoded
    frames count: some packets give no frame, such as leading frames of an open group of pictures.

    Raises:
        BadFile: As for `stream_container`.
    """
    source = _Source(media, packets=read_packets(media), sampling=sampling, threads=threads)
    with contextlib.suppress(_UnexpectedFrames):
        if not source.packets.goes_back:
            return _stream_by_packets(source, _expected).collect()
    return _stream_by_decoding(source).collect()


class _UnexpectedFrames(BadFile):
    """The decoded frames do not match the packets."""


class _Source(NamedTuple):
    media: MediaFile
    packets: Packets
    sampling: Sampling
    threads: int


def _stream_by_packets(
    source: _Source, rest: Callable[[_Source, np.ndarray], _Frames]
) -> FrameStream:
    """Streams frames at the times of packets, or of decoded frames if packets have none.

    Args:
        source: file and sampling.
        rest: function that yields the frames that decoding from key frames did not give.
    """
    shown = source.packets.shown()
    picks = source.sampling.picks(shown)

    def frames() -> _Frames:
        came = (yield from _from_spans(source, picks)) if source.packets.one_frame_each else 0
        if came < len(picks):
            yield from rest(source, picks[came:])

    return FrameStream(shown.times[picks], frames())


def _stream_by_decoding(source: _Source) -> FrameStream:
    """Decodes everything to determine the times of frames, then again for the sampled frames."""
    times = np.array(array("d", (seconds for _, seconds in _decoded(source))))
    times = continued(times, step=source.packets.last)
    picks = source.sampling.picks(FrameTimes(times, times[-1] + source.packets.last))
    return FrameStream(times[picks], _from_start(source, picks, times=times))


def _from_spans(source: _Source, picks: np.ndarray) -> Generator[TimedFrame, None, int]:
    """Yields the frames at `picks` as long as they surely equal those of decoding the whole file.

    Returns:
        The number of frames yielded.
    """
    media, packets = source.media, source.packets
    times, wanted = packets.shown().times[picks], np.sort(packets.pts)[picks].tolist()
    places, held, came = set(wanted), {}, 0
    # Damage is ignored here; it shows up when the rest of the file is decoded.
    with (
        contextlib.suppress(BadFile),
        _in_thread(_converter(source)) as convert,
        _opened(source) as file,
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
    """Decodes from the first frame; a pick without a frame repeats the previous frame."""
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
        assert before is not None  # `_decoded` raises if there are no frames.
        for seconds in times[taken:]:
            yield TimedFrame(convert(before), seconds)


def _expected(source: _Source, picks: np.ndarray) -> _Frames:
    """Decodes from the first frame; raises if frames are not at the times of their packets."""
    packets = source.packets
    if packets.in_decode_order:
        return _from_start(source, picks, times=packets.shown().times)
    return _from_start(source, picks, expected=np.sort(packets.pts) if packets.timed else None)


def _from_start(
    source: _Source,
    picks: np.ndarray,
    *,
    expected: np.ndarray | None = None,
    times: np.ndarray | None = None,
) -> _Frames:
    """Decodes from the first frame to the last of `picks`.

    Args:
        source: file and sampling.
        picks: int [F], indices of frames.
        expected: int64 [n], ticks at which frames must appear.
        times: float64 [n], seconds of the frames, if already known.

    Raises:
        BadFile: `_UnexpectedFrames` if frames end early or do not match `expected`.
    """
    strayed = _UnexpectedFrames(*source.media.bad(_UNEXPECTED, kind="damaged").args, kind="damaged")
    convert, taken, latest = _converter(source), 0, 0.0
    with source.media.reading(), contextlib.closing(_decoded(source)) as decoded:
        for index, (frame, seconds) in enumerate(decoded):
            if expected is not None and (index >= len(expected) or frame.pts != expected[index]):
                raise strayed
            latest = max(latest, seconds)
            if index == picks[taken]:
                yield TimedFrame(convert(frame), latest if times is None else times[index])
                taken += 1
                if taken == len(picks):
                    return
    raise strayed


def _decoded(source: _Source) -> Generator[tuple[av.VideoFrame, float], None, None]:
    """Yields every frame with its time in the file, in seconds after the first frame.

    Raises:
        BadFile: There are no frames, or the file is damaged.
    """
    packets, first, index = source.packets, None, -1
    ordered = packets.shown().times.tolist() if packets.in_decode_order else []
    with _opened(source) as (container, stream):
        for index, frame in enumerate(container.decode(stream)):
            first = frame.pts if index == 0 else first
            if index < len(ordered):
                yield frame, ordered[index]
            else:
                yield frame, _seconds(frame, first=first, index=index, packets=packets)
    if index < 0:
        raise source.media.bad(
            "has no frames that can be decoded: replace or remove the file", kind="no_frames"
        )


def _opened(source: _Source) -> contextlib.AbstractContextManager[Opened]:
    return opened(source.media, index=source.packets.stream, threads=source.threads)


def _seconds(frame: av.VideoFrame, *, first: int | None, index: int, packets: Packets) -> float:
    if frame.pts is None or first is None or frame.time_base is None:
        return index / packets.rate
    return float((frame.pts - first) * frame.time_base)


def _converter(source: _Source) -> _Convert:
    """Makes a function that converts frames to upright uint8 [S,S,3]."""
    to_rgb = VideoReformatter()

    def convert(frame: av.VideoFrame) -> np.ndarray:
        """Turns a frame upright, then resizes it."""
        source.media.check_pixels(frame.width, frame.height, most=MOST_PIXELS)
        rgb = to_rgb.reformat(frame, format="rgb24", threads=1).to_ndarray()
        return source.sampling.resized(upright(Image.fromarray(rgb), frame))

    return convert


@contextlib.contextmanager
def _in_thread(convert: _Convert) -> Generator[Callable[[av.VideoFrame], Future[np.ndarray]]]:
    """Runs `convert` in a thread while decoding continues, which holds one more frame in memory.

    Small frames are converted at once, because a thread costs more time than it saves.
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

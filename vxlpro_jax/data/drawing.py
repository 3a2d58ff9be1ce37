"""Drawn clips as real mp4 files.

Shapes: H and W, height and width of a frame.
"""

from collections.abc import Callable, Iterable
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from PIL import Image, ImageDraw

COLOURS = {
    "red": (225, 40, 40),
    "green": (40, 190, 60),
    "blue": (50, 80, 235),
    "yellow": (240, 225, 50),
}


class Figure(NamedTuple):
    """A shape: its centre in units of the canvas, its radius in units of the shorter side."""

    shape: str
    colour: str
    centre: tuple[float, float]
    radius: float


class Canvas(NamedTuple):
    """Attributes: `width` and `height` in pixels (even); `grey` of the background."""

    width: int
    height: int
    grey: int

    def draw(self, figures: Iterable[Figure], *, background: str = "") -> np.ndarray:
        """A frame, uint8 [H,W,3]; `background` is a colour's name, or empty for grey."""
        fill = COLOURS[background] if background else (self.grey,) * 3
        picture = Image.new("RGB", (self.width, self.height), fill)
        pen = ImageDraw.Draw(picture)
        for figure in figures:
            x, y = figure.centre[0] * self.width, figure.centre[1] * self.height
            r = figure.radius * min(self.width, self.height)
            _PENS[figure.shape](pen, x, y, r, COLOURS[figure.colour])
        return np.asarray(picture)


def _cross(pen, x, y, r, fill):
    pen.rectangle((x - r, y - r / 3, x + r, y + r / 3), fill=fill)
    pen.rectangle((x - r / 3, y - r, x + r / 3, y + r), fill=fill)


_PENS: dict[str, Callable] = {
    "circle": lambda pen, x, y, r, fill: pen.ellipse((x - r, y - r, x + r, y + r), fill=fill),
    "square": lambda pen, x, y, r, fill: pen.rectangle((x - r, y - r, x + r, y + r), fill=fill),
    "triangle": lambda pen, x, y, r, fill: pen.polygon(
        [(x, y - r), (x - r, y + r), (x + r, y + r)], fill=fill
    ),
    "cross": _cross,
}
SHAPES = tuple(_PENS)


def write_mp4(path: Path, frames: Iterable[np.ndarray], *, fps: Fraction | int) -> None:
    """Encodes frames (uint8 [H,W,3], even sides) as H.264, or MPEG-4 where FFmpeg lacks x264."""
    frames = iter(frames)
    first = next(frames)
    with av.open(str(path), "w") as container:
        if "libx264" in av.codecs_available:
            # Slower presets give bytes that depend on what happens to lie in memory.
            options = {"crf": "18", "preset": "ultrafast"}
            stream = container.add_stream("libx264", rate=fps, options=options)
        else:
            stream = container.add_stream("mpeg4", rate=fps, options={"qscale": "2"})
        stream.height, stream.width = first.shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1  # The same bytes whatever the machine.
        for frame in (first, *frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())

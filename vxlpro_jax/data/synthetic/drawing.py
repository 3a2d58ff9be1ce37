"""Draws clips and writes them as real mp4 files.

Shapes: H and W, height and width of a frame.
"""

import math
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


# Colours of the left, right, top and bottom wall.
_WALLS = ((0, 0, 0), (255, 255, 255), (0, 200, 220), (220, 0, 200))
_WALL = 0.2  # Thickness, in units of the canvas.


class Figure(NamedTuple):
    """A shape on a canvas.

    Attributes:
        shape: name of the shape.
        colour: name of its colour.
        centre: centre in units of the canvas.
        radius: radius of the circle with the same area, in units of the side of a square with the
            canvas's area, so that shapes of equal radius fill the same share of every canvas.
    """

    shape: str
    colour: str
    centre: tuple[float, float]
    radius: float


class Canvas(NamedTuple):
    """The background of a frame.

    Attributes:
        width: width in pixels, even.
        height: height in pixels, even.
        grey: level of the background.
        has_walls: whether there is a wall along each side, each in its own colour.
    """

    width: int
    height: int
    grey: int
    has_walls: bool = False

    def draw(self, figures: Iterable[Figure], *, background: str = "") -> np.ndarray:
        """Draws a frame, uint8 [H,W,3]; `background` is a colour's name, or empty for grey."""
        fill = COLOURS[background] if background else (self.grey,) * 3
        picture = Image.new("RGB", (self.width, self.height), fill)
        pen = ImageDraw.Draw(picture)
        if self.has_walls:
            self._draw_walls(pen)
        for figure in figures:
            x, y = figure.centre[0] * self.width, figure.centre[1] * self.height
            draw, area = _PENS[figure.shape]
            r = figure.radius * math.sqrt(self.width * self.height * math.pi / area)
            draw(pen, x, y, r, COLOURS[figure.colour])
        return np.asarray(picture)

    def _draw_walls(self, pen):
        right, bottom = self.width, self.height
        across, down = _WALL * right, _WALL * bottom
        boxes = (
            (0, 0, across, bottom),
            (right - across, 0, right, bottom),
            (0, 0, right, down),
            (0, bottom - down, right, bottom),
        )
        for box, fill in zip(boxes, _WALLS, strict=True):
            pen.rectangle(box, fill=fill)


def _cross(pen, x, y, r, fill):
    pen.rectangle((x - r, y - r / 3, x + r, y + r / 3), fill=fill)
    pen.rectangle((x - r / 3, y - r, x + r / 3, y + r), fill=fill)


# For each shape: the function that draws it, and its area at r = 1.
_PENS: dict[str, tuple[Callable, float]] = {
    "circle": (
        lambda pen, x, y, r, fill: pen.ellipse((x - r, y - r, x + r, y + r), fill=fill),
        math.pi,
    ),
    "square": (
        lambda pen, x, y, r, fill: pen.rectangle((x - r, y - r, x + r, y + r), fill=fill),
        4.0,
    ),
    "triangle": (
        lambda pen, x, y, r, fill: pen.polygon(
            [(x, y - r), (x - r, y + r), (x + r, y + r)], fill=fill
        ),
        2.0,
    ),
    "cross": (_cross, 20 / 9),
}
SHAPES = tuple(_PENS)


def write_mp4(path: Path, frames: Iterable[np.ndarray], *, fps: Fraction | int) -> None:
    """Encodes frames (uint8 [H,W,3], even sides) as H.264, or MPEG-4 where FFmpeg lacks x264."""
    frames = iter(frames)
    first = next(frames)
    with av.open(str(path), "w") as container:
        if "libx264" in av.codecs_available:
            # The output of slower presets depends on uninitialized memory.
            options = {"crf": "18", "preset": "ultrafast"}
            stream = container.add_stream("libx264", rate=fps, options=options)
        else:
            stream = container.add_stream("mpeg4", rate=fps, options={"qscale": "2"})
        stream.height, stream.width = first.shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1  # Gives the same bytes on every machine.
        for frame in (first, *frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())

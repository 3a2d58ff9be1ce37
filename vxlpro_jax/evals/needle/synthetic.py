"""Draws a synthetic haystack and synthetic needles once, into a cache folder.

The haystack is grey throughout, and each needle is coloured or has black lines on white, so that
the haystack itself shows no needle.

Shapes: H and W, height and width of a frame.
"""

import functools
import itertools
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from vxlpro_jax.data.synthetic.clips import create_folder_once
from vxlpro_jax.data.synthetic.drawing import COLOURS, Canvas, Figure, write_mp4

VERSION = 1  # Part of the folders' names: increase it whenever the drawings change.
FRAMES = 10_240  # One per second.
_WIDTH, _HEIGHT = 160, 112
_SIDE = 384


def haystack(cache: Path) -> Path:
    """Returns an mp4 of `FRAMES` frames under `cache`, writing it if it is missing.

    Raises:
        InputError: the folder cannot be written.
    """

    def write(folder: Path) -> None:
        write_mp4(folder / "haystack.mp4", scenes(FRAMES), fps=1)

    return create_folder_once(cache / f"haystack-v{VERSION}", write) / "haystack.mp4"


def scenes(count: int) -> Iterator[np.ndarray]:
    """Yields flickering grey frames, uint8 [H,W,3], with a soft drifting wave.

    The wave changes every 4 to 20 frames. It is faint because the tiny preset was only trained on
    flickering grey around its cards.
    """
    rng = np.random.default_rng(VERSION)
    without_end = itertools.chain.from_iterable(_scene(rng) for _ in itertools.count())
    return itertools.islice(without_end, count)


def _scene(rng: np.random.Generator) -> Iterator[np.ndarray]:
    strength, (right, down) = rng.uniform(1, 4), rng.uniform(-0.3, 0.3, 2)
    across = rng.uniform(0.5, 4) * np.linspace(0, math.pi, _WIDTH)
    under = rng.uniform(0.5, 4) * np.linspace(0, math.pi, _HEIGHT)
    for time in range(int(rng.integers(4, 21))):
        wave = np.outer(np.cos(under + down * time), np.cos(across + right * time))
        level = rng.integers(100, 156) + strength * wave
        yield np.repeat(level.round().astype(np.uint8)[..., None], 3, axis=-1)


def tiny_needles(cache: Path) -> Path:
    """Writes a needle list for the tiny preset: cards and words as in its training.

    There are four, one of each colour, so that a constant guess is right for a quarter of them.

    Raises:
        InputError: the folder cannot be written.
    """
    return _list(cache / f"needles-tiny-v{VERSION}", _CARDS)


def natural_needles(cache: Path) -> Path:
    """Writes a needle list in natural language: five pictures, with the letters of Video-XL's list.

    Raises:
        InputError: the folder cannot be written.
    """
    return _list(cache / f"needles-natural-v{VERSION}", _PICTURES)


def _list(root: Path, needles: tuple[tuple[dict, Callable[[], Image.Image]], ...]) -> Path:
    def write(folder: Path) -> None:
        for record, draw in needles:
            draw().save(folder / record["media"])
        records = [record for record, _ in needles]
        (folder / "needles.json").write_text(json.dumps(records, indent=1), encoding="utf-8")

    return create_folder_once(root, write) / "needles.json"


def _card(colour: str) -> Image.Image:
    card = Figure("square", colour, (0.5, 0.5), 0.25)
    return Image.fromarray(Canvas(_SIDE, _SIDE, 128).draw([card]))


def _roof(pen: ImageDraw.ImageDraw) -> None:
    pen.rectangle((100, 190, 284, 340), fill=(235, 215, 180), outline="black", width=4)
    pen.polygon([(70, 190), (192, 60), (314, 190)], fill=COLOURS["red"], outline="black")
    pen.rectangle((170, 260, 214, 340), fill=(120, 80, 40))


def _die(pen: ImageDraw.ImageDraw) -> None:
    pen.rounded_rectangle((72, 72, 312, 312), 36, fill="white", outline="black", width=6)
    for x, y in ((132, 132), (252, 132), (192, 192), (132, 252), (252, 252)):
        pen.ellipse((x - 24, y - 24, x + 24, y + 24), fill="black")


def _traffic_light(pen: ImageDraw.ImageDraw) -> None:
    pen.rectangle((132, 32, 252, 352), fill=(40, 40, 40))
    for y, fill in ((90, (90, 40, 40)), (192, (90, 85, 40)), (294, (30, 230, 60))):
        pen.ellipse((150, y - 42, 234, y + 42), fill=fill)


def _arrow(pen: ImageDraw.ImageDraw) -> None:
    pen.polygon([(192, 40), (312, 180), (72, 180)], fill="black")
    pen.rectangle((152, 180, 232, 344), fill="black")


def _clock(pen: ImageDraw.ImageDraw) -> None:
    pen.ellipse((40, 40, 344, 344), fill="white", outline="black", width=8)
    for hour in range(12):
        x, y = math.sin(hour * math.pi / 6), -math.cos(hour * math.pi / 6)
        pen.line((192 + 120 * x, 192 + 120 * y, 192 + 140 * x, 192 + 140 * y), "black", 8)
    pen.line((192, 192, 192, 84), "black", 8)
    pen.line((192, 192, 272, 192), "black", 14)


def _drawn(draw: Callable[[ImageDraw.ImageDraw], None]) -> Image.Image:
    picture = Image.new("RGB", (_SIDE, _SIDE), (215, 235, 250))
    draw(ImageDraw.Draw(picture))
    return picture


def _record(name: str, question: str, answer: str, *options: str) -> dict:
    return {"media": f"{name}.png", "question": question, "answer": answer, "options": options}


_CARDS = tuple(
    (
        _record(colour, "What colour is the card?", colour, *COLOURS)
        | {"plain": True, "frames": 4},
        functools.partial(_card, colour),
    )
    for colour in COLOURS
)

_PICTURES = tuple(
    (record, functools.partial(_drawn, draw))
    for record, draw in (
        (
            _record(
                *("roof", "Find the frame with a drawn house. What colour is its roof?", "red"),
                *("green", "yellow", "blue", "red"),
            ),
            _roof,
        ),
        (
            _record(
                *("die", "Find the frame with a die. How many dots does it show?", "five"),
                *("two", "three", "five", "six"),
            ),
            _die,
        ),
        (
            _record(
                *("light", "Find the frame with a traffic light. Which light is on?", "green"),
                *("red", "yellow", "green", "none"),
            ),
            _traffic_light,
        ),
        (
            _record(
                *("arrow", "Find the frame with a black arrow. Which way does it point?", "up"),
                *("left", "up", "right", "down"),
            ),
            _arrow,
        ),
        (
            _record(
                *("clock", "Find the frame with a clock. Which hour does it show?", "three"),
                *("three", "six", "nine", "twelve"),
            ),
            _clock,
        ),
    )
)

"""Draws a batch: frames with time stamps, text with coloured targets, and bars of row usage."""

import dataclasses
import functools
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib import font_manager
from matplotlib.figure import Figure

from vxlpro_jax.data.inspect import words
from vxlpro_jax.data.inspect.text import TextKind, TextSpan, width, wrap
from vxlpro_jax.data.inspect.view import MOST_THUMBNAILS, SampleView, Thumbnail
from vxlpro_jax.data.loader.batches import Batch
from vxlpro_jax.utils.errors import InputError

_COLOURS: dict[TextKind, str] = {"context": "#3c4043", "target": "#c2185b", "image": "#1a73e8"}
_SAMPLES = ("#4e79a7", "#f28e2b", "#59a14f", "#b07aa1", "#edc948", "#76b7b2")
_PADDING = "#e0e3e7"
_OTHER_SCRIPTS = (
    *("Noto Sans Mono CJK SC", "Noto Sans CJK SC", "WenQuanYi Micro Hei", "PingFang SC"),
    *("Microsoft YaHei", "Arial Unicode MS"),
)

# Lengths in inches; the font size is in points.
_MARGIN, _THUMBNAIL, _GAP, _BARS = 0.3, 1.0, 0.5, 2.2
_FONT = 8
_CHARACTER, _LINE = 0.602 * _FONT / 72, 1.35 * _FONT / 72
_PICTURES = 1.3 * _LINE + _THUMBNAIL
_CONTENT = MOST_THUMBNAILS * _THUMBNAIL
_WIDTH = _MARGIN + _CONTENT + _GAP + _BARS + _MARGIN
_COLUMNS = int(_CONTENT / _CHARACTER)
_MOST_LINES = 12
_MOST_NAMED = 80  # Characters.


class SampleBlock(NamedTuple):
    """One block of the picture.

    Attributes:
        sample: sample to draw.
        lines: wrapped text of the sample.
        height: height of the block in inches.
    """

    sample: SampleView
    lines: list[list[TextSpan]]
    height: float


def draw_batch(
    shares: "RowShares", *, samples: Sequence[SampleView], title: str, path: Path
) -> None:
    """Writes a PNG with a block for each sample, and bars that show how full each row is.

    Args:
        shares: slots that the samples of each row take.
        samples: samples to draw.
        title: title of the picture.
        path: path of the PNG.

    Raises:
        InputError: The file cannot be written.
    """
    blocks = [_block(sample) for sample in samples]
    top = _MARGIN + 3 * _LINE
    sheet = _Sheet.empty(top + sum(block.height for block in blocks))
    sheet.write(_MARGIN, _MARGIN / 2, title, weight="bold", fontsize=_FONT + 2)
    if any(block.lines for block in blocks):
        _legend(sheet)
    for block in blocks:
        _draw_block(sheet, block, top=top)
        if block.sample.number == 1:
            _draw_bars(sheet, shares, row=block.sample.row, top=top)
        top += block.height
    _save(sheet.figure, path)


class RowShares(NamedTuple):
    """Number of slots that each sample of a row takes; the first number is that of the padding.

    Attributes:
        groups: for each row, number of groups of frames by sample.
        text: for each row, number of text ids by sample.
    """

    groups: list[list[int]]
    text: list[list[int]]

    @classmethod
    def of(cls, batch: Batch) -> "RowShares":
        """Counts the slots of a batch."""
        columns = (batch[f"{name}_segments"] for name in ("group", "token"))
        return cls(*([np.bincount(row, minlength=1).tolist() for row in x] for x in columns))


@dataclasses.dataclass(frozen=True)
class _Sheet:
    """A figure whose coordinates are inches from the upper left corner."""

    figure: Figure
    height: float

    @classmethod
    def empty(cls, height: float) -> "_Sheet":
        return cls(Figure(figsize=(_WIDTH, height), facecolor="white"), height)

    def write(self, left: float, top: float, text: str, **style) -> None:
        # Without parse_math=False, text between dollar signs would be set as a formula.
        style = {"fontsize": _FONT, "va": "top", "parse_math": False} | style
        self.figure.text(left / _WIDTH, 1 - top / self.height, text, **style)

    def axes(self, left: float, top: float, *, width: float, height: float):
        bottom = 1 - (top + height) / self.height
        place = (left / _WIDTH, bottom, width / _WIDTH, height / self.height)
        return self.figure.add_axes(place)


def _legend(sheet: _Sheet) -> None:
    """Writes the meaning of the text colours."""
    left = _MARGIN + _CONTENT + _GAP
    for kind, colour in reversed(_COLOURS.items()):
        sheet.write(left, _MARGIN / 2, kind, color=colour, weight="bold")
        left += _BARS / len(_COLOURS)


def _block(sample: SampleView) -> SampleBlock:
    lines = [line for turn in sample.turns for line in wrap(turn, columns=_COLUMNS)]
    if len(lines) > _MOST_LINES:
        left_out = len(lines) - _MOST_LINES + 1
        lines = [*lines[: _MOST_LINES - 1], [TextSpan(f"… {left_out} more lines", "context")]]
    pictures = _PICTURES if sample.thumbnails else 0.0
    text = _LINE * (len(lines) + 1)
    return SampleBlock(sample, lines, max(1.5 * _LINE + pictures + text + _GAP / 2, _BARS / 2))


def _draw_block(sheet: _Sheet, block: SampleBlock, *, top: float) -> None:
    sample = block.sample
    colour = _colour(sample.number)
    heading = words.heading(sample, most=_MOST_NAMED)
    sheet.write(_MARGIN, top, heading, weight="bold", color=colour)
    sheet.write(_MARGIN + _CONTENT, top, words.frames(sample), ha="right", color=colour)
    top += 1.5 * _LINE
    for index, thumbnail in enumerate(sample.thumbnails):
        _draw_thumbnail(sheet, thumbnail, left=_MARGIN + index * _THUMBNAIL, top=top)
    top += _PICTURES if sample.thumbnails else 0.0
    for line in block.lines:
        _write_line(sheet, line, top=top)
        top += _LINE


def _draw_thumbnail(sheet: _Sheet, thumbnail: Thumbnail, *, left: float, top: float) -> None:
    """Draws a frame; a repeated frame is drawn pale."""
    title = f"{thumbnail.title} the same" if thumbnail.repeats else thumbnail.title
    sheet.write(left, top, title, fontsize=_FONT - 1)
    side = 0.94 * _THUMBNAIL
    axes = sheet.axes(left, top + _LINE, width=side, height=side)
    axes.imshow(thumbnail.pixels, alpha=0.25 if thumbnail.repeats else 1.0)
    axes.set_axis_off()


def _write_line(sheet: _Sheet, line: Sequence[TextSpan], *, top: float) -> None:
    column = 0
    for text, kind in line:
        style = {"family": _fonts(), "color": _COLOURS[kind]}
        weight = "normal" if kind == "context" else "bold"
        sheet.write(_MARGIN + column * _CHARACTER, top, text, weight=weight, **style)
        column += width(text)


@functools.cache
def _fonts() -> list[str]:
    """Lists monospaced fonts: the shipped one, then this machine's fonts for other scripts."""
    others = [name for name in _OTHER_SCRIPTS if name in font_manager.fontManager.get_font_names()]
    return ["DejaVu Sans Mono", *others]


def _draw_bars(sheet: _Sheet, shares: RowShares, *, row: int, top: float) -> None:
    """Draws a bar of the row's groups and, if it has text, a bar of its text ids."""
    left, height = _MARGIN + _CONTENT + _GAP, 1.5 * _LINE
    for name, unit, counts in (
        ("frames", "groups", shares.groups[row]),
        ("text", "ids", shares.text[row]),
    ):
        padding, *used = counts
        total = sum(counts)
        if not total:
            continue
        sheet.write(left, top, f"{name}: {sum(used)} of {total} {unit}")
        axes = sheet.axes(left, top + 1.2 * _LINE, width=_BARS, height=height)
        _stack(axes, [*used, padding], [*map(_colour, range(1, len(counts))), _PADDING])
        axes.set(xlim=(0, total), ylim=(-0.5, 0.5))
        axes.set_axis_off()
        top += height + 2 * _LINE


def _stack(axes, widths: Sequence[int], colours: Sequence[str]) -> None:
    left = np.cumsum([0, *widths[:-1]])
    axes.barh(0, widths, left=left, height=1, color=colours, edgecolor="white", linewidth=0.5)


def _colour(number: int) -> str:
    """Returns the colour of a sample by its number."""
    return _SAMPLES[(number - 1) % len(_SAMPLES)]


def _save(figure: Figure, path: Path) -> None:
    partial = path.with_name(f"{path.name}.tmp")
    try:
        with warnings.catch_warnings():
            # Characters that no font has become boxes; the printed text has them.
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")
            figure.savefig(partial, format="png", dpi=120)
        os.replace(partial, path)
    except OSError as error:
        raise InputError(
            f"Picture {path} cannot be written ({error.strerror}): give another --out."
        ) from error

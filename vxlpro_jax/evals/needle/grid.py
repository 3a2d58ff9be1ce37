"""Asks about a grid of lengths, depths, needles and keep ratios.

Shapes: M frames of a needle, S side of a frame.
"""

import dataclasses
import itertools
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vxlpro_jax.config.schema import FRAMES_PER_GROUP
from vxlpro_jax.evals.needle import haystack
from vxlpro_jax.evals.needle.modes import Mode
from vxlpro_jax.evals.needle.needles import Needle
from vxlpro_jax.evals.needle.replies import Cell, NeedleReply
from vxlpro_jax.inference.engine import Engine, Options, Plan
from vxlpro_jax.ops.token_selection import num_kept
from vxlpro_jax.utils import cli

log = logging.getLogger(__name__)

_MIN_NEW_TOKENS = 16  # Published replies are sentences.


class Hidden(NamedTuple):
    """A needle and its frames, uint8 [M,S,S,3]."""

    needle: Needle
    frames: np.ndarray


class Grid(NamedTuple):
    """The questions: every needle at every depth of every length, with every keep ratio."""

    frames: Sequence[int]
    depths: Sequence[float]
    keep_ratios: Sequence[float]

    def cells(self, needles: Iterable[str]) -> list[Cell]:
        """Returns the questions in the order of asking, the shortest haystack first."""
        axes = (self.frames, self.depths, needles, self.keep_ratios)
        return [Cell(*values) for values in itertools.product(*axes)]


def ask(
    engine: Engine,
    cells: Sequence[Cell],
    *,
    files: Sequence[Path],
    hidden: Mapping[str, Hidden],
    mode: Mode,
    options: Options,
) -> Iterator[NeedleReply]:
    """Yields the model's replies; the haystack is encoded once.

    Args:
        engine: model to ask.
        cells: questions, at least one; those with the same place follow one another.
        files: videos of the haystack.
        hidden: needles by name.
        mode: one of `modes.MODES`.
        options: options of the decoder; keep ratio and reply length are set for each cell.

    Raises:
        InputError: a file cannot be read, the haystack is too short or a needle too long for it,
            a needle does not suit the mode, or the context is too short.
    """
    places = {
        cell: haystack.place(cell.depth, frames=cell.frames, length=len(hidden[cell.needle].frames))
        for cell in cells
    }
    longest = max(
        len(engine.tokenizer.encode(reply))
        for needle, _ in hidden.values()
        for reply in (needle.answer, *needle.options)
    )

    def options_of(cell: Cell) -> Options:
        new = max(_MIN_NEW_TOKENS, longest + 1)
        return dataclasses.replace(options, keep_ratio=cell.keep_ratio, max_new_tokens=new)

    def plan(cell: Cell) -> Plan:
        groups, needle = places[cell].groups, hidden[cell.needle].needle
        return mode.plan(engine, needle, groups=groups, options=options_of(cell))

    plans = {
        cell: plan(cell) for cell in cells
    }  # Prompts that do not fit raise an error now, before the haystack is encoded.
    _warn_of_lowered(plans, tokens_per_group=engine.config.tokens_per_group)
    hay = _encoded(engine, places.values(), files=files)
    shown = cli.progress(cells, name="needles", unit="question")
    for (name, at), together in itertools.groupby(shown, lambda c: (c.needle, places[c])):
        needle, frames = hidden[name]
        encoded = hay.hide(engine, frames, at=at)
        for cell in together:
            reply, right = mode.ask(
                engine, needle, encoded=encoded, plan=plans[cell], options=options_of(cell)
            )
            yield NeedleReply(cell, plans[cell].keep, needle.answer, reply, right)


def _warn_of_lowered(plans: Mapping[Cell, Plan], *, tokens_per_group: int) -> None:
    """Warns if fewer visual tokens are kept than the keep ratio asks for."""
    kept: dict[tuple[int, float], int] = {}
    for cell, plan in plans.items():
        at = cell.frames, cell.keep_ratio
        kept[at] = min(plan.keep, kept.get(at, plan.keep))
    for (frames, ratio), least in sorted(kept.items()):
        asked = num_kept(-(-frames // FRAMES_PER_GROUP) * tokens_per_group, ratio=ratio)
        if least < asked:
            log.warning(
                "Of %d frames only %d visual tokens are kept instead of %d (keep ratio %g), as more"
                " do not fit: raise --max_context or --hbm_gib.",
                *(frames, least, asked, ratio),
            )


def _encoded(
    engine: Engine, places: Iterable[haystack.Place], *, files: Sequence[Path]
) -> haystack.Haystack:
    stream = haystack.open_files(
        files, count=max(at.frames for at in places), size=engine.config.vision.image_size
    )
    touched = {group for at in places for group in at.touched()}
    return haystack.encode(engine, stream, keep=touched)

"""Stores replies on disk one by one, so that an interrupted run can be continued."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from vxlpro_jax.evals.run_folder import check_settings, folder_lock
from vxlpro_jax.utils.journal import Journal, Shard

_SETTINGS = "replies-settings.json"


class Cell(NamedTuple):
    """One question of a grid.

    Attributes:
        frames: length of the haystack in frames.
        depth: depth of the needle, 0 at the start and 1 at the end.
        needle: name of the needle.
        keep_ratio: share of the visual tokens that the selector keeps.
    """

    frames: int
    depth: float
    needle: str
    keep_ratio: float


class NeedleReply(NamedTuple):
    """The model's reply to a cell.

    Attributes:
        cell: question.
        kept: number of visual tokens that the decoder read; fewer than the keep ratio asks for
            if the context is too short.
        answer: right answer.
        reply: reply of the model.
        right: whether the reply counts as right.
    """

    cell: Cell
    kept: int
    answer: str
    reply: str
    right: bool


class Replies:
    """The replies of a folder, by cell."""

    def __init__(self, folder: Path, *, settings: Mapping[str, Any]):
        """Creates the folder, or reads the replies that it already holds.

        Args:
            folder: folder of the replies, one per line, and their settings.
            settings: everything besides its cell on which a reply depends, as JSON.

        Raises:
            InputError: the folder holds replies under other settings.
        """
        with folder_lock(folder):
            self._journal = Journal(folder, name="replies", shard=Shard())
            if not self._journal.entries:
                (folder / _SETTINGS).unlink(missing_ok=True)
            check_settings(folder, settings, name=_SETTINGS)

    def of(self, cells: Iterable[Cell]) -> list[NeedleReply]:
        """Returns the existing replies to the cells, in the order of the cells."""
        entries = self._journal.entries
        return [_reply(entries[key]) for key in map(_key, cells) if key in entries]

    def missing(self, cells: Iterable[Cell]) -> list[Cell]:
        """Returns the cells without a reply."""
        return [cell for cell in cells if _key(cell) not in self._journal.entries]

    def add(self, reply: NeedleReply) -> None:
        """Writes a reply."""
        fields = reply.cell._asdict() | reply._asdict()
        del fields["cell"]
        self._journal.add(_key(reply.cell), fields)


def _key(cell: Cell) -> str:
    return json.dumps(cell)


def _reply(fields: dict[str, Any]) -> NeedleReply:
    cell = Cell(*(fields[name] for name in Cell._fields))
    return NeedleReply(cell, *(fields[name] for name in NeedleReply._fields[1:]))

"""Replies on disk, kept one by one, so that a run that ends early goes on where it was."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from vxlpro_jax.evals.campaign import alone, check_settings
from vxlpro_jax.utils.journal import Journal, Shard

_SETTINGS = "replies-settings.json"


class Cell(NamedTuple):
    """One question: how many `frames`, at which `depth`, which `needle`, and the `keep_ratio`."""

    frames: int
    depth: float
    needle: str
    keep_ratio: float


class Reply(NamedTuple):
    """What became of a cell.

    Attributes:
        cell: what was asked.
        kept: visual tokens that the decoder read, fewer than asked for where the context is short.
        answer: the right one.
        reply: the model's.
        right: whether it counts.
    """

    cell: Cell
    kept: int
    answer: str
    reply: str
    right: bool


class Replies:
    """Those of a folder, by cell."""

    def __init__(self, folder: Path, *, settings: Mapping[str, Any]):
        """Makes the folder or goes on with it.

        Args:
            folder: of the replies, a line each, and their settings.
            settings: JSON, all that a reply depends on but its cell.

        Raises:
            InputError: the folder holds replies under other settings.
        """
        with alone(folder):
            self._journal = Journal(folder, name="replies", shard=Shard())
            if not self._journal.entries:
                (folder / _SETTINGS).unlink(missing_ok=True)
            check_settings(folder, settings, name=_SETTINGS)

    def of(self, cells: Iterable[Cell]) -> list[Reply]:
        """What there is of these, in their order."""
        entries = self._journal.entries
        return [_reply(entries[key]) for key in map(_key, cells) if key in entries]

    def missing(self, cells: Iterable[Cell]) -> list[Cell]:
        """Those without a reply."""
        return [cell for cell in cells if _key(cell) not in self._journal.entries]

    def add(self, reply: Reply) -> None:
        """Writes one more."""
        told = reply.cell._asdict() | reply._asdict()
        del told["cell"]
        self._journal.add(_key(reply.cell), told)


def _key(cell: Cell) -> str:
    return json.dumps(cell)


def _reply(told: dict[str, Any]) -> Reply:
    cell = Cell(*(told[field] for field in Cell._fields))
    return Reply(cell, *(told[field] for field in Reply._fields[1:]))

"""Replies on disk, kept one by one, so that a run that ends early goes on where it was."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self

from vxlpro_jax.config import InputError
from vxlpro_jax.files import write_atomically


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


class Journal:
    """The file `replies.jsonl` of a folder; `replies` are those that it holds."""

    def __init__(self, path: Path, replies: dict[Cell, Reply]):
        self.replies = replies
        self._path = path

    @classmethod
    def open(cls, folder: Path, *, settings: Mapping[str, Any]) -> Self:
        """Makes or goes on with the journal of a folder that exists.

        A last line without its end, which an interrupted write leaves, is cut off.

        Args:
            folder: where it lies, beside `settings.json`.
            settings: JSON, all that a reply depends on but its cell.

        Raises:
            InputError: the folder holds replies under other settings, or a line is damaged.
        """
        path = folder / "replies.jsonl"
        path.touch()
        whole = path.read_bytes()
        whole = whole[: whole.rfind(b"\n") + 1]
        os.truncate(path, len(whole))
        replies = {}
        for number, line in enumerate(whole.splitlines(), start=1):
            try:
                reply = _reply(json.loads(line))
            except (ValueError, KeyError, TypeError) as error:
                raise InputError(
                    f"{path}, line {number}, is no reply of this command ({error!r}): remove it."
                ) from error
            replies[reply.cell] = reply
        if replies:
            _check_settings(folder / "settings.json", dict(settings))
        else:
            write_atomically(folder / "settings.json", json.dumps(settings, indent=1))
        return cls(path, replies)

    def add(self, reply: Reply) -> None:
        """Appends one reply."""
        told = reply.cell._asdict() | reply._asdict()
        del told["cell"]
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(told) + "\n")
        self.replies[reply.cell] = reply


def _reply(told: dict[str, Any]) -> Reply:
    cell = Cell(*(told[field] for field in Cell._fields))
    return Reply(cell, *(told[field] for field in Reply._fields[1:]))


def _check_settings(path: Path, settings: dict[str, Any]) -> None:
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error}): choose another --out.") from error
    if before != settings:
        known = before if isinstance(before, dict) else {}
        changed = [key for key in settings if known.get(key) != settings[key]]
        raise InputError(
            f"{path.parent} holds replies under other settings ({', '.join(changed)}): choose"
            " another --out, or remove it."
        )

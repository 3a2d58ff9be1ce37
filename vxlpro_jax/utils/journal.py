"""Results written line by line, so that an interrupted run can be resumed."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

_LONGEST_LINE = 1 << 20  # Bytes.


class Shard(NamedTuple):
    """One process's part of the work.

    Attributes:
        index: rank of the process, from 0.
        count: number of processes.
    """

    index: int = 0
    count: int = 1

    def owns(self, place: int) -> bool:
        """Returns whether the item at index `place` of the list belongs to this process."""
        return place % self.count == self.index


class Journal:
    """Entries of all processes, by key. New ones are appended to this process's file.

    Files are named `NAME-INDEX-of-COUNT.jsonl`; those of any count are read. An incomplete line, as
    left by a killed process, is skipped.

    Attributes:
        entries: JSON objects by key.
    """

    def __init__(self, folder: Path, *, name: str, shard: Shard):
        """Creates the folder and reads all entries in it.

        Args:
            folder: folder of the files.
            name: prefix of the files' names.
            shard: this process's part of the work.

        Raises:
            OSError: the folder cannot be created or read.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.entries: dict[str, dict[str, Any]] = {}
        for file in sorted(folder.glob(f"{name}-*-of-*.jsonl")):
            self.entries |= _entries(file)
        self._own = folder / f"{name}-{shard.index}-of-{shard.count}.jsonl"
        _cut_torn_line(self._own)

    def add(self, key: str, entry: dict[str, Any]) -> None:
        """Appends a JSON object."""
        with self._own.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"key": key} | entry) + "\n")
        self.entries[key] = entry


def _cut_torn_line(file: Path) -> None:
    with file.open("ab+") as stream:
        size = stream.seek(0, os.SEEK_END)
        stream.seek(max(0, size - _LONGEST_LINE))
        end = stream.read()
        stream.truncate(size - len(end) + end.rfind(b"\n") + 1)


def _entries(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    with file.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            try:
                entry = json.loads(line)
                yield entry.pop("key"), entry
            except (ValueError, KeyError, TypeError, AttributeError):
                continue

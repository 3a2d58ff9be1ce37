"""Reports on a data file as a whole: its first mistakes at once, and its unused fields."""

import difflib
import logging
from collections import Counter
from typing import Any

from vxlpro_jax.data.sources.schema import KNOWN_FIELDS
from vxlpro_jax.utils.errors import InputError, short_repr

log = logging.getLogger(__name__)

_TURN_FIELDS = {"from", "value"}
_MOST_FAULTS = 10
_MOST_CHARACTERS = 500


class FileReport:
    """Collects the mistakes and the unknown fields of a file's records."""

    def __init__(self, file: str):
        """Stores the name of the file, which starts the messages."""
        self._file = file
        self._faults: list[str] = []
        self._unknown: Counter[str] = Counter()

    def add_fault(self, error: InputError) -> None:
        """Stores a mistake.

        Raises:
            InputError: There are enough mistakes to report; the message summarises them.
        """
        self._faults.append(str(error))
        if len(self._faults) == _MOST_FAULTS:
            self.finish()

    def add_sample(self, sample: Any) -> None:
        """Counts the unknown fields of a sample."""
        if not isinstance(sample, dict):
            return
        unknown = sample.keys() - KNOWN_FIELDS
        turns = sample.get("conversations")
        for turn in turns if isinstance(turns, list) else ():
            if isinstance(turn, dict) and turn.keys() != _TURN_FIELDS:
                unknown |= {f"conversations[].{key}" for key in turn.keys() - _TURN_FIELDS}
        self._unknown.update(unknown)

    def finish(self) -> None:
        """Logs the unknown fields.

        Raises:
            InputError: There are mistakes; several are logged in full and summarised.
        """
        if len(self._faults) == 1:
            raise InputError(self._faults[0])
        if self._faults:
            for fault in self._faults:
                log.error("%s", fault)
            raise InputError(self._summary())
        if self._unknown:
            fields = ", ".join(map(self._shown, sorted(self._unknown)[:_MOST_FAULTS]))
            log.warning("Data file %s has fields that are not used: %s.", self._file, fields)

    def _summary(self) -> str:
        many = len(self._faults) == _MOST_FAULTS
        count = f"{'the first ' if many else ''}{len(self._faults)} mistakes"
        head = f"Data file {self._file}: {count} are logged: "
        room = max(30, (_MOST_CHARACTERS - len(head)) // len(self._faults) - 2)
        shown = (fault.removeprefix(f"{self._file}, ") for fault in self._faults)
        return head + "; ".join(fault[:room].rstrip(" .:") for fault in shown)

    def _shown(self, field: str) -> str:
        close = difflib.get_close_matches(field[:40], KNOWN_FIELDS, n=1, cutoff=0.8)
        meant = f", did you mean {close[0]!r}?" if close else ""
        return f"{short_repr(field)} (in {self._unknown[field]:,} records{meant})"

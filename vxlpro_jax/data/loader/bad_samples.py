"""Records that could not become samples: named, counted by kind, and borne up to a quota."""

import collections
import json
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple, NoReturn

from vxlpro_jax.data.errors import BadFile
from vxlpro_jax.utils.errors import InputError

log = logging.getLogger(__name__)


class BadSample(NamedTuple):
    """Attributes.

    record: its index among all records.
    name: where it stands.
    kind: a word to count by: that of a `BadFile`, or `record` for what the record itself says.
    reason: a sentence.
    """

    record: int
    name: str
    kind: str
    reason: str


def told(error: InputError, *, record: int, name: str) -> BadSample:
    """Of what went wrong with a record."""
    kind = error.kind if isinstance(error, BadFile) else "record"
    return BadSample(record, name, kind, str(error))


class BadSamples:
    """Attributes: `records`, the indices of those that were found bad so far."""

    def __init__(self, *, total: int, allowed: int, path: Path | None):
        """None found yet.

        Args:
            total: how many records there are.
            allowed: how many of them may be bad.
            path: JSON lines are appended here, one for each; None lists them nowhere.
        """
        self.records: set[int] = set()
        self._total, self._allowed, self._path = total, allowed, path
        self._kinds: collections.Counter[str] = collections.Counter()
        self._last = ""

    def add(self, bad: Iterable[BadSample]) -> None:
        """Logs and lists what is new.

        Raises:
            InputError: there are more than allowed.
        """
        for sample in bad:
            if sample.record in self.records:
                continue
            self.records.add(sample.record)
            self._kinds[sample.kind] += 1
            self._last = f"{sample.name}: {sample.reason}"
            log.warning("Skipped (%s) %s", sample.kind, self._last)
            self._list(sample)
        if len(self.records) > self._allowed:
            self.stop()

    def stop(self) -> NoReturn:
        """Ends the run.

        Raises:
            InputError: always.
        """
        where = f" (all are listed in {self._path})" if self._path else ""
        kinds = ", ".join(f"{count} {kind}" for kind, count in self._kinds.most_common())
        raise InputError(
            f"{len(self.records)} of {self._total} records could not be read, more than the"
            f" {self._allowed} that data.bad_sample_quota allows{where}; of this start: {kinds}."
            f" Mend or remove them, or raise the quota. The last was {self._last}"
        )

    def _list(self, sample: BadSample) -> None:
        if self._path:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(sample._asdict(), ensure_ascii=False) + "\n")

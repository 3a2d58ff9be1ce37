"""Records that could not be read: reported, counted by kind, and tolerated up to a quota."""

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
    """A record that could not be read.

    Attributes:
        record: index of the record among all records.
        name: file and position of the record.
        kind: kind of the fault, as in `BadFile`, or `record` for a fault of the record itself.
        reason: sentence that explains the fault.
    """

    record: int
    name: str
    kind: str
    reason: str


def describe_fault(error: InputError, *, record: int, name: str) -> BadSample:
    """Makes a `BadSample` from the error that a record raised."""
    kind = error.kind if isinstance(error, BadFile) else "record"
    return BadSample(record, name, kind, str(error))


class BadSamples:
    """Collects bad samples.

    Attributes:
        records: indices of the records found bad so far.
    """

    def __init__(self, *, total: int, allowed: int, path: Path | None):
        """Starts with no bad samples.

        Args:
            total: number of records.
            allowed: number of records that may be bad.
            path: file to which bad samples are appended as JSON lines; None for none.
        """
        self.records: set[int] = set()
        self._total, self._allowed, self._path = total, allowed, path
        self._kinds: collections.Counter[str] = collections.Counter()
        self._last = ""

    def add(self, bad: Iterable[BadSample]) -> None:
        """Logs and lists those bad samples that are new.

        Raises:
            InputError: There are more bad samples than allowed.
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
        """Raises the error that ends the run.

        Raises:
            InputError: Always.
        """
        where = f" (all are listed in {self._path})" if self._path else ""
        kinds = ", ".join(f"{count} {kind}" for kind, count in self._kinds.most_common())
        raise InputError(
            f"{len(self.records)} of {self._total} records could not be read, more than the"
            f" {self._allowed} that data.bad_sample_quota allows{where}; since this start: {kinds}."
            f" Repair or remove them, or raise the quota. The last was {self._last}"
        )

    def _list(self, sample: BadSample) -> None:
        if self._path:
            # Names of files may hold bytes that are not UTF-8, which JSON escapes.
            with self._path.open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(json.dumps(sample._asdict(), ensure_ascii=False) + "\n")

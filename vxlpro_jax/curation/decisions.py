"""What becomes of each sample, as lines."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from vxlpro_jax.curation.measure import ClipMeasurement
from vxlpro_jax.curation.rules import Rejection, ReplyLosses
from vxlpro_jax.curation.samples import ClipIndex, Manifest
from vxlpro_jax.utils.errors import InputError


class Findings(NamedTuple):
    """All that was found out, and what follows.

    Attributes:
        samples: of the manifest.
        shown: their clips.
        measured: of clips, by place.
        nearest: of each clip, the kept one before it that is most like it (-1), and how like.
        losses: of samples, by index.
        verdicts: of each sample, None for what stays.
    """

    samples: Manifest
    shown: ClipIndex
    measured: Mapping[int, ClipMeasurement]
    nearest: Sequence[tuple[int, float]]
    losses: Mapping[int, ReplyLosses]
    verdicts: Sequence[Rejection | None]

    def row(self, index: int) -> dict[str, Any]:
        """A sample's line of `decisions.jsonl`."""
        verdict, place = self.verdicts[index], self.shown.of[index]
        row: dict[str, Any] = {"index": index, "id": self.samples[index].id}
        row |= {"kept": verdict is None, "rule": "", "reason": ""}
        row |= {} if verdict is None else {"rule": verdict.rule, "reason": verdict.reason}
        if place >= 0:
            row |= self._clip(place)
        if index in self.losses:
            losses = self.losses[index]
            row |= {"loss_seen": losses.seen, "loss_blind": losses.blind}
            row |= {"not_scored": losses.error} if losses.error else {}
        return row

    def _clip(self, place: int) -> dict[str, Any]:
        row: dict[str, Any] = {"clip": self.shown.clips[place].name}
        measured = self.measured.get(place)
        if measured is not None and measured.error:
            row |= {"error": measured.error, "error_kind": measured.error_kind}
        if measured is not None and measured.motion is not None:
            row |= measured.motion._asdict()
        other, similarity = self.nearest[place]
        if other >= 0:
            row |= {"nearest": self.shown.clips[other].name, "similarity": similarity}
        return row


def write_kept(findings: Findings, *, out: Path) -> None:
    """Writes the samples that stay, as they were written, one a line.

    Raises:
        InputError: the file cannot be written.
    """
    kept = (i for i, verdict in enumerate(findings.verdicts) if verdict is None)
    _write_lines(out, (findings.samples[index].written for index in kept))


def write_decisions(findings: Findings, *, out: Path) -> None:
    """Writes a line for each sample.

    Raises:
        InputError: the file cannot be written.
    """
    rows = (findings.row(index) for index in range(len(findings.samples)))
    _write_lines(out, (json.dumps(row, ensure_ascii=False) for row in rows))


def _write_lines(path: Path, lines: Iterator[str]) -> None:
    """Line by line, since all of a large set would not fit into memory."""
    partial = path.with_name(f"{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Half a character, which JSON can spell, is spelt so again.
        with partial.open("w", encoding="utf-8", errors="backslashreplace") as file:
            _write(file, lines)
        os.replace(partial, path)
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror}).") from error


def _write(file: TextIO, lines: Iterator[str]) -> None:
    file.writelines(f"{line}\n" for line in lines)

"""The decision about each sample, as JSON lines."""

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
    """All measurements and the decisions based on them.

    Attributes:
        samples: samples of the manifest.
        clip_index: clips that the samples show.
        measured: measurements of clips, by index.
        nearest: for each clip, the index of the most similar kept clip before it (-1 if none) and
            the cosine.
        losses: losses of samples, by index.
        rejections: reason why each sample is dropped; None for kept ones.
    """

    samples: Manifest
    clip_index: ClipIndex
    measured: Mapping[int, ClipMeasurement]
    nearest: Sequence[tuple[int, float]]
    losses: Mapping[int, ReplyLosses]
    rejections: Sequence[Rejection | None]

    def row(self, index: int) -> dict[str, Any]:
        """Returns a sample's line of `decisions.jsonl`."""
        rejection, place = self.rejections[index], self.clip_index.of_sample[index]
        row: dict[str, Any] = {"index": index, "id": self.samples[index].id}
        row |= {"kept": rejection is None, "rule": "", "reason": ""}
        row |= {} if rejection is None else {"rule": rejection.rule, "reason": rejection.reason}
        if place >= 0:
            row |= self._clip(place)
        if index in self.losses:
            losses = self.losses[index]
            row |= {"loss_seen": losses.seen, "loss_blind": losses.blind}
            row |= {"not_scored": losses.error} if losses.error else {}
        return row

    def _clip(self, place: int) -> dict[str, Any]:
        row: dict[str, Any] = {"clip": self.clip_index.clips[place].name}
        measured = self.measured.get(place)
        if measured is not None and measured.error:
            row |= {"error": measured.error, "error_kind": measured.error_kind}
        if measured is not None and measured.motion is not None:
            row |= measured.motion._asdict()
        other, similarity = self.nearest[place]
        if other >= 0:
            row |= {"nearest": self.clip_index.clips[other].name, "similarity": similarity}
        return row


def write_kept(findings: Findings, *, out: Path) -> None:
    """Writes the kept samples unchanged, one per line.

    Raises:
        InputError: The file cannot be written.
    """
    kept = (i for i, rejection in enumerate(findings.rejections) if rejection is None)
    _write_lines(out, (findings.samples[index].written for index in kept))


def write_decisions(findings: Findings, *, out: Path) -> None:
    """Writes one line per sample.

    Raises:
        InputError: The file cannot be written.
    """
    rows = (findings.row(index) for index in range(len(findings.samples)))
    _write_lines(out, (json.dumps(row, ensure_ascii=False) for row in rows))


def _write_lines(path: Path, lines: Iterator[str]) -> None:
    """Writes line by line, since all lines of a large set would not fit into memory."""
    partial = path.with_name(f"{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # JSON can hold a lone surrogate, which UTF-8 cannot encode: it is escaped again.
        with partial.open("w", encoding="utf-8", errors="backslashreplace") as file:
            _write(file, lines)
        os.replace(partial, path)
    except OSError as error:
        raise InputError(
            f"{path} cannot be written ({error.strerror}): give another --out."
        ) from error


def _write(file: TextIO, lines: Iterator[str]) -> None:
    file.writelines(f"{line}\n" for line in lines)

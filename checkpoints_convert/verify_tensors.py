"""Compares PyTorch weights with a model folder tensor by tensor, and reports the result."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from checkpoints_convert import mapping
from checkpoints_convert.casting import cast_array
from checkpoints_convert.release import open_release, reconcile
from checkpoints_convert.transforms import contiguous
from vxlpro_jax.checkpoints.array_store import LazyLeaf, open_leaves
from vxlpro_jax.checkpoints.params import locate
from vxlpro_jax.utils import tree

Status = Literal["identical", "equal after cast", "different"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TensorRow:
    """One tensor in both formats.

    Attributes:
        name: name in torch.
        path: path of the parameter that holds it.
        shape: shape in torch.
        torch_dtype: dtype of the weights.
        orbax_dtype: dtype of the parameter.
        status: `identical` in dtype and bits; `equal after cast` if the dtypes differ and casting
            the weights to the parameter's dtype gives its bits; else `different`.
        differing: number of entries whose bits differ.
        max_abs_difference: maximum over the entries, 0.0 if none differs; NaN counts as infinite.
    """

    name: str
    path: str
    shape: tuple[int, ...]
    torch_dtype: str
    orbax_dtype: str
    status: Status
    differing: int
    max_abs_difference: float


@dataclasses.dataclass(frozen=True)
class TensorReport:
    """All tensors, in the order of the mapping table."""

    rows: tuple[TensorRow, ...]

    @property
    def ok(self) -> bool:
        """Whether no tensor is different."""
        return all(row.status != "different" for row in self.rows)

    @property
    def summary(self) -> str:
        """One sentence with the counts."""
        counts = {
            status: sum(row.status == status for row in self.rows)
            for status in ("identical", "equal after cast", "different")
        }
        entries = sum(math.prod(row.shape) for row in self.rows)
        told = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
        return f"{len(self.rows)} tensors with {entries:,} entries: {told}."


def compare(*, torch: Path, orbax: Path) -> TensorReport:
    """Compares a release-format folder with a model folder or training folder, bit for bit.

    Only one tensor of each side is in memory at a time.

    Raises:
        InputError: a side cannot be read, or the two differ in names or shapes of tensors.
    """
    release = open_release(torch)
    tensors = reconcile(release.config, release.tensors).tensors
    params = locate(orbax).params
    leaves = open_leaves(params)
    expected = mapping.torch_structs(leaves)
    tree.check_match(tensors, expected=expected, trouble=f"{torch} and {params} hold other tensors")
    return TensorReport(
        tuple(_row(tensor, tensors[tensor.name]) for tensor in mapping.to_torch(leaves))
    )


def _row(stored: mapping.TorchArray, source: LazyLeaf) -> TensorRow:
    cast = cast_array(source.whole(), stored.array.dtype)
    different = _bits(cast) != _bits(stored.array)
    same: Status = "identical" if source.dtype == stored.array.dtype else "equal after cast"
    return TensorRow(
        name=stored.name,
        path=stored.path,
        shape=source.shape,
        torch_dtype=str(source.dtype),
        orbax_dtype=str(stored.array.dtype),
        status="different" if different.any() else same,
        differing=int(different.sum()),
        max_abs_difference=_distance(cast[different], stored.array[different]),
    )


def _bits(array: np.ndarray) -> np.ndarray:
    return contiguous(array).view(f"u{array.dtype.itemsize}")


def _distance(a: np.ndarray, b: np.ndarray) -> float:
    if not a.size:
        return 0.0
    with np.errstate(invalid="ignore"):
        distance = np.abs(a.astype(np.float64) - b.astype(np.float64))
    return float(np.nan_to_num(distance, nan=np.inf, posinf=np.inf).max())


def to_markdown(report: TensorReport) -> str:
    """Formats the summary, then a table with the differing tensors first."""
    head = ("tensor", "parameter", "shape", "torch", "orbax", "status", "differing", "max abs")
    rows = sorted(report.rows, key=lambda row: row.status != "different")
    lines = [report.summary, "", _line(head), _line(["---"] * len(head))]
    return "\n".join([*lines, *(_line(_cells(row)) for row in rows)]) + "\n"


def _cells(row: TensorRow) -> list[str]:
    shape = "x".join(map(str, row.shape))
    numbers = [f"{row.differing:,}", f"{row.max_abs_difference:.3g}"]
    return [
        f"`{row.name}`",
        f"`{row.path}`",
        shape,
        row.torch_dtype,
        row.orbax_dtype,
        row.status,
        *numbers,
    ]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def to_json(report: TensorReport) -> dict[str, Any]:
    """Returns the report for `json.dump`: `ok`, `summary` and `tensors`, a list of row fields."""
    tensors = [
        dataclasses.asdict(row) | {"max_abs_difference": _json_number(row.max_abs_difference)}
        for row in report.rows
    ]
    return {"ok": report.ok, "summary": report.summary, "tensors": tensors}


def _json_number(value: float) -> float | str:
    # JSON has no infinity.
    return value if math.isfinite(value) else "inf"

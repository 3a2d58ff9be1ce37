"""Checksums of parameters on disk, which every reader verifies.

OCDBT checks its own index, but not the chunks of the arrays or their metadata, and the compressed
chunks have no checksum: a flipped bit decodes to different numbers. `checksums.json` in a `params/`
folder, or `manifest` beside the `params/` of a training step, records what was saved.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from vxlpro_jax.utils.errors import InputError

FILE = "checksums.json"
PROVENANCE = "provenance.json"
# Larger files of `params/` hold arrays, which have their own checksums.
_LARGEST_SMALL_FILE = 2**16
# Number of entries summed at once: few enough to stay in the processor's cache.
_ITEMS_AT_ONCE = 2**17
_MODULUS = 2**32


class Seal(NamedTuple):
    """Shape, type and checksum of an array when it was saved.

    Attributes:
        shape: shape of the whole array.
        dtype: name of its dtype.
        checksum: checksum as computed by `utils.tree.checksums`.
    """

    shape: tuple[int, ...]
    dtype: str
    checksum: int

    def to_json(self) -> dict[str, Any]:
        """Returns the seal as JSON."""
        return {"shape": list(self.shape), "dtype": self.dtype, "checksum": self.checksum}


class Damaged(InputError):
    """A folder of parameters differs from what was saved."""

    def __init__(self, directory: epath.PathLike, what: str):
        super().__init__(
            f"{directory} is damaged ({what} is not what was saved): copy it again, or convert or"
            " train it again."
        )


def read_seals(directory: epath.PathLike) -> dict[str, Seal] | None:
    """Reads the seals of a `params/` folder by path; None for a folder from before seals existed.

    Raises:
        Damaged: the file of seals, or a small file of the folder, differs from what was written.
    """
    folder = epath.Path(directory)
    if (folder / FILE).exists():
        content = read_sealed(folder / FILE)
        for name in changed_files(folder, content["files"]):
            raise Damaged(folder, name)
        return _seals(content["arrays"], prefix="")
    if (folder.parent / "manifest").exists():
        arrays = read_sealed(folder.parent / "manifest" / "metadata").get("arrays")
        return arrays and _seals(arrays, prefix=f"{folder.name}/")
    return None


def _seals(arrays: Mapping[str, Any], *, prefix: str) -> dict[str, Seal]:
    return {
        name.removeprefix(prefix): Seal(tuple(x["shape"]), x["dtype"], x["checksum"])
        for name, x in arrays.items()
        if name.startswith(prefix)
    }


def check_seals(
    directory: epath.PathLike,
    *,
    found: Mapping[str, tuple[tuple[int, ...], str]],
    seals: Mapping[str, Seal],
) -> None:
    """Checks names, shapes and dtypes of a folder's arrays, without reading their content.

    Raises:
        Damaged: an array is missing, unexpected, or has another shape or dtype than was saved.
    """
    saved = {path: (seal.shape, seal.dtype) for path, seal in seals.items()}
    for path in sorted(found.keys() | saved.keys()):
        if found.get(path) != saved.get(path):
            raise Damaged(directory, path)


def write_seals(directory: epath.PathLike, seals: Mapping[str, Seal]) -> None:
    """Writes the seals of a finished `params/` folder, and digests of its small files."""
    folder = epath.Path(directory)
    small = [file for file in _files(folder) if file.stat().length <= _LARGEST_SMALL_FILE]
    content = {
        "arrays": {name: seal.to_json() for name, seal in seals.items()},
        "files": {str(file.relative_to(folder)): _file_digest(file) for file in small},
    }
    (folder / FILE).write_text(json.dumps(sealed(content)))


def _files(folder: epath.Path) -> Iterator[epath.Path]:
    for path in folder.iterdir():
        if path.is_dir():
            yield from _files(path)
        else:
            yield path


def write_provenance(root: epath.PathLike, facts: Mapping[str, Any]) -> None:
    """Writes how a model folder was made, with digests of the files beside its parameters."""
    folder = epath.Path(root)
    files = [x for x in folder.iterdir() if not x.is_dir() and not x.name.startswith(".")]
    content = sealed({**facts, "files": {file.name: _file_digest(file) for file in files}})
    (folder / PROVENANCE).write_text(json.dumps(content, indent=2) + "\n")


def check_files(root: epath.PathLike) -> None:
    """Checks the files beside the parameters of a model folder, such as config.json.

    Raises:
        Damaged: the list of digests differs from what was written.
        InputError: a file was edited or damaged since the folder was made; the message says how to
            use an edited one.
    """
    folder = epath.Path(root)
    file = folder / PROVENANCE
    # Folders from before digests existed have none.
    if not file.exists() or "files" not in _read_object(file):
        return
    if names := changed_files(folder, read_sealed(file)["files"]):
        raise InputError(
            f"{', '.join(names)} in {folder} is not what was written there: copy the folder again"
            f" or, if you edited it on purpose, delete {PROVENANCE} beside it, which lists the"
            " digests."
        )


def changed_files(folder: epath.Path, digests: Mapping[str, str]) -> list[str]:
    """Returns the names of files that are missing or differ from their digests."""
    return [
        name
        for name, digest in digests.items()
        if not (folder / name).exists() or _file_digest(folder / name) != digest
    ]


def _file_digest(file: epath.Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the content with its digest added."""
    return {**content, "digest": _digest(content)}


def read_sealed(file: epath.PathLike) -> dict[str, Any]:
    """Reads a JSON object that `sealed` made.

    Raises:
        Damaged: the file is missing, or differs from what was written.
    """
    path = epath.Path(file)
    content = _read_object(path)
    if content.pop("digest", None) != _digest(content):
        raise Damaged(path.parent, path.name)
    return content


def _read_object(path: epath.Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise Damaged(path.parent, path.name) from error
    if not isinstance(content, dict):
        raise Damaged(path.parent, path.name)
    return content


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def part_sum(part: np.ndarray, *, starts: Sequence[int], shape: Sequence[int]) -> int:
    """Computes a part's contribution to the array's checksum, which is the sum over all parts.

    Args:
        part: block of the array.
        starts: index of the part's first entry in the array.
        shape: shape of the array.

    Returns:
        A 32-bit number; sums are taken modulo 2^32.
    """
    axis = _row_axis(part.shape, tuple(shape))
    columns = math.prod(part.shape[axis:])
    if not part.size:
        return 0
    bits = np.ascontiguousarray(part).reshape(-1, columns).view(f"u{part.dtype.itemsize}")
    weights = 2 * _row_places(part.shape[:axis], starts, shape) + 1
    within = 2 * np.arange(columns, dtype=np.uint32)
    rows = max(1, _ITEMS_AT_ONCE // columns)
    total = 0
    for row in range(0, len(bits), rows):
        block = bits[row : row + rows].astype(np.uint32)
        total += int(np.einsum("ij,i->", block, weights[row : row + rows]))
        total += int(np.einsum("ij,j->", block, within))
    return total % _MODULUS


def _row_axis(part: tuple[int, ...], shape: tuple[int, ...]) -> int:
    """Returns the axis where rows begin: from it on, entries of a part are contiguous."""
    axis = max(0, len(shape) - 1)
    while axis and part[axis:] == shape[axis:] and math.prod(part[axis - 1 :]) <= _ITEMS_AT_ONCE:
        axis -= 1
    return axis


def _row_places(rows: tuple[int, ...], starts: Sequence[int], shape: Sequence[int]) -> np.ndarray:
    """Returns the flat index in the array of each row's first entry, modulo 2^32."""
    places = np.zeros(rows, np.uint32)
    for axis, start in enumerate(starts):
        stride = math.prod(shape[axis + 1 :])
        if axis >= len(rows):
            places += np.uint32(start * stride % _MODULUS)
            continue
        along = [(start + index) * stride % _MODULUS for index in range(rows[axis])]
        places += np.array(along, np.uint32).reshape(-1, *[1] * (len(rows) - axis - 1))
    return places.reshape(-1)


class Sums:
    """Checksums of arrays that are read in parts, to be compared with the seals.

    Attributes:
        totals: by path, sum of the parts that this process has added.
    """

    def __init__(self, seals: Mapping[str, Seal]):
        """Starts with empty sums."""
        self._seals = seals
        self.totals = dict.fromkeys(seals, 0)

    def add(
        self, path: str, place: tuple[int, ...], part: np.ndarray, starts: tuple[int, ...]
    ) -> None:
        """Adds a part, which must be added only once.

        Args:
            path: path of the array.
            place: indices of the array's leading axes that `part` lacks, if any.
            part: block of the array.
            starts: index of the part's first entry along its own axes.
        """
        whole = part.reshape(*[1] * len(place), *part.shape)
        more = part_sum(whole, starts=(*place, *starts), shape=self._seals[path].shape)
        self.totals[path] = (self.totals[path] + more) % _MODULUS

    def of_all_processes(self) -> "Sums":
        """Returns the sums over all processes; every process must call this."""
        totals = multihost_utils.process_allgather(np.array([*self.totals.values()], np.uint32))
        result = Sums(self._seals)
        result.totals = dict(zip(self.totals, totals.sum(0, dtype=np.uint32).tolist(), strict=True))
        return result

    def check(self, directory: epath.PathLike, paths: Iterable[str]) -> None:
        """Checks arrays whose parts were all added.

        Raises:
            Damaged: an array differs from what was saved.
        """
        for path in paths:
            if self.totals[path] != self._seals[path].checksum:
                raise Damaged(directory, path)

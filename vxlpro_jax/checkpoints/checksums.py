"""Checksums of parameters on disk, against which every reader holds what it has read.

OCDBT checks its own index, but not the chunks of the arrays or their metadata, and the compressed
chunks carry no checksum: a flipped bit decodes to other numbers. `checksums.json` in a `params/`
folder, or `manifest` beside the one of a training step, says what was saved.
"""

import hashlib
import json
import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from vxlpro_jax.utils.errors import InputError

FILE = "checksums.json"
PROVENANCE = "provenance.json"
# Larger files of `params/` hold arrays, which have checksums of their own.
_LARGEST_SMALL_FILE = 2**16
# Entries that are summed at once: few enough to stay in the processor's cache.
_ITEMS_AT_ONCE = 2**17
_MODULUS = 2**32


class Seal(NamedTuple):
    """What an array was when it was saved.

    Attributes:
        shape: of the whole array.
        dtype: name of its type.
        checksum: as `utils.tree.checksums` computes it.
    """

    shape: tuple[int, ...]
    dtype: str
    checksum: int

    def to_json(self) -> dict[str, Any]:
        """The seal as it is written."""
        return {"shape": list(self.shape), "dtype": self.dtype, "checksum": self.checksum}


class Damaged(InputError):
    """A folder of parameters is not what was saved."""

    def __init__(self, directory: epath.PathLike, what: str):
        super().__init__(
            f"{directory} is damaged ({what} is not what was saved): copy it again, or convert or"
            " train it again."
        )


def read_seals(directory: epath.PathLike) -> dict[str, Seal] | None:
    """The seals of a `params/` folder by path; None if it was written before there were any.

    Raises:
        Damaged: the file of seals, or a small file of the folder, is not what was written.
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
    """Checks names, shapes and types of the arrays of a folder, whose content is not read.

    Raises:
        Damaged: an array is missing, unexpected, or of another shape or type than was saved.
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
    """Writes how a model folder was made, and digests of the files beside its parameters."""
    folder = epath.Path(root)
    files = [x for x in folder.iterdir() if not x.is_dir() and not x.name.startswith(".")]
    content = sealed({**facts, "files": {file.name: _file_digest(file) for file in files}})
    (folder / PROVENANCE).write_text(json.dumps(content, indent=2) + "\n")


def note_changed_files(root: epath.PathLike) -> None:
    """Names on stderr the files of a model folder that were edited, or damaged, since it was made.

    Raises:
        Damaged: the list of digests is not what was written.
    """
    folder = epath.Path(root)
    file = folder / PROVENANCE
    # Folders made before there were digests have none here.
    if not file.exists() or "files" not in _read_object(file):
        return
    if names := changed_files(folder, read_sealed(file)["files"]):
        print(
            f"note: {', '.join(names)} in {folder} changed since the folder was made; if nobody"
            " edited that, copy the folder again.",
            file=sys.stderr,
        )


def changed_files(folder: epath.Path, digests: Mapping[str, str]) -> list[str]:
    """Names of the files that are missing or differ from their digests."""
    return [
        name
        for name, digest in digests.items()
        if not (folder / name).exists() or _file_digest(folder / name) != digest
    ]


def _file_digest(file: epath.Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """The content with a digest of it."""
    return {**content, "digest": _digest(content)}


def read_sealed(file: epath.PathLike) -> dict[str, Any]:
    """The JSON object of `sealed` in a file.

    Raises:
        Damaged: the file is missing, or is not what was written.
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
    """What a part of an array adds to the array's checksum; the sums of all parts make it.

    Args:
        part: a block of the array.
        starts: index of the part's first entry in the array.
        shape: of the array.

    Returns:
        A number of 32 bits; sums are taken modulo 2^32.
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
    """The first axis of rows: their entries are neighbours in the array, if possible many."""
    axis = max(0, len(shape) - 1)
    while axis and part[axis:] == shape[axis:] and math.prod(part[axis - 1 :]) <= _ITEMS_AT_ONCE:
        axis -= 1
    return axis


def _row_places(rows: tuple[int, ...], starts: Sequence[int], shape: Sequence[int]) -> np.ndarray:
    """The place in the array of each row's first entry, modulo 2^32."""
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
    """Checksums of arrays of which parts are read, to be held against the seals.

    Attributes:
        totals: by path, the sum of the parts that this process has added.
    """

    def __init__(self, seals: Mapping[str, Seal]):
        """Begins with sums of nothing."""
        self._seals = seals
        self.totals = dict.fromkeys(seals, 0)

    def add(
        self, path: str, place: tuple[int, ...], part: np.ndarray, starts: tuple[int, ...]
    ) -> None:
        """Adds a part, once.

        Args:
            path: of the array.
            place: indices of the array's leading axes that `part` lacks, if any.
            part: block of the array.
            starts: index of the part's first entry along its own axes.
        """
        whole = part.reshape(*[1] * len(place), *part.shape)
        more = part_sum(whole, starts=(*place, *starts), shape=self._seals[path].shape)
        self.totals[path] = (self.totals[path] + more) % _MODULUS

    def of_all_processes(self) -> "Sums":
        """The sums of the parts that all processes have added; all of them call this."""
        totals = multihost_utils.process_allgather(np.array([*self.totals.values()], np.uint32))
        result = Sums(self._seals)
        result.totals = dict(zip(self.totals, totals.sum(0, dtype=np.uint32).tolist(), strict=True))
        return result

    def check(self, directory: epath.PathLike, paths: Iterable[str]) -> None:
        """Checks arrays of which all parts were added.

        Raises:
            Damaged: an array is not what was saved.
        """
        for path in paths:
            if self.totals[path] != self._seals[path].checksum:
                raise Damaged(directory, path)

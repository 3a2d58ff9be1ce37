"""Parameters on disk, accessed one block of rows at a time, so that no whole array is in memory.

The folder is an ordinary Orbax PyTree checkpoint (OCDBT), which stock Orbax restores as NumPy or
sharded JAX arrays. Rows are entries along axis 0: layers of a stacked leaf, or words of the
embedding.
"""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
import tensorstore as ts
from etils import epath
from orbax.checkpoint import type_handlers

from vxlpro_jax.checkpoints.checksums import (
    Seal,
    Sums,
    check_seals,
    part_sum,
    read_seals,
    write_seals,
)
from vxlpro_jax.utils import tree
from vxlpro_jax.utils.errors import InputError

# One block is one write and one chunk on disk. It is small enough that a device of a pod reads
# little beyond its shard, and large enough for object stores.
BLOCK_BYTES = 16 * 2**20


@dataclasses.dataclass(frozen=True, kw_only=True)
class LazyLeaf:
    """An array that is read on demand and not kept.

    Attributes:
        shape: shape of the whole array; a scalar counts as one row.
        dtype: dtype of the whole array.
        rows: number of rows that `blocks` reads at once.
        read: function `(start, stop) -> array` that reads rows start to stop, stop excluded.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    rows: int
    read: Callable[[int, int], np.ndarray]

    def blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        """Yields each block with the index of its first row."""
        for start in range(0, self._length, self.rows):
            yield start, self.read(start, min(start + self.rows, self._length))

    def whole(self) -> np.ndarray:
        """Returns the whole array."""
        return self.read(0, self._length).reshape(self.shape)

    @property
    def _length(self) -> int:
        return self.shape[0] if self.shape else 1


def rows_per_block(shape: tuple[int, ...], dtype: np.dtype) -> int:
    """Returns the number of rows in a block of `BLOCK_BYTES`, at least one and at most all."""
    row_bytes = max(1, math.prod(shape[1:]) * dtype.itemsize)
    return max(1, min(shape[0], BLOCK_BYTES // row_bytes))


def write_params(directory: epath.PathLike, *, leaves: Mapping[str, Any]) -> None:
    """Writes a nested dict of parameters as an Orbax checkpoint, one block at a time.

    Args:
        directory: path that does not exist yet; it appears once everything is written.
        leaves: nested dict of `LazyLeaf`, NumPy or fully addressable JAX arrays.

    Raises:
        InputError: `directory` exists.
    """
    path = epath.Path(directory).resolve()
    if path.exists():
        raise InputError(f"{path} exists already: choose another destination or remove it.")
    sums: dict[str, int] = dict.fromkeys(tree.flatten(leaves), 0)
    lazy = {
        name: _summed(as_lazy(leaf), name=name, sums=sums)
        for name, leaf in tree.flatten(leaves).items()
    }
    registry = type_handlers.create_type_handler_registry(
        (LazyLeaf, _LazyHandler()), (jax.Array, type_handlers.ArrayHandler())
    )
    handler = ocp.PyTreeCheckpointHandler(type_handler_registry=registry)
    with ocp.Checkpointer(handler) as checkpointer:
        checkpointer.save(path, args=ocp.args.PyTreeSave(tree.unflatten(lazy)))
    seals = {
        name: Seal(leaf.shape, leaf.dtype.name, sums[name] % 2**32) for name, leaf in lazy.items()
    }
    write_seals(path, seals)


def _summed(leaf: LazyLeaf, *, name: str, sums: dict[str, int]) -> LazyLeaf:
    """Wraps the leaf so that reading it adds to its checksum in `sums`."""

    def read(start, stop):
        rows = leaf.read(start, stop)
        starts = (start, *[0] * (rows.ndim - 1))
        sums[name] += part_sum(rows, starts=starts, shape=leaf.shape)
        return rows

    return dataclasses.replace(leaf, read=read)


def as_lazy(leaf: Any) -> LazyLeaf:
    """Wraps a NumPy or JAX array as a `LazyLeaf`; returns a lazy one unchanged."""
    if isinstance(leaf, LazyLeaf):
        return leaf

    shape, dtype = tuple(leaf.shape), np.dtype(leaf.dtype)

    def read(start, stop):
        return np.asarray(leaf)[start:stop]

    return LazyLeaf(shape=shape, dtype=dtype, rows=rows_per_block(shape, dtype), read=read)


class _LazyHandler(type_handlers.NumpyHandler):
    """Writes arrays lazily; Orbax's own handler copies every array before it writes the first."""

    async def serialize(self, values: Sequence[Any], infos, args=None):
        for leaf, info in zip(values, infos, strict=True):
            store = await ts.open(_write_spec(leaf, info), create=True, context=info.ts_context)
            for start, block in leaf.blocks():
                await store[start : start + len(block)].write(block)
        return []


def _write_spec(leaf: LazyLeaf, info: type_handlers.ParamInfo) -> dict[str, Any]:
    spec = type_handlers.get_json_tspec_write(
        info,
        use_ocdbt=True,
        global_shape=leaf.shape,
        local_shape=leaf.shape,
        dtype=leaf.dtype,
        process_index=jax.process_index(),
    )
    # Orbax only uses chunk sizes that divide the array: one row each for a prime vocabulary size.
    spec["metadata"]["chunks"] = _chunk_shape(leaf)
    return spec


def _chunk_shape(leaf: LazyLeaf) -> list[int]:
    """Returns the shape of a block, halved along its longest axis until it fits `BLOCK_BYTES`."""
    shape = [leaf.rows, *leaf.shape[1:]]
    while math.prod(shape) * leaf.dtype.itemsize > BLOCK_BYTES:
        longest = shape.index(max(shape))
        shape[longest] = -(-shape[longest] // 2)
    return shape


class Opened(NamedTuple):
    """An open checkpoint.

    Attributes:
        stores: arrays by path.
        seals: shape, dtype and checksum of each array; None for a checkpoint without checksums.
    """

    stores: dict[str, ts.TensorStore]
    seals: dict[str, Seal] | None


def open_stores(directory: epath.PathLike) -> Opened:
    """Opens every array of an Orbax PyTree checkpoint without reading it.

    Raises:
        InputError: there is no checkpoint, or it is damaged.
    """
    path = epath.Path(directory).resolve()
    with reading(path):
        metadata = ocp.PyTreeCheckpointHandler().metadata(path)
        stores = open_named(path, tree.flatten(metadata.tree), use_zarr3=metadata.use_zarr3)
    seals = read_seals(path)
    if seals is not None:
        found = {name: (tuple(x.shape), x.dtype.name) for name, x in stores.items()}
        check_seals(path, found=found, seals=seals)
    return Opened(stores, seals)


def open_named(
    path: epath.Path, names: Iterable[str], *, use_zarr3: bool
) -> dict[str, ts.TensorStore]:
    """Opens arrays with known paths like `open_stores`; raises what TensorStore raises."""
    use_ocdbt = type_handlers.is_ocdbt_checkpoint(path)
    context = type_handlers.get_ts_context(use_ocdbt=use_ocdbt)
    specs = {
        name: type_handlers.get_json_tspec_read(
            type_handlers.ParamInfo(
                name=name.replace("/", "."),
                parent_dir=path,
                is_ocdbt_checkpoint=use_ocdbt,
                use_zarr3=use_zarr3,
                ts_context=context,
            ),
            use_ocdbt=use_ocdbt,
        )
        for name in names
    }
    opening = {name: ts.open(spec, context=context) for name, spec in specs.items()}
    return {name: future.result() for name, future in opening.items()}


def open_leaves(directory: epath.PathLike) -> dict[str, Any]:
    """Opens an Orbax PyTree checkpoint as a nested dict of `LazyLeaf`.

    Raises:
        InputError: there is no checkpoint, or it is damaged (also later, when a leaf is read).
    """
    opened = open_stores(directory)
    return tree.unflatten(
        {
            name: _lazy(store, directory, name=name, seals=opened.seals)
            for name, store in opened.stores.items()
        }
    )


def _lazy(
    store: ts.TensorStore, directory: epath.PathLike, *, name: str, seals: dict[str, Seal] | None
) -> LazyLeaf:
    shape, dtype = tuple(store.shape), store.dtype.numpy_dtype
    if not shape:
        raise InputError(f"{directory}: {name} is a single number, which no parameter is.")
    # A block of whole chunks, so that no chunk is decoded twice.
    chunk = min((store.chunk_layout.read_chunk.shape or shape)[0] or 1, shape[0])
    rows = max(1, rows_per_block(shape, dtype) // chunk) * chunk

    def read(start, stop):
        with reading(directory):
            return store[start:stop].read().result()

    leaf = LazyLeaf(shape=shape, dtype=dtype, rows=rows, read=read)
    return leaf if seals is None else _checked(leaf, directory, name=name, seals=seals)


def _checked(
    leaf: LazyLeaf, directory: epath.PathLike, *, name: str, seals: dict[str, Seal]
) -> LazyLeaf:
    """Wraps the leaf so that reading verifies its checksum.

    Reading from the first row to the last raises the error with the last rows at the latest; before
    reading in another order, the whole array is read once to verify it.
    """
    sums, next_row, is_sound = Sums(seals), 0, False

    def add(start, rows):
        nonlocal sums, next_row, is_sound
        if start == 0:
            sums = Sums(seals)
        sums.add(name, (), rows, (start, *[0] * (rows.ndim - 1)))
        next_row = start + len(rows)
        if next_row == leaf.shape[0]:
            sums.check(directory, [name])
            is_sound = True

    def read(start, stop):
        if not is_sound and start not in (0, next_row):
            for first, rows in leaf.blocks():
                add(first, rows)
        rows = leaf.read(start, stop)
        if not is_sound:
            add(start, rows)
        return rows

    return dataclasses.replace(leaf, read=read)


@contextlib.contextmanager
def reading(directory: epath.PathLike) -> Iterator[None]:
    """Converts errors of Orbax and TensorStore on a damaged checkpoint to an `InputError`."""
    try:
        yield
    except InputError:
        raise
    except (ValueError, OSError, KeyError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:300]
        raise InputError(
            f"{directory} cannot be read as an Orbax checkpoint ({reason}): it is missing,"
            " incomplete or damaged; copy or convert it again."
        ) from error

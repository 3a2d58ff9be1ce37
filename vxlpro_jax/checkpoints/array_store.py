"""Parameters on disk, a block of rows at a time: writing and reading never hold a whole array.

The folder is an ordinary Orbax PyTree checkpoint (OCDBT), which stock Orbax restores as NumPy or
sharded JAX arrays. Rows are entries along axis 0: layers of a stacked leaf, words of the embedding.
"""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import tensorstore as ts
from etils import epath
from orbax.checkpoint import type_handlers

from vxlpro_jax.utils import tree
from vxlpro_jax.utils.errors import InputError

# One block is one write and one chunk on disk. Small enough that a device of a pod reads little
# beyond its shard, large enough for object stores.
BLOCK_BYTES = 16 * 2**20


@dataclasses.dataclass(frozen=True, kw_only=True)
class LazyLeaf:
    """An array that is read when it is needed and not kept.

    Attributes:
        shape: of the whole array, at least one axis.
        dtype: of the whole array.
        rows: rows that `blocks` reads at once.
        read: `(start, stop) -> array` of the rows from start to stop, stop excluded.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    rows: int
    read: Callable[[int, int], np.ndarray]

    def blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        """Each block with the number of its first row."""
        for start in range(0, self.shape[0], self.rows):
            yield start, self.read(start, min(start + self.rows, self.shape[0]))

    def whole(self) -> np.ndarray:
        """The whole array."""
        return self.read(0, self.shape[0])


def rows_per_block(shape: tuple[int, ...], dtype: np.dtype) -> int:
    """Rows of an array that make a block of `BLOCK_BYTES`, at least one and at most all."""
    row_bytes = max(1, math.prod(shape[1:]) * dtype.itemsize)
    return max(1, min(shape[0], BLOCK_BYTES // row_bytes))


def write_params(directory: epath.PathLike, *, leaves: Mapping[str, Any]) -> None:
    """Writes a nested dict of parameters as an Orbax checkpoint, one block at a time.

    Args:
        directory: must not exist; it appears when everything is written.
        leaves: nested dict of `LazyLeaf`, NumPy or fully addressable JAX arrays.

    Raises:
        InputError: `directory` exists.
    """
    path = epath.Path(directory).resolve()
    if path.exists():
        raise InputError(f"{path} exists already: choose another destination or remove it.")
    lazy = {name: as_lazy(leaf) for name, leaf in tree.flatten(leaves).items()}
    registry = type_handlers.create_type_handler_registry(
        (LazyLeaf, _LazyHandler()), (jax.Array, type_handlers.ArrayHandler())
    )
    handler = ocp.PyTreeCheckpointHandler(type_handler_registry=registry)
    with ocp.Checkpointer(handler) as checkpointer:
        checkpointer.save(path, args=ocp.args.PyTreeSave(tree.unflatten(lazy)))


def as_lazy(leaf: Any) -> LazyLeaf:
    """A NumPy or JAX array as a `LazyLeaf`; one that is lazy already stays as it is."""
    if isinstance(leaf, LazyLeaf):
        return leaf

    shape, dtype = tuple(leaf.shape), np.dtype(leaf.dtype)

    def read(start, stop):
        return np.asarray(leaf)[start:stop]

    return LazyLeaf(shape=shape, dtype=dtype, rows=rows_per_block(shape, dtype), read=read)


class _LazyHandler(type_handlers.NumpyHandler):
    """Orbax's own handler copies every array before it writes the first."""

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
    # Orbax only takes chunk sizes that divide the array: one row each for a prime vocabulary.
    spec["metadata"]["chunks"] = _chunk_shape(leaf)
    return spec


def _chunk_shape(leaf: LazyLeaf) -> list[int]:
    """A block, halved along its longest axis until it fits `BLOCK_BYTES`."""
    shape = [leaf.rows, *leaf.shape[1:]]
    while math.prod(shape) * leaf.dtype.itemsize > BLOCK_BYTES:
        longest = shape.index(max(shape))
        shape[longest] = -(-shape[longest] // 2)
    return shape


def open_stores(directory: epath.PathLike) -> dict[str, ts.TensorStore]:
    """Opens every array of an Orbax PyTree checkpoint without reading it, by path.

    Raises:
        InputError: there is no checkpoint, or it is damaged.
    """
    path = epath.Path(directory).resolve()
    with reading(path):
        metadata = ocp.PyTreeCheckpointHandler().metadata(path)
        return open_named(path, tree.flatten(metadata.tree), use_zarr3=metadata.use_zarr3)


def open_named(
    path: epath.Path, names: Iterable[str], *, use_zarr3: bool
) -> dict[str, ts.TensorStore]:
    """As `open_stores`, of arrays whose paths are known; raises what TensorStore does."""
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
    """A nested dict of `LazyLeaf`, each reading from an Orbax PyTree checkpoint.

    Raises:
        InputError: there is no checkpoint, or it is damaged (also later, when a leaf is read).
    """
    stores = open_stores(directory)
    return tree.unflatten({name: _lazy(store, directory) for name, store in stores.items()})


def _lazy(store: ts.TensorStore, directory: epath.PathLike) -> LazyLeaf:
    shape, dtype = tuple(store.shape), store.dtype.numpy_dtype
    # A block of whole chunks, so that none is decoded twice.
    chunk = min((store.chunk_layout.read_chunk.shape or shape)[0] or 1, shape[0])
    rows = max(1, rows_per_block(shape, dtype) // chunk) * chunk

    def read(start, stop):
        with reading(directory):
            return store[start:stop].read().result()

    return LazyLeaf(shape=shape, dtype=dtype, rows=rows, read=read)


@contextlib.contextmanager
def reading(directory: epath.PathLike) -> Iterator[None]:
    """Turns what Orbax and TensorStore raise on a damaged checkpoint into an `InputError`."""
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

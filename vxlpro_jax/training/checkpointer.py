"""Saves and restores a run: `WORKDIR/checkpoints/<step>/{params,opt_state,run,manifest}`.

`params` has the same format as a model folder, which every other command reads (see
`checkpoints.params`). `manifest` is JSON: the position in the data, and the shape, type and
checksum of every array. Any number of processes can therefore restore a checkpoint, and damage is
noticed even where the arrays decode.
"""

import functools
import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import jax
import orbax.checkpoint as ocp
from etils import epath

from vxlpro_jax.checkpoints.array_store import open_named
from vxlpro_jax.checkpoints.params import read_store
from vxlpro_jax.data.loader.batches import BatchIterator
from vxlpro_jax.data.loader.bucketing import BucketIterator
from vxlpro_jax.distributed.process_group import ProcessGroup
from vxlpro_jax.training.full_disk import full_disk_is_said
from vxlpro_jax.training.state import TrainState
from vxlpro_jax.utils import tree
from vxlpro_jax.utils.errors import InputError
from vxlpro_jax.utils.jit import jit

Item = TypeVar("Item")
RunData = BatchIterator | BucketIterator

_DAMAGED = "damaged_checkpoints"
_CONCURRENT_READS = 4
_LONGEST_REASON = 150


class _Damaged(Exception):
    """The checkpoint cannot be used; the message says why."""


class RunCheckpoints:
    """Asynchronous Orbax checkpoints of state and data position; the newest two are kept."""

    def __init__(self, workdir: Path, *, group: ProcessGroup, keep: int = 2):
        self._group = group
        self._workdir, self._aside = workdir, workdir / _DAMAGED
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=True)
        self._manager = ocp.CheckpointManager(workdir / "checkpoints", options=options)

    @property
    def latest_step(self) -> int | None:
        """The newest complete step, or None."""
        return self._manager.latest_step()

    def save(self, state: TrainState, data: RunData) -> None:
        """Starts an asynchronous write; the caller may donate `state` once this returns.

        Raises:
            InputError: the disk is full, or was full in the last write.
        """
        step = int(state.step)
        if step == self._manager.latest_step():
            return
        items = _items(state)
        manifest = _sealed(
            {"data": self._position(data, step=step), "arrays": _descriptions(items)}
        )
        trees = {name: ocp.args.PyTreeSave(item) for name, item in items.items()}
        args = ocp.args.Composite(**trees, manifest=ocp.args.JsonSave(manifest))
        with full_disk_is_said(self._workdir):
            self._manager.save(step, args=args)

    def restore(self, abstract: TrainState, data: RunData) -> TrainState:
        """Reads the newest intact step, in `abstract`'s shardings; sets `data` to its position.

        Prints the names of damaged steps and moves them aside.

        Raises:
            InputError: every step is damaged, or the newest intact one was written with other sizes
                or from other data.
        """
        damaged: dict[int, str] = {}
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                state, position = self._read(step, abstract)
            except _Damaged as error:
                damaged[step] = str(error)
                continue
            self._move_aside(damaged)
            self._check_records(position, data)
            data.set_state(position)
            data.start_prefetch()
            return state
        reasons = "; ".join(f"step {step}: {reason}" for step, reason in damaged.items())
        raise InputError(
            f"{self._manager.directory} holds no checkpoint that can be used ({reasons}): put one"
            " there from a copy, or delete that folder to start from the beginning."
        )

    def wait(self) -> None:
        """Waits for the last write.

        Raises:
            InputError: the disk was full.
        """
        with full_disk_is_said(self._workdir):
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits for the last write and frees the manager; raises what `wait` does."""
        self.wait()
        self._manager.close()

    def _position(self, data: RunData, *, step: int) -> dict[str, Any]:
        """Returns the position of every process in the data."""
        states = self._group.gather(f"save of step {step}", json.dumps(data.get_state()))
        records = data.source.records
        known = {"records": {"count": len(records), "digest": records.digest}}
        return data.join_states(map(json.loads, states)) | known

    def _check_records(self, position: Mapping[str, Any], data: RunData) -> None:
        """Refuses other data files, in which the position would mean other samples."""
        records = data.source.records
        was = position.get("records")  # Earlier releases did not write it.
        if was and was["digest"] != records.digest:
            raise InputError(
                f"The run in {self._workdir} has read other data: config.data.path had"
                f" {was['count']} records (digest {was['digest'][:8]}), and has"
                f" {len(records)} (digest {records.digest[:8]}): restore its data files, or start a"
                f" new run from it with another --workdir and --config.init_from={self._workdir}."
            )

    def _read(self, step: int, abstract: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """Reads a step: its state, and the position in the data."""
        folder = self._manager.directory / str(step)
        manifest = self._agreed(_read_manifest, folder / "manifest")
        arrays = manifest["arrays"]
        _check_sizes(arrays, abstract=abstract, folder=folder)
        items = {
            name: self._agreed(functools.partial(_read_item, like=item), folder / name)
            for name, item in _items(abstract).items()
        }
        found = _descriptions(items)
        wrong = [name for name, array in arrays.items() if array != found[name]]
        if wrong:
            raise _Damaged(f"{wrong[0]} is not what was saved")
        state = TrainState(**items["run"], params=items["params"], opt_state=items["opt_state"])
        return jax.tree.map(_converted, state, abstract), manifest["data"]

    def _agreed(self, read: Callable[[epath.Path], Item], folder: epath.Path) -> Item:
        """Reads a folder in every process.

        Raises:
            _Damaged: some process cannot read it.
        """
        items, reason = [], ""
        try:
            items.append(read(folder))
        except jax.errors.JaxRuntimeError:
            raise
        except Exception as error:  # Damaged files lead to errors of every type.
            message = (str(error).splitlines() or [""])[0][:_LONGEST_REASON]
            reason = f"{folder.name}: {message or type(error).__name__}"
        for found in self._group.gather(f"restore of {folder}", reason):
            if found:
                raise _Damaged(found)
        return items[0]

    def _move_aside(self, damaged: Mapping[int, str]) -> None:
        """Moves damaged steps aside, so that the run can save these steps again."""
        for step, reason in damaged.items():
            folder, aside = self._manager.directory / str(step), self._aside / str(step)
            print(f"Checkpoint {folder} is damaged ({reason}): the one before it is used.")
            if self._group.is_first:
                self._aside.mkdir(exist_ok=True)
                shutil.rmtree(aside, ignore_errors=True)
                shutil.move(folder, aside)
        if damaged:
            self._group.barrier("damaged checkpoints are aside")
            self._manager.reload()


def _items(state: TrainState) -> dict[str, Any]:
    """Returns the saved trees by item of the checkpoint."""
    run = {"step": state.step, "key": state.key}
    return {"params": state.params, "opt_state": state.opt_state, "run": run}


def _named(items: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the leaves by path, such as `opt_state/0/mu/decoder/embed`."""
    return {_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(items)}


def _name(path: jax.tree_util.KeyPath) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _descriptions(items: Mapping[str, Any]) -> dict[str, Any]:
    """Returns shape, type and checksum of every array."""
    sums = jax.device_get(jit(tree.checksums)(_named(items)))
    return {
        name: {"shape": list(x.shape), "dtype": x.dtype.name, "checksum": int(sums[name])}
        for name, x in _named(items).items()
    }


def _sealed(content: dict[str, Any]) -> dict[str, Any]:
    """Returns the content with its digest added."""
    return {**content, "digest": _digest(content)}


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _read_manifest(folder: epath.Path) -> dict[str, Any]:
    content = dict(ocp.JsonCheckpointHandler().restore(folder))
    if content.pop("digest", None) != _digest(content):
        raise _Damaged("it is not what was saved")
    return content


def _check_sizes(arrays: Mapping[str, Any], *, abstract: TrainState, folder: epath.Path) -> None:
    """Reports a size mismatch, as opposed to damage: an intact manifest says what was saved."""
    tree.check_match(
        {name: jax.ShapeDtypeStruct(x["shape"], x["dtype"]) for name, x in arrays.items()},
        expected=_named(_items(abstract)),
        trouble=f"Checkpoint {folder} was written with other sizes than the config has",
    )


def _read_item(folder: epath.Path, *, like: Any) -> Any:
    """Reads a tree of arrays, in the shardings of `like` and the types on disk."""
    layout = json.loads((folder / "_METADATA").read_text())
    stores = open_named(folder, _named(like), use_zarr3=layout["use_zarr3"])
    leaves, structure = jax.tree.flatten(like)

    def read(leaf, store):
        return read_store(store, sharding=leaf.sharding)

    with ThreadPoolExecutor(_CONCURRENT_READS) as pool:
        return structure.unflatten(pool.map(read, leaves, stores.values()))


def _converted(x: jax.Array, like: jax.ShapeDtypeStruct) -> jax.Array:
    return x if x.dtype == like.dtype else x.astype(like.dtype)

"""Saving and restoring a run: `WORKDIR/checkpoints/<step>/{params,opt_state,run,data}`.

`params` alone has the form that every other command reads (see `checkpoint`).
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import grain
import orbax.checkpoint as ocp

from vxlpro_jax.config import InputError
from vxlpro_jax.train_state import TrainState


class RunCheckpoints:
    """Asynchronous Orbax checkpoints of state and data position; the newest two are kept."""

    def __init__(self, workdir: Path, *, keep: int = 2):
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=True)
        self._manager = ocp.CheckpointManager(workdir / "checkpoints", options=options)

    @property
    def latest_step(self) -> int | None:
        """The newest complete step, or None."""
        return self._manager.latest_step()

    def save(self, state: TrainState, data: grain.DatasetIterator) -> None:
        """Starts writing; the caller may go on with donated copies once this returns."""
        step = int(state.step)
        if step == self._manager.latest_step():
            return
        items = ocp.args.Composite(
            params=ocp.args.PyTreeSave(state.params),
            opt_state=ocp.args.PyTreeSave(state.opt_state),
            run=ocp.args.PyTreeSave({"step": state.step, "key": state.key}),
            data=grain.checkpoint.CheckpointSave(data),
        )
        self._manager.save(step, args=items)

    def restore(self, abstract: TrainState, data: grain.DatasetIterator) -> TrainState:
        """The newest complete step, straight to the shardings of `abstract`; sets `data` too.

        Raises:
            InputError: the checkpoint is damaged or was written with other sizes.
        """
        step = self._manager.latest_step()
        run = {"step": abstract.step, "key": abstract.key}
        items = ocp.args.Composite(
            params=_restore_args(abstract.params),
            opt_state=_restore_args(abstract.opt_state),
            run=_restore_args(run),
            data=grain.checkpoint.CheckpointRestore(data),
        )
        try:
            restored = self._manager.restore(step, args=items)
        except (ValueError, KeyError, OSError) as error:
            raise InputError(
                f"Checkpoint {self._manager.directory / str(step)} cannot be restored ({error}):"
                " delete that folder to continue from the one before it."
            ) from error
        return TrainState(
            step=restored.run["step"],
            params=restored.params,
            opt_state=restored.opt_state,
            key=restored.run["key"],
        )

    def close(self) -> None:
        """Waits for the last write."""
        self._manager.wait_until_finished()
        self._manager.close()


def _restore_args(abstract: Any) -> ocp.args.PyTreeRestore:
    to_args: Callable[[Any], Any] = ocp.checkpoint_utils.construct_restore_args
    return ocp.args.PyTreeRestore(item=abstract, restore_args=to_args(abstract))

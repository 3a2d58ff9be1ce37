"""The training loop: prepares a run, takes its steps, saves, evaluates and reports."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol

import jax
from jax.sharding import Mesh

from vxlpro_jax.config.schema import TrainConfig
from vxlpro_jax.distributed.preemption import PREEMPTED, Preemption
from vxlpro_jax.distributed.process_group import ProcessGroup
from vxlpro_jax.distributed.watchdog import Watchdog
from vxlpro_jax.sharding.batch import batch_sharding, check_batch
from vxlpro_jax.sharding.mesh import make_mesh
from vxlpro_jax.training.checkpointer import RunCheckpoints, RunData
from vxlpro_jax.training.feature_cache import fill_feature_cache
from vxlpro_jax.training.goodput import WallTime
from vxlpro_jax.training.metrics import MetricsWriter
from vxlpro_jax.training.objective import Batch
from vxlpro_jax.training.plan import RunPlan
from vxlpro_jax.training.profiler import Profiler
from vxlpro_jax.training.run_folder import resume_plan, write_workdir
from vxlpro_jax.training.setup import announce, open_data, resolve
from vxlpro_jax.training.skipped_steps import SkippedSteps
from vxlpro_jax.training.state import TrainState, abstract_state, initial_state
from vxlpro_jax.training.step import Metrics, make_train_step
from vxlpro_jax.utils.devices import check_devices
from vxlpro_jax.utils.files import make_writable
from vxlpro_jax.utils.jit import jit


class Evaluate(Protocol):
    """Evaluates a state on held-out samples and writes the results into the run's folder."""

    def __call__(  # noqa: D102
        self, state: TrainState, *, config: TrainConfig, workdir: Path, group: ProcessGroup
    ) -> None: ...


def train(
    config: TrainConfig,
    *,
    workdir: Path,
    evaluate: Evaluate,
    profile: str = "",
    group: ProcessGroup | None = None,
) -> int:
    """Trains until `config.total_steps`, from scratch, `init_from` or the last checkpoint.

    Args:
        config: config of the run.
        workdir: folder of the run.
        evaluate: function called every `config.eval_every` steps and at the end.
        profile: steps to trace, `FIRST:COUNT`; empty for none.
        group: processes of the run; None if this is the only one.

    Returns:
        The exit code: 0, or `PREEMPTED` if SIGTERM arrived and the run was saved.

    Raises:
        InputError: the config, the data or a checkpoint does not fit.
        LostProcess: another process of the run ended unexpectedly.
    """
    group = group or ProcessGroup()
    check_devices()
    with Watchdog(group) as watchdog, Preemption(group) as preemption, group.console():
        wall_time = WallTime()
        profiler = Profiler.from_flag(profile, folder=workdir / "profile")
        run = _Run.open(config, workdir=workdir, group=group)
        state = run.first_state()
        loop = _Loop(
            run,
            first_step=int(state.step),
            skipped_steps=int(state.skipped_steps),
            evaluate=evaluate,
            profiler=profiler,
            watchdog=watchdog,
            wall_time=wall_time,
        )
        wall_time.lap("start")
        ended = loop.take_steps(state, preemption=preemption)
        with watchdog.patient():
            return loop.finish(ended)


class _Ended(NamedTuple):
    """Attributes: the `state` after the last step, its number `step`, and whether SIGTERM came."""

    state: TrainState
    step: int
    is_preempted: bool


class _Loop:
    """Takes the steps of a run; saves, evaluates and reports when they are due."""

    def __init__(
        self,
        run: "_Run",
        *,
        first_step: int,
        skipped_steps: int,
        evaluate: Evaluate,
        profiler: Profiler,
        watchdog: Watchdog,
        wall_time: WallTime,
    ):
        self._run, self._config = run, run.plan.config
        self._first_step = first_step
        self._profiler, self._watchdog, self._wall_time = profiler, watchdog, wall_time
        self._stepper = _Stepper(run, watchdog=watchdog, wall_time=wall_time)
        self._writer = run.open_writer(first_step=first_step, wall_time=wall_time)
        self._skipped = SkippedSteps(
            run.workdir,
            count=skipped_steps,
            group=run.group,
            total_steps=self._config.total_steps,
            before_end=self._write_pending,
        )
        self._evaluate = functools.partial(
            evaluate, config=self._config, workdir=run.workdir, group=run.group
        )

    def take_steps(self, state: TrainState, *, preemption: Preemption) -> _Ended:
        """Takes the remaining steps, or those until SIGTERM arrives; `state` is donated."""
        step = self._first_step
        for step in range(self._first_step + 1, self._config.total_steps + 1):
            state = self._take(step, state)
            is_preempted = preemption.reached(step)
            self._do_what_is_due(step, state, is_preempted=is_preempted)
            if is_preempted:
                return _Ended(state, step, is_preempted=True)
        return _Ended(state, step, is_preempted=False)

    def _take(self, step: int, state: TrainState) -> TrainState:
        self._profiler.before(step)
        self._watchdog.reads(step)
        batch = next(self._run.data)
        waited = self._wall_time.lap("data")
        state, scalars = self._stepper.take(step, state=state, batch=batch)
        self._profiler.after(step, scalars)
        self._writer.add(step, scalars, data_wait=waited)
        self._skipped.add(step, scalars, files=self._run.data.files)
        return state

    def _do_what_is_due(self, step: int, state: TrainState, *, is_preempted: bool) -> None:
        due = _Due.after(step, config=self._config, is_preempted=is_preempted)
        if due.report:
            self._writer.flush()
        # The next batch is taken after the save, so the saved position matches the saved step.
        with self._watchdog.patient():
            if due.save and (not self._skipped.check() or due.ends):
                self._run.checkpoints.save(state, self._run.data)
                self._wall_time.lap("checkpoint")
                self._writer.draw_if_due()
                self._wall_time.lap("report")
            if due.evaluate and not is_preempted:
                self._evaluate(state)
                self._wall_time.lap("evaluation")

    def _write_pending(self) -> None:
        self._writer.flush()
        self._run.checkpoints.wait()

    def finish(self, ended: _Ended) -> int:
        """Waits for pending writes, evaluates a last time, and returns the exit code."""
        run, workdir = self._run, self._run.workdir
        run.close(self._writer, wall_time=self._wall_time)
        if ended.is_preempted:
            print(
                f"Preempted: {workdir} is saved at step {ended.step}; the same command continues."
            )
            print(self._wall_time)
            return PREEMPTED
        if self._config.eval_every:
            self._evaluate(ended.state)
        self._wall_time.lap("evaluation")
        if run.group.is_first:  # Sweeps recognise a complete run by this file.
            self._wall_time.write(workdir / "goodput.json")
        print(self._wall_time)
        print(f"Done: {workdir} holds checkpoints, metrics.jsonl, curves.png and tensorboard/.")
        return 0


class _Due(NamedTuple):
    """The actions that follow a step."""

    save: bool
    evaluate: bool
    report: bool
    ends: bool

    @classmethod
    def after(cls, step: int, *, config: TrainConfig, is_preempted: bool) -> "_Due":
        is_last = step == config.total_steps
        ends = is_last or is_preempted
        saves = step % config.checkpoint_every == 0 or ends
        evaluates = config.eval_every > 0 and step % config.eval_every == 0 and not is_last
        return cls(saves, evaluates, saves or evaluates or step % config.log_every == 0, ends)


@dataclasses.dataclass(frozen=True)
class _Run:
    """The objects that the steps of a run need: plan, data, checkpoints and shape of the state."""

    plan: RunPlan
    workdir: Path
    group: ProcessGroup
    data: RunData
    checkpoints: RunCheckpoints
    abstract: TrainState
    to_devices: Callable

    @classmethod
    def open(cls, config: TrainConfig, *, workdir: Path, group: ProcessGroup) -> "_Run":
        """Plans the run, sets the mesh, and opens data and checkpoints; writes nothing."""
        plan = resolve(config)
        announce(plan, workdir=workdir)
        plan = resume_plan(plan, workdir=workdir)
        mesh = _set_mesh(plan.config)
        bad_samples = workdir / group.own_file("bad_samples.jsonl")
        data = open_data(plan, mesh=mesh, bad_samples_path=bad_samples)
        to_devices = functools.partial(jax.make_array_from_process_local_data, batch_sharding(mesh))
        data.place_with(functools.partial(jax.tree.map, to_devices))
        make_writable(workdir, flag="--workdir")
        checkpoints = RunCheckpoints(workdir, group=group)
        abstract = abstract_state(plan, mesh=mesh)
        return cls(plan, workdir, group, data, checkpoints, abstract, to_devices)

    def first_state(self) -> TrainState:
        """Returns the first state: from the run's own checkpoint, from `init_from`, or drawn.

        From here on the folder belongs to the run, and data reads features if they are cached.
        """
        if self.checkpoints.latest_step is not None:
            state = self.checkpoints.restore(self.abstract, self.data)
            print(f"Continues at step {int(state.step)} of {self.workdir}.")
        else:
            state = initial_state(self.plan, abstract=self.abstract)
        if self.group.is_first:
            write_workdir(self.plan.config, workdir=self.workdir, release=self.plan.release)
        self.group.barrier("start")
        if self.plan.config.data.feature_cache:
            features = fill_feature_cache(
                state.params, plan=self.plan, source=self.data.source, to_devices=self.to_devices
            )
            self.data.read_features(features)
        return state

    def open_writer(self, *, first_step: int, wall_time: WallTime) -> MetricsWriter:
        return MetricsWriter(
            self.workdir if self.group.is_first else None,
            first_step=first_step,
            total_steps=self.plan.config.total_steps,
            wall_time=wall_time,
        )

    def close(self, writer: MetricsWriter, *, wall_time: WallTime) -> None:
        """Waits for pending writes, and draws the curves."""
        writer.close()
        self.checkpoints.close()
        wall_time.lap("checkpoint")
        self.data.close()
        writer.draw()


class _Stepper:
    """The compiled step; the host is at most one step ahead of the devices."""

    def __init__(self, run: _Run, *, watchdog: Watchdog, wall_time: WallTime):
        # Without these shardings the compiler's choice drifts, and step 2 compiles again.
        shardings = jax.tree.map(lambda x: x.sharding, run.abstract)
        self._step = jit(
            make_train_step(run.plan), donate_argnums=0, out_shardings=(shardings, None)
        )
        self._watchdog, self._wall_time = watchdog, wall_time
        self._shapes: set[tuple] = set()
        self._last_loss: jax.Array | None = None

    def take(self, step: int, *, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        """Starts a step and waits for the previous one; `state` is donated."""
        self._watchdog.computes(step)
        shape = tuple(x.shape for x in jax.tree.leaves(batch))
        compiles = shape not in self._shapes
        self._shapes.add(shape)
        with self._watchdog.patient() if compiles else contextlib.nullcontext():
            state, scalars = self._step(state, batch)
        # The watchdog sees how long each step takes.
        jax.block_until_ready(self._last_loss)
        self._last_loss = scalars["loss"]
        self._wall_time.lap("compile" if compiles else "step")
        return state, scalars


def _set_mesh(config: TrainConfig) -> Mesh:
    mesh = make_mesh(config.mesh)
    check_batch(config.data.batch_size, parts=config.grad_accum_steps, mesh=mesh)
    jax.set_mesh(mesh)
    return mesh

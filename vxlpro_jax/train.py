"""Trains a model: `python -m vxlpro_jax.train --config=configs/stage2.py [--workdir DIR]`.

Stage 1 trains the compressor by ReCoT, stages 2 and 3 the whole model; the config names the task.
The same command started again in the same WORKDIR continues where its last checkpoint stands.
"""

import contextlib
import dataclasses
import functools
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path

import jax
from absl import flags

from vxlpro_jax.checkpoints import params
from vxlpro_jax.config.flags import read_run
from vxlpro_jax.config.schema import TrainConfig
from vxlpro_jax.distributed import cluster, process_group
from vxlpro_jax.distributed.preemption import PREEMPTED, Preemption
from vxlpro_jax.distributed.process_group import ProcessGroup
from vxlpro_jax.distributed.watchdog import Watchdog
from vxlpro_jax.evals import recot as recot_eval
from vxlpro_jax.sharding.batch import batch_sharding, check_batch
from vxlpro_jax.sharding.mesh import make_mesh
from vxlpro_jax.training import feature_cache, metrics
from vxlpro_jax.training import optimizer as optimizer_lib
from vxlpro_jax.training.checkpointer import RunCheckpoints
from vxlpro_jax.training.goodput import WallTime
from vxlpro_jax.training.profiler import Profiler
from vxlpro_jax.training.setup import announce, check_workdir, open_data, resolve, write_workdir
from vxlpro_jax.training.state import TrainState, abstract_state, initial_state
from vxlpro_jax.training.step import make_train_step
from vxlpro_jax.utils import cli
from vxlpro_jax.utils.jit import jit


def main(argv: list[str]) -> int:
    """Runs the command line `argv`."""
    arguments = parse_arguments(argv)
    with process_group.join(arguments.environ) as peers:
        return train(
            arguments.config, workdir=arguments.workdir, profile=arguments.profile, peers=peers
        )


def train(
    config: TrainConfig, *, workdir: Path, profile: str = "", peers: ProcessGroup | None = None
) -> int:
    """Trains until `config.total_steps`, from scratch, `init_from` or the last checkpoint.

    Args:
        config: of the run.
        workdir: its folder.
        profile: steps to be traced, `FIRST:COUNT`.
        peers: the processes of the run; None if this is the only one.

    Returns:
        The exit code: 0, or `PREEMPTED` if SIGTERM came and the run is saved.

    Raises:
        InputError: the config, the data or a checkpoint does not fit.
        LostProcess: another process of the run is gone.
    """
    peers = peers or ProcessGroup()
    with Watchdog(peers) as watchdog, Preemption(peers) as preemption, peers.console():
        return _train(
            config,
            workdir=workdir,
            profile=profile,
            peers=peers,
            watchdog=watchdog,
            preemption=preemption,
        )


def _train(
    config: TrainConfig,
    *,
    workdir: Path,
    profile: str,
    peers: ProcessGroup,
    watchdog: Watchdog,
    preemption: Preemption,
) -> int:
    # ---- What the run is -------------------------------------------------------------------------
    wall_time = WallTime()
    profiler = Profiler.from_flag(profile, folder=workdir / "profile")
    config = resolve(config)
    announce(config, workdir=workdir)
    check_workdir(config, workdir=workdir)

    # ---- Mesh and data ---------------------------------------------------------------------------
    mesh = make_mesh(config.mesh)
    check_batch(config.data.batch_size, parts=config.grad_accum_steps, mesh=mesh)
    jax.set_mesh(mesh)
    data = open_data(
        config, mesh=mesh, bad_samples_path=workdir / peers.own_file("bad_samples.jsonl")
    )
    to_devices = functools.partial(jax.make_array_from_process_local_data, batch_sharding(mesh))
    data.place_with(functools.partial(jax.tree.map, to_devices))

    # ---- State: own checkpoint > init_from > scratch ---------------------------------------------
    optimizer = optimizer_lib.optimizer(config.optim, total_steps=config.total_steps)
    checkpoints = RunCheckpoints(workdir, peers=peers)
    abstract = abstract_state(config, optimizer=optimizer, mesh=mesh)
    if checkpoints.latest_step is not None:
        state = checkpoints.restore(abstract, data)
        print(f"Continues at step {int(state.step)} of {workdir}.")
    else:
        state = initial_state(config, abstract=abstract, optimizer=optimizer)
    if peers.is_first:
        write_workdir(config, workdir=workdir)
    peers.barrier("start")
    first_step = int(state.step)
    if config.data.feature_cache:
        frozen = {"vision": state.params["vision"], "dts": state.params["dts"]}
        data.read_features(
            feature_cache.fill(**frozen, config=config, source=data.source, to_devices=to_devices)
        )

    # ---- Loop ------------------------------------------------------------------------------------
    # Held to the table: left to the compiler, shardings drift, and the second step compiles again.
    train_step = jit(
        make_train_step(config, optimizer=optimizer),
        donate_argnums=0,
        out_shardings=(jax.tree.map(lambda x: x.sharding, abstract), None),
    )
    writer = metrics.MetricsWriter(
        workdir if peers.is_first else None,
        first_step=first_step,
        total_steps=config.total_steps,
        wall_time=wall_time,
    )
    wall_time.lap("start")
    preempted, before = False, None
    shapes: set[tuple] = set()
    for step in range(first_step + 1, config.total_steps + 1):
        profiler.before(step)
        watchdog.reads(step)
        batch = next(data)
        waited = wall_time.lap("data")
        watchdog.computes(step)
        shape = tuple(x.shape for x in jax.tree.leaves(batch))
        is_new = shape not in shapes
        shapes.add(shape)
        with watchdog.patient() if is_new else contextlib.nullcontext():
            state, scalars = train_step(state, batch)
        # Devices are a step behind at most: the watchdog sees how long each takes.
        jax.block_until_ready(before)
        before = scalars["loss"]
        wall_time.lap("compile" if is_new else "step")
        profiler.after(step, scalars)
        writer.add(step, scalars, data_wait=waited)
        preempted, is_last = preemption.reached(step), step == config.total_steps
        saves = step % config.checkpoint_every == 0 or is_last or preempted
        evaluates = config.eval_every > 0 and step % config.eval_every == 0 and not is_last
        if saves or evaluates or step % config.log_every == 0:
            writer.flush()
        # The next batch is taken after the save, so the saved position matches the saved step.
        with watchdog.patient():
            if saves:
                checkpoints.save(state, data)
                wall_time.lap("checkpoint")
            if preempted:
                break
            if evaluates:
                evaluate(state, config=config, workdir=workdir, peers=peers)
                wall_time.lap("evaluation")

    # ---- End -------------------------------------------------------------------------------------
    with watchdog.patient():
        writer.close()
        checkpoints.close()
        wall_time.lap("checkpoint")
        data.close()
        if peers.is_first:
            metrics.draw_curves(workdir)
        if preempted:
            print(f"Preempted: {workdir} is saved at step {step}; the same command continues.")
        else:
            print(f"Done: {workdir} holds checkpoints, metrics.jsonl, curves.png and tensorboard/.")
        if config.eval_every and not preempted:
            evaluate(state, config=config, workdir=workdir, peers=peers)
        wall_time.lap("evaluation")
        if peers.is_first:
            wall_time.write(workdir / "goodput.json")
        print(wall_time)
    return PREEMPTED if preempted else 0


@dataclasses.dataclass(frozen=True)
class Arguments:
    """The command line: the run's config, its folder, and the steps to be traced.

    `environ` is the environment, with the flags that say which process this is.
    """

    config: TrainConfig
    workdir: Path
    profile: str
    environ: Mapping[str, str]


def parse_arguments(argv: list[str]) -> Arguments:
    """Reads `--config=FILE[:ARG]`, `--config.path=value`, `--workdir`, `--profile` and which of
    several processes this is.

    Raises:
        InputError: a flag or a key is unknown, or a value does not fit.
    """

    def define(values):
        flags.DEFINE_string("workdir", None, "Folder of the run.", flag_values=values)
        flags.DEFINE_string("profile", "", "Steps to trace, FIRST:COUNT.", flag_values=values)
        for name, variable in cluster.FLAGS.items():
            flags.DEFINE_string(name, None, f"Instead of {variable}.", flag_values=values)

    run = read_run(argv, define=define, doc=__doc__)
    workdir = Path(run.flags.workdir or Path("runs") / run.name)
    given = {variable: run.flags[name].value for name, variable in cluster.FLAGS.items()}
    environ = os.environ | {variable: x for variable, x in given.items() if x is not None}
    return Arguments(run.config, workdir.expanduser().absolute(), run.flags.profile, environ)


def evaluate(state: TrainState, *, config: TrainConfig, workdir: Path, peers: ProcessGroup) -> None:
    """Measures the state on held-out samples, unless WORKDIR tells that this was done already."""
    step, report = int(state.step), workdir / recot_eval.REPORT
    is_done = report.exists() and params.read_json(report).get("step") == step
    if json.loads(peers.gather(f"evaluation of step {step}", json.dumps(is_done))[0]):
        return
    figures = recot_eval.evaluate(state.params, config=config, workdir=workdir, step=step)
    if peers.is_first:
        with (workdir / "evaluations.jsonl").open("a") as file:
            file.write(json.dumps(figures) + "\n")
    print(f"Evaluated: {json.dumps(figures)}", flush=True)


if __name__ == "__main__":
    cli.run(lambda: main(sys.argv))

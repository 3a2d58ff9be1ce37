"""Measures seconds and memory of a preset's programs on this accelerator, with random weights.

    python benchmarks/accelerator.py --config=configs/stage2.py:3b,frames=8192,batch=1
        --config.compute_dtype=bfloat16
        [--what encode,assemble,prefill,decode] [--kv_cache int8] [--rounds 5]

The programs are those of `vxlpro_jax.compile` (an answer consists of the four named above; `train`
is a step of the config's task, to be requested with a batch and frames that fit). Each runs in a
separate process, so that its memory is measured separately. `run` is the median of the rounds after
the first. `compiled` is the memory per device by the compiler's report, `most` the peak that was
measured, including the creation of the weights (a CPU does not report it).
"""

import contextlib
import json
import statistics
import subprocess
import sys
import time
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

_ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(_ROOT))

import jax
import jax.numpy as jnp
from absl import flags

from vxlpro_jax.aot import programs
from vxlpro_jax.config.flags import read_run
from vxlpro_jax.config.schema import (
    FRAMES_PER_GROUP,
    IGNORE_LABEL,
    IMAGE_TOKEN,
    CacheType,
    TrainConfig,
)
from vxlpro_jax.models.video_xl_pro import Text, init_params
from vxlpro_jax.sharding.batch import check_batch
from vxlpro_jax.sharding.mesh import make_mesh
from vxlpro_jax.training.plan import RunPlan
from vxlpro_jax.training.state import initial_state
from vxlpro_jax.utils import cli, tree
from vxlpro_jax.utils.errors import InputError

_GIB = 2**30
_KEEP_RATIO = 0.9
_IMAGE_AT = 3
_COLUMNS = ("program", "first run s", "run s", "a second", "compiled GiB", "most GiB")


class Case(NamedTuple):
    """A program's inputs, and the amount of work of one run.

    Attributes:
        arguments: arguments of the program, filled to their capacity.
        next: function that maps a run's result to the first argument of the next run; None repeats
            the same arguments.
        amount: number of units that one run processes.
        unit: name of a unit, such as `frames`.
    """

    arguments: tuple
    next: Callable[[Any], Any] | None
    amount: int
    unit: str


def main(argv: list[str]) -> int:
    """Prints the table; returns 1 if a program failed."""
    run = read_run(argv, define=_define, doc=__doc__)
    names = run.flags.what.split(",")
    if unknown := set(names) - set(_CASES):
        raise InputError(f"--what has {', '.join(unknown)}: choose from {', '.join(_CASES)}.")
    if run.flags.one:
        print(json.dumps(measure(run.config, what=names[0], options=run.flags)))
        return 0
    failed = 0
    print(f"| {' | '.join(_COLUMNS)} |\n" + "| --- " * len(_COLUMNS) + "|", flush=True)
    for name in names:
        command = [sys.executable, __file__, *argv[1:], f"--what={name}", "--one"]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        cells = ["failed"] if done.returncode else json.loads(done.stdout.splitlines()[-1])
        failed |= bool(done.returncode)
        print(f"| {' | '.join([name, *cells])} |", flush=True)
    return failed


def _define(values):
    flags.DEFINE_string(
        "what", ",".join(_ANSWER), "Programs to run, comma-separated.", flag_values=values
    )
    kinds = typing.get_args(CacheType)
    flags.DEFINE_enum("kv_cache", "model", kinds, "Dtype of the KV cache.", flag_values=values)
    flags.DEFINE_integer(
        "rounds", 5, "Runs of each program.", lower_bound=2, upper_bound=100, flag_values=values
    )
    flags.DEFINE_bool("one", False, "Measure in this process.", flag_values=values)


def measure(config: TrainConfig, *, what: str, options: flags.FlagValues) -> list[str]:
    """Measures one program; returns its cells of the table."""
    mesh = make_mesh(config.mesh)
    check_batch(config.data.batch_size, parts=config.grad_accum_steps, mesh=mesh)
    jax.set_mesh(mesh)
    program = programs.build(what, config, mesh=mesh, cache=options.kv_cache)
    case = _CASES[what](config, *program.arguments)
    first, *rest = case.arguments
    seconds, started = [], time.perf_counter()
    compiled = program.jitted().lower(*program.arguments).compile()
    for _ in range(options.rounds):
        result = jax.block_until_ready(compiled(first, *rest))
        seconds.append(time.perf_counter() - started)
        first = case.next(result) if case.next else first
        del result  # Otherwise the next run would hold two results.
        started = time.perf_counter()
    run = statistics.median(seconds[1:])
    most = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    return [
        f"{seconds[0]:.1f}",
        f"{run:.4f}",
        f"{case.amount / run:.4g} {case.unit}",
        f"{programs.DeviceMemory.of(compiled).total / _GIB:.4g}",
        "" if most is None else f"{most / _GIB:.4g}",
    ]


# ---- What goes in --------------------------------------------------------------------------------


def _encode(config, params, frames) -> Case:
    arguments = _params(config, like=params), _batch({"frames": frames})["frames"]
    rows, groups = frames.shape[:2]
    return Case(arguments, None, rows * groups * FRAMES_PER_GROUP, "frames")


def _assemble(config, params, visual, text) -> Case:
    rows, groups, tokens = visual.shape[:3]
    given = {name: x for name, x in vars(text).items() if x is not None}
    filled = _batch(given)
    filled["keep_counts"] *= int(_KEEP_RATIO * groups * tokens)
    arguments = _params(config, like=params), _noise(visual), Text(**filled)
    return Case(arguments, None, rows * groups * tokens, "visual tokens")


def _prefill(config, cache, params, embeddings, lengths) -> Case:
    rows, slots = embeddings.shape[:2]
    arguments = (
        _full(cache, 0),
        _params(config, like=params),
        _noise(embeddings),
        _full(lengths, slots),
    )

    def emptied(result):
        _, read = result
        return read.replace(lengths=jnp.zeros_like(read.lengths))

    return Case(arguments, emptied, rows * slots, "positions")


def _decode(config, cache, params, ids) -> Case:
    slots = programs.read_slots(config)
    empty = _full(cache, 0)
    full = empty.replace(lengths=empty.lengths + slots)
    arguments = full, _params(config, like=params), _full(ids, 1)
    return Case(arguments, lambda result: result[1], ids.shape[0], "ids")


def _train(config, state, batch) -> Case:
    with contextlib.redirect_stdout(sys.stderr):
        state = initial_state(RunPlan(config), abstract=state)
    rows, groups = batch["group_segments"].shape
    arguments = state, _batch(batch)
    return Case(arguments, lambda result: result[0], rows * groups * FRAMES_PER_GROUP, "frames")


def _params(config, *, like):
    """Draws random weights of the parts in `like`."""

    def init(key):
        params = tree.cast(init_params(config.model, key=key), config.compute_dtype)
        return {part: params[part] for part in like}

    return jax.jit(init, out_shardings=_places(like))(jax.random.key(0))


def _noise(like):
    return _made(like, lambda x: jax.random.normal(jax.random.key(0), x.shape, x.dtype))


def _batch(like: dict) -> dict:
    """Makes a batch of full rows with one sample each."""
    make = {
        "frames": lambda x: jax.random.bits(jax.random.key(0), x.shape, x.dtype),
        "tokens": lambda x: jnp.ones(x.shape, x.dtype).at[:, _IMAGE_AT].set(IMAGE_TOKEN),
        "labels": lambda x: jnp.ones(x.shape, x.dtype).at[:, : _IMAGE_AT + 1].set(IGNORE_LABEL),
    }
    return {name: _made(x, make[name]) if name in make else _full(x, 1) for name, x in like.items()}


def _full(like, value):
    return _made(like, lambda x: jnp.full(x.shape, value, x.dtype))


def _made(like, make):
    """Makes arrays shaped like `like` with `make`, on their devices."""
    return jax.jit(lambda: jax.tree.map(make, like), out_shardings=_places(like))()


def _places(like):
    return jax.tree.map(lambda x: x.sharding, like)


_ANSWER = {"encode": _encode, "assemble": _assemble, "prefill": _prefill, "decode": _decode}
_CASES = _ANSWER | {"train": _train}


if __name__ == "__main__":
    cli.run(lambda: main(sys.argv))

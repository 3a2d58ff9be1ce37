"""Tells before a pod is rented whether a run fits it, and how fast it could be at most.

`python -m vxlpro_jax.compile --config=configs/stage2.py:3b --topology=v5p:4x4x4 [--num_slices N]
[--what train|stage1|encode|assemble|prefill|decode] [--json FILE]` compiles the real program for
TPUs that need not be there, on any machine with `pip install -e '.[tpu]'`; `--topology=h100:8` for
GPUs, with `pip install -e '.[gpu]'`. It exits with 1 if the program does not fit and says what
would help. An answer is what `encode`, `assemble`, `prefill` and `decode` do one after another.
"""

import dataclasses
import json
import sys
import typing
from pathlib import Path

import jax
from absl import flags

from vxlpro_jax.aot import memory_advice, programs
from vxlpro_jax.aot.report import compile_program, format_table, make_report
from vxlpro_jax.aot.topology import topology_devices
from vxlpro_jax.config.flags import read_run
from vxlpro_jax.models.kv_cache import CacheType
from vxlpro_jax.sharding import batch
from vxlpro_jax.sharding.mesh import make_mesh
from vxlpro_jax.utils import accelerators, cli
from vxlpro_jax.utils.files import write_atomically

_WHAT = ("train", "stage1", "encode", "assemble", "prefill", "decode")


def main(argv: list[str]) -> int:
    """Runs the command line `argv`."""
    jax.config.update("jax_platforms", "cpu")
    run = read_run(argv, define=_define, doc=__doc__)
    what, config = run.flags.what, run.config
    if what == "stage1":
        config = dataclasses.replace(config, objective="recot")
    config = dataclasses.replace(
        config, mesh=dataclasses.replace(config.mesh, num_slices=run.flags.num_slices)
    )
    chip = accelerators.accelerator_of_topology(run.flags.topology)
    devices = topology_devices(run.flags.topology, num_slices=run.flags.num_slices)
    mesh = make_mesh(config.mesh, devices=devices)
    batch.check_batch(config.data.batch_size, parts=config.grad_accum_steps, mesh=mesh)
    jax.set_mesh(mesh)
    program = programs.build(what, config, mesh=mesh, cache=run.flags.kv_cache)
    compiled = compile_program(program, hbm_bytes=chip.usable_bytes)
    report = make_report(compiled, config=config, what=what, chip=chip, mesh=mesh)
    print(format_table(report, topology=run.flags.topology))
    if not report["fits"]:
        print("\nIt does not fit. What would help, by estimate:")
        print("\n".join(f"- {line}" for line in memory_advice.advice(config, what=what, mesh=mesh)))
    if run.flags.json:
        write_atomically(Path(run.flags.json), json.dumps(report, indent=2) + "\n")
    return 0 if report["fits"] else 1


def _define(values):
    flags.DEFINE_string("topology", "", "Chip and shape, v5p:4x4x4 or h100:8.", flag_values=values)
    flags.DEFINE_integer("num_slices", 1, "Slices of that shape.", flag_values=values)
    flags.DEFINE_enum("what", "train", _WHAT, "The program.", flag_values=values)
    flags.DEFINE_enum(
        "kv_cache",
        "model",
        typing.get_args(CacheType),
        "Type of the keys and values that prefill and decode keep.",
        flag_values=values,
    )
    flags.DEFINE_string("json", "", "File for the figures.", flag_values=values)


if __name__ == "__main__":
    cli.run(lambda: main(sys.argv))

"""Compiles a run's program for TPUs or GPUs that need not be present, and checks whether it fits.

`python -m vxlpro_jax.compile --config=configs/stage2.py:3b --topology=v5p:4x4x4 [--num_slices N]
[--what train|stage1|encode|assemble|prefill|decode] [--json FILE] [--hlo FILE]` prints the memory
on each device and the shortest possible time of a step. It needs `pip install -e '.[tpu]'`, or
`'.[gpu]'` for `--topology=h100:8`. If the program does not fit, the command exits with 1 and names
changes that would save memory. Answering a question runs `encode`, `assemble`, `prefill` and
`decode`.
"""

import json
import sys
import typing
from pathlib import Path

from absl import flags

from vxlpro_jax.config.flags import read_run
from vxlpro_jax.config.schema import CacheType
from vxlpro_jax.utils import cli
from vxlpro_jax.utils.files import write_atomically

_PROGRAMS = ("train", "stage1", "encode", "assemble", "prefill", "decode")


def main(argv: list[str]) -> int:
    """Runs the command line `argv`; returns 1 if the program does not fit."""
    run = read_run(argv, define=_define, doc=__doc__)
    # JAX is imported only after the flags are read.
    from vxlpro_jax.aot import report

    target = report.Target(
        program=run.flags.what,
        topology=run.flags.topology,
        num_slices=run.flags.num_slices,
        cache=run.flags.kv_cache,
    )
    found = report.report_on(run.config, target)
    print(report.format_table(found.figures, topology=target.topology))
    if found.advice:
        print("\nIt does not fit. These changes would save memory, by estimate:")
        print("\n".join(f"- {line}" for line in found.advice))
    if run.flags.json:
        write_atomically(Path(run.flags.json), json.dumps(found.figures, indent=2) + "\n")
    if run.flags.hlo and found.text:
        write_atomically(Path(run.flags.hlo), found.text)
    elif run.flags.hlo:
        print(f"\n{run.flags.hlo} was not written: the compiler ended without a program.")
    return 0 if found.figures["fits"] else 1


def _define(values: flags.FlagValues) -> None:
    shape = "Accelerator and shape, such as v5p:4x4x4 or h100:8."
    flags.DEFINE_string("topology", "", shape, flag_values=values)
    flags.DEFINE_integer("num_slices", 1, "Number of slices of that shape.", flag_values=values)
    flags.DEFINE_enum("what", "train", _PROGRAMS, "Program to compile.", flag_values=values)
    flags.DEFINE_enum(
        "kv_cache",
        "model",
        typing.get_args(CacheType),
        "Dtype of the key/value cache of prefill and decode.",
        flag_values=values,
    )
    flags.DEFINE_string("json", "", "File to which the figures are written.", flag_values=values)
    flags.DEFINE_string(
        "hlo", "", "File to which the compiled program is written as text.", flag_values=values
    )


if __name__ == "__main__":
    cli.run(lambda: main(sys.argv))

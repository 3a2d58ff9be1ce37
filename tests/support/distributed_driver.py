"""One of several processes: `python distributed_driver.py MODE [ARGUMENTS]`.

Run by test_distributed.py. Only `train` loads the model; the others are quick.
"""

import dataclasses
import json
import os
import signal
import sys
import time
from pathlib import Path

from vxlpro_jax.distributed import process_group
from vxlpro_jax.distributed.watchdog import Watchdog
from vxlpro_jax.utils import cli

STEPS = 8
HOURS = 10_000.0


def run_config(data: Path):
    """Stage 1 of a micro model, with four records per batch, so that four processes have one each.

    The large `eps` keeps AdamW from amplifying rounding errors.
    """
    from helpers import MICRO

    from vxlpro_jax.config.schema import (
        DataConfig,
        DtsConfig,
        OptimConfig,
        ParamGroup,
        RecotConfig,
        TrainConfig,
    )

    return TrainConfig(
        objective="recot",
        model=dataclasses.replace(MICRO, dts=DtsConfig(grid=4)),
        recot=RecotConfig(decoder_width=8, decoder_depth=1, decoder_heads=2),
        data=DataConfig(path=str(data), batch_size=4, bad_sample_quota=0.5),
        optim=OptimConfig(
            lr=1e-2, eps=1e-3, groups=(ParamGroup(pattern="^vision/", lr_scale=0.0),)
        ),
        total_steps=STEPS,
        checkpoint_every=2,
        log_every=1,
    )


def train(
    group: process_group.ProcessGroup, workdir: str, data: str, tensor: str = "1", every: str = "2"
) -> int:
    """Trains with `tensor` devices on that axis and others on `fsdp`; saves every `every` steps."""
    from vxlpro_jax.config.schema import MeshConfig
    from vxlpro_jax.train import train

    config = dataclasses.replace(
        run_config(Path(data)),
        mesh=MeshConfig(tensor=int(tensor)),
        checkpoint_every=int(every),
    )
    return train(config, workdir=Path(workdir), group=group)


def gather(group: process_group.ProcessGroup) -> None:
    """Gathers twice, because keys are removed in between; prints the process's own file name."""
    told = [group.gather("names", f"{group.index}{name}") for name in "ab"]
    print(json.dumps({"gathered": told, "file": group.own_file("bad.jsonl")}), flush=True)


def late(group: process_group.ProcessGroup) -> None:
    """The last process does not reach the barrier."""
    if group.index == group.count - 1:
        time.sleep(HOURS)
    group.barrier("evaluation")


def stall(group: process_group.ProcessGroup) -> None:
    """At the third step process 1 has no data, for which the others wait."""
    with Watchdog(group) as watchdog:
        for step in (1, 2, 3):
            watchdog.reads(step)
            if step == 3 and group.index == 1:
                time.sleep(HOURS)
            watchdog.computes(step)
        time.sleep(HOURS)


def fail(group: process_group.ProcessGroup) -> None:
    """Process 1 raises an error, while the others wait for their devices."""
    with Watchdog(group):
        if group.index == 1:
            raise FloatingPointError("Loss is nan")
        time.sleep(HOURS)


def wait(group: process_group.ProcessGroup) -> None:
    """Waits until it is killed, like devices that wait for another process."""
    with Watchdog(group):
        print("ready", flush=True)
        time.sleep(HOURS)


MODES = {mode.__name__: mode for mode in (train, gather, late, stall, fail, wait)}


def main() -> int | None:
    mode, *arguments = sys.argv[1:]
    with process_group.join(os.environ) as group:
        code = MODES[mode](group, *arguments)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    if mode == "gather":
        os.kill(os.getpid(), signal.SIGTERM)  # JAX's handler would log it and continue.
    return code


if __name__ == "__main__":
    cli.run(main)

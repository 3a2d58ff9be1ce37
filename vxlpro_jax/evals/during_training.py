"""Evaluates a run on held-out samples while it trains and at its end."""

import json
from pathlib import Path

from vxlpro_jax.checkpoints import params
from vxlpro_jax.config.schema import TrainConfig
from vxlpro_jax.distributed.process_group import ProcessGroup
from vxlpro_jax.evals import recot
from vxlpro_jax.training.state import TrainState


def evaluate(state: TrainState, *, config: TrainConfig, workdir: Path, group: ProcessGroup) -> None:
    """Writes `recot.json` and a line of `evaluations.jsonl`, unless the step is already in them.

    Args:
        state: state of the run.
        config: config of the run.
        workdir: folder of the run.
        group: processes of the run, all of which call this.
    """
    step, report = int(state.step), workdir / recot.REPORT
    is_done = report.exists() and params.read_json(report).get("step") == step
    if json.loads(group.gather(f"evaluation of step {step}", json.dumps(is_done))[0]):
        return
    figures = recot.evaluate(state.params, config=config, workdir=workdir, step=step)
    if group.is_first:
        with (workdir / "evaluations.jsonl").open("a") as file:
            file.write(json.dumps(figures) + "\n")
    print(f"Evaluated: {json.dumps(figures)}", flush=True)

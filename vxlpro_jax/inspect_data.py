"""Shows what a run will train on, as text and pictures, before it trains.

`python -m vxlpro_jax.inspect_data --config=configs/stage2.py [--batches N] [--out DIR]` builds the
first batches of the run, prints their content and draws them to `DIR/batch0.png` and so on. With
`data.frame_buckets` it builds N batches of each shape. It needs no accelerator and no weights.
"""

import sys
from pathlib import Path

from absl import flags

from vxlpro_jax.config.flags import read_run
from vxlpro_jax.utils import cli


def main(argv: list[str]) -> None:
    """Runs the command line `argv`."""
    run = read_run(argv, define=_define, doc=__doc__)
    import jax

    jax.config.update("jax_platforms", "cpu")  # Another process may hold the accelerator.
    from vxlpro_jax.data.inspect.run import inspect_batches
    from vxlpro_jax.training.setup import resolve

    plan = resolve(run.config)
    config = plan.config
    folder = Path(run.flags.out or Path("runs") / run.name / "inspect").expanduser()
    pictures = inspect_batches(
        config.data,
        image_size=config.model.vision.image_size,
        tokens_per_group=config.model.tokens_per_group,
        with_text=plan.objective.reads_text,
        seed=config.seed,
        count=run.flags.batches,
        folder=folder,
    )
    print(f"Pictures: {', '.join(map(str, pictures))}.")


def _define(values: flags.FlagValues) -> None:
    flags.DEFINE_integer(
        "batches", 1, "Number of batches to build of each shape.", lower_bound=1, flag_values=values
    )
    flags.DEFINE_string(
        "out", "", "Folder of the pictures (default: runs/NAME/inspect).", flag_values=values
    )


if __name__ == "__main__":
    cli.run(lambda: main(sys.argv))

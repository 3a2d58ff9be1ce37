"""Executes runs on this machine, one step after another."""

import shlex
import subprocess
from collections.abc import Mapping

from vxlpro_jax.sweep.executors.base import LaunchStatus
from vxlpro_jax.sweep.plan import Run


class Local:
    """Runs each step as a process, whose output goes to the run's `log.txt`."""

    def __init__(self, *, environment: Mapping[str, str]):
        self._environment = environment

    def show(self, run: Run) -> str:
        """Lists the commands, one per line."""
        return "\n".join(shlex.join(step.command) for step in run.steps)

    def launch(self, run: Run, *, label: str) -> LaunchStatus:
        """Runs the missing steps until one fails."""
        run.folder.mkdir(parents=True, exist_ok=True)
        for step in run.missing:
            print(f"{label}: {step.name}", flush=True)
            with (run.folder / "log.txt").open("a", encoding="utf-8") as log:
                log.write(f"$ {shlex.join(step.command)}\n")
                log.flush()
                ended = subprocess.run(
                    step.command,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=self._environment,
                    check=False,
                )
            if ended.returncode:
                return LaunchStatus.FAILED
        return LaunchStatus.DONE

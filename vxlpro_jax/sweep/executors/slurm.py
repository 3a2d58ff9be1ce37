"""Executes runs as Slurm jobs, one job per run."""

import shlex
import sys
from pathlib import Path

from vxlpro_jax.sweep.executors.base import LaunchStatus, client_error, run_client
from vxlpro_jax.sweep.plan import Run, Step
from vxlpro_jax.utils.errors import InputError
from vxlpro_jax.utils.files import write_atomically

TEMPLATE = "launch/slurm.sbatch"
_OWN_OPTIONS = ("--job-name", "--output")


class Slurm:
    """Submits one script per run, with the `#SBATCH` lines of the template.

    The template also starts the parallel steps. A job that is started again runs the missing steps.
    """

    def __init__(self, *, template: Path, compiled: Path):
        self._template, self._compiled = template.absolute(), compiled
        try:
            lines = template.read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise InputError(f"--template: {template} cannot be read ({error}).") from error
        self._options = [
            line
            for line in lines
            if line.startswith("#SBATCH") and not any(own in line for own in _OWN_OPTIONS)
        ]

    def show(self, run: Run) -> str:
        """Shows the script and the command that submits it."""
        return f"{self.script(run)}$ {shlex.join(_submit(run))}"

    def launch(self, run: Run, *, label: str) -> LaunchStatus:
        """Submits the run unless it is done or in the queue."""
        if not run.missing:
            return LaunchStatus.DONE
        job, before = run.folder / "job.txt", ""
        if job.exists():
            number = job.read_text(encoding="utf-8").strip()
            if _is_queued(number):
                print(f"{label}: job {number} is in the queue", flush=True)
                return LaunchStatus.WAITING
            before = f", because job {number} ended before all steps were done: see log.txt"
        run.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(_script_of(run), self.script(run))
        answer = run_client(*_submit(run))
        if answer.returncode:
            print(f"{label}: sbatch failed: {answer.stderr.strip()}", flush=True)
            return LaunchStatus.FAILED
        number = answer.stdout.strip().split(";")[0]  # A cluster's name may follow.
        write_atomically(job, f"{number}\n")
        print(f"{label}: submitted as job {number}{before}", flush=True)
        return LaunchStatus.SUBMITTED

    def script(self, run: Run) -> str:
        """Returns the text of the run's script."""
        lines = [
            "#!/usr/bin/env bash",
            f"#SBATCH --job-name={run.variant}-seed{run.seed}",
            f"#SBATCH --output={shlex.quote(str(run.folder / 'log.txt'))}",
            *self._options,
            f"# The missing steps of {run}. Written by vxlpro_jax.sweep.",
            "set -euo pipefail",
            f"cd {shlex.quote(str(Path.cwd()))}",
            f"export PYTHON={shlex.quote(sys.executable)}",
            f"export JAX_COMPILATION_CACHE_DIR={shlex.quote(str(self._compiled))}",
            *(f"[[ -e {shlex.quote(str(x.output))} ]] || {self._start(x)}" for x in run.steps),
        ]
        return "\n".join(lines) + "\n"

    def _start(self, step: Step) -> str:
        if step.is_parallel:
            return shlex.join(("bash", str(self._template), *step.command[1:]))
        return f"VXLPRO_NUM_PROCESSES=1 VXLPRO_PROCESS_ID=0 {shlex.join(step.command)}"


def _script_of(run: Run) -> Path:
    return run.folder / "run.sbatch"


def _submit(run: Run) -> tuple[str, ...]:
    return ("sbatch", "--parsable", str(_script_of(run)))


def _is_queued(number: str) -> bool:
    answer = run_client("squeue", "--noheader", f"--jobs={number}")
    if answer.returncode and "invalid job id" not in answer.stderr.lower():
        raise client_error("squeue", answer)
    return bool(answer.stdout.strip())

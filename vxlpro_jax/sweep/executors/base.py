"""The interface of executors, which run the steps of a run here or on a cluster."""

import enum
import subprocess
from typing import Protocol

from vxlpro_jax.sweep.plan import Run
from vxlpro_jax.utils.errors import InputError


class LaunchStatus(enum.Enum):
    """The result of launching a run.

    `DONE`: no step is missing. `SUBMITTED`: the run was handed to a cluster. `WAITING`: it is
    still there from an earlier launch. `FAILED`: a step or the submission failed.
    """

    DONE = "done"
    SUBMITTED = "submitted"
    WAITING = "waiting"
    FAILED = "failed"


class Executor(Protocol):
    """Runs the missing steps of a run, here or on a cluster."""

    def show(self, run: Run) -> str:
        """Describes what `launch` would do, as text."""
        ...

    def launch(self, run: Run, *, label: str) -> LaunchStatus:
        """Starts the missing steps, and prints progress after `label`."""
        ...


def run_client(*command: str) -> subprocess.CompletedProcess[str]:
    """Runs a cluster's client with text output.

    Raises:
        InputError: the client is not installed.
    """
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise InputError(
            f"{command[0]} is not installed: start this on a machine that submits jobs, or with"
            " --launcher=local."
        ) from error


def client_error(client: str, answer: subprocess.CompletedProcess[str]) -> InputError:
    """Makes the error for a client that failed."""
    return InputError(f"{client} failed: {(answer.stderr or answer.stdout).strip()}.")

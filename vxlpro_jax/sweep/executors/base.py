"""What a launcher is: where and when the steps of a run are done."""

import enum
import subprocess
from typing import Protocol

from vxlpro_jax.sweep.plan import Run
from vxlpro_jax.utils.errors import InputError


class LaunchStatus(enum.Enum):
    """Of launching a run: nothing is left to do, handed to a cluster, still there, or failed."""

    DONE = "done"
    SUBMITTED = "submitted"
    WAITING = "waiting"
    FAILED = "failed"


class Executor(Protocol):
    """Does what is missing of a run, here or on a cluster."""

    def show(self, run: Run) -> str:
        """What `launch` would do, as text."""

    def launch(self, run: Run, *, label: str) -> LaunchStatus:
        """Begins, and says so behind `label`."""


def run_client(*command: str) -> subprocess.CompletedProcess[str]:
    """Runs a cluster's client; its output is text.

    Raises:
        InputError: there is no such client here.
    """
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise InputError(
            f"{command[0]} is not on this machine: start this where jobs are submitted from, or"
            " with --launcher=local."
        ) from error


def client_error(client: str, answer: subprocess.CompletedProcess[str]) -> InputError:
    """The mistake to raise when a client could not answer at all."""
    return InputError(f"{client} failed: {(answer.stderr or answer.stdout).strip()}.")

"""Tests the command lines of the converter."""

import subprocess
import sys

import pytest

from checkpoints_convert import orbax_to_torch, torch_to_orbax
from vxlpro_jax.utils.errors import InputError

COMMANDS = ("torch_to_orbax", "orbax_to_torch", "assemble", "verify")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_imports_neither_jax_nor_torch(command):
    script = (
        "import runpy, sys\n"
        "try:\n"
        f"    runpy.run_module('checkpoints_convert.{command}', run_name='__main__')\n"
        "except SystemExit as error:\n"
        "    assert not error.code, error.code\n"
        "print(sorted({'jax', 'torch', 'orbax'} & sys.modules.keys()))"
    )
    run = [sys.executable, "-c", script, "--help"]
    done = subprocess.run(run, check=True, capture_output=True, text=True)
    assert done.stdout.startswith(f"usage: python -m checkpoints_convert.{command}")
    assert done.stdout.splitlines()[-1] == "[]"
    assert "--src" not in done.stdout


def test_flags_of_former_names_are_understood(release, tmp_path, helpers, tensors):
    torch_to_orbax.main([f"--src={release}", "--dst", str(tmp_path / "orbax")])
    orbax_to_torch.main(["--src", str(tmp_path / "orbax"), f"--dst={tmp_path / 'back'}"])
    assert helpers.read_release(tmp_path / "back") == helpers.as_stored(tensors)


def test_existing_destination_names_the_flag(release, tmp_path):
    with pytest.raises(InputError, match="exists already: choose another --out"):
        torch_to_orbax.main([f"--checkpoint={release}", f"--out={tmp_path}"])

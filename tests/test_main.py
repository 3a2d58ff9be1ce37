"""Tests `vxlpro COMMAND`: the list of commands, each of which is found."""

import importlib.util
import re
import subprocess
import sys

import pytest
from helpers import ROOT

from vxlpro_jax.__main__ import COMMANDS, command_list, main
from vxlpro_jax.utils.errors import InputError


def test_every_command_is_a_module_with_a_summary():
    for line, (name, module) in zip(command_list().splitlines(), COMMANDS.items(), strict=True):
        assert importlib.util.find_spec(module)
        assert re.fullmatch(rf"  {name} +\S.*[.:`].*", line)


def test_without_a_command_they_are_listed(capsys):
    assert main(["vxlpro"]) == 0
    assert command_list() in capsys.readouterr().out


def test_an_unknown_command_is_refused():
    with pytest.raises(InputError, match="Unknown command 'trian': did you mean 'train'"):
        main(["vxlpro", "trian"])


def test_words_behind_the_command_are_its_own():
    command = [sys.executable, "-m", "vxlpro_jax", "train", "--config=nowhere.py"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert re.match(r"error: Config file .*nowhere.py does not exist", done.stderr)

"""Gives each parser the same damaged inputs in every run; `python -m tests.fuzz` makes others."""

import warnings

import pytest

from tests.fuzz.__main__ import run
from tests.fuzz.parsers import NAMES

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", NAMES)
def test_damaged_inputs_are_read_or_refused_in_a_sentence(name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Damaged pictures and videos cause warnings.
        assert run(name, seed=0, count=100).total() >= 50

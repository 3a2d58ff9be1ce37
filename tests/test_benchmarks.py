"""Benchmarks that nobody runs every day still start."""

import json

import pytest
from helpers import ROOT, python


def accelerator(*flags):
    config = "--config=configs/stage2.py:tiny,frames=8,batch=1,text=16"
    process = python(ROOT / "benchmarks" / "accelerator.py", config, "--rounds=2", *flags)
    return process, *process.communicate()


@pytest.mark.parametrize("what", ["assemble", "decode"])
def test_a_program_is_measured_with_what_fills_it(what):
    process, out, error = accelerator(f"--what={what}", "--one", "--kv_cache=int8")
    assert process.returncode == 0, error
    _first, seconds, rate, gib, most = json.loads(out)
    assert float(seconds) > 0
    assert float(gib) >= 0
    assert rate.endswith({"assemble": " visual tokens", "decode": " ids"}[what])
    assert not most  # A CPU does not tell.


def test_an_unknown_program_is_named():
    process, _, error = accelerator("--what=decode,read")
    assert process.returncode == 2
    assert "--what has read: choose from encode, " in error

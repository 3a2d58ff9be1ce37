"""The benchmark of the accelerator runs and reports time and memory of its programs."""

import json

import jax
import pytest
from helpers import ROOT, python

from vxlpro_jax.config.schema import PRESETS
from vxlpro_jax.models.video_xl_pro import abstract_params

pytestmark = pytest.mark.slow


def accelerator(*flags):
    config = "--config=configs/stage2.py:tiny,frames=8,batch=1,text=16"
    process = python(ROOT / "benchmarks" / "accelerator.py", config, "--rounds=2", *flags)
    return process, *process.communicate()


@pytest.mark.parametrize("what", ["assemble", "decode"])
def test_a_program_is_measured_with_full_inputs(what):
    process, out, error = accelerator(f"--what={what}", "--one", "--kv_cache=int8")
    assert process.returncode == 0, error
    _first, seconds, rate, gib, most = json.loads(out)
    assert float(seconds) > 0
    parameters = sum(4 * x.size for x in jax.tree.leaves(abstract_params(PRESETS["tiny"])))
    assert parameters < float(gib) * 2**30 < 4 * parameters
    assert rate.endswith({"assemble": " visual tokens", "decode": " ids"}[what])
    assert not most  # A CPU does not report its memory.


def test_an_unknown_program_is_named():
    process, _, error = accelerator("--what=decode,read")
    assert process.returncode == 2
    assert "--what has read: choose from encode, " in error

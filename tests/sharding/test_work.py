"""Tests that no mesh encodes a group twice, by the FLOPs of the compiled programs."""

import json
import os
from pathlib import Path

import pytest
from helpers import python

pytestmark = pytest.mark.slow

DRIVER = Path(__file__).parents[1] / "support" / "encoder_flops_driver.py"


@pytest.fixture(scope="module")
def told():
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=8"
    path = f"{DRIVER.parents[2]}:{DRIVER.parent}"
    process = python(DRIVER, XLA_FLAGS=flags, PYTHONPATH=path)
    out, error = process.communicate()
    assert process.returncode == 0, error
    return json.loads(out.splitlines()[-1])


def test_each_device_encodes_its_share_of_the_groups(told):
    """Up to 5 % more than the share, and one group, are allowed for padding."""
    for case in told["cases"]:
        assert 0.99 * case["share"] < case["encoded"] < 1.05 * case["share"] + 1, case
    # In parts, the backward pass encodes again.
    assert 1.2 < told["group"]["in parts"] / told["group"]["whole"] < 1.4


def test_padding_changes_no_gradient(told):
    assert told["furthest"] < 1e-12

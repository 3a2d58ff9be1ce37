"""Compiling for TPUs that are not there: what fits, what does not, and what is no topology."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from vxlpro_jax import programs, sharding
from vxlpro_jax.config import DataConfig, MeshConfig, TrainConfig
from vxlpro_jax.data.pipeline import build_pipeline

ROOT = Path(__file__).parent.parent


def compile_for(topology, *flags, tmp_path):
    """The finished command and the figures that it wrote, or None."""
    file = tmp_path / "fit.json"
    command = [sys.executable, "-m", "vxlpro_jax.compile", "--config=configs/stage2.py"]
    done = subprocess.run(
        [*command, f"--topology={topology}", f"--json={file}", *flags],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={k: v for k, v in os.environ.items() if k != "XLA_FLAGS"},
    )
    return done, json.loads(file.read_text()) if file.exists() else None


@pytest.mark.parametrize("what", ["train", "stage1", "prefill", "decode"])
def test_the_tiny_preset_fits(what, tmp_path):
    done, told = compile_for("v5e:2x2", f"--what={what}", tmp_path=tmp_path)
    assert done.returncode == 0, done.stderr
    assert told["fits"]
    assert 0 < told["hbm_bytes_per_device"] < told["hbm_limit_bytes"] == 16 * 2**30
    assert 0 < told["mfu_bound"] < 1
    assert told["flops_per_step"] <= told["flops_executed"]
    assert told["collective_bytes"] > 0
    assert "of 16.00 GiB" in done.stdout


def test_what_does_not_fit_exits_with_1_and_says_what_would_help(tmp_path):
    flags = "--config.data.batch_size=524288", "--config.data.feature_cache="
    done, told = compile_for("v5e:2x2", *flags, tmp_path=tmp_path)
    assert done.returncode == 1, done.stderr
    assert not told["fits"]
    assert told["hbm_bytes_per_device"] > told["hbm_limit_bytes"]
    assert "accumulate=2 saves" in done.stdout


@pytest.mark.parametrize(
    ("topology", "reason"),
    [("v9:2x2", "name a chip, one of v5e, v5p, v6e"), ("v5e:3x1", "cannot be described")],
)
def test_no_topology_is_told_in_a_sentence(topology, reason, tmp_path):
    done, told = compile_for(topology, tmp_path=tmp_path)
    assert done.returncode == 2
    assert reason in done.stderr
    assert "Traceback" not in done.stderr
    assert told is None


@pytest.mark.parametrize("task", ["answer", "recot"])
@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
def test_abstract_batches_are_those_of_the_pipeline(task, tmp_path):
    config = TrainConfig(task=task, data=DataConfig(workdir_cache=str(tmp_path)))
    pipeline = build_pipeline(
        config.data,
        image_size=config.model.vision.image_size,
        with_text=task == "answer",
        seed=0,
        process_index=0,
        process_count=1,
        bad_samples_path=None,
    )
    batch = next(pipeline)
    pipeline.close()
    abstract = programs.abstract_batch(config, mesh=sharding.make_mesh(MeshConfig()))
    told = {name: (x.shape, x.dtype) for name, x in abstract.items()}
    used = {name: (x.shape, x.dtype) for name, x in batch.items() if x.size}
    assert told == used

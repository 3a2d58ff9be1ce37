"""Tests compiling for absent TPUs: programs that fit, programs that do not, invalid topologies.

For GPUs only parts that need no GPU compiler are tested, because the tests do not install one.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from vxlpro_jax.aot import programs
from vxlpro_jax.aot.topology import describe
from vxlpro_jax.config.schema import DataConfig, MeshConfig, TrainConfig
from vxlpro_jax.data.loader.build import build_pipeline
from vxlpro_jax.sharding import mesh
from vxlpro_jax.utils import accelerators

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


def compile_for(topology, *flags, tmp_path, **environment):
    """Returns the finished command and the figures that it wrote, or None."""
    file = tmp_path / "fit.json"
    command = [sys.executable, "-m", "vxlpro_jax.compile", "--config=configs/stage2.py"]
    done = subprocess.run(
        [*command, f"--topology={topology}", f"--json={file}", *flags],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={k: v for k, v in os.environ.items() if k != "XLA_FLAGS"} | environment,
    )
    return done, json.loads(file.read_text()) if file.exists() else None


@pytest.mark.parametrize("what", ["train", "stage1", "encode", "assemble", "prefill"])
def test_the_tiny_preset_fits(what, tmp_path):
    hlo_file = tmp_path / "program.hlo"
    flags = f"--what={what}", f"--hlo={hlo_file}"
    done, told = compile_for("v5e:2x2", *flags, tmp_path=tmp_path)
    assert done.returncode == 0, done.stderr
    assert told["fits"]
    assert 0 < told["hbm_bytes_per_device"] < told["hbm_limit_bytes"] == 16 * 2**30
    assert 0 < told["mfu_bound"] < 1
    # Products over the four slots of the DTS are computed as sums, which are not counted.
    assert told["flops_per_step"] < 1.01 * told["flops_executed"]
    assert told["collective_bytes"] > 0
    assert told["least_seconds"]["compute"] < told["model_seconds"]
    assert 0 < told["model_mfu"] < told["mfu_bound"]
    assert "of 16.00 GiB" in done.stdout
    assert "by the compiler's own model" in done.stdout
    assert hlo_file.read_text().startswith("HloModule ")


def test_a_program_that_does_not_fit_exits_with_1_and_prints_advice(tmp_path):
    hlo_file = tmp_path / "program.hlo"
    flags = "--config.data.batch_size=524288", "--config.data.feature_cache=", f"--hlo={hlo_file}"
    done, told = compile_for("v5e:2x2", *flags, tmp_path=tmp_path)
    assert done.returncode == 1, done.stderr
    assert not told["fits"]
    assert told["hbm_bytes_per_device"] > told["hbm_limit_bytes"]
    assert "grad_accum_steps=2 saves" in done.stdout
    assert hlo_file.exists() != ("program.hlo was not written" in done.stdout)


@pytest.mark.parametrize(
    ("topology", "reason"),
    [
        ("v9:2x2", "name an accelerator, one of v5e, v5p, v6e, h100"),
        ("v5e:3x1", "cannot be described"),
        ("h100:2x4", "and how many, for example h100:8"),
        ("h100:0", "and how many, for example h100:8"),
        ("a100:", "and how many, for example h100:8"),
    ],
)
def test_an_unknown_topology_is_reported_in_a_sentence(topology, reason, tmp_path):
    done, told = compile_for(topology, tmp_path=tmp_path)
    assert done.returncode == 2
    assert reason in done.stderr
    assert "Traceback" not in done.stderr
    assert told is None


def test_a_missing_gpu_compiler_is_named(tmp_path):
    """If the compiler is installed, an empty package that is found first hides it."""
    (tmp_path / "jax_plugins").mkdir()
    (tmp_path / "jax_plugins" / "__init__.py").touch()
    done, told = compile_for("h100:8", tmp_path=tmp_path, PYTHONPATH=str(tmp_path))
    assert done.returncode == 2
    assert "pip install -e '.[gpu]'" in done.stderr
    assert "Traceback" not in done.stderr
    assert told is None


def test_slices_of_gpus_are_refused(tmp_path):
    done, told = compile_for("h100:8", "--num_slices=2", tmp_path=tmp_path)
    assert done.returncode == 2
    assert "count the GPUs of all hosts, h100:16" in done.stderr
    assert told is None


def test_every_gpu_is_described():
    block = re.compile(r"(\w+)(?:: | \{)")
    fields = {name: re.findall(block, describe(name)) for name in accelerators.GPUS}
    assert len(set(map(tuple, fields.values()))) == 1
    for name, chip in accelerators.GPUS.items():
        text = describe(name)
        assert f"device_memory_size: {chip.hbm_bytes}\n" in text
        kind = re.search(r'device_description_str: "(.*)"', text)[1]
        assert accelerators.accelerator_of_kind(kind) == chip


def test_a_gpu_has_the_memory_that_launchers_give_a_process():
    text = (ROOT / "launch" / "xla_flags.env").read_text()
    share = float(re.search(r"^XLA_PYTHON_CLIENT_MEM_FRACTION=(.*)$", text, re.MULTILINE)[1])
    for chip in accelerators.GPUS.values():
        assert chip.usable_bytes == int(share * chip.hbm_bytes)
    assert accelerators.accelerator_of_topology("v5e:2x2").usable_bytes == 16 * 2**30


@pytest.mark.parametrize("objective", ["sft", "recot"])
def test_abstract_batches_are_those_of_the_pipeline(objective, tmp_path):
    config = TrainConfig(objective=objective, data=DataConfig(cache_dir=str(tmp_path)))
    pipeline = build_pipeline(
        config.data,
        image_size=config.model.vision.image_size,
        with_text=objective == "sft",
        seed=0,
        process_index=0,
        process_count=1,
        bad_samples_path=None,
    )
    batch = next(pipeline)
    pipeline.close()
    abstract = programs.abstract_batch(config, mesh=mesh.make_mesh(MeshConfig()))
    told = {name: (x.shape, x.dtype) for name, x in abstract.items()}
    used = {name: (x.shape, x.dtype) for name, x in batch.items() if x.size}
    assert told == used

"""Memory does not grow with the model, and a killed conversion leaves no finished folder."""

import json
import subprocess
import sys
import time

import numpy as np
import pytest

from checkpoints_convert import mapping
from checkpoints_convert.folders import total_bytes
from checkpoints_convert.release import open_release
from checkpoints_convert.safetensors_io import plan_shards, write_shards
from vxlpro_jax.config.schema import ModelConfig

pytestmark = pytest.mark.slow

MIB = 2**20
HALF = np.dtype(np.float16)


def write_wide_release(folder, *, layers):
    """Writes a release with three stacked kernels of 16 MiB per layer, and little else."""
    folder.mkdir()
    config = {
        "vocab_size": 1000,
        "hidden_size": 512,
        "intermediate_size": 16384,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "rope_theta": 1e6,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": True,
        "vision_config": {
            "hidden_size": 32,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 28,
        },
    }
    (folder / "config.json").write_text(json.dumps(config))
    structs = mapping.torch_structs(mapping.param_shapes(ModelConfig.from_release(config)))
    structs = {name: struct.update(dtype=HALF) for name, struct in structs.items()}
    # Random bytes do not compress, which would shorten the run; their exponents are finite.
    rng = np.random.default_rng(0)
    arrays = (rng.integers(0, 2**14, s.shape, np.uint16).view(HALF) for s in structs.values())
    shards = plan_shards(structs, max_shard_bytes=100 * MIB)
    write_shards(folder, shards=shards, arrays=arrays)


def command(module, source, destination):
    start = [sys.executable, "-m", f"checkpoints_convert.{module}"]
    return [*start, "--checkpoint", str(source), "--out", str(destination)]


def peak_bytes(arguments):
    """Returns the peak resident memory of a command."""
    script = (
        "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True);"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    run = [sys.executable, "-c", script, *arguments]
    done = subprocess.run(run, check=True, capture_output=True, text=True)
    return int(done.stdout.split()[-1]) * 1024


def test_memory_does_not_grow_with_the_weights(tmp_path, release):
    """Each direction takes little more memory than for a model of a few kB."""
    write_wide_release(tmp_path / "wide", layers=12)
    tensors = open_release(tmp_path / "wide").tensors
    weights = total_bytes(tensors.values())
    assert weights > 590 * MIB

    small = peak_bytes(command("torch_to_orbax", release, tmp_path / "small"))
    peak = peak_bytes(command("torch_to_orbax", tmp_path / "wide", tmp_path / "orbax"))
    assert peak - small < weights / 2

    small = peak_bytes(command("orbax_to_torch", tmp_path / "small", tmp_path / "small_back"))
    peak = peak_bytes(command("orbax_to_torch", tmp_path / "orbax", tmp_path / "back"))
    assert peak - small < weights / 2

    back = open_release(tmp_path / "back").tensors
    assert back.keys() == tensors.keys()
    assert all(np.array_equal(back[name].whole(), tensors[name].whole()) for name in tensors)


def test_killed_conversion_can_be_repeated(tmp_path):
    write_wide_release(tmp_path / "wide", layers=4)
    destination = tmp_path / "orbax"
    run = command("torch_to_orbax", tmp_path / "wide", destination)
    process = subprocess.Popen(run)
    try:
        deadline = time.monotonic() + 120
        while not list(tmp_path.glob("orbax.partial/params*/ocdbt.process_0/d/*")):
            assert process.poll() is None, "it ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == -9
    assert not destination.exists()
    subprocess.run(run, check=True)
    assert {path.name for path in tmp_path.iterdir()} == {"orbax", "wide"}
    names = {path.name for path in destination.iterdir()}
    assert names == {"config.json", "params", "provenance.json"}

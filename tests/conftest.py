"""Fixtures for every test."""

import gc
import importlib.util
import json
import os
import re
import shutil
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest

# Tests spend far more time compiling than running. Processes that they start inherit this.
_flags = "--xla_backend_optimization_level=0"
if version("jaxlib").startswith("0.10."):  # Compiles a third faster; 0.12 does not support it.
    _flags += " --xla_cpu_use_fusion_emitters=false"
os.environ.setdefault("XLA_FLAGS", _flags)
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Many tests compile the same program; xdist's workers and the tests' processes share a cache.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    _compiled = tempfile.TemporaryDirectory(prefix="vxlpro_jax-")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _compiled.name
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

_GOLDEN = Path(__file__).parent / "golden"

_HAS_TORCH = importlib.util.find_spec("torch") is not None
_IMPORTS_TORCH = re.compile(r"^\s*(import|from) torch(_reference)?\b", re.MULTILINE)


def _needs_torch(path: Path) -> bool:
    """Returns whether a test file, or a conftest.py beside it, contains an import of torch."""
    files = [path, path.parent / "conftest.py"]
    return any(file.exists() and _IMPORTS_TORCH.search(file.read_text()) for file in files)


def _left_out() -> list[Path]:
    """Returns the test files that need torch; none if it is installed."""
    tests = Path(__file__).parent
    return [] if _HAS_TORCH else sorted(filter(_needs_torch, tests.rglob("test_*.py")))


def pytest_xdist_auto_num_workers():
    """Returns the workers of `-n auto`; one more than cores, because some tests wait."""
    return len(os.sched_getaffinity(0)) + 1


def pytest_ignore_collect(collection_path, config):
    """Leaves out files, and folders by their conftest.py, that cannot be imported without torch."""
    conftest = collection_path / "conftest.py"
    wanted = conftest if collection_path.is_dir() else collection_path
    if not _HAS_TORCH and wanted.suffix == ".py" and wanted.exists() and _needs_torch(wanted):
        return True
    return None  # Other plugins decide.


def pytest_collection_modifyitems(items):
    """Marks tests in files that import torch, for `-m "not torch"`."""
    for item in items:
        if _needs_torch(item.path):
            item.add_marker("torch")


def pytest_terminal_summary(terminalreporter):
    if files := _left_out():
        named = ", ".join(str(file.relative_to(Path(__file__).parent)) for file in files)
        terminalreporter.write_line(f"torch is not installed, so these were left out: {named}")


@pytest.fixture(scope="module", autouse=True)
def compiled_for_the_file_alone():
    """Clears the compiled programs after each file, which would otherwise take gigabytes."""
    yield
    if "jax" in sys.modules:
        sys.modules["jax"].clear_caches()
        gc.collect()


@pytest.fixture
def no_mesh():
    """Removes the mesh that `train` sets in its process, so that no other test sees it."""
    yield
    import jax  # Not before the environment above is set.

    jax.set_mesh(jax.make_mesh((1,), ("none",))).__exit__(None, None, None)


@pytest.fixture
def float64():
    """Lets JAX compute in float64 within the test."""
    import jax  # Not before the environment above is set.

    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="session")
def golden_folder(tmp_path_factory) -> Path:
    """Returns a folder of the golden checkpoint in release format with its `case_*.npz`.

    Most rows of its embedding are zero and are not stored; in the cases f16 and image3 the largest
    intermediates are left out.
    """
    folder = tmp_path_factory.mktemp("golden")
    for file in [_GOLDEN / "config.json", *_GOLDEN.glob("case_*.npz")]:
        shutil.copy(file, folder)
    vocab = json.loads((_GOLDEN / "config.json").read_text())["vocab_size"]
    header, blobs, end = {}, [], 0
    for name, array in _golden_weights(vocab).items():
        header[name] = {
            "dtype": "BF16",
            "shape": array.shape,
            "data_offsets": (end, end := end + array.nbytes),
        }
        blobs.append(array.tobytes())
    head = json.dumps(header).encode()
    parts = [len(head).to_bytes(8, "little"), head, *blobs]
    (folder / "model.safetensors").write_bytes(b"".join(parts))
    return folder


def _golden_weights(vocab: int) -> dict[str, np.ndarray]:
    """Returns bfloat16 bits by torch name; the embedding has rows 0..2047 and 151643.. only."""
    with np.load(_GOLDEN / "weights.npz") as file:
        bits = file["high"].astype(np.uint16) << 8 | file["low"]
        shapes = json.loads(str(file["shapes"]))
    weights, start = {}, 0
    for name, shape in shapes.items():
        weights[name] = bits[start : (start := start + int(np.prod(shape)))].reshape(shape)
    stored = weights["model.embed_tokens.weight"]
    embedding = np.zeros((vocab, stored.shape[1]), np.uint16)
    embedding[:2048], embedding[151_643:] = stored[:2048], stored[2048:]
    return weights | {"model.embed_tokens.weight": embedding}

"""Tests untrusted headers of safetensors files."""

import json
import resource
import struct
import subprocess
import sys
import time

import numpy as np
import pytest

from checkpoints_convert import to_orbax
from checkpoints_convert.safetensors_io import read_tensors, write_file
from vxlpro_jax.utils.errors import InputError

DATA = 24
GOOD = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, DATA]}


def write(file, header, *, length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    declared = struct.pack("<Q", len(text) if length is None else length)
    file.write_bytes(declared + text + bytes(DATA))
    return file


def test_a_good_one(tmp_path):
    leaves = read_tensors(write(tmp_path / "a.safetensors", {"a": GOOD, "__metadata__": None}))
    np.testing.assert_array_equal(leaves["a"].whole(), np.zeros((2, 3), np.float32))
    write_file(tmp_path / "b.safetensors", {"é\n": np.arange(3), "": np.zeros((0, 2))})
    assert read_tensors(tmp_path / "b.safetensors").keys() == {"é\n", ""}


@pytest.mark.parametrize("header", [[], "text", 5, None, True, b"", b"{", b"\xff", b"[" * 10**5])
def test_header_that_is_no_object(tmp_path, header):
    with pytest.raises(InputError, match=r"is not a complete safetensors file \(its header is no"):
        read_tensors(write(tmp_path / "a.safetensors", header))


@pytest.mark.parametrize(
    "tensor",
    [
        *([], None, 5, {}, "F32"),
        *(GOOD | {"dtype": dtype} for dtype in (None, 5, [], {}, "", "F8_E4M3", "f32", "X" * 999)),
        *(GOOD | {"shape": s} for s in (None, 6, "23", {}, [2.0, 3], [True, 6], [None], [[2, 3]])),
        *(GOOD | {"shape": s} for s in ([-2, -3], [-6, -1], [2**70, 3], [10**4000], [1] * 33)),
        *(GOOD | {"shape": s} for s in ([2**62, 2**62, 0], [6, 2], [])),
        *(GOOD | {"data_offsets": x} for x in (None, 24, [], [24], [0, 12, 24], {"0": 24}, "ab")),
        *(GOOD | {"data_offsets": x} for x in ([0, 24.0], [24, 0], [-24, 0], [0, 2**64], [0, 25])),
        *(GOOD | {"data_offsets": x} for x in ([0, 10**4000], [4, 28], [0, 20], [False, 24])),
        *({k: v for k, v in GOOD.items() if k != missing} for missing in GOOD),
    ],
)
def test_tensor_that_is_none(tmp_path, tensor):
    with pytest.raises(InputError) as error:
        read_tensors(write(tmp_path / "a.safetensors", {"a": tensor}))
    assert len(str(error.value)) < 400


@pytest.mark.parametrize("name", ["a\nb", "\ud800", "a" * 10**6])
def test_names_in_messages(tmp_path, name):
    with pytest.raises(InputError) as error:
        read_tensors(write(tmp_path / "a.safetensors", {name: {}}))
    assert len(str(error.value)) < 400
    assert str(error.value).isprintable()


def test_names_given_twice(tmp_path):
    one = json.dumps(GOOD)
    pairs = ", ".join(f'"{n % 25_000}": {one}' for n in range(50_000))
    start = time.process_time()
    with pytest.raises(InputError, match="the header names 0 twice"):
        read_tensors(write(tmp_path / "a.safetensors", f"{{{pairs}}}".encode()))
    assert time.process_time() - start < 30


@pytest.mark.parametrize("length", [2**63, 2**64 - 1, 1000, 0, 3])
def test_declared_length(tmp_path, length):
    with pytest.raises(InputError, match="is not a complete safetensors file"):
        read_tensors(write(tmp_path / "a.safetensors", {"a": GOOD}, length=length))


def test_long_header_takes_no_memory(tmp_path):
    file = tmp_path / "a.safetensors"
    with file.open("wb") as stream:
        stream.write(struct.pack("<Q", 5 * 2**30))
        stream.truncate(6 * 2**30)  # The file is sparse.
    with pytest.raises(InputError, match="longer than any real one"):
        read_tensors(file)


@pytest.mark.slow
@pytest.mark.parametrize("text", [b"{},", b"[],", b'"a":{},', b"1.5,", b'{"":[{}]},'])
def test_long_headers_stay_under_a_gigabyte(tmp_path, text):
    count = (4 * 2**20 - 10) // len(text)
    opening, closing = (b"{", b"}") if text.startswith(b'"') else (b"[", b"]")
    write(tmp_path / "a.safetensors", opening + text * count + text[:-1] + closing)
    code = (
        "import sys; from pathlib import Path; from vxlpro_jax.utils.errors import InputError\n"
        "from checkpoints_convert.safetensors_header import read_header\n"
        "try: read_header(Path(sys.argv[1]))\n"
        "except InputError: sys.exit(2)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "a.safetensors")]
    done = subprocess.run(
        command,
        timeout=120,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (2**30, 2**30)),
    )
    assert done.returncode == 2


@pytest.mark.parametrize("shape", [[], [0], [6]])
def test_embedding_that_is_no_matrix(tmp_path, shape):
    count = 1 if not shape else shape[0]
    entry = {"dtype": "U8", "shape": shape}
    header = {
        "model.embed_tokens.weight": entry | {"data_offsets": [0, count]},
        "lm_head.weight": entry | {"data_offsets": [count, 2 * count]},
        "rest": {"dtype": "U8", "shape": [DATA - 2 * count], "data_offsets": [2 * count, DATA]},
    }
    write(tmp_path / "model.safetensors", header)
    (tmp_path / "config.json").write_text(json.dumps({"tie_word_embeddings": True}))
    with pytest.raises(InputError):
        to_orbax.convert(tmp_path, tmp_path / "orbax")

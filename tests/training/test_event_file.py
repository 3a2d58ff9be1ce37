"""Reads files for TensorBoard with tensorboardX's protocol buffers and checksum."""

import struct
import subprocess
import sys

import numpy as np
import pytest
from helpers import ROOT

from vxlpro_jax.training.event_file import EventFile


def records(folder):
    """Returns the events of the only file, after comparing checksums with tensorboardX's."""
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")
    from tensorboardX.record_writer import masked_crc32c

    (file,) = folder.iterdir()
    content, start, events = file.read_bytes(), 0, []
    while start < len(content):
        head = content[start : start + 8]
        (length,) = struct.unpack("<Q", head)
        body = content[start + 12 : start + 12 + length]
        for part, at in ((head, start + 8), (body, start + 12 + length)):
            assert content[at : at + 4] == struct.pack("<I", masked_crc32c(part))
        events.append(event_pb2.Event.FromString(body))
        start += length + 16
    return events


def test_scalars_are_read_back(tmp_path):
    file = EventFile(tmp_path, purge_step=0)
    file.add_scalars(1, {"loss": 2.5, "a name that is rather long" * 9: -1e-30})
    file.add_scalars(300, {"loss": float("inf"), "flops": 3e15})
    file.close()
    version, first, second = records(tmp_path)
    assert version.file_version == "brain.Event:2"
    assert (first.step, second.step) == (1, 300)
    assert {value.tag: value.simple_value for value in second.summary.value} == {
        "loss": float("inf"),
        "flops": np.float32(3e15),
    }
    assert first.summary.value[1].tag == "a name that is rather long" * 9
    assert first.summary.value[1].simple_value == np.float32(-1e-30)


def test_a_resumed_run_drops_later_steps_of_earlier_files(tmp_path):
    EventFile(tmp_path, purge_step=7).close()
    _, start = records(tmp_path)
    assert (start.step, start.session_log.status) == (7, 1)


@pytest.mark.slow
def test_training_imports_neither_torch_nor_tensorboardx():
    script = (
        "import sys\n"
        "import vxlpro_jax.evals.during_training, vxlpro_jax.training.loop\n"
        "print(sorted({'torch', 'tensorboardX', 'tensorflow'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("[]\n", 0), done.stderr

"""Preflight prints measurements of each check that passes, and finds each fault."""

import functools
import json
import re
import shutil
import socket

import pytest
from etils import epath
from helpers import ROOT, last_of_each, python, write_dataset

from vxlpro_jax import preflight
from vxlpro_jax.distributed.process_group import ProcessGroup
from vxlpro_jax.training.preflight_checks import (
    Check,
    examine,
    read_file,
    remove_what_is_left,
    write_file,
)
from vxlpro_jax.utils.errors import InputError

pytestmark = pytest.mark.slow

CONFIG = f"--config={ROOT / 'configs/stage2.py'}"
NAMES = ["devices", "all-reduce", "workdir", "batch", "data"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("data"))


@pytest.fixture
def flags(data, tmp_path):
    """Returns the flags of a run without faults."""
    return [
        CONFIG,
        f"--config.data.path={data}",
        "--config.data.batch_size=4",
        f"--workdir={tmp_path / 'run'}",
    ]


def findings(out: str) -> dict[str, tuple[str, str]]:
    """Parses the output: by check, `ok` or `FAILED`, and the detail."""
    own = [line for line in out.splitlines() if not line.startswith("[Gloo]")]
    lines = [re.fullmatch(r"(ok|FAILED) +(\S+) +(.*)", line) for line in own]
    assert all(lines), out
    return {line[2]: (line[1], line[3]) for line in lines}


def check(capsys, *flags):
    """Runs the command in this process; returns its exit code and output."""
    code = preflight.main(["preflight", *last_of_each(flags)])
    return code, findings(capsys.readouterr().out)


def failed(found) -> dict[str, str]:
    return {name: detail for name, (status, detail) in found.items() if status == "FAILED"}


def finish(process):
    out, error = process.communicate()
    assert "Traceback" not in error, error
    return process.returncode, findings(out)


def test_a_correct_run_passes_every_check(flags, tmp_path, capsys):
    code, found = check(capsys, *flags)
    assert (code, failed(found)) == (0, {})
    assert list(found) == NAMES
    assert found["devices"][1].startswith("1 cpu in 1 process(es); mesh data 1, fsdp 1,")
    assert found["batch"][1] == "4 rows, 4 per device"
    assert "frames [4, 2, 4, 112, 112, 3]" in found["data"][1]
    assert "tokens [4, 80]" in found["data"][1]
    assert re.search(r" in \d+\.\d s$", found["data"][1])
    assert list((tmp_path / "run").iterdir()) == []


def test_several_devices_compute_the_right_sum(flags):
    several = "--xla_force_host_platform_device_count=4"
    process = python("-m", "vxlpro_jax.preflight", *flags, XLA_FLAGS=several)
    code, found = finish(process)
    assert (code, failed(found)) == (0, {})
    assert re.fullmatch(r"correct on 4 devices; [\d.]+ GB/s per device", found["all-reduce"][1])
    assert "fsdp 4" in found["devices"][1]
    assert found["batch"][1] == "4 rows, 1 per device"


def test_a_folder_that_cannot_be_written_fails(flags, data, capsys):
    code, found = check(capsys, *flags, f"--workdir={data}/run")
    assert (code, list(failed(found))) == (1, ["workdir"])
    assert str(data) in failed(found)["workdir"]
    assert list(found) == NAMES


def test_a_mesh_that_does_not_fit_fails(flags, capsys):
    code, found = check(capsys, *flags, "--config.mesh.data=7")
    assert (code, set(failed(found))) == (1, {"devices", "batch", "data"})
    assert "make the axes multiply to 1" in failed(found)["devices"]


def test_a_batch_that_gradient_accumulation_does_not_divide_fails(flags, capsys):
    code, found = check(capsys, *flags, "--config.grad_accum_steps=3")
    assert (code, list(failed(found))) == (1, ["batch"])
    assert "batch_size 4 is not divisible" in failed(found)["batch"]


def test_a_broken_data_file_fails(flags, tmp_path, capsys):
    broken = tmp_path / "broken.json"
    broken.write_text('[{"video": ')
    code, found = check(capsys, *flags, f"--config.data.path={broken}")
    assert (code, list(failed(found))) == (1, ["data"])
    assert "broken.json" in failed(found)["data"]


def test_unreadable_clips_are_counted_and_fail_above_the_quota(flags, data, tmp_path, capsys):
    records = json.loads(data.read_text())
    (tmp_path / "few.json").write_text(json.dumps(records))
    shutil.copy(data.with_name("picture.png"), tmp_path)
    few = f"--config.data.path={tmp_path / 'few.json'}"
    code, found = check(capsys, *flags, few, "--config.data.bad_sample_quota=0.8")
    assert code == 0
    assert found["data"][1].endswith("2 record(s) could not be read")
    code, found = check(capsys, *flags, few)
    assert (code, list(failed(found))) == (1, ["data"])
    assert "could not be read" in failed(found)["data"]


def test_any_error_is_reported_in_one_line():
    def broken():
        raise RuntimeError("a bug\nin two lines")

    run = functools.partial(examine, group=ProcessGroup(timeout=1))
    assert run(Check("x", (broken,))) == (False, "RuntimeError: a bug in two lines")
    assert run(Check("x", (lambda: "a", lambda: "", lambda: "b"))) == (True, "a; b")


# ---- For a pod that is not there ----------------------------------------------------------------


def test_the_step_is_compiled_for_a_topology(flags, capsys):
    code, found = check(capsys, *flags, "--topology", "v5e:2x2")
    assert (code, failed(found)) == (0, {})
    assert re.fullmatch(r"\d+\.\d\d of 16\.00 GiB per device on v5e:2x2", found["compile"][1])


def test_an_unknown_topology_fails(flags, capsys):
    code, found = check(capsys, *flags, "--topology=v9:2x2")
    assert (code, list(failed(found))) == (1, ["compile"])
    assert "name an accelerator, one of v5e" in failed(found)["compile"]


def test_only_the_flags_of_the_config_go_to_the_compiler():
    given = ["prog", CONFIG, "--topology", "v5e:2x2", "--config.seed=1", "--workdir=x"]
    assert preflight.parse_arguments(given).config_flags == (CONFIG, "--config.seed=1")


# ---- Mistakes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "said"),
    [("--config.sed=1", "seed"), ("--work_dir=x", "workdir"), ("--config.data.tokenizer=no", "no")],
)
def test_mistakes_in_the_command_line_are_reported_before_any_check(more, said, flags, capsys):
    with pytest.raises(InputError, match=said):
        preflight.main(["preflight", *flags, more])
    assert capsys.readouterr().out == ""


# ---- Several processes --------------------------------------------------------------------------


def start_two(*each):
    """Starts two processes of one run, each with its own flags."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    environment = {"VXLPRO_COORDINATOR": address, "VXLPRO_NUM_PROCESSES": "2"}
    return [
        python("-m", "vxlpro_jax.preflight", *flags, **environment, VXLPRO_PROCESS_ID=str(index))
        for index, flags in enumerate(each)
    ]


def test_only_the_first_process_prints(flags):
    (code, found), (other, silent) = map(finish, start_two(flags, flags))
    assert (code, other, failed(found), silent) == (0, 0, {}, {})
    assert found["devices"][1].startswith("2 cpu in 2 process(es)")
    assert found["all-reduce"][1].startswith("correct on 2 devices")
    assert "frames [2, 2, 4" in found["data"][1]


def test_a_failure_in_another_process_is_reported_with_its_number(flags, data):
    elsewhere = last_of_each([*flags, f"--workdir={data}/run"])
    (code, found), (other, _) = map(finish, start_two(flags, elsewhere))
    assert (code, other) == (1, 1)
    assert failed(found)["workdir"].startswith("process 1 (")


def test_folders_that_differ_between_processes_are_found(tmp_path):
    folder, group = epath.Path(tmp_path), ProcessGroup(hosts=("a", "b"))
    write_file(folder=folder, group=group)
    with pytest.raises(OSError, match=r"preflight-1"):
        read_file(folder=folder, group=group)
    (tmp_path / ".preflight-1").write_text("something older")
    with pytest.raises(InputError, match="reads 'something older', not what was written"):
        read_file(folder=folder, group=group)
    remove_what_is_left(folder=folder, group=group)
    assert [file.name for file in tmp_path.iterdir()] == [".preflight-1"]

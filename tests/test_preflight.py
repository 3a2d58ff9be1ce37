"""Preflight: what is well is told with its figures, and each thing that can be wrong is found."""

import functools
import json
import re
import socket

import pytest
from etils import epath
from helpers import ROOT, python, write_dataset

from vxlpro_jax import preflight
from vxlpro_jax.distributed.process_group import ProcessGroup
from vxlpro_jax.preflight import Check, read_file, remove_what_is_left, write_file
from vxlpro_jax.utils.errors import InputError

CONFIG = f"--config={ROOT / 'configs/stage2.py'}"
NAMES = ["devices", "all-reduce", "workdir", "batch", "data"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("data"))


@pytest.fixture
def flags(data, tmp_path):
    """Of a command that finds nothing wrong."""
    return [
        CONFIG,
        f"--config.data.path={data}",
        "--config.data.batch_size=4",
        f"--workdir={tmp_path / 'run'}",
    ]


def findings(out: str) -> dict[str, tuple[str, str]]:
    """What is printed, by check: `ok` or `FAILED`, and the detail."""
    own = [line for line in out.splitlines() if not line.startswith("[Gloo]")]
    lines = [re.fullmatch(r"(ok|FAILED) +(\S+) +(.*)", line) for line in own]
    assert all(lines), out
    return {line[2]: (line[1], line[3]) for line in lines}


def check(capsys, *flags):
    """Runs it in this process: its code, and what it printed."""
    code = preflight.main(["preflight", *flags])
    return code, findings(capsys.readouterr().out)


def failed(found) -> dict[str, str]:
    return {name: detail for name, (status, detail) in found.items() if status == "FAILED"}


def finish(process):
    out, error = process.communicate()
    assert "Traceback" not in error, error
    return process.returncode, findings(out)


def test_all_is_well(flags, tmp_path, capsys):
    code, found = check(capsys, *flags)
    assert (code, failed(found)) == (0, {})
    assert list(found) == NAMES
    assert found["devices"][1].startswith("1 cpu in 1 process(es); mesh data 1, fsdp 1,")
    assert found["batch"][1] == "4 rows, 4 a device"
    assert "frames [4, 2, 4, 112, 112, 3]" in found["data"][1]
    assert "tokens [4, 80]" in found["data"][1]
    assert re.search(r" in \d+\.\d s$", found["data"][1])
    assert list((tmp_path / "run").iterdir()) == []


def test_several_devices_add_up(flags):
    several = "--xla_force_host_platform_device_count=4"
    process = python("-m", "vxlpro_jax.preflight", *flags, XLA_FLAGS=several)
    code, found = finish(process)
    assert (code, failed(found)) == (0, {})
    assert re.fullmatch(r"right on 4 devices; [\d.]+ GB/s a device", found["all-reduce"][1])
    assert "fsdp 4" in found["devices"][1]
    assert found["batch"][1] == "4 rows, 1 a device"


def test_a_folder_that_cannot_be_written(flags, data, capsys):
    code, found = check(capsys, *flags, f"--workdir={data}/run")
    assert (code, list(failed(found))) == (1, ["workdir"])
    assert str(data) in failed(found)["workdir"]
    assert list(found) == NAMES


def test_a_mesh_that_does_not_fit(flags, capsys):
    code, found = check(capsys, *flags, "--config.mesh.data=7")
    assert (code, set(failed(found))) == (1, {"devices", "batch", "data"})
    assert "make the axes multiply to 1" in failed(found)["devices"]


def test_a_batch_that_the_parts_do_not_divide(flags, capsys):
    code, found = check(capsys, *flags, "--config.grad_accum_steps=3")
    assert (code, list(failed(found))) == (1, ["batch"])
    assert "batch_size 4 is not divisible" in failed(found)["batch"]


def test_a_data_file_that_is_broken(flags, tmp_path, capsys):
    broken = tmp_path / "broken.json"
    broken.write_text('[{"video": ')
    code, found = check(capsys, *flags, f"--config.data.path={broken}")
    assert (code, list(failed(found))) == (1, ["data"])
    assert "broken.json" in failed(found)["data"]


def test_clips_that_cannot_be_read(flags, data, tmp_path, capsys):
    records = json.loads(data.read_text())
    (tmp_path / "few.json").write_text(json.dumps(records))
    few = f"--config.data.path={tmp_path / 'few.json'}"
    code, found = check(capsys, *flags, few, "--config.data.bad_sample_quota=0.8")
    assert code == 0
    assert found["data"][1].endswith("3 record(s) could not be read")
    code, found = check(capsys, *flags, few)
    assert (code, list(failed(found))) == (1, ["data"])
    assert "could not be read" in failed(found)["data"]


def test_whatever_goes_wrong_is_told_in_one_line():
    def broken():
        raise RuntimeError("a bug\nin two lines")

    examine = functools.partial(preflight.examine, peers=ProcessGroup(timeout=1))
    assert examine(Check("x", (broken,))) == (False, "RuntimeError: a bug in two lines")
    assert examine(Check("x", (lambda: "a", lambda: "", lambda: "b"))) == (True, "a; b")


# ---- For a pod that is not there ----------------------------------------------------------------


def test_a_topology_is_compiled_for(flags, capsys):
    code, found = check(capsys, *flags, "--topology", "v5e:2x2")
    assert (code, failed(found)) == (0, {})
    assert re.fullmatch(r"\d+\.\d\d of 16\.00 GiB a device on v5e:2x2", found["compile"][1])


def test_no_topology_is_told(flags, capsys):
    code, found = check(capsys, *flags, "--topology=v9:2x2")
    assert (code, list(failed(found))) == (1, ["compile"])
    assert "name a chip, one of v5e" in failed(found)["compile"]


def test_the_flags_of_the_config_go_to_the_compiler_and_no_others():
    given = ["prog", CONFIG, "--topology", "v5e:2x2", "--config.seed=1", "--workdir=x"]
    assert preflight.parse_arguments(given).config_flags == (CONFIG, "--config.seed=1")


# ---- Mistakes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "said"),
    [("--config.sed=1", "seed"), ("--work_dir=x", "workdir"), ("--config.data.tokenizer=no", "no")],
)
def test_mistakes_in_the_command_are_told_before_any_check(more, said, flags, capsys):
    with pytest.raises(InputError, match=said):
        preflight.main(["preflight", *flags, more])
    assert capsys.readouterr().out == ""


# ---- Several processes --------------------------------------------------------------------------


def start_two(*each):
    """A pair of processes by the environment contract, each with its own flags."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    environment = {"VXLPRO_COORDINATOR": address, "VXLPRO_NUM_PROCESSES": "2"}
    return [
        python("-m", "vxlpro_jax.preflight", *flags, **environment, VXLPRO_PROCESS_ID=str(index))
        for index, flags in enumerate(each)
    ]


def test_the_first_process_speaks_for_all(flags):
    (code, found), (other, silent) = map(finish, start_two(flags, flags))
    assert (code, other, failed(found), silent) == (0, 0, {}, {})
    assert found["devices"][1].startswith("2 cpu in 2 process(es)")
    assert found["all-reduce"][1].startswith("right on 2 devices")
    assert "frames [2, 2, 4" in found["data"][1]


def test_what_fails_in_another_process_is_told_with_its_number(flags, data):
    elsewhere = [*flags, f"--workdir={data}/run"]
    (code, found), (other, _) = map(finish, start_two(flags, elsewhere))
    assert (code, other) == (1, 1)
    assert failed(found)["workdir"].startswith("process 1 (")


def test_folders_that_are_not_the_same_are_found(tmp_path):
    folder, peers = epath.Path(tmp_path), ProcessGroup(hosts=("a", "b"))
    write_file(folder=folder, peers=peers)
    with pytest.raises(OSError, match=r"preflight-1"):
        read_file(folder=folder, peers=peers)
    (tmp_path / ".preflight-1").write_text("something older")
    with pytest.raises(InputError, match="reads 'something older', not what was written"):
        read_file(folder=folder, peers=peers)
    remove_what_is_left(folder=folder, peers=peers)
    assert [file.name for file in tmp_path.iterdir()] == [".preflight-1"]

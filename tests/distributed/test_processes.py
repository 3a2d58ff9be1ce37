"""Tests several processes on this host: equal losses, kills, SIGTERM, damage, and messages."""

import dataclasses
import json
import shutil
import signal
import socket
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from distributed_driver import STEPS, run_config
from helpers import ROOT, free_port, python, write_dataset

from vxlpro_jax.data.loader.build import build_pipeline
from vxlpro_jax.distributed.cluster import find_cluster
from vxlpro_jax.distributed.process_group import ProcessGroup
from vxlpro_jax.sharding import batch
from vxlpro_jax.sharding.mesh import make_mesh
from vxlpro_jax.train import parse_arguments, train
from vxlpro_jax.training.checkpointer import RunCheckpoints
from vxlpro_jax.training.plan import RunPlan
from vxlpro_jax.training.state import abstract_state
from vxlpro_jax.utils.errors import InputError

pytestmark = pytest.mark.slow

DRIVER = Path(__file__).parents[1] / "support" / "distributed_driver.py"
HOST = socket.gethostname()
# VXLPRO_TIMEOUT in seconds; a process counts as lost after half of it without a heartbeat.
PATIENT, HASTY = 30, 10


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def start():
    """Starts the driver in `count` processes; runs with the same `count` share a compilation."""

    def build(count, *arguments, timeout=PATIENT, **environment):
        port = free_port()
        return [
            python(
                *(DRIVER, *arguments),
                PYTHONPATH=f"{ROOT}:{DRIVER.parent}",
                JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0",
                VXLPRO_TIMEOUT=str(timeout),
                VXLPRO_NUM_PROCESSES=str(count),
                VXLPRO_PROCESS_ID=str(index),
                VXLPRO_COORDINATOR=f"localhost:{port}",
                **environment,
            )
            for index in range(count)
        ]

    return build


def ended(processes):
    """Returns the exit code, stdout and stderr of each process."""
    texts = [process.communicate() for process in processes]
    return [(process.returncode, *text) for process, text in zip(processes, texts, strict=True)]


def finish(processes):
    """Returns the stdout of each process, none of which may fail."""
    done = ended(processes)
    for code, _, error in done:
        assert code == 0, error
    return [out for _, out, _ in done]


def until(condition, processes):
    while not condition():
        assert all(process.poll() is None for process in processes), ended(processes)
        time.sleep(0.01)


def rows(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def losses(workdir, *, steps=STEPS):
    table = rows(workdir)
    assert [row["step"] for row in table] == list(range(1, steps + 1))
    return [row["loss"] for row in table]


# ---- Runs ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def alone(start, data, tmp_path_factory):
    """The folder of a run of one process."""
    workdir = tmp_path_factory.mktemp("alone") / "run"
    finish(start(1, "train", workdir, data))
    return workdir


@pytest.fixture(scope="module")
def preempted(start, data, tmp_path_factory):
    """A run of two processes, one of which got SIGTERM while compiling: ends, metrics, steps.

    A copy of the folder is beside it, called `again`.
    """
    workdir = tmp_path_factory.mktemp("preempted") / "run"
    processes = start(2, "train", workdir, data)
    until((workdir / "checkpoints").is_dir, processes)
    processes[1].send_signal(signal.SIGTERM)
    done = ended(processes)
    steps = sorted(int(path.name) for path in (workdir / "checkpoints").iterdir())
    shutil.copytree(workdir, workdir.with_name("again"))
    return workdir, done, losses(workdir, steps=steps[-1]), steps


@pytest.fixture(scope="module")
def continued(start, data, preempted):
    """The folder of that run after a second start, and the output of its processes."""
    workdir, *_ = preempted
    return workdir, finish(start(2, "train", workdir, data))


@pytest.fixture(scope="module")
def killed(start, data, tmp_path_factory):
    """A run of two processes, one of which was killed midway."""
    workdir = tmp_path_factory.mktemp("killed") / "run"
    processes = start(2, "train", workdir, data)
    until((workdir / "checkpoints" / "4").is_dir, processes)
    processes[1].kill()
    killed_at = time.monotonic()
    done = ended(processes)
    return workdir, done, time.monotonic() - killed_at


@pytest.fixture(scope="module")
def four(start, data, tmp_path_factory):
    """The folder of a run of four processes that was killed after its fourth step."""
    workdir = tmp_path_factory.mktemp("four") / "run"
    processes = start(4, "train", workdir, data)
    until((workdir / "checkpoints" / "4").is_dir, processes)
    for process in processes:
        process.kill()
    ended(processes)
    return workdir


# ---- The same losses ----------------------------------------------------------------------------


def test_two_processes_have_the_losses_of_one(continued, alone):
    np.testing.assert_allclose(losses(continued[0]), losses(alone), rtol=1e-5)


def test_four_processes_have_the_losses_of_one(four, alone):
    table = [row["loss"] for row in rows(four)]
    assert len(table) >= 4
    np.testing.assert_allclose(table, losses(alone)[: len(table)], rtol=1e-5)


@pytest.mark.parametrize(("count", "tensor"), [(2, 2), (1, 1)])
def test_fewer_processes_restore_what_four_saved(start, data, four, alone, tmp_path, count, tensor):
    """This also holds on other meshes, on which each of two processes reads all rows."""
    workdir = shutil.copytree(four, tmp_path / "run")
    out = finish(start(count, "train", workdir, data, tensor))
    assert "Continues at step " in out[0]
    np.testing.assert_allclose(losses(workdir), losses(alone), rtol=1e-5)


# ---- Killed -------------------------------------------------------------------------------------


def test_the_other_process_ends_in_time_and_names_the_killed_one(killed):
    _, ((code, _, error), (killed_code, *_)), seconds = killed
    assert killed_code == -signal.SIGKILL, "it ended before it was killed"
    assert code == 80, error
    assert seconds < PATIENT
    assert f"error: process 1 ({HOST}) is gone" in error


def test_a_killed_run_continues_with_the_same_losses(start, data, killed, continued):
    workdir, *_ = killed
    finish(start(2, "train", workdir, data))
    exact = ("step", "loss", "lr", "grad_norm", "frames")
    ours, theirs = (
        [[row[name] for name in exact] for row in rows(path)] for path in (workdir, continued[0])
    )
    assert ours == theirs


@pytest.mark.parametrize("victim", [0, 2])
def test_every_process_names_the_killed_one(start, victim):
    """This includes process 0, without which JAX aborts the others, and waits that cannot fail."""
    processes = start(3, "wait", timeout=HASTY)
    for process in processes:
        assert process.stdout.readline() in ("ready\n")
    processes[victim].kill()
    survivors = [process for index, process in enumerate(processes) if index != victim]
    began = time.monotonic()
    for code, _, error in ended(survivors):
        assert code == 80
        assert f"error: process {victim} ({HOST}) is gone" in error
    assert time.monotonic() - began < HASTY + 2
    ended([processes[victim]])


def test_a_process_that_fails_by_itself_is_named(start):
    first, second = ended(start(2, "fail", timeout=HASTY))
    assert (first[0], second[0]) == (80, 1)
    assert f"error: process 1 ({HOST}) has failed" in first[2]
    assert "FloatingPointError: Loss is nan" in second[2]


# ---- SIGTERM ------------------------------------------------------------------------------------


def test_sigterm_to_one_of_two_saves_both_at_the_same_step(preempted):
    _, done, table, steps = preempted
    assert [code for code, *_ in done] == [75, 75], done
    assert len(table) == steps[-1] < STEPS
    assert f"saved at step {steps[-1]}; the same command continues" in done[0][1]


def test_a_preempted_run_continues_where_it_was_saved(preempted, continued):
    (*_, table, steps), (workdir, out) = preempted, continued
    assert f"Continues at step {steps[-1]} of" in out[0]
    assert losses(workdir)[: len(table)] == table


def test_sigterm_to_a_single_process_saves_and_exits_with_75(start, data, alone, tmp_path):
    """SIGTERM comes while it compiles; the final losses equal those of the uninterrupted run."""
    run = tmp_path / "run"
    (process,) = start(1, "train", run, data)
    until((run / "checkpoints").is_dir, [process])
    process.send_signal(signal.SIGTERM)
    ((code, out, error),) = ended([process])
    assert code == 75, error
    assert "saved at step 1;" in out
    finish(start(1, "train", run, data))
    assert losses(run) == losses(alone)


def test_sigterm_again_before_the_continued_run_saves_on_its_way(start, data, preempted, continued):
    """SIGTERM comes while it compiles; the third launch runs to the end."""
    workdir, *_, steps = preempted
    run = workdir.with_name("again")
    command = ("train", run, data, "1", str(STEPS))
    processes = start(2, *command, PYTHONUNBUFFERED="1")
    assert any(f"Continues at step {steps[-1]} of" in line for line in processes[0].stdout)
    processes[1].send_signal(signal.SIGTERM)
    done = ended(processes)
    assert [code for code, *_ in done] == [75, 75], done
    saved = max(int(path.name) for path in (run / "checkpoints").iterdir())
    assert steps[-1] < saved < STEPS
    assert f"saved at step {saved};" in done[0][1]
    assert f"Continues at step {saved} of" in finish(start(2, *command))[0]
    assert losses(run) == losses(continued[0])


def test_the_earlier_sigterm_handler_is_restored(alone, data, no_mesh):
    def handler(number, frame):
        raise AssertionError

    before = signal.signal(signal.SIGTERM, handler)
    try:
        assert train(run_config(data), workdir=alone) == 0
        assert signal.getsignal(signal.SIGTERM) is handler
    finally:
        signal.signal(signal.SIGTERM, before)


# ---- What each writes ---------------------------------------------------------------------------


def test_only_process_0_prints(continued):
    _, (first, second) = continued
    assert "Done: " in first
    assert not [line for line in second.splitlines() if not line.startswith("[Gloo]")]


def test_gather_returns_every_value_and_files_are_named_by_process(start):
    """At the end the default handler of SIGTERM is restored, which ends this driver. The HTTP
    proxy, which does not exist, is not used to reach process 0.
    """
    done = ended(start(3, "gather", timeout=HASTY, http_proxy="http://127.0.0.1:9"))
    assert [code for code, *_ in done] == [-signal.SIGTERM] * 3, done
    told = [json.loads(out.splitlines()[-1]) for _, out, _ in done]
    assert [one["gathered"] for one in told] == [[["0a", "1a", "2a"], ["0b", "1b", "2b"]]] * 3
    assert [one["file"] for one in told] == ["bad.jsonl", "bad.1.jsonl", "bad.2.jsonl"]


# ---- Who holds it up ----------------------------------------------------------------------------


def test_a_barrier_names_the_missing_process(start):
    first, second, last = start(3, "late", timeout=3)
    done = ended([first, second])
    assert [code for code, *_ in done] == [80, 80]
    assert f"process 2 ({HOST}) did not reach 'evaluation' within 3 s" in done[0][2]
    ended([last])


def test_a_stall_is_reported_with_stacks_and_the_slow_process(start):
    (code, _, error), _ = ended(start(2, "stall", timeout=3))
    assert code == 81
    assert "in stall" in error, "no stack of the main thread"
    assert f"process 1 ({HOST}) is still waiting for the data of step 3" in error


def test_a_stall_of_a_single_process_is_reported_with_its_stacks(start):
    ((code, _, error),) = ended(start(1, "stall", timeout=1))
    assert code == 81
    assert "in stall" in error
    assert "in step 3: no progress for 1 s" in error


def test_no_thread_is_left(alone, data, no_mesh):
    train(run_config(data), workdir=alone)
    assert "watchdog" not in {thread.name for thread in threading.enumerate()}


# ---- Who reads what -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("processes", "expected"),
    [
        # Four processes with two devices: one row per device, per process, per two, and for all.
        ([[0], [0], [1], [1], [2], [2], [3], [3]], [(0, 4), (1, 4), (2, 4), (3, 4)]),
        ([[0, 0], [1, 1], [2, 2], [3, 3]], [(0, 4), (1, 4), (2, 4), (3, 4)]),
        ([[0, 0, 1, 1], [2, 2, 3, 3]], [(0, 2), (0, 2), (1, 2), (1, 2)]),
        ([[0, 0, 1, 1, 2, 2, 3, 3]], [(0, 1)] * 4),
        # Neighbours in the mesh may belong to different processes.
        ([[0], [1], [0], [1]], [(0, 2), (1, 2)]),
    ],
)
def test_processes_that_hold_the_same_rows_read_the_same(processes, expected):
    found = batch.assign_rows(processes)
    assert [found[process] for process in sorted(found)] == expected


@pytest.mark.parametrize("processes", [[[0, 1], [1, 2]], [[0, 0], [0, 1]], [[0], [0], [1]]])
def test_uneven_rows_are_refused(processes):
    with pytest.raises(InputError, match="unevenly"):
        batch.assign_rows(processes)


# ---- Damaged checkpoints ------------------------------------------------------------------------


def largest(folder):
    return max(
        (path for path in folder.rglob("*") if path.is_file()), key=lambda x: x.stat().st_size
    )


def flip(path):
    """Flips one bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


DAMAGES = {
    "a removed file": ("params", Path.unlink),
    "a truncated file": ("opt_state", truncate),
    "a flipped bit of parameters": ("params", flip),
    "a flipped bit of the optimizer": ("opt_state", flip),
    "a flipped bit of the manifest": ("manifest", flip),
}


@pytest.fixture
def run(alone, tmp_path, no_mesh):
    return shutil.copytree(alone, tmp_path / "run")


@pytest.fixture
def restore(data):
    """Returns what a run restores from a folder: its state and the position in the data."""
    config = run_config(data)
    mesh = make_mesh(config.mesh)
    abstract = abstract_state(RunPlan(config), mesh=mesh)

    def read(run):
        position = build_pipeline(config.data, image_size=56, seed=0, with_text=False)
        checkpoints = RunCheckpoints(run, group=ProcessGroup())
        state = checkpoints.restore(abstract, position)
        checkpoints.close()
        position.close()
        return state, position.get_state()

    return read


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_checkpoint_is_named_and_the_one_before_is_used(damage, run, restore, capfd):
    item, do = DAMAGES[damage]
    do(largest(run / "checkpoints" / "8" / item))
    state, position = restore(run)
    assert (int(state.step), position["rows"]["0"]) == (6, [6])
    out, error = capfd.readouterr()
    assert f"Checkpoint {run}/checkpoints/8 is damaged ({item}" in out
    assert not error, "noise"
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["6"]
    assert [path.name for path in (run / "damaged_checkpoints").iterdir()] == ["8"]


def test_a_run_with_a_damaged_checkpoint_ends_as_it_would_have(run, data, alone):
    truncate(largest(run / "checkpoints" / "8" / "params"))
    assert train(run_config(data), workdir=run) == 0
    assert losses(run) == losses(alone)
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"6", "8"}


def test_two_damaged_checkpoints_are_refused_and_kept(run, restore):
    for step in ("6", "8"):
        truncate(largest(run / "checkpoints" / step / "params"))
    with pytest.raises(InputError, match=r"no checkpoint that can be used \(step 8: .*step 6: "):
        restore(run)
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"6", "8"}


def test_a_checkpoint_of_other_sizes_is_not_called_damaged(run, data):
    config = run_config(data)
    (run / "train_config.json").unlink()
    wider = dataclasses.replace(config.recot, decoder_width=16)
    with pytest.raises(InputError, match=r"other sizes than the config has.*recot/decoder"):
        train(dataclasses.replace(config, recot=wider), workdir=run)
    assert not (run / "damaged_checkpoints").exists()


# ---- The command --------------------------------------------------------------------------------


def test_flags_precede_environment_variables(monkeypatch):
    monkeypatch.setenv("VXLPRO_NUM_PROCESSES", "8")
    monkeypatch.setenv("VXLPRO_COORDINATOR", "host-a:1")
    told = ("--coordinator=host-b:2", "--process_id=0")
    environ = parse_arguments(["train", "--config=configs/stage1.py", *told]).environ
    assert find_cluster(environ) == ("host-b:2", 8, 0)

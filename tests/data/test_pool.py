"""Processes read the same frames, and one that hangs or dies does not affect other files."""

import contextlib
import os
import pickle
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import helpers
import numpy as np
import pytest

from vxlpro_jax.data.errors import BadFile
from vxlpro_jax.data.synthetic.drawing import write_mp4
from vxlpro_jax.data.video.pool import DecoderPool
from vxlpro_jax.data.video.reader import read_video
from vxlpro_jax.utils.errors import InputError

ASK = {"max_frames": 6, "size": 48}


@pytest.fixture(scope="module")
def long_video(tmp_path_factory):
    """A video that takes so long to decode that its reader can be killed meanwhile."""
    path = tmp_path_factory.mktemp("long") / "long.mp4"
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (40, 256, 320, 3), np.uint8)
    write_mp4(path, (noise[i % 40] for i in range(240)), fps=25)
    return path


def decoders(parent="self") -> set[int]:
    """Returns the decoder processes that a process has started."""
    children = set()
    for task in Path(f"/proc/{parent}/task").iterdir():
        with contextlib.suppress(FileNotFoundError):
            children |= {int(pid) for pid in (task / "children").read_text().split()}
    return {pid for pid in children if is_decoder(pid)}


def is_decoder(pid: int) -> bool:
    """Returns whether a process is a running decoder."""
    try:
        return b"vxlpro_jax.data.video.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except FileNotFoundError:
        return False


def has_open(pid: int, path: Path) -> bool:
    try:
        return any(link.resolve() == path for link in Path(f"/proc/{pid}/fd").iterdir())
    except (FileNotFoundError, PermissionError):
        return False


@contextlib.contextmanager
def whoever_reads(path: Path, *, gets: signal.Signals, times: int):
    """Sends a signal to the first `times` decoders that have the file open."""
    done, hit = threading.Event(), set()

    def watch():
        while not done.is_set() and len(hit) < times:
            for pid in decoders() - hit:
                if has_open(pid, path):
                    os.kill(pid, gets)
                    hit.add(pid)
            time.sleep(0.001)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield hit
    finally:
        done.set()
        thread.join()


def wait_until(condition, *, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.02)


def assert_same(left, right):
    np.testing.assert_array_equal(left.frames, right.frames)
    np.testing.assert_array_equal(left.times, right.times)


def test_a_decoder_gives_what_read_video_gives(write_video, tmp_path):
    path = write_video(range(0, 2400, 40))
    with DecoderPool(1, time_limit=60) as pool:
        for ask in (ASK, ASK | {"fps": 2.0}, {"max_frames": 500, "size": 384}):
            assert_same(pool.read(path, **ask), read_video(path, **ask))
        assert_same(pool.read(path.read_bytes(), **ASK), read_video(path, **ASK))
        assert len(decoders()) == 1
        with pytest.raises(BadFile, match=r"none\.mp4 does not exist") as error:
            pool.read(tmp_path / "none.mp4", **ASK)
        assert error.value.kind == "missing"
        with pytest.raises(BadFile, match="given as bytes") as error:
            pool.read(b"no video at all", **ASK)
        assert error.value.kind == "damaged"
        with pytest.raises(BadFile) as error:
            pool.read(b"", **ASK)
        assert error.value.kind == "empty"
        with pytest.raises(InputError, match="at least one frame"):
            pool.read(path, max_frames=0, size=32)
        assert_same(pool.read(path, **ASK), read_video(path, **ASK))


@pytest.mark.slow
def test_several_threads_share_the_decoders(write_video):
    paths = [write_video(range(0, 40 * n, 40), name=f"{n}.mp4") for n in range(4, 20)]
    with DecoderPool(2, time_limit=60) as pool, ThreadPoolExecutor(6) as threads:
        read = list(threads.map(lambda path: pool.read(path, **ASK), paths * 3))
        assert 1 <= len(decoders()) <= 2
    for path, video in zip(paths * 3, read, strict=True):
        assert_same(video, read_video(path, **ASK))


@pytest.mark.slow
def test_a_decoder_that_hangs_is_killed_and_replaced(long_video, write_video):
    short = write_video([0, 40, 80])
    with DecoderPool(1, time_limit=1.5) as pool:
        with whoever_reads(long_video, gets=signal.SIGSTOP, times=1) as stopped:
            started = time.monotonic()
            with pytest.raises(BadFile, match=r"long\.mp4 took longer than 1\.5 s") as error:
                pool.read(long_video, **ASK)
            assert 1.5 <= time.monotonic() - started < 15
        assert error.value.kind == "timeout"
        assert len(stopped) == 1
        assert not any(map(is_decoder, stopped))
        assert_same(pool.read(short, **ASK), read_video(short, **ASK))
        assert len(decoders()) == 1


@pytest.mark.slow
def test_a_decoder_that_dies_costs_nothing(long_video):
    with DecoderPool(1, time_limit=60) as pool:
        with whoever_reads(long_video, gets=signal.SIGKILL, times=1) as killed:
            video = pool.read(long_video, **ASK)
        assert len(killed) == 1
        assert_same(video, read_video(long_video, **ASK))


@pytest.mark.slow
def test_a_file_that_kills_its_decoder_again_is_named(long_video, write_video):
    short = write_video([0, 40, 80])
    with DecoderPool(1, time_limit=60) as pool:
        with (
            whoever_reads(long_video, gets=signal.SIGSEGV, times=2) as killed,
            pytest.raises(BadFile, match=r"long\.mp4 crashed its .* \(SIGSEGV\)") as error,
        ):
            pool.read(long_video, **ASK)
        assert error.value.kind == "crashed"
        assert len(killed) == 2
        assert_same(pool.read(short, **ASK), read_video(short, **ASK))


def test_a_decoder_that_died_while_idle_is_replaced(write_video):
    path = write_video([0, 40, 80])
    with DecoderPool(1, time_limit=60) as pool:
        pool.read(path, **ASK)
        (idle,) = decoders()
        os.kill(idle, signal.SIGKILL)
        wait_until(lambda: not is_decoder(idle))
        assert_same(pool.read(path, **ASK), read_video(path, **ASK))


def test_a_file_that_needs_too_much_memory_is_named(tmp_path):
    path = tmp_path / "many.npy"
    np.save(path, np.zeros((3000, 8, 8, 3), np.uint8))
    with DecoderPool(1, time_limit=60, memory_limit=2**30) as pool:
        with pytest.raises(BadFile, match=r"many\.npy needs more memory") as error:
            pool.read(path, max_frames=3000, size=512)
        assert error.value.kind == "too_large"
        assert len(pool.read(path, max_frames=8, size=64).frames) == 8


@pytest.mark.slow
def test_nothing_is_left_open(long_video, write_video):
    path = write_video([0, 40, 80])

    def open_files():
        return len(os.listdir("/proc/self/fd"))

    read_video(path, **ASK)
    before = open_files()
    with DecoderPool(2, time_limit=60) as pool:
        for _ in range(3):
            with whoever_reads(long_video, gets=signal.SIGKILL, times=1):
                pool.read(long_video, **ASK)
            pool.read(path, **ASK)
        assert open_files() - before <= 2 * 2  # Two per decoder, one of them a socket.
        started = decoders()
    assert open_files() == before
    assert started
    assert not any(map(is_decoder, started))
    with pytest.raises(RuntimeError, match="closed"):
        pool.read(path, **ASK)


def test_closing_ends_what_is_being_read(long_video):
    pool = DecoderPool(1, time_limit=60)
    with ThreadPoolExecutor(2) as threads, whoever_reads(long_video, gets=signal.SIGSTOP, times=1):
        reads = [threads.submit(pool.read, long_video, **ASK) for _ in range(2)]
        wait_until(lambda: any(has_open(pid, long_video) for pid in decoders()))
        pool.close()
        for read in reads:
            with pytest.raises(RuntimeError, match="closed"):
                read.result(timeout=20)
    assert not decoders()


def test_a_forgotten_pool_ends_its_decoders(write_video):
    pool = DecoderPool(1, time_limit=60)
    pool.read(write_video([0, 40]), **ASK)
    assert decoders()
    del pool
    wait_until(lambda: not decoders())


def test_a_pool_can_be_sent_to_another_process(write_video):
    path = write_video([0, 40, 80])
    with DecoderPool(2, time_limit=60) as pool, pickle.loads(pickle.dumps(pool)) as copy:
        assert_same(copy.read(path, **ASK), pool.read(path, **ASK))


@pytest.mark.parametrize("what", ["idle", "busy"])
def test_decoders_end_with_a_process_that_is_killed(what, long_video, write_video):
    path = long_video if what == "busy" else write_video([0, 40, 80])
    program = f"""
import sys, threading, time
from vxlpro_jax.data.video.pool import DecoderPool
pool = DecoderPool(1, time_limit=60)
pool.read({str(path)!r}, max_frames=4, size=32)
print("reads", flush=True)
while {what == "busy"}:
    pool.read({str(path)!r}, max_frames=4, size=32)
time.sleep(600)
"""
    parent = helpers.python("-c", program)
    assert parent.stdout.readline() == "reads\n"
    started = decoders(parent.pid)
    assert len(started) == 1
    parent.kill()
    parent.communicate()
    wait_until(lambda: not any(map(is_decoder, started)))


def test_decoders_import_nothing_of_jax():
    program = "import sys, vxlpro_jax.data.video.worker as _; print(*sys.modules)"
    output, _ = helpers.python("-c", program).communicate(timeout=60)
    modules = {name.split(".")[0] for name in output.split()}
    assert "av" in modules
    assert not modules & {"jax", "jaxlib", "flax", "grain", "tensorstore", "ml_collections"}


@pytest.mark.parametrize(("count", "limit"), [(0, 1.0), (1, 0.0), (1, float("nan"))])
def test_a_pool_that_cannot_read_is_refused(count, limit):
    with pytest.raises(InputError, match="cannot read"):
        DecoderPool(count, time_limit=limit)

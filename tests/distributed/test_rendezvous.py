"""The roll call, over real sockets, its processes in threads of this one."""

import json
import socket
from concurrent.futures import ThreadPoolExecutor

import pytest
from helpers import free_port

from vxlpro_jax.distributed.cluster import Cluster
from vxlpro_jax.distributed.rendezvous import wait_for_all
from vxlpro_jax.utils.errors import InputError, LostProcess


@pytest.fixture
def port():
    return free_port()


def called(clusters, *, timeout=20.0):
    """What the roll call of each returns or raises."""

    def call(cluster):
        try:
            return wait_for_all(cluster, timeout=timeout)
        except (InputError, LostProcess) as error:
            return error

    with ThreadPoolExecutor(len(clusters)) as pool:
        return list(pool.map(call, clusters))


def members(port, *indices, count=3):
    return [Cluster(f"localhost:{port}", count, index) for index in indices]


def test_all_learn_the_host_of_each(port):
    assert called(members(port, 2, 0, 1)) == [[socket.gethostname()] * 3] * 3
    # The port is free again at once, for JAX to listen at.
    assert called(members(port, 0, 1, count=2)) == [[socket.gethostname()] * 2] * 2


def test_all_learn_who_is_missing(port):
    host = socket.gethostname()
    for error in called(members(port, 0, 2, count=4), timeout=1.0):
        assert isinstance(error, LostProcess)
        assert "Of 4 processes did not come within 1 s: 1, 3." in str(error)
        assert f"Those that are here: 0 on {host}, 2 on {host}." in str(error)


def test_missing_process_0_is_told(port, monkeypatch):
    monkeypatch.setattr("vxlpro_jax.distributed.rendezvous._GRACE_SECONDS", 0.0)
    (error,) = called(members(port, 1), timeout=1.0)
    assert f"Process 0 was not met at localhost, port {port}, within 1 s" in str(error)


def test_other_numbers_of_processes_are_told(port):
    first, second = called([*members(port, 0), *members(port, 1, count=2)])
    assert isinstance(first, InputError)
    assert "is process 1 of 2" in str(first)
    assert "process 0 of 3" in str(first)
    assert str(second) == str(first)


def test_two_processes_of_one_number_are_told(port):
    """The other one is a line of this test's own, from another process by what it says."""
    other = {"index": 1, "count": 3, "host": "elsewhere", "pid": 1}
    with ThreadPoolExecutor(2) as pool:
        lead = pool.submit(wait_for_all, members(port, 0)[0], timeout=20.0)
        with connected(port) as line:
            line.sendall(json.dumps(other).encode() + b"\n")
            pool.submit(wait_for_all, members(port, 1)[0], timeout=20.0)
            told = json.loads(line.makefile().readline())["mistake"]
        with pytest.raises(InputError, match="is a process 1: give each"):
            lead.result()
    assert "On elsewhere and on" in told


def test_a_process_that_was_started_again_takes_its_place(port):
    other = {"index": 1, "count": 2, "host": "elsewhere", "pid": 1}
    with ThreadPoolExecutor(2) as pool:
        lead = pool.submit(wait_for_all, members(port, 0, count=3)[0], timeout=20.0)
        with connected(port) as line:
            line.sendall(json.dumps(other | {"count": 3}).encode() + b"\n")
        hosts = [pool.submit(wait_for_all, m, timeout=20.0) for m in members(port, 1)]
        hosts += called(members(port, 2))
        assert lead.result() == [socket.gethostname()] * 3


def test_strangers_are_not_counted(port):
    with ThreadPoolExecutor(1) as pool:
        lead = pool.submit(wait_for_all, members(port, 0, count=2)[0], timeout=20.0)
        for text in (b"GET / HTTP/1.1\r\n\r\n", b"", b"[]\n", b'{"index": 1}\n'):
            with connected(port) as line:
                line.sendall(text)
        assert called(members(port, 1, count=2))[0] == lead.result()


def test_taken_port_is_told(port):
    with socket.create_server(("", port)):
        (error,) = called(members(port, 0), timeout=1.0)
    assert isinstance(error, InputError)
    assert f"cannot listen on port {port}" in str(error)


def connected(port):
    """A connection, as soon as someone listens."""
    while True:
        try:
            return socket.create_connection(("localhost", port), timeout=20)
        except ConnectionRefusedError:
            continue

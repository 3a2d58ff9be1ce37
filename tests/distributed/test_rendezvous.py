"""Tests the rendezvous over real sockets, with threads in place of processes."""

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


def rendezvous(clusters, *, timeout=20.0):
    """Runs the rendezvous of each process; returns the result or the exception of each."""

    def call(cluster):
        try:
            return wait_for_all(cluster, timeout=timeout)
        except (InputError, LostProcess) as error:
            return error

    with ThreadPoolExecutor(len(clusters)) as pool:
        return list(pool.map(call, clusters))


def members(port, *indices, count=3):
    return [Cluster(f"localhost:{port}", count, index) for index in indices]


def test_every_process_learns_the_host_of_each(port):
    assert rendezvous(members(port, 2, 0, 1)) == [[socket.gethostname()] * 3] * 3
    # The port is free again immediately, so that JAX can listen on it.
    assert rendezvous(members(port, 0, 1, count=2)) == [[socket.gethostname()] * 2] * 2


def test_every_process_learns_which_ranks_are_missing(port):
    host = socket.gethostname()
    for error in rendezvous(members(port, 0, 2, count=4), timeout=1.0):
        assert isinstance(error, LostProcess)
        assert str(error) == (
            "Timed out after 1 s waiting for 2 of 4 processes: ranks 1, 3."
            f" Connected: 0 ({host}), 2 ({host})."
        )


def test_a_missing_process_0_is_named(port, monkeypatch):
    monkeypatch.setattr("vxlpro_jax.distributed.rendezvous._GRACE_SECONDS", 0.0)
    (error,) = rendezvous(members(port, 1), timeout=1.0)
    start = f"Timed out after 1 s waiting for process 0 at localhost, port {port} ("
    assert str(error).startswith(start)


def test_different_numbers_of_processes_are_refused(port):
    first, second = rendezvous([*members(port, 0), *members(port, 1, count=2)])
    assert isinstance(first, InputError)
    assert "runs process 1 of 2, but" in str(first)
    assert "runs process 0 of 3: start" in str(first)
    assert str(second) == str(first)


def test_two_processes_of_one_rank_are_refused(port):
    """The other process is a connection of this test."""
    other = {"index": 1, "count": 3, "host": "elsewhere", "pid": 1}
    with ThreadPoolExecutor(2) as pool:
        lead = pool.submit(wait_for_all, members(port, 0)[0], timeout=20.0)
        with connected(port) as line:
            line.sendall(json.dumps(other).encode() + b"\n")
            pool.submit(wait_for_all, members(port, 1)[0], timeout=20.0)
            told = json.loads(line.makefile().readline())["mistake"]
        with pytest.raises(InputError, match="both run process 1: give each"):
            lead.result()
    assert told.startswith("elsewhere and ")


def test_a_process_that_is_started_again_replaces_the_first(port):
    other = {"index": 1, "count": 2, "host": "elsewhere", "pid": 1}
    with ThreadPoolExecutor(2) as pool:
        lead = pool.submit(wait_for_all, members(port, 0, count=3)[0], timeout=20.0)
        with connected(port) as line:
            line.sendall(json.dumps(other | {"count": 3}).encode() + b"\n")
        hosts = [pool.submit(wait_for_all, m, timeout=20.0) for m in members(port, 1)]
        hosts += rendezvous(members(port, 2))
        assert lead.result() == [socket.gethostname()] * 3


def test_connections_of_other_programs_are_ignored(port):
    with ThreadPoolExecutor(1) as pool:
        lead = pool.submit(wait_for_all, members(port, 0, count=2)[0], timeout=20.0)
        for text in (b"GET / HTTP/1.1\r\n\r\n", b"", b"[]\n", b'{"index": 1}\n'):
            with connected(port) as line:
                line.sendall(text)
        assert rendezvous(members(port, 1, count=2))[0] == lead.result()


def test_a_port_in_use_is_named(port):
    with socket.create_server(("", port)):
        (error,) = rendezvous(members(port, 0), timeout=1.0)
    assert isinstance(error, InputError)
    assert f"cannot listen on port {port}" in str(error)


def connected(port):
    """Connects as soon as a process listens."""
    while True:
        try:
            return socket.create_connection(("localhost", port), timeout=20)
        except ConnectionRefusedError:
            continue

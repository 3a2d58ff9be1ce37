"""Gathers all processes before JAX connects them, so that missing processes can be named.

`jax.distributed.initialize` alone fails without naming the missing process. Here process 0 listens
at the coordinator's address, and the others connect and identify themselves. Then every process
knows the host of each other one, or, after the timeout, the ranks of the missing ones.
"""

import contextlib
import json
import os
import socket
import time
from typing import Any, NamedTuple, Self

from vxlpro_jax.distributed.cluster import Cluster
from vxlpro_jax.utils.errors import InputError, LostProcess

_RETRY_SECONDS = 0.2
_CONNECT_SECONDS = 10.0
_IDENTIFY_SECONDS = 2.0
# The other processes wait this much longer than process 0, which tells them who is missing.
_GRACE_SECONDS = 5.0
_LONGEST_MESSAGE = 4096  # Bytes.


class Participant(NamedTuple):
    """The identification of a process.

    Attributes:
        index: rank of the process.
        count: number of processes that it expects in the run.
        host: name of its host.
        pid: id of the process on its host.
    """

    index: int
    count: int
    host: str
    pid: int

    @classmethod
    def of_this_process(cls, cluster: Cluster) -> Self:
        """Identifies this process."""
        return cls(cluster.process_id, cluster.num_processes, socket.gethostname(), os.getpid())


def wait_for_all(cluster: Cluster, *, timeout: float) -> list[str]:
    """Waits until all processes have connected; returns the host name of each.

    Raises:
        LostProcess: some processes did not connect within `timeout` seconds.
        InputError: the port is in use, or two processes contradict each other.
    """
    take_part = _coordinate if cluster.process_id == 0 else _join_coordinator
    reply = take_part(cluster, timeout=timeout)
    if "missing" in reply:
        raise LostProcess(reply["missing"])
    if "mistake" in reply:
        raise InputError(reply["mistake"])
    return reply["hosts"]


# ---- Process 0 -----------------------------------------------------------------------------------


def _coordinate(cluster: Cluster, *, timeout: float) -> dict[str, Any]:
    """Listens for the other processes, and sends all of them the same reply."""
    deadline = time.monotonic() + timeout
    present = {0: Participant.of_this_process(cluster)}
    connections: dict[int, socket.socket] = {}
    opened: list[socket.socket] = []
    reply: dict[str, Any] = {}
    with contextlib.ExitStack() as stack, _listen(cluster) as server:
        while not reply:
            server.settimeout(max(deadline - time.monotonic(), 0.01))
            try:
                opened.append(stack.enter_context(server.accept()[0]))
            except TimeoutError:
                _drop_disconnected(present, connections)
                reply = {"missing": _timeout_message(present, cluster, timeout=timeout)}
                break
            if newcomer := _read_participant(opened[-1]):
                _drop_disconnected(present, connections)
                reply = _conflict(newcomer, present)
                present[newcomer.index], connections[newcomer.index] = newcomer, opened[-1]
            if len(present) == cluster.num_processes and not reply:
                reply = {"hosts": [present[index].host for index in range(len(present))]}
        for connection in opened:
            with contextlib.suppress(OSError):
                connection.sendall(_encode(reply))
    return reply


def _listen(cluster: Cluster) -> socket.socket:
    both: dict[str, Any] = {"family": socket.AF_INET6, "dualstack_ipv6": True}
    options = both if socket.has_dualstack_ipv6() else {}
    try:
        return socket.create_server(("", cluster.port), backlog=1024, **options)
    except OSError as error:
        raise InputError(
            f"Process 0 cannot listen on port {cluster.port} ({error.strerror}): end the program"
            " that uses it, or name another port in the coordinator's address."
        ) from error


def _read_participant(connection: socket.socket) -> Participant | None:
    """Reads the identification of a connected process; None if it is not a process of a run."""
    connection.settimeout(_IDENTIFY_SECONDS)
    try:
        return Participant(**json.loads(connection.makefile().readline(_LONGEST_MESSAGE)))
    except (OSError, ValueError, TypeError):
        return None


def _drop_disconnected(
    present: dict[int, Participant], connections: dict[int, socket.socket]
) -> None:
    """Removes processes that had connected but have disconnected."""
    for index in [index for index, connection in connections.items() if _is_closed(connection)]:
        del present[index], connections[index]


def _is_closed(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        return not connection.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    except OSError:
        return True
    finally:
        connection.settimeout(_IDENTIFY_SECONDS)


def _conflict(newcomer: Participant, present: dict[int, Participant]) -> dict[str, str]:
    """Returns a reply naming the contradiction if the newcomer cannot belong to the run, or {}."""
    own = present[0]
    if newcomer.count != own.count or not 0 < newcomer.index < own.count:
        return {
            "mistake": f"{newcomer.host} runs process {newcomer.index} of {newcomer.count}, but"
            f" {own.host} runs process 0 of {own.count}: start all of them with the same number of"
            " processes."
        }
    if newcomer.index in present:
        return {
            "mistake": f"{present[newcomer.index].host} and {newcomer.host} both run process"
            f" {newcomer.index}: give each process another number."
        }
    return {}


def _timeout_message(present: dict[int, Participant], cluster: Cluster, *, timeout: float) -> str:
    ranks = [str(index) for index in range(cluster.num_processes) if index not in present]
    missing = f"rank{'s' if len(ranks) > 1 else ''} {', '.join(ranks)}"
    connected = ", ".join(f"{index} ({who.host})" for index, who in sorted(present.items()))
    return (
        f"Timed out after {timeout:.0f} s waiting for {len(ranks)} of {cluster.num_processes}"
        f" processes: {missing}. Connected: {connected}."
    )


# ---- The other processes -------------------------------------------------------------------------


def _join_coordinator(cluster: Cluster, *, timeout: float) -> dict[str, Any]:
    """Connects to process 0 and waits for its reply."""
    deadline = time.monotonic() + timeout + _GRACE_SECONDS
    own, reason = _encode(Participant.of_this_process(cluster)._asdict()), "it did not reply"
    while (left := deadline - time.monotonic()) > 0:
        try:
            with socket.create_connection(
                (cluster.host, cluster.port), timeout=min(left, _CONNECT_SECONDS)
            ) as connection:
                connection.sendall(own)
                connection.settimeout(left)
                if reply := connection.makefile().readline():
                    return json.loads(reply)
        except (OSError, ValueError) as error:
            reason = str(error)
        time.sleep(_RETRY_SECONDS)
    return {
        "missing": f"Timed out after {timeout:.0f} s waiting for process 0 at {cluster.host}, port"
        f" {cluster.port} ({reason})."
    }


def _encode(message: dict[str, Any]) -> bytes:
    return json.dumps(message).encode() + b"\n"

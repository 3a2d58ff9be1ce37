"""A roll call before JAX connects the processes, which by itself aborts without a name.

Process 0 listens at the coordinator's address, and the others tell it who they are. Then all know
the host of each; or, after the timeout, who is missing.
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
_NAME_SECONDS = 2.0
# How much longer than process 0 the others wait, to be told by it who is missing.
_GRACE_SECONDS = 5.0
_LONGEST_NAME = 4096


class Participant(NamedTuple):
    """What a process tells of itself: `index`, of how many (`count`), and `host` and `pid`."""

    index: int
    count: int
    host: str
    pid: int

    @classmethod
    def of_this_process(cls, cluster: Cluster) -> Self:
        """This process."""
        return cls(cluster.process_id, cluster.num_processes, socket.gethostname(), os.getpid())


def wait_for_all(cluster: Cluster, *, timeout: float) -> list[str]:
    """Waits for all processes; returns the name of the host of each.

    Raises:
        LostProcess: some did not come within `timeout` seconds.
        InputError: the port is taken, or what two processes say of themselves contradicts.
    """
    roll = _coordinate if cluster.process_id == 0 else _join_coordinator
    answer = roll(cluster, timeout=timeout)
    if "missing" in answer:
        raise LostProcess(answer["missing"])
    if "mistake" in answer:
        raise InputError(answer["mistake"])
    return answer["hosts"]


def _coordinate(cluster: Cluster, *, timeout: float) -> dict[str, Any]:
    """Listens to the others, and tells all of them the same answer."""
    deadline = time.monotonic() + timeout
    present = {0: Participant.of_this_process(cluster)}
    lines: dict[int, socket.socket] = {}
    waiting, answer = [], {}
    with contextlib.ExitStack() as stack, _listen(cluster) as server:
        while not answer:
            server.settimeout(max(deadline - time.monotonic(), 0.01))
            try:
                waiting.append(stack.enter_context(server.accept()[0]))
            except TimeoutError:
                _drop_disconnected(present, lines)
                answer = {"missing": _timeout_message(present, cluster, timeout=timeout)}
                break
            if caller := _read_participant(waiting[-1]):
                _drop_disconnected(present, lines)
                answer = _conflict_message(caller, present)
                present[caller.index], lines[caller.index] = caller, waiting[-1]
            if len(present) == cluster.num_processes and not answer:
                answer = {"hosts": [present[index].host for index in range(len(present))]}
        for line in waiting:
            with contextlib.suppress(OSError):
                line.sendall(_encode(answer))
    return answer


def _listen(cluster: Cluster) -> socket.socket:
    both = {"family": socket.AF_INET6, "dualstack_ipv6": True}
    options = both if socket.has_dualstack_ipv6() else {}
    try:
        return socket.create_server(("", cluster.port), backlog=1024, **options)
    except OSError as error:
        raise InputError(
            f"Process 0 cannot listen on port {cluster.port} ({error.strerror}): end what does, or"
            " name another port in the coordinator's address."
        ) from error


def _read_participant(line: socket.socket) -> Participant | None:
    """Who calls, or None if it is no process of ours."""
    line.settimeout(_NAME_SECONDS)
    try:
        return Participant(**json.loads(line.makefile().readline(_LONGEST_NAME)))
    except (OSError, ValueError, TypeError):
        return None


def _drop_disconnected(present: dict[int, Participant], lines: dict[int, socket.socket]) -> None:
    """Those who have come and are gone again."""
    for index in [index for index, line in lines.items() if _is_closed(line)]:
        del present[index], lines[index]


def _is_closed(line: socket.socket) -> bool:
    line.setblocking(False)
    try:
        return not line.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    except OSError:
        return True
    finally:
        line.settimeout(_NAME_SECONDS)


def _conflict_message(caller: Participant, present: dict[int, Participant]) -> dict[str, str]:
    """An answer if there cannot be such a process beside those that are here."""
    own = present[0]
    if caller.count != own.count or not 0 < caller.index < own.count:
        return {
            "mistake": f"On {caller.host} is process {caller.index} of {caller.count}, on"
            f" {own.host} process 0 of {own.count}: start all with the same number of processes."
        }
    if caller.index in present:
        return {
            "mistake": f"On {present[caller.index].host} and on {caller.host} is a process"
            f" {caller.index}: give each process another number."
        }
    return {}


def _timeout_message(present: dict[int, Participant], cluster: Cluster, *, timeout: float) -> str:
    absent = [str(i) for i in range(cluster.num_processes) if i not in present]
    here = ", ".join(f"{index} on {caller.host}" for index, caller in sorted(present.items()))
    return (
        f"Of {cluster.num_processes} processes did not come within {timeout:.0f} s:"
        f" {', '.join(absent)}. Those that are here: {here}."
    )


def _join_coordinator(cluster: Cluster, *, timeout: float) -> dict[str, Any]:
    """Tells process 0 who this is, until it answers."""
    deadline = time.monotonic() + timeout + _GRACE_SECONDS
    own, reason = _encode(Participant.of_this_process(cluster)._asdict()), "no answer"
    while (left := deadline - time.monotonic()) > 0:
        try:
            with socket.create_connection(
                (cluster.host, cluster.port), timeout=min(left, _CONNECT_SECONDS)
            ) as line:
                line.sendall(own)
                line.settimeout(left)
                if answer := line.makefile().readline():
                    return json.loads(answer)
        except (OSError, ValueError) as error:
            reason = str(error)
        time.sleep(_RETRY_SECONDS)
    where = f"{cluster.host}, port {cluster.port}"
    return {"missing": f"Process 0 was not met at {where}, within {timeout:.0f} s ({reason})."}


def _encode(message: dict[str, Any]) -> bytes:
    return json.dumps(message).encode() + b"\n"

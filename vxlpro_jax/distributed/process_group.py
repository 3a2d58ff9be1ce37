"""The processes of a run: how they connect, wait for each other and exchange values.

A launcher sets VXLPRO_COORDINATOR, VXLPRO_NUM_PROCESSES and VXLPRO_PROCESS_ID, or is recognised
(see `cluster`). VXLPRO_TIMEOUT is the number of seconds that a process waits for the others. Values
are exchanged through the coordination service of `jax.distributed`, which needs no devices.
"""

import contextlib
import math
import os
import signal
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence

import jax

from vxlpro_jax.distributed.cluster import (
    DEFAULT_TIMEOUT,
    Cluster,
    find_cluster,
    find_local_devices,
    find_timeout,
)
from vxlpro_jax.distributed.rendezvous import wait_for_all
from vxlpro_jax.utils import cli
from vxlpro_jax.utils.errors import LostProcess
from vxlpro_jax.utils.jax_internals import KeyValueStore, before_abort, key_value_store

# The variables that gRPC, which JAX uses to connect, reads; the first one that is set counts.
_PROXIES = ("grpc_proxy", "https_proxy", "http_proxy")
_BYPASSED = ("no_grpc_proxy", "no_proxy")


class ProcessGroup:
    """The processes of a run as seen by one of them. A single process waits for nobody.

    Attributes:
        index: rank of this process.
        hosts: host name of each process.
        timeout: seconds to wait for other processes.
        store: key-value store that the processes share; None for a single process.
    """

    def __init__(
        self,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        index: int = 0,
        hosts: Sequence[str] = ("",),
        store: KeyValueStore | None = None,
    ):
        self.index, self.hosts, self.timeout, self.store = index, hosts, timeout, store
        self._gathered = 0
        self._last_key = ""

    @property
    def count(self) -> int:
        """The number of processes."""
        return len(self.hosts)

    @property
    def is_first(self) -> bool:
        """Whether this is process 0, which writes logs."""
        return self.index == 0

    def named(self, indices: Sequence[int]) -> str:
        """Names some processes, such as `process 1 (host-b) and process 3 (host-d)`."""
        return " and ".join(f"process {index} ({self.hosts[index]})" for index in indices)

    def own_file(self, name: str) -> str:
        """Returns this process's own file name: `name.json` for rank 0, `name.2.json` for 2."""
        stem, dot, suffix = name.partition(".")
        return name if self.is_first else f"{stem}.{self.index}{dot}{suffix}"

    @contextlib.contextmanager
    def console(self) -> Iterator[None]:
        """Lets only process 0 print within the block."""
        if self.is_first:
            yield
            return
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            yield

    def gather(self, name: str, value: str) -> list[str]:
        """Returns the value of each process, in order. Every process must call this.

        Args:
            name: name of the exchange, the same in every process, for error messages.
            value: value of this process.

        Raises:
            LostProcess: some processes did not call this within the timeout; it names them.
        """
        if self.store is None:
            return [value]
        self._gathered += 1
        folder = f"vxlpro/gathered/{self._gathered} {name}/"
        key = f"{folder}{self.index}"
        try:
            self.store.key_value_set(key, value)
            self.store.wait_at_barrier(folder, round(self.timeout * 1000))
            values = read_folder(self.store, folder)
            # Every process that got here has read the values of the previous exchange.
            if self._last_key:
                self.store.key_value_delete(self._last_key)
        except jax.errors.JaxRuntimeError as error:
            raise self._lost(name, folder=folder) from error
        self._last_key = key
        return [values[index] for index in range(self.count)]

    def barrier(self, name: str) -> None:
        """Waits until every process calls this.

        Raises:
            LostProcess: as in `gather`.
        """
        self.gather(name, "")

    def _lost(self, name: str, *, folder: str) -> LostProcess:
        assert self.store is not None
        try:
            here = read_folder(self.store, folder)
        except jax.errors.JaxRuntimeError:
            return LostProcess(f"{self.named([0])} is gone.")
        missing = [index for index in range(self.count) if index not in here]
        if not missing:
            return LostProcess(f"A process was lost after all had reached {name!r}.")
        seconds = f"{self.timeout:.0f} s"
        return LostProcess(f"{self.named(missing)} did not reach {name!r} within {seconds}.")


def read_folder(store: KeyValueStore, folder: str) -> dict[int, str]:
    """Reads the values of a folder by rank; its keys end with the rank of a process."""
    return {int(key.rpartition("/")[2]): value for key, value in store.key_value_dir_get(folder)}


@contextlib.contextmanager
def join(environ: Mapping[str, str]) -> Iterator[ProcessGroup]:
    """Connects this process to the others within the block.

    The block must be entered before JAX initialises its devices.

    Args:
        environ: environment variables, as described in `cluster`.

    Raises:
        InputError: the environment variables contradict each other.
        LostProcess: other processes did not connect in time.
    """
    cluster, timeout = find_cluster(environ), find_timeout(environ)
    if cluster is None:
        yield ProcessGroup(timeout=timeout)
        return
    own = f"Process {cluster.process_id} of {cluster.num_processes} on {socket.gethostname()}"
    print(f"{own} connects to {cluster.coordinator}.", file=sys.stderr, flush=True)
    hosts = wait_for_all(cluster, timeout=timeout)
    with before_abort(lambda: _exit_if_coordinator_is_gone(cluster, hosts[0])):
        try:
            yield _connect(
                cluster,
                hosts=hosts,
                timeout=timeout,
                local_devices=find_local_devices(environ),
            )
        except BaseException as error:
            # An orderly shutdown would wait for the others, which may wait for this process.
            cli.exit_now(cli.report_error(error))
        jax.distributed.shutdown()
        # JAX has replaced this process's signal handler and does not restore it.
        signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))


def _connect(
    cluster: Cluster,
    *,
    hosts: Sequence[str],
    timeout: float,
    local_devices: list[int] | None,
) -> ProcessGroup:
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    _bypass_proxies(cluster.host)
    seconds = math.ceil(timeout)
    jax.distributed.initialize(
        *cluster,
        local_device_ids=local_devices,
        cluster_detection_method="deactivate",
        initialization_timeout=seconds,
        # JAX aborts the others when a process is lost. Its processes send a heartbeat every half of
        # this time, so it may notice after the other half; `heartbeat` must do so before.
        heartbeat_timeout_seconds=2 * seconds,
        shutdown_timeout_seconds=seconds,
    )
    return ProcessGroup(
        timeout=timeout, index=cluster.process_id, hosts=hosts, store=key_value_store()
    )


def _bypass_proxies(host: str) -> None:
    """Prevents JAX from connecting to process 0 through the environment's proxy."""
    if any(map(os.environ.get, _PROXIES)):
        before = next(filter(None, map(os.environ.get, _BYPASSED)), None)
        os.environ[_BYPASSED[0]] = f"{before},{host}" if before else host


def _exit_if_coordinator_is_gone(cluster: Cluster, host: str) -> None:
    """Ends this process with a message if process 0 is gone; otherwise lets JAX abort it."""
    try:
        socket.create_connection((cluster.host, cluster.port), timeout=2).close()
    except OSError:
        lost = LostProcess(f"process 0 ({host}) is gone.")
        os.write(2, f"error: {lost}\n".encode())
        os._exit(lost.code)

"""The processes of a run: how they meet, wait for each other and share what one has to say.

A launcher says VXLPRO_COORDINATOR, VXLPRO_NUM_PROCESSES and VXLPRO_PROCESS_ID, or is recognised
(see `launchers`); VXLPRO_TIMEOUT is how many seconds a process waits for the others. They talk
through the coordination service of `jax.distributed`, which needs no devices.
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

# What gRPC reads, which JAX talks through; the first that is set counts.
_PROXIES = ("grpc_proxy", "https_proxy", "http_proxy")
_BYPASSED = ("no_grpc_proxy", "no_proxy")


class ProcessGroup:
    """The processes of a run as one of them sees them. Alone, it waits for nobody.

    Attributes:
        index: of this process.
        hosts: the name of each process's host.
        timeout: seconds to wait for others.
        store: what they tell each other; None when alone.
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
        """How many they are."""
        return len(self.hosts)

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes logs."""
        return self.index == 0

    def named(self, indices: Sequence[int]) -> str:
        """`process 1 (host-b) and process 3 (host-d)`."""
        return " and ".join(f"process {index} ({self.hosts[index]})" for index in indices)

    def own_file(self, name: str) -> str:
        """`name.json` for process 0, `name.2.json` for process 2: each process writes its own."""
        stem, dot, suffix = name.partition(".")
        return name if self.is_first else f"{stem}.{self.index}{dot}{suffix}"

    @contextlib.contextmanager
    def console(self) -> Iterator[None]:
        """Within, only process 0 prints."""
        if self.is_first:
            yield
            return
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            yield

    def gather(self, name: str, value: str) -> list[str]:
        """The value of each process, in order. Every process calls this, with the same name.

        Raises:
            LostProcess: some have not within the timeout; they are named.
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
            # Whoever is here has read what was gathered before.
            if self._last_key:
                self.store.key_value_delete(self._last_key)
        except jax.errors.JaxRuntimeError as error:
            raise self._lost(name, folder=folder) from error
        self._last_key = key
        return [values[index] for index in range(self.count)]

    def barrier(self, name: str) -> None:
        """Waits until every process is here.

        Raises:
            LostProcess: as `gather`.
        """
        self.gather(name, "")

    def _lost(self, name: str, *, folder: str) -> LostProcess:
        try:
            here = read_folder(self.store, folder)
        except jax.errors.JaxRuntimeError:
            return LostProcess(f"{self.named([0])} is gone.")
        missing = [index for index in range(self.count) if index not in here]
        if not missing:
            return LostProcess(f"A process is gone since all came to {name!r}.")
        seconds = f"{self.timeout:.0f} s"
        return LostProcess(f"{self.named(missing)} did not come to {name!r} within {seconds}.")


def read_folder(store: KeyValueStore, folder: str) -> dict[int, str]:
    """The values under a folder whose keys end with the number of a process, by that number."""
    return {int(key.rpartition("/")[2]): value for key, value in store.key_value_dir_get(folder)}


@contextlib.contextmanager
def join(environ: Mapping[str, str]) -> Iterator[ProcessGroup]:
    """Within, this process is connected to the others. To be entered before JAX seeks devices.

    Args:
        environ: as `os.environ`; see `launchers`.

    Raises:
        InputError: what the environment says cannot be.
        LostProcess: others did not come in time.
    """
    cluster, timeout = find_cluster(environ), find_timeout(environ)
    if cluster is None:
        yield ProcessGroup(timeout=timeout)
        return
    told = f"Process {cluster.process_id} of {cluster.num_processes} on {socket.gethostname()}"
    print(f"{told} meets the others at {cluster.coordinator}.", file=sys.stderr, flush=True)
    hosts = wait_for_all(cluster, timeout=timeout)
    with before_abort(lambda: _tell_of_coordinator(cluster, hosts[0])):
        try:
            yield _connect(
                cluster,
                hosts=hosts,
                timeout=timeout,
                local_devices=find_local_devices(environ),
            )
        except BaseException as error:
            # To end in order is to wait for the others, who may wait for this process.
            cli.exit_now(cli.report_error(error))
        jax.distributed.shutdown()
        # JAX has put its own handler in the place of this one, and leaves it there.
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
    # A process that is gone is noticed sooner than by JAX, which aborts the others (see `pulse`).
    seconds = math.ceil(timeout)
    jax.distributed.initialize(
        *cluster,
        local_device_ids=local_devices,
        cluster_detection_method="deactivate",
        initialization_timeout=seconds,
        heartbeat_timeout_seconds=seconds,
        shutdown_timeout_seconds=seconds,
    )
    return ProcessGroup(
        timeout=timeout, index=cluster.process_id, hosts=hosts, store=key_value_store()
    )


def _bypass_proxies(host: str) -> None:
    """Otherwise JAX would look for process 0 behind the proxy that the environment names."""
    if any(map(os.environ.get, _PROXIES)):
        before = next(filter(None, map(os.environ.get, _BYPASSED)), None)
        os.environ[_BYPASSED[0]] = f"{before},{host}" if before else host


def _tell_of_coordinator(cluster: Cluster, host: str) -> None:
    """Ends this process if process 0 is gone; else what JAX has to say comes of something else."""
    try:
        socket.create_connection((cluster.host, cluster.port), timeout=2).close()
    except OSError:
        lost = LostProcess(f"process 0 ({host}) is gone.")
        os.write(2, f"error: {lost}\n".encode())
        os._exit(lost.code)

"""Determines this process's rank in a run from a launcher's environment variables.

Every launcher may set VXLPRO_COORDINATOR (host:port where process 0 listens),
VXLPRO_NUM_PROCESSES and VXLPRO_PROCESS_ID. Without them, Open MPI, Slurm steps and TPU pods are
recognised by the variables that they set themselves. The functions here are pure.
"""

import ipaddress
import re
import zlib
from collections.abc import Mapping
from typing import NamedTuple

from vxlpro_jax.utils.errors import InputError

COORDINATOR = "VXLPRO_COORDINATOR"
NUM_PROCESSES = "VXLPRO_NUM_PROCESSES"
PROCESS_ID = "VXLPRO_PROCESS_ID"
TIMEOUT = "VXLPRO_TIMEOUT"

DEFAULT_TIMEOUT = 600.0

# Command-line flags that set these variables.
FLAGS = {
    "coordinator": COORDINATOR,
    "num_processes": NUM_PROCESSES,
    "process_id": PROCESS_ID,
}

_CONTRACT = tuple(FLAGS.values())
# A job uses one of the 4,096 ports from 61,440 on, chosen by its number as in JAX, so that jobs on
# one host rarely share a port. TPU pods use JAX's own port, because a firewall may close others.
_FIRST_PORT, _NUM_PORTS = 61_440, 4_096
_TPU_PORT = 8_482


class Cluster(NamedTuple):
    """This process's rank in the run and the coordinator's address.

    Attributes:
        coordinator: host:port where process 0 listens.
        num_processes: number of processes, at least 2.
        process_id: rank of this process, from 0.
    """

    coordinator: str
    num_processes: int
    process_id: int

    @property
    def host(self) -> str:
        """The coordinator's host, without the brackets of an IPv6 address."""
        return self.coordinator.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        """The coordinator's port."""
        return int(self.coordinator.rpartition(":")[2])


def find_cluster(environ: Mapping[str, str]) -> Cluster | None:
    """Finds the processes of this run; returns None if this is the only one.

    Raises:
        InputError: values are missing, contradict each other, or are not numbers.
    """
    if any(environ.get(name) for name in _CONTRACT):
        cluster = _contract(environ)
    else:
        cluster = _open_mpi(environ) or _agreed(_slurm(environ), _tpu(environ))
    return cluster and _checked(cluster, environ)


def find_timeout(environ: Mapping[str, str]) -> float:
    """Reads the number of seconds to wait for other processes.

    Raises:
        InputError: VXLPRO_TIMEOUT is not a positive number.
    """
    value = environ.get(TIMEOUT, DEFAULT_TIMEOUT)
    try:
        seconds = float(value)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise InputError(f"{TIMEOUT} is {value!r}: give a positive number of seconds.")
    return seconds


def find_local_devices(environ: Mapping[str, str]) -> list[int] | None:
    """Finds the GPUs of this process if several processes share a host; None for all visible GPUs.

    JAX itself reads JAX_LOCAL_DEVICE_IDS, which takes precedence.

    Raises:
        InputError: a value is not a number.
    """
    visible = environ.get("CUDA_VISIBLE_DEVICES", "")
    if "JAX_LOCAL_DEVICE_IDS" in environ or (visible and "," not in visible):
        return None  # Set explicitly, or the launcher restricts the process to one device.
    if _number(environ, "OMPI_COMM_WORLD_LOCAL_SIZE", default=1) > 1:
        return [_number(environ, "OMPI_COMM_WORLD_LOCAL_RANK")]
    tasks = _number(environ, "SLURM_STEP_NUM_TASKS", default=1)
    if tasks > _number(environ, "SLURM_STEP_NUM_NODES", default=tasks):
        return [_number(environ, "SLURM_LOCALID")]
    return None


def _contract(environ: Mapping[str, str]) -> Cluster | None:
    if _number(environ, NUM_PROCESSES, default=0) == 1:
        return None
    missing = [name for name in _CONTRACT if not environ.get(name)]
    if missing:
        raise InputError(
            f"{', '.join(missing)} not set: set {', '.join(_CONTRACT)} (or the flags"
            " --coordinator, --num_processes, --process_id), or none of them."
        )
    return Cluster(
        environ[COORDINATOR], _number(environ, NUM_PROCESSES), _number(environ, PROCESS_ID)
    )


def _agreed(*found: Cluster | None) -> Cluster | None:
    """Returns the cluster that the launchers describe, after checking that they agree."""
    clusters = [cluster for cluster in found if cluster]
    if len({cluster[1:] for cluster in clusters}) > 1:
        both = " but ".join(f"process {c.process_id} of {c.num_processes}" for c in clusters)
        raise InputError(
            f"Slurm and the TPU pod contradict each other ({both}): set {', '.join(_CONTRACT)}."
        )
    return clusters[0] if clusters else None


def _open_mpi(environ: Mapping[str, str]) -> Cluster | None:
    """Reads Open MPI's cluster, which precedes Slurm: `mpirun` inherits its job's variables."""
    count = _number(environ, "OMPI_COMM_WORLD_SIZE", default=1)
    if count == 1:
        return None
    job = environ.get("OMPI_MCA_orte_hnp_uri", "").partition(".")[0]
    name = job or environ.get("PMIX_NAMESPACE", "")
    where = f"{_open_mpi_host(environ)}:{_job_port(zlib.crc32(name.encode()))}"
    return Cluster(where, count, _number(environ, "OMPI_COMM_WORLD_RANK"))


def _open_mpi_host(environ: Mapping[str, str]) -> str:
    if not _spans_hosts(environ):
        return "localhost"
    address = re.search(
        r"tcp://([^,:]+)|tcp6://\[([^,\]]+)", environ.get("OMPI_MCA_orte_hnp_uri", "")
    )
    if not address:
        raise InputError(
            "Open MPI does not name the host of process 0: set"
            f" {COORDINATOR}=HOST:PORT, {NUM_PROCESSES}=$OMPI_COMM_WORLD_SIZE and"
            f" {PROCESS_ID}=$OMPI_COMM_WORLD_RANK."
        )
    return address[1] or f"[{address[2]}]"


def _slurm(environ: Mapping[str, str]) -> Cluster | None:
    """Reads the cluster of an `srun` step. A batch script is one process despite SLURM_NTASKS."""
    nodes = environ.get("SLURM_STEP_NODELIST")
    if not nodes:
        return None
    tasks = "SLURM_STEP_NUM_TASKS" if environ.get("SLURM_STEP_NUM_TASKS") else "SLURM_NTASKS"
    count = _number(environ, tasks)
    if count == 1:
        return None
    port = _job_port(_number(environ, "SLURM_JOB_ID"))
    return Cluster(f"{_first_node(nodes)}:{port}", count, _number(environ, "SLURM_PROCID"))


def _first_node(nodes: str) -> str:
    """Returns the first node: `rack[2-3]n[01,07-15],login` -> `rack2n01`."""
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])+", nodes)
    return re.sub(r"\[([^\],-]+)[^\]]*\]", r"\1", first[0] if first else nodes)


def _tpu(environ: Mapping[str, str]) -> Cluster | None:
    """Reads the cluster of a TPU pod: the hosts of each slice, one slice after another."""
    hosts = [host for host in environ.get("TPU_WORKER_HOSTNAMES", "").split(",") if host]
    slices = _number(environ, "MEGASCALE_NUM_SLICES", default=1)
    if len(hosts) * slices < 2:
        return None
    worker = _number(environ, "TPU_WORKER_ID")
    if worker >= len(hosts):
        raise InputError(
            f"TPU_WORKER_ID is {worker}, but TPU_WORKER_HOSTNAMES has {len(hosts)} host(s)."
        )
    first, index = hosts[0], worker
    if slices > 1:
        index += _number(environ, "MEGASCALE_SLICE_ID") * len(hosts)
        first = _text(environ, "MEGASCALE_COORDINATOR_ADDRESS").partition(":")[0]
    return Cluster(f"{first}:{_TPU_PORT}", len(hosts) * slices, index)


def _checked(cluster: Cluster, environ: Mapping[str, str]) -> Cluster:
    """Returns the cluster after checking that it is valid."""
    count, index = cluster.num_processes, cluster.process_id
    if not 0 <= index < count:
        raise InputError(
            f"There is no process {index} of {count}: they are numbered from 0 to {count - 1}."
        )
    port = cluster.coordinator.rpartition(":")[2]
    if not cluster.host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise InputError(f"The coordinator is {cluster.coordinator!r}: give host:port.")
    if _is_loopback(cluster.host) and _spans_hosts(environ):
        raise InputError(
            f"The coordinator is {cluster.coordinator!r}, but the processes are on several hosts:"
            f" name the host of process 0 in {COORDINATOR}."
        )
    return cluster


def _is_loopback(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host.lower() in ("localhost", "localhost.localdomain", "ip6-localhost")
    return address.is_loopback or address.is_unspecified


def _spans_hosts(environ: Mapping[str, str]) -> bool:
    """Returns whether the environment shows that the processes run on several hosts."""
    local = _number(environ, "OMPI_COMM_WORLD_LOCAL_SIZE", default=0)
    return (
        0 < local < _number(environ, "OMPI_COMM_WORLD_SIZE", default=local)
        or _number(environ, "SLURM_STEP_NUM_NODES", default=1) > 1
        or "," in environ.get("TPU_WORKER_HOSTNAMES", "")
        or _number(environ, "MEGASCALE_NUM_SLICES", default=1) > 1
    )


def _job_port(job: int) -> int:
    return _FIRST_PORT + job % _NUM_PORTS


def _text(environ: Mapping[str, str], name: str) -> str:
    if not environ.get(name):
        raise InputError(f"{name} is not set, but other variables name several processes: set it.")
    return environ[name]


def _number(environ: Mapping[str, str], name: str, *, default: int | None = None) -> int:
    """Reads a variable that contains an integer."""
    if default is not None and not environ.get(name):
        return default
    text = _text(environ, name)
    if not text.isdecimal():
        raise InputError(f"{name} is {text!r}: expected a number.")
    return int(text)

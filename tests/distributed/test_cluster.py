"""Detects the process from the environment: the contract, Open MPI, Slurm, TPU pods, mistakes."""

import pytest

from vxlpro_jax.distributed.cluster import Cluster, find_cluster, find_local_devices, find_timeout
from vxlpro_jax.utils.errors import InputError

CONTRACT = {
    "VXLPRO_COORDINATOR": "host-a:1234",
    "VXLPRO_NUM_PROCESSES": "4",
    "VXLPRO_PROCESS_ID": "2",
}
# The variables of Slurm 23 in a task of `srun` on two nodes with two tasks each.
SLURM = {
    "SLURM_JOB_ID": "123456",
    "SLURM_NTASKS": "4",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_NODELIST": "gpu[07-08]",
}
OPEN_MPI = {
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_RANK": "3",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911",
}
TPU = {"TPU_WORKER_HOSTNAMES": "t0,t1,t2,t3", "TPU_WORKER_ID": "1"}
SLICES = TPU | {
    "MEGASCALE_NUM_SLICES": "2",
    "MEGASCALE_SLICE_ID": "1",
    "MEGASCALE_COORDINATOR_ADDRESS": "t0.first:8080",
}


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, None),
        (CONTRACT, Cluster("host-a:1234", 4, 2)),
        ({"VXLPRO_NUM_PROCESSES": "1", "VXLPRO_PROCESS_ID": "0"}, None),
        (SLURM, Cluster("gpu07:62016", 4, 3)),
        # Older versions do not set the number of tasks of the step.
        (SLURM | {"SLURM_STEP_NUM_TASKS": ""}, Cluster("gpu07:62016", 4, 3)),
        (SLURM | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}, None),
        # A batch script outside `srun` is one process, however many tasks it may start.
        ({"SLURM_JOB_ID": "123456", "SLURM_NTASKS": "4", "SLURM_PROCID": "0"}, None),
        (TPU, Cluster("t0:8482", 4, 1)),
        (SLICES, Cluster("t0.first:8482", 8, 5)),
        (SLICES | {"TPU_WORKER_HOSTNAMES": "t0", "TPU_WORKER_ID": "0"},
         Cluster("t0.first:8482", 2, 1)),
        ({"TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0"}, None),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, None),
        (OPEN_MPI | {"OMPI_COMM_WORLD_SIZE": "1", "OMPI_COMM_WORLD_LOCAL_SIZE": "1"}, None),
    ],
)  # fmt: skip
def test_every_launcher_is_known(environ, expected):
    assert find_cluster(environ) == expected


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("node001", "node001"),
        ("node001,host2", "node001"),
        ("node[001-0015],host2", "node001"),
        ("node[001,007-015],host2", "node001"),
        ("rack[2-3]n[01,07-15],login", "rack2n01"),
        ("a-b[3-4]-ib,c", "a-b3-ib"),
    ],
)
def test_the_first_node_of_a_slurm_list_is_the_coordinator(nodes, first):
    assert find_cluster(SLURM | {"SLURM_STEP_NODELIST": nodes}).host == first


def test_the_coordinator_of_open_mpi_is_where_it_was_started():
    cluster = find_cluster(OPEN_MPI)
    assert (cluster.host, *cluster[1:]) == ("10.96.0.1", 4, 3)
    assert 61_440 <= cluster.port < 65_536
    assert find_cluster(OPEN_MPI | {"OMPI_COMM_WORLD_RANK": "0"}).port == cluster.port
    address = {"OMPI_MCA_orte_hnp_uri": "77.0;tcp6://[fe80::b9b,2620:10d::2]:43370"}
    assert find_cluster(OPEN_MPI | address).host == "fe80::b9b"


def test_open_mpi_on_one_host_needs_no_name():
    environ = {
        "OMPI_COMM_WORLD_SIZE": "2",
        "OMPI_COMM_WORLD_RANK": "1",
        "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
        "PMIX_NAMESPACE": "prterun-host-77@1",
    }
    assert find_cluster(environ).host == "localhost"


def test_mpirun_within_a_slurm_step_counts_its_own_processes():
    assert find_cluster(OPEN_MPI | SLURM | {"SLURM_STEP_NUM_TASKS": "2"})[1:] == (4, 3)


def test_the_variables_of_the_contract_precede_all_launchers():
    assert find_cluster(SLURM | OPEN_MPI | TPU | CONTRACT) == Cluster("host-a:1234", 4, 2)
    alone = {"VXLPRO_NUM_PROCESSES": "1", "VXLPRO_PROCESS_ID": "0"}
    assert find_cluster(SLURM | OPEN_MPI | TPU | alone) is None


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"VXLPRO_COORDINATOR": "a:1"}, "VXLPRO_NUM_PROCESSES, VXLPRO_PROCESS_ID not set"),
        (CONTRACT | {"VXLPRO_PROCESS_ID": ""}, "VXLPRO_PROCESS_ID not set"),
        (CONTRACT | {"VXLPRO_PROCESS_ID": "4"}, "no process 4 of 4: they are numbered from 0 to 3"),
        (CONTRACT | {"VXLPRO_PROCESS_ID": "-1"}, "VXLPRO_PROCESS_ID is '-1'"),
        (CONTRACT | {"VXLPRO_NUM_PROCESSES": "many"}, "VXLPRO_NUM_PROCESSES is 'many'"),
        (CONTRACT | {"VXLPRO_COORDINATOR": "host"}, "'host': give host:port"),
        (CONTRACT | {"VXLPRO_COORDINATOR": "host:http"}, "give host:port"),
        (CONTRACT | {"VXLPRO_COORDINATOR": "host:70000"}, "give host:port"),
        (CONTRACT | SLURM | {"VXLPRO_COORDINATOR": "localhost:1"}, "on several hosts"),
        (CONTRACT | TPU | {"VXLPRO_COORDINATOR": "127.0.1.1:1"}, "on several hosts"),
        (CONTRACT | OPEN_MPI | {"VXLPRO_COORDINATOR": "[::1]:1"}, "on several hosts"),
        (SLURM | {"SLURM_JOB_ID": ""}, "SLURM_JOB_ID is not set"),
        (SLURM | {"SLURM_PROCID": "4"}, "no process 4 of 4"),
        (OPEN_MPI | {"OMPI_COMM_WORLD_RANK": ""}, "OMPI_COMM_WORLD_RANK is not set"),
        (OPEN_MPI | {"OMPI_MCA_orte_hnp_uri": ""}, r"VXLPRO_PROCESS_ID=\$OMPI_COMM_WORLD_RANK"),
        (TPU | {"TPU_WORKER_ID": ""}, "TPU_WORKER_ID is not set"),
        (TPU | {"TPU_WORKER_ID": "4"}, "TPU_WORKER_ID is 4, but .* has 4 host"),
        (SLICES | {"MEGASCALE_SLICE_ID": ""}, "MEGASCALE_SLICE_ID is not set"),
        (SLURM | TPU, "process 3 of 4 but process 1 of 4"),
    ],
)
def test_impossible_environments_are_refused(environ, message):
    with pytest.raises(InputError, match=message):
        find_cluster(environ)


def test_processes_of_one_host_may_use_a_loopback_address():
    at = {"VXLPRO_COORDINATOR": "localhost:1234"}
    assert find_cluster(CONTRACT | at | {"SLURM_STEP_NUM_NODES": "1"}).host == "localhost"


def test_the_timeout_is_read_from_its_variable():
    assert find_timeout({}) == 600
    assert find_timeout({"VXLPRO_TIMEOUT": "7.5"}) == 7.5


@pytest.mark.parametrize("value", ["0", "-1", "soon", "nan", "inf"])
def test_timeout_must_be_a_positive_number(value):
    with pytest.raises(InputError, match="VXLPRO_TIMEOUT is"):
        find_timeout({"VXLPRO_TIMEOUT": value})


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, None),
        (SLURM, [1]),
        (SLURM | {"SLURM_STEP_NUM_TASKS": "2"}, None),
        (SLURM | {"CUDA_VISIBLE_DEVICES": "0,1"}, [1]),
        (SLURM | {"CUDA_VISIBLE_DEVICES": "1"}, None),
        (SLURM | {"JAX_LOCAL_DEVICE_IDS": "0"}, None),
        (OPEN_MPI, [1]),
        (OPEN_MPI | {"OMPI_COMM_WORLD_LOCAL_SIZE": "1"}, None),
    ],
)
def test_processes_of_one_host_have_a_gpu_each(environ, expected):
    assert find_local_devices(environ) == expected

"""Tests launch files: scripts with stand-in clusters, manifests, compiler flags, and the image."""

import contextlib
import copy
import http.server
import itertools
import json
import math
import os
import re
import shutil
import subprocess
import sys
import threading

import jsonschema
import kubernetes_validate
import pytest
import yaml
from helpers import ROOT, python

from vxlpro_jax.distributed import cluster, preemption

pytestmark = pytest.mark.slow

LAUNCH = ROOT / "launch"
SCRIPTS = sorted([*LAUNCH.glob("*.sh"), *LAUNCH.glob("*.sbatch")])
CONTRACT = (
    "VXLPRO_COORDINATOR",
    "VXLPRO_NUM_PROCESSES",
    "VXLPRO_PROCESS_ID",
    "VXLPRO_TIMEOUT",
)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_bash(script):
    assert script.read_text().startswith("#!/usr/bin/env bash\n")
    subprocess.run(["bash", "-n", script], check=True)


@pytest.fixture
def stand_in(tmp_path):
    """Writes a stand-in program, first in PATH, that logs its arguments and runs `does`."""
    (tmp_path / "bin").mkdir()

    def write(name, does=""):
        file = tmp_path / "bin" / name
        file.write_text(f'#!/usr/bin/env bash\necho "{name} $*" >> {tmp_path}/calls\n{does}\n')
        file.chmod(0o755)

    return write


def run(script, *arguments, folder, **environment):
    """Runs a launch script with the stand-ins; returns the finished process and their calls."""
    path = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", LAUNCH / script, *arguments],
        cwd=ROOT,
        env={**os.environ, "PATH": path, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )
    calls = folder / "calls"
    return done, calls.read_text().splitlines() if calls.exists() else []


# ---- Slurm --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("code", "requeued"), [(0, False), (1, False), (2, False), (75, True)])
def test_slurm_requeues_what_was_preempted_and_nothing_else(code, requeued, stand_in, tmp_path):
    stand_in("srun", f"exit {code}")
    stand_in("scontrol")
    done, calls = run(
        "slurm.sbatch", "-m", "some.module", folder=tmp_path, SLURM_JOB_ID="7", PYTHON="python9"
    )
    assert done.returncode == code
    assert calls[0].endswith(" python9 -m some.module")
    assert calls[1:] == (["scontrol requeue 7"] if requeued else [])


def test_slurm_gives_the_flags_to_its_tasks(stand_in, tmp_path):
    stand_in("srun", 'while [[ $1 == --* ]]; do shift; done; exec "$@"')
    show = "import os; print(os.environ['XLA_FLAGS']); print(os.environ['LIBTPU_INIT_ARGS'])"
    done, _ = run("slurm.sbatch", "-c", show, folder=tmp_path, PYTHON=sys.executable)
    assert "--xla_gpu_enable_latency_hiding_scheduler=true" in done.stdout
    assert "--xla_tpu_enable_async_collective_fusion=true" in done.stdout


def test_slurm_without_a_command_says_so(tmp_path):
    done, _ = run("slurm.sbatch", folder=tmp_path)
    assert done.returncode != 0
    assert "Say what to run" in done.stderr


# ---- TPU VMs ------------------------------------------------------------------------------------

TPU = (
    *("--name=pod", "--zone=z", "--type=v5p-128", "--runtime=r"),
    *("--image=europe-docker.pkg.dev/p/r/i", "--share=1.2.3.4:/data"),
)
TRAIN = ("--", "-m", "vxlpro_jax.train", "--config=a b.py")


def words(line):
    """Splits a command as bash does."""
    show = ["bash", "-c", 'eval "set -- $1"; printf "%s\\0" "$@"', "x", line]
    return subprocess.run(show, capture_output=True, text=True, check=True).stdout.split("\0")[:-1]


def test_tpu_dry_run_prints_every_command_and_runs_none(stand_in, tmp_path):
    stand_in("gcloud", "exit 1")
    done, calls = run(
        "tpu_queued_resource.sh", *TPU, "--spot", "--dry_run", *TRAIN, folder=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert calls == []
    commands = [words(line) for line in done.stdout.splitlines()]
    assert all(command[:3] == ["gcloud", "compute", "tpus"] for command in commands)
    verbs = [" ".join(command[3:5]) for command in commands]
    assert verbs == [
        "queued-resources create",
        "queued-resources describe",
        "queued-resources ssh",
        "queued-resources ssh",
        "queued-resources delete",
    ]
    assert "--spot" in commands[0]
    assert all("--zone=z" in command for command in commands)
    assert "--worker=all" in commands[3]
    remote = next(word for word in commands[3] if word.startswith("--command="))
    assert r"-m vxlpro_jax.train --config=a\ b.py" in remote


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (TPU[1:] + TRAIN, "--name is missing"),
        ((*TPU, "--sopt", *TRAIN), "--sopt is not known"),
        ((*TPU, "--slices=two", *TRAIN), "--slices=two is not a positive number"),
        (TPU, "Give the command to run after --"),
    ],
)
def test_tpu_mistakes_end_with_2_and_create_nothing(arguments, said, stand_in, tmp_path):
    stand_in("gcloud")
    done, calls = run("tpu_queued_resource.sh", *arguments, folder=tmp_path)
    assert done.returncode == 2
    assert said in done.stderr
    assert "--dry_run" in done.stderr  # The usage is printed.
    assert calls == []


# Successive states of the TPU, and the successive outputs of its workers.
CASES = {
    "well": ("WAITING_FOR_RESOURCES PROVISIONING ACTIVE", ["0 0"], 0, "create ssh ssh delete"),
    "failed": ("ACTIVE ACTIVE", ["0 1"], 1, "create ssh ssh delete"),
    "mistake": ("ACTIVE ACTIVE", ["1 2"], 2, "create ssh ssh delete"),
    "maintenance": ("ACTIVE ACTIVE", ["75 75", "0 0"], 0, "create ssh ssh ssh delete"),
    "preempted": (
        "ACTIVE SUSPENDED ACTIVE",
        ["75", "0 0"],
        0,
        "create ssh ssh delete create ssh ssh delete",
    ),
    "vanished": (
        "ACTIVE SUSPENDED ACTIVE",
        ["", "0 0"],
        0,
        "create ssh ssh delete create ssh ssh delete",
    ),
    "refused": ("FAILED", [], 1, "create delete"),
}


@pytest.mark.parametrize("case", CASES)
def test_tpu_is_always_deleted_and_asked_for_again_after_a_preemption(case, stand_in, tmp_path):
    states, printed, code, verbs = CASES[case]
    (tmp_path / "states").write_text("\n".join(states.split()) + "\n")
    (tmp_path / "printed").write_text("".join(f"{line}\n" for line in printed))
    take = f'take() {{ head -n 1 "{tmp_path}/$1"; sed -i 1d "{tmp_path}/$1"; }}\n'
    stand_in(
        "gcloud",
        take + 'case "$*" in *describe*) take states ;;'
        ' *"docker run"*) for code in $(take printed); do echo "exit code $code"; done ;; esac',
    )
    stand_in("sleep")
    done, calls = run("tpu_queued_resource.sh", *TPU, *TRAIN, folder=tmp_path)
    assert done.returncode == code, done.stderr
    told = [call for call in calls if call.startswith("gcloud") and "describe" not in call]
    told = [next(verb for verb in verbs.split() if f" {verb} " in call) for call in told]
    assert told == verbs.split()


class Metadata(http.server.BaseHTTPRequestHandler):
    """Metadata server of a machine, which serves `server.attributes` by name."""

    def do_GET(self):
        folder, _, name = self.path.rpartition("/")
        value = self.server.attributes.get(name)
        known = folder == "/computeMetadata/v1/instance/attributes" and value is not None
        asked_well = self.headers["Metadata-Flavor"] == "Google"
        self.send_response(200 if known and asked_well else 404)
        self.end_headers()
        if known and asked_well:
            self.wfile.write(value.encode())

    def log_message(self, *_):
        """Logs nothing."""


@pytest.fixture
def pod(stand_in):
    """Makes `gcloud` run commands on stand-in workers, each with its own metadata server."""
    if shutil.which("curl") is None:
        pytest.skip("the script calls curl, which every TPU machine has")
    with contextlib.ExitStack() as stack:

        def start(*workers):
            hosts = []
            for attributes in workers:
                server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Metadata)
                stack.enter_context(server)
                server.attributes = attributes
                threading.Thread(target=server.serve_forever).start()
                stack.callback(server.shutdown)
                hosts.append(f"127.0.0.1:{server.server_port}")
            run_it = 'GCE_METADATA_HOST=$host bash -c "$does"'
            each = f"for host in {' '.join(hosts)}; do {run_it}; done"
            stand_in(
                "gcloud",
                'case "$*" in *describe*) echo ACTIVE ;;'
                f' *"docker run"*) does=${{!#}}; does=${{does#--command=}}; {each} ;; esac',
            )
            stand_in("sudo")

        yield start


def worker(index, *, hosts, slice_id=None):
    """Returns the attributes of the metadata server of a worker."""
    told = {"agent-worker-number": str(index), "worker-network-endpoints": ",".join(hosts)}
    if slice_id is not None:
        told["tpu-env"] = (
            "ACCELERATOR_TYPE: 'v5p-16'\nMEGASCALE_COORDINATOR_ADDRESS: '10.0.0.4:8080'\n"
            f"MEGASCALE_NUM_SLICES: '2'\nMEGASCALE_SLICE_ID: '{slice_id}'\n"
        )
    return told


def clusters(calls):
    """Returns the cluster that each container's environment describes."""
    runs = [call for call in calls if call.startswith("sudo docker run")]
    told = [dict(re.findall(r" --env=(\w+)=(\S*)", call)) for call in runs]
    assert all(set(environment) == set(CONTRACT) for environment in told)
    return [cluster.find_cluster(environment) for environment in told]


@pytest.mark.parametrize(
    "hosts", [("x:0:10.0.0.4", "x:1:10.0.0.5"), ("10.0.0.4", "10.0.0.5")], ids=["old", "new"]
)
def test_tpu_workers_know_who_they_are(hosts, pod, tmp_path):
    pod(*(worker(index, hosts=hosts) for index in range(2)))
    done, calls = run("tpu_queued_resource.sh", *TPU, *TRAIN, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert clusters(calls) == [("10.0.0.4:8482", 2, 0), ("10.0.0.4:8482", 2, 1)]
    assert sum("-m vxlpro_jax.train --config=a b.py" in call for call in calls) == 2


def test_tpu_workers_of_slices_are_counted_slice_by_slice(pod, tmp_path):
    hosts = ("a:0:10.0.0.4", "a:1:10.0.0.5"), ("b:0:10.0.1.4", "b:1:10.0.1.5")
    places = itertools.product(range(2), range(2))
    pod(*(worker(index, hosts=hosts[of], slice_id=of) for of, index in places))
    done, calls = run("tpu_queued_resource.sh", *TPU, "--slices=2", *TRAIN, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert clusters(calls) == [("10.0.0.4:8482", 4, index) for index in range(4)]
    create = next(call for call in calls if " create " in call)
    assert "--node-count=2 --node-prefix=pod" in create
    assert "--node-id" not in create


def test_tpu_worker_of_one_is_alone(pod, tmp_path):
    pod(worker(0, hosts=("x:0:10.0.0.4",)))
    done, calls = run("tpu_queued_resource.sh", *TPU, *TRAIN, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert clusters(calls) == [None]


@pytest.mark.parametrize(
    ("told", "flags", "said"),
    [
        ({}, (), "has no worker-network-endpoints"),
        (worker(0, hosts=("h",)), ("--slices=2",), "has no tpu-env"),
        (worker(0, hosts=("h",)) | {"tpu-env": "ZONE: 'z'"}, ("--slices=2",), "in no slice"),
    ],
)
def test_tpu_worker_that_does_not_know_who_it_is_does_not_train(told, flags, said, pod, tmp_path):
    pod(told)
    done, calls = run("tpu_queued_resource.sh", *TPU, *flags, *TRAIN, folder=tmp_path)
    assert done.returncode == 1
    assert said in done.stderr
    assert clusters(calls) == []
    assert " delete " in calls[-1]


# ---- Kubernetes ---------------------------------------------------------------------------------

JOBSETS = {
    x["metadata"]["name"]: x for x in yaml.safe_load_all((LAUNCH / "gke_jobset.yaml").open())
}
ONE_OF = {
    "type": "string",
    "enum": ["FailJobSet", "RestartJobSet", "RestartJobSetAndIgnoreMaxRestarts"],
}


def strict(**fields):
    """Returns the schema of an object with only these fields."""
    return {"type": "object", "properties": fields, "additionalProperties": False}


TEXT, NUMBER, TEXTS = {"type": "string"}, {"type": "integer"}, {"items": {"type": "string"}}
# The used fields of JobSet; the fields within a Job are checked by Kubernetes' own schema.
JOBSET = strict(
    apiVersion={"const": "jobset.x-k8s.io/v1alpha2"},
    kind={"const": "JobSet"},
    metadata=strict(name=TEXT, labels={"type": "object"}, annotations={"type": "object"}),
    spec=strict(
        ttlSecondsAfterFinished=NUMBER,
        failurePolicy=strict(
            maxRestarts=NUMBER,
            restartStrategy={"enum": ["Recreate", "BlockingRecreate"]},
            rules={
                "items": strict(
                    name={"pattern": "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$"},
                    action=ONE_OF,
                    onJobFailureReasons=TEXTS,
                    onJobFailureMessagePatterns=TEXTS,
                )
            },
        ),
        replicatedJobs={
            "items": strict(name=TEXT, replicas=NUMBER, template=strict(spec={"type": "object"}))
        },
    ),
)


def job_of(jobset):
    (job,) = jobset["spec"]["replicatedJobs"]
    return job["template"]["spec"]


def container_of(jobset):
    (container,) = job_of(jobset)["template"]["spec"]["containers"]
    return container


def check(jobset):
    """Checks a manifest against the schemas; unknown fields are errors."""
    jsonschema.validate(jobset, JOBSET)
    job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "x"},
        "spec": job_of(jobset),
    }
    kubernetes_validate.validate(job, "1.37", strict=True)


@pytest.mark.parametrize("name", JOBSETS)
def test_manifests_are_valid(name):
    check(JOBSETS[name])


@pytest.mark.parametrize(
    "spoil",
    [
        lambda jobset: jobset["spec"].update(maxRestarts=3),
        lambda jobset: jobset["spec"]["failurePolicy"]["rules"][0].update(action="Restart"),
        lambda jobset: job_of(jobset).update(parallelism="many"),
        lambda jobset: container_of(jobset).update(arguments=[]),
    ],
)
def test_mistakes_in_manifests_would_be_found(spoil):
    jobset = copy.deepcopy(JOBSETS["vxlpro-tpu"])
    spoil(jobset)
    with pytest.raises((jsonschema.ValidationError, kubernetes_validate.ValidationError)):
        check(jobset)


@pytest.mark.parametrize("name", JOBSETS)
@pytest.mark.parametrize(
    ("code", "action"), [(75, "RestartJobSetAndIgnoreMaxRestarts"), (2, "FailJobSet"), (1, None)]
)
def test_exit_codes_mean_what_the_contract_says(name, code, action):
    """Exit codes map to actions by the message of a Job whose `podFailurePolicy` rule applied."""
    job, jobset = job_of(JOBSETS[name]), JOBSETS[name]
    rule = job["podFailurePolicy"]["rules"][0]
    matches = code in rule["onExitCodes"]["values"]
    assert rule["onExitCodes"]["containerName"] == container_of(jobset)["name"]
    message = (
        f"Container train for pod a/b failed with exit code {code} matching FailJob rule at index 0"
    )
    actions = [
        rule["action"]
        for rule in jobset["spec"]["failurePolicy"]["rules"]
        if matches and any(re.search(p, message) for p in rule["onJobFailureMessagePatterns"])
    ]
    assert actions == ([action] if action else [])
    assert job["backoffLimit"] == 0


def test_gpu_processes_are_numbered_and_find_the_first():
    jobset = JOBSETS["vxlpro-gpu"]
    environment = {x["name"]: x for x in container_of(jobset)["env"]}
    assert set(environment) == set(CONTRACT)
    name, job = jobset["metadata"]["name"], jobset["spec"]["replicatedJobs"][0]["name"]
    host = environment["VXLPRO_COORDINATOR"]["value"].partition(":")[0]
    assert host == f"{name}-{job}-0-0.{name}"
    hosts = job_of(jobset)["completions"]
    assert (
        job_of(jobset)["parallelism"] == hosts == int(environment["VXLPRO_NUM_PROCESSES"]["value"])
    )


def test_tpu_hosts_make_up_the_slice():
    jobset = JOBSETS["vxlpro-tpu"]
    selector = job_of(jobset)["template"]["spec"]["nodeSelector"]
    chips = math.prod(map(int, selector["cloud.google.com/gke-tpu-topology"].split("x")))
    hosts = job_of(jobset)["completions"]
    assert job_of(jobset)["parallelism"] == hosts
    assert hosts * container_of(jobset)["resources"]["limits"]["google.com/tpu"] == chips


def test_both_jobsets_fail_and_restart_alike():
    tpu, gpu = JOBSETS["vxlpro-tpu"], JOBSETS["vxlpro-gpu"]
    assert tpu["spec"]["failurePolicy"] == gpu["spec"]["failurePolicy"]
    assert job_of(tpu)["podFailurePolicy"] == job_of(gpu)["podFailurePolicy"]


# ---- Flags --------------------------------------------------------------------------------------


def test_every_flag_has_its_reason_above_it():
    lines = (LAUNCH / "xla_flags.env").read_text().splitlines()
    flag = re.compile(r'(LIBTPU_INIT_ARGS|XLA_FLAGS)\+=" --(xla_\w+)=\w+"|XLA_PYTHON_\w+=[\w.]+')
    flags = [
        (above, line) for above, line in itertools.pairwise(lines) if line[:1] not in ("", "#")
    ]
    assert len(flags) > 8
    for above, line in flags:
        assert re.fullmatch(flag, line), line
        assert re.fullmatch(r"# [A-Zf].{20,}\.", above), f"{line} has no reason"
    named = [re.fullmatch(flag, line)[2] for _, line in flags]
    assert all(name.startswith("xla_gpu_") or name.startswith("xla_tpu_") for name in named if name)
    assert len(set(named)) == len(named)


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("XLA_FLAGS", "import jax; jax.devices()"),
        (
            "LIBTPU_INIT_ARGS",
            "from jax.experimental import topologies;"
            "topologies.get_topology_desc(platform='tpu', topology_name='v5e:2x2')",
        ),
    ],
)
@pytest.mark.parametrize("more", ["", " --xla_tpu_no_such_flag=true"])
def test_the_installed_compilers_know_every_flag(name, code, more):
    show = f'set -a; source launch/xla_flags.env; printf %s "${name}"'
    sourced = subprocess.run(
        ["bash", "-c", show],
        cwd=ROOT,
        env={k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "LIBTPU_INIT_ARGS")},
        capture_output=True,
        text=True,
        check=True,
    )
    # The TPU's compiler then looks for no TPU and ignores other processes that use the library.
    without_tpu = {"TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost"}
    shared = {"ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
    environment = {**without_tpu, **shared, name: sourced.stdout + more}
    process = python("-c", code, **environment)
    _, error = process.communicate()
    assert (process.returncode == 0) == (not more), error


# ---- The image ----------------------------------------------------------------------------------


def test_image_has_both_platforms():
    text = (LAUNCH / "Dockerfile").read_text()
    assert re.search(r"^ARG PLATFORM=(tpu|gpu)$", text, re.MULTILINE)
    assert "tpu|gpu) ;;" in text
    extras = re.findall(r'"(\w+)": \[?"jax\[', (ROOT / "setup.py").read_text())
    assert {"tpu", "gpu"} <= set(extras)


def test_entrypoint_hands_everything_to_python(tmp_path):
    text = (LAUNCH / "Dockerfile").read_text()
    entrypoint = json.loads(re.search(r"^ENTRYPOINT (.*)$", text, re.MULTILINE)[1])
    (tmp_path / "python").symlink_to(sys.executable)
    show = "import os, sys; print(sys.argv[1:], 'async' in os.environ['LIBTPU_INIT_ARGS'])"
    done = subprocess.run(
        [*entrypoint, "-c", show, "a b", "$c"],
        cwd=ROOT,
        env={**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "['a b', '$c'] True\n"


# ---- The contract -------------------------------------------------------------------------------


def test_the_contract_is_what_the_command_keeps():
    readme = (LAUNCH / "README.md").read_text()
    kept = cluster.COORDINATOR, cluster.NUM_PROCESSES, cluster.PROCESS_ID, cluster.TIMEOUT
    assert kept == CONTRACT
    assert all(f"`{name}`" in readme for name in CONTRACT)
    assert f"| {preemption.PREEMPTED} | preempted" in readme
    for file in LAUNCH.iterdir():
        assert set(re.findall(r"VXLPRO_[A-Z_]+", file.read_text())) <= set(CONTRACT), file

"""Executes runs as JobSets on a Kubernetes cluster, one per run, each on one host."""

import copy
import re
import shlex
from pathlib import Path
from typing import Any

import yaml

from vxlpro_jax.sweep.executors.base import LaunchStatus, client_error, run_client
from vxlpro_jax.sweep.plan import Run
from vxlpro_jax.utils.errors import InputError
from vxlpro_jax.utils.files import write_atomically

TEMPLATE = "launch/gke_jobset.yaml"
_POD_NAME = 63  # Largest number of characters; the cluster adds a dash and five more.
_TOPOLOGY = "cloud.google.com/gke-tpu-topology"
# Keeps the hosts of a slice together in their own node pool.
_EXCLUSIVE = "alpha.jobset.sigs.k8s.io/exclusive-topology"
# Topology of one host, keyed by the slice's number of dimensions and the host's number of chips.
_ONE_HOST = {(2, 1): "1x1", (2, 4): "2x2", (2, 8): "2x4", (3, 4): "2x2x1"}
# The shell is the container's first process and would not forward SIGTERM. If the signal interrupts
# the first wait, the second one returns the exit code.
_BEGIN = """\
set -u
set -a; . launch/xla_flags.env; set +a
child=
trap '[ -z "$child" ] || kill -TERM "$child"' TERM
run() {
  python "$@" &
  child=$!
  wait "$child"
  code=$?
  if [ "$code" -gt 128 ]; then wait "$child"; code=$?; fi
  if [ "$code" != 0 ]; then exit "$code"; fi
}
"""


class Gke:
    """Applies one manifest per run: the JobSet of the template, reduced to one host.

    The run's folder must have the same path here and in the containers, where the package must be
    installed. A JobSet that is started again runs the missing steps.
    """

    def __init__(self, *, template: str, name_prefix: str, compiled: Path):
        self._jobset = _read(template)
        self._prefix, self._compiled = name_prefix, compiled

    def show(self, run: Run) -> str:
        """Shows the manifest and the command that applies it."""
        return f"---\n{self.manifest(run)}$ {shlex.join(_apply(run))}"

    def launch(self, run: Run, *, label: str) -> LaunchStatus:
        """Applies the run's manifest unless the run is done or already on the cluster."""
        if not run.missing:
            return LaunchStatus.DONE
        name, before = self.name(run), ""
        state = _state(name)
        if state == "active":
            print(f"{label}: JobSet {name} is on the cluster", flush=True)
            return LaunchStatus.WAITING
        if state:
            before = f", because it ended before all steps were done ({state})"
            gone = run_client("kubectl", "delete", "jobset", name)
            if gone.returncode:
                raise client_error("kubectl delete", gone)
        run.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(_manifest_of(run), self.manifest(run))
        answer = run_client(*_apply(run))
        if answer.returncode:
            print(f"{label}: kubectl failed: {answer.stderr.strip()}", flush=True)
            return LaunchStatus.FAILED
        print(f"{label}: applied as JobSet {name}{before}", flush=True)
        return LaunchStatus.SUBMITTED

    def name(self, run: Run) -> str:
        """Returns a name for the run's JobSet in lower-case letters, digits and dashes.

        Raises:
            InputError: the names of its pods would be longer than Kubernetes allows.
        """
        words = f"{self._prefix}-{run.variant}-seed{run.seed}".lower()
        name = re.sub(r"[^a-z0-9]+", "-", words).strip("-")
        job = self._jobset["spec"]["replicatedJobs"][0]["name"]
        most = _POD_NAME - 6 - len(f"-{job}-0-0")
        if len(name) > most:
            raise InputError(
                f"JobSet {name} has {len(name)} characters, but {most} are allowed: shorten the"
                " name of the variant, or of the last folder of --workdir."
            )
        return name

    def manifest(self, run: Run) -> str:
        """Returns the run's JobSet as YAML."""
        jobset = copy.deepcopy(self._jobset)
        jobset["metadata"]["name"] = self.name(run)
        jobset["metadata"].get("annotations", {}).pop(_EXCLUSIVE, None)
        job = jobset["spec"]["replicatedJobs"][0]
        job["replicas"], spec = 1, job["template"]["spec"]
        spec["parallelism"] = spec["completions"] = 1
        pod = spec["template"]["spec"]
        container, selector = pod["containers"][0], pod.get("nodeSelector", {})
        if _TOPOLOGY in selector:
            chips = container["resources"]["limits"]["google.com/tpu"]
            selector[_TOPOLOGY] = _one_host(selector[_TOPOLOGY], chips=chips)
        container["command"], container["args"] = ["bash", "-c"], [self.script(run)]
        other = [x for x in container.get("env", ()) if not x["name"].startswith("VXLPRO_")]
        alone = {"VXLPRO_NUM_PROCESSES": "1", "VXLPRO_PROCESS_ID": "0"}
        container["env"] = [
            *other,
            *({"name": name, "value": value} for name, value in alone.items()),
            {"name": "JAX_COMPILATION_CACHE_DIR", "value": str(self._compiled)},
        ]
        return yaml.dump(jobset, Dumper=_Dumper, sort_keys=False, width=100)

    def script(self, run: Run) -> str:
        """Returns the script that the container runs."""
        steps = (
            f"[ -e {shlex.quote(str(step.output))} ] || run {shlex.join(step.command[1:])}\n"
            for step in run.steps
        )
        return _BEGIN + "".join(steps)


class _Dumper(yaml.SafeDumper):
    """Writes scripts as blocks instead of single lines with escapes."""


_Dumper.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar(
        "tag:yaml.org,2002:str", text, style="|" if "\n" in text else None
    ),
)


def _one_host(topology: str, *, chips: int) -> str:
    """Returns the topology of one pod that has `chips` chips of a slice."""
    dimensions = topology.count("x") + 1
    if (dimensions, chips) not in _ONE_HOST:
        raise InputError(f"--template: no host of a slice {topology} has {chips} chips.")
    return _ONE_HOST[dimensions, chips]


def _read(template: str) -> dict[str, Any]:
    """Reads `FILE[:NAME]`: the file's JobSet of that name, or its first one."""
    file, _, name = template.partition(":")
    try:
        text = Path(file).read_text(encoding="utf-8")
        documents = [x for x in yaml.safe_load_all(text) if x and x.get("kind") == "JobSet"]
    except (OSError, yaml.YAMLError, AttributeError) as error:
        raise InputError(f"--template: {file} cannot be read ({error}).") from error
    for document in documents:
        if not name or document["metadata"]["name"] == name:
            if len(document["spec"]["replicatedJobs"]) != 1:
                raise InputError(
                    f"--template: the JobSet in {file} has several replicated jobs: give one with a"
                    " single replicated job."
                )
            return document
    known = ", ".join(x["metadata"]["name"] for x in documents) or "none"
    raise InputError(f"--template: {file} has no JobSet {name!r}: known are {known}.")


def _manifest_of(run: Run) -> Path:
    return run.folder / "jobset.yaml"


def _apply(run: Run) -> tuple[str, ...]:
    return ("kubectl", "apply", f"--filename={_manifest_of(run)}")


def _state(name: str) -> str:
    """Reads the state of a JobSet: empty if there is none, `active`, or its final state."""
    path = "jsonpath={.metadata.name}/{.status.terminalState}"
    answer = run_client("kubectl", "get", "jobset", name, "--ignore-not-found", f"--output={path}")
    if answer.returncode:
        raise client_error("kubectl get", answer)
    _, _, ended = answer.stdout.strip().partition("/")
    return ended or ("active" if answer.stdout.strip() else "")

"""Tests sweeps: the plan, failures, which do not stop other runs, clusters, and the tables."""

import dataclasses
import os
import shlex
import subprocess
import sys

import pytest
import yaml
from helpers import ROOT

from configs import ablations
from vxlpro_jax import evaluate, needle, train
from vxlpro_jax.config.parsing import from_mapping
from vxlpro_jax.sweep import __main__ as sweep
from vxlpro_jax.sweep import measures, results
from vxlpro_jax.sweep.executors.base import LaunchStatus
from vxlpro_jax.sweep.executors.gke import Gke
from vxlpro_jax.sweep.executors.local import Local
from vxlpro_jax.sweep.executors.slurm import Slurm
from vxlpro_jax.sweep.plan import Run, Step, Sweep, plan
from vxlpro_jax.sweep.results import Measurement
from vxlpro_jax.utils.errors import InputError

pytestmark = pytest.mark.slow

ABLATIONS = f"--config={ROOT / 'configs/ablations.py'}"
FIGURES = {"accuracy": {"order": 0.5, "count": 1.0}}


def planned(group: str, workdir) -> dict[str, Run]:
    """Returns the first seed's runs of a group of variants."""
    given = sweep.parse_arguments(["sweep", f"{ABLATIONS}{group}"])
    runs = plan(given.sweep, given.variants, workdir=workdir)
    assert len(runs) == 3 * len(given.variants)
    return {run.variant: run for run in runs if run.seed == 0}


def parse_run(command):
    """Parses the flags of a planned command."""
    python, _, module, *arguments = command
    assert python == sys.executable
    if module == "vxlpro_jax.train":
        return train.parse_arguments([module, *arguments])
    return {"vxlpro_jax.evaluate": evaluate, "vxlpro_jax.needle": needle}[module].parse_arguments(
        arguments
    )


# ---- The plan -----------------------------------------------------------------------------------


@pytest.mark.parametrize("group", ["", ":more"])
def test_every_command_of_the_ablations_is_one_that_train_takes(group, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    steps = [step for run in planned(group, tmp_path).values() for step in run.steps]
    for step in steps:
        parse_run(step.command)
    assert len({step.output for step in steps}) == len(steps)


def test_variants_change_what_their_name_says(tmp_path):
    runs = planned("", tmp_path)
    first, second = ({v: r.steps[i].command for v, r in runs.items()} for i in (0, 1))
    assert "--config.recot.policy=tube" in first["mask_tube"]
    assert "--config.recot.mask_ratio=(0.9,0.9)" in first["mask_ratio_90"]
    for commands in (first, second):
        assert "--config.model.dts.layout=temporal" in commands["layout_temporal"]
    assert not any("init_from" in word for word in first["no_stage1"])
    init = f"--config.init_from={tmp_path / 'base/seed0/stage1'}"
    assert init in second["base"]
    asked = [step.name for step in runs["base"].steps[2:]]
    assert asked[0] == "embedded_1.0"
    assert asked[1:] == [f"needles_{ratio}" for ratio in (0.3, 0.6, 1.0)]


def test_more_variants_reach_the_runs_that_they_are_about(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    runs = planned(":more", tmp_path)
    one, two = (
        {name: parse_run(run.steps[stage].command).config for name, run in runs.items()}
        for stage in (0, 1)
    )
    assert {name: config.model.tokens_per_group for name, config in two.items()} == {
        **dict.fromkeys(runs, 16),
        **dict.fromkeys(("pool_1", "pool_1_keep_25", "pool_1_keep_drawn"), 64),
        "pool_4": 4,
    }
    assert two["keep_all"].keep_ratio == two["pool_1"].keep_ratio == (1.0, 1.0)
    assert two["keep_half"].keep_ratio == (0.5, 0.5)
    assert two["pool_1_keep_25"].keep_ratio == (0.25, 0.25)
    assert {config.data.max_frames for config in (one["frames_4"], two["frames_4"])} == {4}
    assert one["stage1_long"].total_steps == 3 * one["keep_all"].total_steps
    assert two["stage1_long"] == dataclasses.replace(
        two["keep_all"], init_from=str(tmp_path / "stage1_long/seed0/stage1")
    )
    asked = [step.name for step in runs["keep_half"].steps[2:4]]
    assert asked == ["embedded_1.0", "embedded_0.5"]


def test_groups_differ_and_an_unknown_one_is_named():
    names = [{change.__name__ for change in group} for group in ablations.GROUPS.values()]
    assert not set.intersection(*names)
    with pytest.raises(InputError, match="Unknown group 'mroe': known are more"):
        sweep.parse_arguments(["sweep", f"{ABLATIONS}:mroe"])


def test_only_selects_variants_by_name(capsys):
    def parse(*more):
        return sweep.parse_arguments(["sweep", ABLATIONS, *more])

    names = list(parse("--only=^mask_r").variants)
    assert names == ["mask_random", "mask_ratio_50", "mask_ratio_90"]
    with pytest.raises(InputError, match=r"known are base, .*no_stage1"):
        parse("--only=zzz")
    with pytest.raises(InputError, match="regular expression"):
        parse("--only=(")
    with pytest.raises(InputError, match="launcher"):
        parse("--launcher=cloud")
    with pytest.raises(InputError, match="did you mean 'seeds'"):
        from_mapping(Sweep, {"seed": (1,)})
    assert sweep.main(["sweep", ABLATIONS, "--only=no_stage1", "--dry_run"]) == 0
    commands = capsys.readouterr().out.splitlines()
    assert len(commands) == 3 * 2
    assert all("--config=configs/stage1.py" not in command for command in commands)


# ---- Doing it -----------------------------------------------------------------------------------


def writing(path, content, **fields) -> Step:
    """Makes a step that writes JSON to `path` and counts its executions."""
    text = (
        f"import json, pathlib; p = pathlib.Path({str(path)!r});"
        "p.parent.mkdir(exist_ok=True, parents=True);"
        f" p.write_text(json.dumps({content!r})); open(str(p) + '.ran', 'a').write('x')"
    )
    command = (sys.executable, "-c", text)
    return Step(path.parent.name, command, path, measures.of_embedded, 0.9, **fields)


def ending(code, path, **fields) -> Step:
    """Makes a step that ends with an exit code and writes nothing."""
    text = f"print('no luck'); raise SystemExit({code})"
    return Step("stage2", (sys.executable, "-c", text), path / "never", **fields)


def two_runs(folder, code=1, **fields) -> list[Run]:
    """Makes a run that succeeds, and one whose first step ends with an exit code."""
    runs = []
    for name in ("good", "bad"):
        own = folder / name
        step = writing(own / "keep_0.9/results.json", FIGURES, **fields)
        first = () if name == "good" else (ending(code, own, **fields),)
        runs.append(Run(name, 0, own, (*first, step)))
    return runs


def test_a_failure_stops_only_its_own_run_and_keeps_finished_steps(tmp_path):
    runs = two_runs(tmp_path)
    launcher = Local(environment=os.environ)
    for _ in range(2):
        outcomes = [launcher.launch(run, label="") for run in runs]
        assert outcomes == [LaunchStatus.DONE, LaunchStatus.FAILED]
    assert "no luck" in (tmp_path / "bad/log.txt").read_text()
    assert (tmp_path / "good/keep_0.9/results.json.ran").read_text() == "x"
    assert [dataclasses.astuple(number) for number in results.collect(runs)] == [
        ("good", 0, 0.9, "mean", 0.75),
        ("good", 0, 0.9, "order", 0.5),
        ("good", 0, 0.9, "count", 1.0),
    ]


@pytest.fixture
def client(tmp_path, monkeypatch):
    """Puts a stand-in client of a cluster on PATH: a script that logs its arguments."""
    folder, calls = tmp_path / "bin", tmp_path / "calls"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    def add(name, does):
        file = folder / name
        file.write_text(f'#!/usr/bin/env bash\necho "{name} $*" >> {calls}\n{does}\n')
        file.chmod(0o755)

    def said():
        lines = calls.read_text().splitlines() if calls.exists() else []
        calls.unlink(missing_ok=True)
        return lines

    add.calls = said
    return add


@pytest.fixture
def cluster(client, tmp_path, monkeypatch):
    """A stand-in for Slurm that runs each job immediately; the queue is a file."""
    queue = tmp_path / "queue"
    queue.write_text("")
    client("sbatch", 'out=$(sed -n "s/^#SBATCH --output=//p" "$2"); bash "$2" >> "$out" 2>&1\n'
           "echo 42")  # fmt: skip
    client("squeue", f"cat {queue}")
    client("srun", 'while [[ $1 == --* ]]; do shift; done; exec "$@"')
    client("scontrol", "")
    monkeypatch.setenv("SLURM_JOB_ID", "42")
    monkeypatch.chdir(ROOT)
    client.queue = queue
    return client


def on_slurm(folder) -> Slurm:
    return Slurm(template=ROOT / "launch/slurm.sbatch", compiled=folder / "compiled")


def test_slurm_gets_a_script_per_run_and_results_are_collected_later(tmp_path, cluster, capsys):
    runs = two_runs(tmp_path, is_parallel=True)
    outcomes = [on_slurm(tmp_path).launch(run, label=run.variant) for run in runs]
    assert outcomes == [LaunchStatus.SUBMITTED] * 2
    submitted = [call for call in cluster.calls() if call.startswith("sbatch")]
    assert submitted == [f"sbatch --parsable {run.folder / 'run.sbatch'}" for run in runs]
    assert "good: submitted as job 42\n" in capsys.readouterr().out

    assert (tmp_path / "good/keep_0.9/results.json.ran").read_text() == "x"
    assert "no luck" in (tmp_path / "bad/log.txt").read_text()
    assert not (tmp_path / "bad/keep_0.9").exists()

    outcomes = [on_slurm(tmp_path).launch(run, label=run.variant) for run in runs]
    assert outcomes == [LaunchStatus.DONE, LaunchStatus.SUBMITTED]
    assert "bad: submitted as job 42, because job 42 ended before" in capsys.readouterr().out
    cluster.queue.write_text("42 batch\n")
    assert on_slurm(tmp_path).launch(runs[1], label="") is LaunchStatus.WAITING
    assert (tmp_path / "good/keep_0.9/results.json.ran").read_text() == "x"


def test_slurm_requeues_a_run_that_was_preempted(tmp_path, cluster):
    run = two_runs(tmp_path, code=75, is_parallel=True)[1]
    on_slurm(tmp_path).launch(run, label="")
    assert "scontrol requeue 42" in cluster.calls()
    assert not (tmp_path / "bad/keep_0.9").exists()


def test_only_training_is_started_in_all_tasks_of_a_job(tmp_path, cluster):
    run = Run(
        "one",
        0,
        tmp_path / "one",
        (
            writing(tmp_path / "a/results.json", FIGURES, is_parallel=True),
            writing(tmp_path / "b/results.json", FIGURES),
        ),
    )
    on_slurm(tmp_path).launch(run, label="")
    assert run.missing == []
    (started,) = [call for call in cluster.calls() if call.startswith("srun")]
    assert str(tmp_path / "a/results.json") in started
    lines = (tmp_path / "one/run.sbatch").read_text().splitlines()
    assert lines[0] == "#!/usr/bin/env bash"
    assert "#SBATCH --job-name=one-seed0" in lines
    assert "#SBATCH --signal=TERM@120" in lines
    assert sum("--job-name" in line for line in lines) == 1
    assert "VXLPRO_NUM_PROCESSES=1" in lines[-1]


def test_a_refused_job_is_reported_and_the_others_are_submitted(tmp_path, cluster, capsys):
    cluster("sbatch", "echo 'no such partition' >&2; exit 1")
    outcomes = [on_slurm(tmp_path).launch(run, label=run.variant) for run in two_runs(tmp_path)]
    assert outcomes == [LaunchStatus.FAILED] * 2
    assert "good: sbatch failed: no such partition" in capsys.readouterr().out
    (tmp_path / "good/job.txt").write_text("42\n")
    cluster("squeue", "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1")
    assert on_slurm(tmp_path).launch(two_runs(tmp_path)[0], label="") is LaunchStatus.FAILED
    cluster("squeue", "echo 'Unable to contact slurm controller' >&2; exit 1")
    with pytest.raises(InputError, match="squeue failed: Unable to contact"):
        on_slurm(tmp_path).launch(two_runs(tmp_path)[0], label="")


def test_a_missing_client_or_template_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="sbatch is not installed"):
        on_slurm(tmp_path).launch(two_runs(tmp_path)[0], label="")
    with pytest.raises(InputError, match=r"nowhere\.sbatch cannot be read"):
        Slurm(template=tmp_path / "nowhere.sbatch", compiled=tmp_path)
    with pytest.raises(InputError, match=r"has no JobSet 'x': known are vxlpro-tpu, vxlpro-gpu"):
        Gke(template=f"{ROOT}/launch/gke_jobset.yaml:x", name_prefix="", compiled=tmp_path)


@pytest.fixture
def kubernetes(client, tmp_path, monkeypatch):
    """A stand-in for kubectl whose `get` prints a file."""
    state = tmp_path / "state"
    state.write_text("")
    client("kubectl", f"[[ $1 != get ]] || cat {state}")
    monkeypatch.chdir(ROOT)
    client.state = state
    return client


def on_gke(folder, name="vxlpro-tpu") -> Gke:
    template = f"{ROOT}/launch/gke_jobset.yaml:{name}"
    return Gke(template=template, name_prefix="ablations", compiled=folder / "compiled")


def test_gke_gets_a_jobset_for_each_run(tmp_path, kubernetes, capsys):
    run = two_runs(tmp_path)[0]
    launcher = on_gke(tmp_path)
    assert launcher.launch(run, label="good") is LaunchStatus.SUBMITTED
    file = tmp_path / "good/jobset.yaml"
    assert kubernetes.calls()[-1] == f"kubectl apply --filename={file}"
    jobset = yaml.safe_load(file.read_text())
    assert jobset["metadata"]["name"] == "ablations-good-seed0"
    assert not any("exclusive" in name for name in jobset["metadata"]["annotations"])
    spec = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
    assert (spec["parallelism"], spec["completions"]) == (1, 1)
    assert spec["template"]["spec"]["nodeSelector"]["cloud.google.com/gke-tpu-topology"] == "2x2"

    kubernetes.state.write_text("ablations-good-seed0/")
    assert launcher.launch(run, label="good") is LaunchStatus.WAITING
    kubernetes.calls()
    kubernetes.state.write_text("ablations-good-seed0/Failed")
    assert launcher.launch(run, label="good") is LaunchStatus.SUBMITTED
    assert [call.split()[1] for call in kubernetes.calls()] == ["get", "delete", "apply"]
    assert "because it ended before all steps were done (Failed)" in capsys.readouterr().out
    kubernetes("kubectl", "echo forbidden >&2; exit 1")
    with pytest.raises(InputError, match="kubectl get failed: forbidden"):
        launcher.launch(run, label="good")


def start(jobset: str, folder) -> subprocess.Popen:
    """Starts the command of a pod's container in the checkout, with its environment."""
    job = yaml.safe_load(jobset)["spec"]["replicatedJobs"][0]["template"]["spec"]
    container = job["template"]["spec"]["containers"][0]
    (folder / "bin").mkdir(exist_ok=True)
    (folder / "bin/python").unlink(missing_ok=True)
    (folder / "bin/python").symlink_to(sys.executable)
    path = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
    environment = {x["name"]: x["value"] for x in container["env"]}
    return subprocess.Popen(
        [*container["command"], *container["args"]],
        cwd=ROOT,
        env={**os.environ, **environment, "PATH": path},
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("name", ["vxlpro-tpu", "vxlpro-gpu"])
def test_the_container_of_a_run_does_its_steps_and_ends_with_their_code(name, tmp_path):
    good, bad = two_runs(tmp_path, code=75)
    launcher = on_gke(tmp_path, name)
    for _ in range(2):
        assert start(launcher.manifest(good), tmp_path).wait() == 0
    assert (tmp_path / "good/keep_0.9/results.json.ran").read_text() == "x"
    assert start(launcher.manifest(bad), tmp_path).wait() == 75
    assert not (tmp_path / "bad/keep_0.9").exists()


def test_the_container_of_a_run_passes_the_signal_on(tmp_path):
    text = (
        "import os, signal, sys, time; print(os.environ['VXLPRO_NUM_PROCESSES'], flush=True);"
        "signal.signal(signal.SIGTERM, lambda *_: (time.sleep(0.3), sys.exit(75)));"
        "print('ready', flush=True); time.sleep(60)"
    )
    step = Step("stage1", (sys.executable, "-c", text), tmp_path / "never")
    process = start(on_gke(tmp_path).manifest(Run("x", 0, tmp_path, (step,))), tmp_path)
    assert process.stdout.readline() == "1\n"
    assert process.stdout.readline() == "ready\n"
    process.terminate()
    assert process.wait(20) == 75
    process.stdout.close()


def test_names_too_long_for_kubernetes_are_refused(tmp_path):
    run = Run("a_variant_with_a_very_long_name_indeed", 0, tmp_path, ())
    with pytest.raises(InputError, match="shorten the name of the variant"):
        on_gke(tmp_path).name(run)


@pytest.mark.parametrize("launcher", ["slurm", "gke"])
def test_dry_runs_of_clusters_change_nothing(launcher, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("PATH", str(tmp_path))
    workdir = tmp_path / "runs"
    argv = ["sweep", ABLATIONS, "--only=base", f"--launcher={launcher}", f"--workdir={workdir}"]
    assert sweep.main([*argv, "--dry_run"]) == 0
    shown = capsys.readouterr().out
    assert shown.count("vxlpro_jax.train") == 3 * 2
    assert shown.count({"slurm": "$ sbatch --parsable", "gke": "$ kubectl apply"}[launcher]) == 3
    assert not workdir.exists()
    for line in shown.splitlines():
        if "vxlpro_jax.train" in line:
            assert "--config.seed=" in shlex.join(shlex.split(line))


# ---- The tables ---------------------------------------------------------------------------------


def test_needles_are_averaged_over_the_grid():
    grid = [{"frames": 8, "depth": depth, "accuracy": depth} for depth in (0.0, 0.5, 1.0)]
    assert measures.of_needles({"grid": grid}) == {"needles": 0.5}
    assert measures.of_needles({"needle_grid": grid}) == {"needles": 0.5}  # From earlier versions.


def test_tables_hold_mean_and_spread(tmp_path):
    found = [
        Measurement("base", seed, ratio, measure, value + seed)
        for seed in range(3)
        for ratio, measure, value in (
            (None, "restore error", 0.0),
            (0.9, "mean", 1.0),
            (0.3, "mean", 2.0),
        )
    ]
    results.write_results(found, usual_ratio=0.9, workdir=tmp_path)
    lines = (tmp_path / "results.csv").read_text().splitlines()
    assert lines[:2] == ["variant,seed,keep_ratio,measure,value", "base,0,,restore error,0.0"]
    assert len(lines) == 10
    rows = (tmp_path / "results.md").read_text().splitlines()
    assert rows[0] == "| variant | seeds | restore error | mean |"
    assert rows[2:] == [
        "| base | 3 | 1.000 ± 1.000 | 2.000 ± 1.000 |",
        "| base, keep 0.3 | 3 |  | 3.000 ± 1.000 |",
    ]
    assert (tmp_path / "results.png").read_bytes().startswith(b"\x89PNG")


def test_results_without_runs_are_empty(tmp_path):
    results.write_results([], usual_ratio=0.9, workdir=tmp_path / "new")
    assert (tmp_path / "new/results.csv").read_text().count("\n") == 1

"""Tests interrupted runs, and work that is shared by several hosts."""

import json
import os
import shutil
import signal
import time

import planted
import pytest
from helpers import python

from vxlpro_jax import prune as command
from vxlpro_jax.utils.errors import InputError

pytestmark = pytest.mark.slow


def measures(folder) -> list[dict]:
    files = sorted((folder / "measures").glob("clips-*.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def results(out):
    return (out / "kept.jsonl").read_bytes(), (out / "decisions.jsonl").read_bytes()


def test_killed_run_continues(planted_set, pruned, tmp_path):
    process = python(
        *("-m", "vxlpro_jax.prune", "--manifest", planted_set.manifest),
        *("--out", tmp_path, "--num_workers", 1),
    )
    deadline = time.monotonic() + 120
    while not (tmp_path / "measures").exists() or len(measures(tmp_path)) < 4:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (tmp_path / "kept.jsonl").exists()
    [journal] = (tmp_path / "measures").iterdir()
    whole = journal.read_bytes()
    journal.write_bytes(
        whole[: whole.rfind(b"\n", 0, -1) + 20]
    )  # Truncates the last line, if it is complete.
    before = journal.read_bytes().splitlines()[:-1]
    planted.prune(planted_set, tmp_path, scorer=planted.Counting(planted_set.manifest))
    assert results(tmp_path) == (pruned.kept, pruned.decisions)
    assert journal.read_bytes().splitlines()[: len(before)] == before
    assert len({entry["key"] for entry in measures(tmp_path)}) == len(measures(tmp_path))


def test_interrupted_scoring_continues(planted_set, pruned, tmp_path):
    measured = pruned.out / "measures"
    (tmp_path / "measures").mkdir(parents=True)
    for file in measured.glob("clips-*"):
        shutil.copy(file, tmp_path / "measures")
    with pytest.raises(KeyboardInterrupt):
        planted.prune(
            planted_set, tmp_path, scorer=planted.Counting(planted_set.manifest, limit=20)
        )
    second = planted.Counting(planted_set.manifest)
    planted.prune(planted_set, tmp_path, scorer=second)
    assert results(tmp_path) == (pruned.kept, pruned.decisions)
    all_asked = sum("loss_seen" in json.loads(line) for line in pruned.decisions.splitlines())
    assert second.asked == all_asked - 20
    # The losses of another model are stored separately.
    other = planted.Counting(planted_set.manifest)
    other.name = "other"
    planted.prune(planted_set, tmp_path, scorer=other)
    assert other.asked == all_asked


def test_other_limits_reuse_measurements(planted_set, pruned, tmp_path):
    shutil.copytree(pruned.out, tmp_path, dirs_exist_ok=True)
    missing = [entry for entry in measures(tmp_path) if entry.get("error_kind") == "missing"]
    before = measures(tmp_path)
    planted.prune(planted_set, tmp_path, "--min_seconds", "0", "--similarity", "1")
    after = measures(tmp_path)
    # A missing file may exist by now, so it is looked for again.
    assert after == before + missing
    assert len(missing) == 1
    rules = {row["id"]: row["rule"] for row in map(json.loads, results(tmp_path)[1].splitlines())}
    assert rules["short71"] == ""
    assert rules["copy-other-codec"] == ""


def test_shards_give_the_result_of_one_process(planted_set, pruned, tmp_path, capsys):
    """Two processes measure concurrently, three score in turn, and one writes the results."""
    running = [
        python(
            *("-m", "vxlpro_jax.prune", "--manifest", planted_set.manifest),
            *("--out", tmp_path, "--num_workers", 1),
            **{
                "VXLPRO_COORDINATOR": "localhost:1",
                "VXLPRO_NUM_PROCESSES": "2",
                "VXLPRO_PROCESS_ID": str(index),
            },
        )
        for index in range(2)
    ]
    for process in running:
        output, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
        assert "--shard 0/1" in output
    found = measures(tmp_path)
    assert sorted(os.listdir(tmp_path / "measures")) == [
        "clips-v1-0-of-2.jsonl",
        "clips-v1-1-of-2.jsonl",
    ]
    assert len({entry["key"] for entry in found}) == len(found) == len(measures(pruned.out))
    asked = []
    for index in range(3):
        scorer = planted.Counting(planted_set.manifest)
        planted.prune(planted_set, tmp_path, "--shard", f"{index}/3", scorer=scorer)
        asked.append(scorer.asked)
        assert not (tmp_path / "kept.jsonl").exists()
    assert max(asked) - min(asked) <= 1
    assert min(asked) > 10
    last = planted.Counting(planted_set.manifest)
    planted.prune(planted_set, tmp_path, "--shard", "0/1", scorer=last)
    assert last.asked == 0
    assert results(tmp_path) == (pruned.kept, pruned.decisions)


@pytest.mark.parametrize("share", ["3/3", "1", "0/0", "a/b"])
def test_bad_shards_are_an_error(share, capsys):
    with pytest.raises(SystemExit, match="2"):
        command.main(["--manifest", "a", "--out", "b", "--shard", share])
    assert "is not a share" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flag", "value"),
    [("--similarity", "0"), ("--static", "1.5"), ("--min_seconds", "-1"), ("--margin", "nan")],
)
def test_limits_out_of_range_are_an_error(planted_set, tmp_path, flag, value):
    with pytest.raises(InputError, match=flag):
        planted.prune(planted_set, tmp_path, flag, value)


def test_out_folder_of_the_manifest_is_an_error(planted_set, tmp_path):
    manifest = tmp_path / "kept.jsonl"
    shutil.copy(planted_set.manifest, manifest)
    with pytest.raises(InputError, match="holds the manifest itself"):
        planted.prune(planted_set, tmp_path, manifest=manifest)
    assert manifest.read_bytes() == planted_set.manifest.read_bytes()

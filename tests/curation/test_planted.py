"""Tests the rules and the report on the planted set."""

import json
import re
import shutil

import planted
import pytest
from PIL import Image

from vxlpro_jax.curation.limits import RULES
from vxlpro_jax.data.sources.load import load_records

pytestmark = pytest.mark.slow


def lines(data: bytes) -> list[dict]:
    return [json.loads(line) for line in data.decode().splitlines()]


def test_precision_and_recall_of_each_rule(pruned):
    file = pruned.out / "decisions.jsonl"
    found = planted.found_by_rule(file, pruned.planted.expected)
    print(f"\n{planted.table(found)}")
    for rule in RULES:
        assert found[rule].planted >= 3
        assert (found[rule].precision, found[rule].recall) == (1.0, 1.0), rule


def test_decisions_have_a_line_for_each_sample(pruned):
    rows = lines(pruned.decisions)
    assert [row["index"] for row in rows] == list(range(len(rows)))
    assert [row["id"] for row in rows] == list(pruned.planted.expected)
    for row in rows:
        assert row["kept"] == (row["rule"] == "") == (row["reason"] == "")
    by_id = {row["id"]: row for row in rows}
    assert by_id["slides-hard"]["slides"] == by_id["slides-hard"]["shots"] == 4
    assert by_id["cut"]["shots"] == 6
    assert by_id["pan0"]["shots"] == 1
    assert by_id["brief"]["seconds"] == 2.5
    assert by_id["copy-wider"]["nearest"] == "pan1.mp4"
    assert by_id["copy-wider"]["similarity"] > 0.99
    assert by_id["copy-said"]["reason"] == f"repeats sample {by_id['pan2']['index']}"
    assert by_id["cut-off"]["error_kind"] == "damaged"
    assert by_id["way0"]["loss_blind"] == pytest.approx(1.386, abs=1e-3)


def test_kept_samples_are_unchanged(pruned):
    manifest = pruned.planted.manifest
    before = lines(manifest.read_bytes())
    kept = [sample for sample in before if not pruned.planted.expected[sample["id"]]]
    assert lines(pruned.kept) == kept
    # Training can read the list without changes.
    records = load_records(
        pruned.out / "kept.jsonl", video_root=manifest.parent, image_root=manifest.parent
    )
    assert len(records) == len(kept) > 20
    assert "山后面" in pruned.kept.decode()


def test_report_has_counts_and_pictures(pruned):
    report = pruned.out
    text = (report / "report.md").read_text()
    rows = lines(pruned.decisions)
    for rule in RULES:
        count = sum(row["rule"] == rule for row in rows)
        assert re.search(rf"\| {rule} \| {count} \| ", text)
        assert f"(dropped-{rule}.png)" in text
    assert f"{sum(row['kept'] for row in rows)} of {len(rows)} samples are kept" in text
    assert f"set `data.video_root` to `{pruned.planted.manifest.parent}`" in text
    for name in ("histograms", *(f"dropped-{rule}" for rule in RULES)):
        with Image.open(report / f"{name}.png") as picture:
            picture.load()
            assert picture.width > 900
            assert len(picture.convert("L").getcolors()) > 50


@pytest.mark.parametrize("rule", RULES)
def test_skip_switches_one_rule_off(pruned, tmp_path, rule):
    """The other rules drop the same samples, without measuring again."""
    shutil.copytree(pruned.out / "measures", tmp_path / "measures")
    scorer = planted.Counting(pruned.planted.manifest)
    planted.prune(pruned.planted, tmp_path, "--skip", rule, scorer=scorer)
    before = {row["id"]: row["rule"] for row in lines(pruned.decisions)}
    after = {row["id"]: row["rule"] for row in lines((tmp_path / "decisions.jsonl").read_bytes())}
    assert rule not in after.values()
    for name, dropped_by in before.items():
        if dropped_by != rule:
            assert after[name] == dropped_by, name
    changed = [name for name, dropped_by in before.items() if dropped_by == rule]
    # A duplicate of a clip that another rule dropped may now be a duplicate of a kept clip.
    assert any(after[name] == "" for name in changed)
    assert f"| {rule} | off |" in (tmp_path / "report.md").read_text()
    assert not (tmp_path / f"dropped-{rule}.png").exists()


def test_blind_rule_needs_a_checkpoint(pruned, tmp_path):
    shutil.copytree(pruned.out / "measures", tmp_path / "measures")
    planted.prune(pruned.planted, tmp_path)
    after = lines((tmp_path / "decisions.jsonl").read_bytes())
    for before, now in zip(lines(pruned.decisions), after, strict=True):
        assert now["rule"] == ("" if before["rule"] == "blind" else before["rule"])
        assert "loss_seen" not in now

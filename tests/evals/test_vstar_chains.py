"""Tests V-STaR's metrics over what, when and where: invented results, and the published table."""

import json
import math

import helpers
import pytest
from scoring import score_files

from vxlpro_jax.evals.benchmarks import vstar_chains
from vxlpro_jax.utils.errors import InputError


def shares(*values):
    return dict(enumerate(values))


def test_am_and_lgm_of_both_chains_and_shares_right_in_several():
    what = shares(1.0, 1.0, 0.0, 1.0)
    when = [shares(0.3, 0.2, 1.0, 0.0), shares(0.5, 0.5, 0.5, 0.5)]
    where = [shares(0.1, 0.5, 0.0, 0.09), shares(0.0, 0.2, 0.2, 0.0)]
    found = vstar_chains.aggregate(what, when=when, where=where)
    assert found["accuracy"] == 75
    first = {name: found[f"chain1/{name}"] for name in ("m_tIoU", "m_vIoU", "AM", "LGM")}
    v = 0.69 / 4
    lgm = -100 * (math.log(0.25) + math.log(1 - 0.375) + math.log(1 - v)) / 3
    assert first == pytest.approx(
        {"m_tIoU": 37.5, "m_vIoU": 100 * v, "AM": 100 * (0.75 + 0.375 + v) / 3, "LGM": lgm}
    )
    # Thresholds of 0.3 and 0.1 are inclusive.
    names = ("what_when", "what_where", "when_where", "all")
    assert [found[f"chain1/{name}"] for name in names] == [25, 50, 25, 25]
    assert [found[f"chain2/{name}"] for name in names] == [75, 25, 50, 25]
    for name in ("AM", "LGM"):
        expected = (found[f"chain1/{name}"] + found[f"chain2/{name}"]) / 2
        assert found[f"m{name}"] == pytest.approx(expected)


def test_other_questions_and_other_chains_are_a_mistake():
    one = shares(1.0, 0.0)
    with pytest.raises(InputError, match="2 chains of when, 1 of where"):
        vstar_chains.aggregate(one, when=[one, one], where=[one])
    with pytest.raises(InputError, match="what and where have different questions"):
        vstar_chains.aggregate(one, when=[one], where=[shares(1.0)])


ROW = {
    **{"vid": "a", "domain": "Sports", "fps": 30.0, "width": 640, "height": 360},
    **{"frame_count": 1800, "question": "What?", "answer": "a ball", "temporal_question": "When?"},
    **{"timestamps": [2.0, 6.0], "spatial_question": "Where?", "spatial_question_2": "Where?"},
    "bboxes": [{"timestamp": 3, "xmin": 0, "ymin": 0, "xmax": 10, "ymax": 10}],
}


@pytest.fixture
def results(write_files, tmp_path):
    """Writes the scoring command's output for answers to equal rows; returns the path."""

    def write(part, answers, *, rights=None):
        annotations, predictions = write_files([ROW] * len(answers), answers)
        name = f"vstar_{part}"
        found = score_files(name, annotations=annotations, predictions=predictions).to_json()
        for item, right in zip(found["per_item"], rights or [], strict=False):
            item["judged"] = {"rating": 3 * right, "right": right}
        path = tmp_path / f"{part}.json"
        path.write_text(json.dumps(found))
        return path

    return write


def test_command_reads_results(results):
    files = {
        "--what": results("what", ["ball", "cat", ""], rights=[1.0, 0.0]),
        "--when": results("when", ["2 to 6", "2 to 4", ""]),
        "--where": results("where", ['{"3": [0, 0, 10, 5]}', "", ""]),
    }
    argv = [word for pair in files.items() for word in pair]
    process = helpers.python("-m", "vxlpro_jax.evals.benchmarks.vstar_chains", *argv, "--json")
    out, err = process.communicate()
    assert process.returncode == 0, err
    metrics = json.loads(out)["metrics"]
    assert metrics["accuracy"] == pytest.approx(100 / 3)
    assert metrics["chain1/AM"] == pytest.approx(100 * (1 / 3 + 0.5 + 0.5 / 3) / 3)
    assert metrics["mAM"] == metrics["chain1/AM"]


def test_metrics_by_duration_and_domain(write_files, tmp_path, capsys):
    rows = [
        {**ROW, "frame_count": 1799},
        {**ROW, "domain": "Cooking"},
        {**ROW, "domain": "Cooking", "frame_count": 5400},
    ]
    answers = {
        "what": ["ball", "", "ball"],
        "when": ["2 to 6", "2 to 4", ""],
        "where": ['{"3": [0, 0, 10, 5]}', '{"3": [0, 0, 10, 10]}', ""],
    }
    argv = []
    for part, said in answers.items():
        annotations, predictions = write_files(rows, said)
        found = score_files(f"vstar_{part}", annotations=annotations, predictions=predictions)
        found = json.loads(json.dumps(found.to_json()))
        if part == "what":
            found["per_item"][0]["judged"] = found["per_item"][2]["judged"] = {"right": 1.0}
        (tmp_path / part).write_text(json.dumps(found))
        argv += [f"--{part}", str(tmp_path / part)]
    vstar_chains.main([*argv, "--json"])
    metrics = json.loads(capsys.readouterr().out)["metrics"]
    groups = {name.rsplit("/", 1)[0] for name in metrics if name.endswith("/accuracy")}
    assert groups == {
        *("duration/short", "duration/medium", "duration/long", "domain/Sports", "domain/Cooking")
    }
    assert metrics["domain/Cooking/accuracy"] == 50
    assert metrics["domain/Cooking/chain1/m_tIoU"] == 25
    assert metrics["domain/Cooking/chain1/m_vIoU"] == 50
    assert metrics["domain/Cooking/mAM"] == pytest.approx(100 * (0.5 + 0.25 + 0.5) / 3)
    assert metrics["duration/short/chain1/AM"] == pytest.approx(100 * (1 + 1 + 0.5) / 3)
    assert metrics["duration/long/chain1/all"] == 0
    # Files of earlier versions have no groups.
    for part in answers:
        found = json.loads((tmp_path / part).read_text())
        for item in found["per_item"]:
            del item["groups"]
        (tmp_path / part).write_text(json.dumps(found))
    vstar_chains.main([*argv, "--json"])
    ungrouped = json.loads(capsys.readouterr().out)["metrics"]
    assert ungrouped == {name: metrics[name] for name in ungrouped}
    assert "domain/Cooking/mAM" not in ungrouped


def test_table_and_a_perfect_share(results, capsys):
    what = results("what", ["ball"], rights=[1.0])
    argv = ["--what", what, "--when", results("when", ["2 to 6"])]
    argv += ["--where", results("where", [""])]
    vstar_chains.main(list(map(str, argv)))
    lines = dict(line.split() for line in capsys.readouterr().out.splitlines())
    assert (lines["chain1/AM"], lines["chain1/LGM"]) == ("66.67", "inf")
    vstar_chains.main([*map(str, argv), "--json"])
    assert json.loads(capsys.readouterr().out)["metrics"]["mLGM"] is None


def read(path):
    return vstar_chains.read_measures(path, benchmark="vstar_what", measure=vstar_chains._right)


def test_results_that_cannot_be_used(results, tmp_path):
    assert read(results("what", ["ball", None], rights=[1.0])) == {0: 1.0, 1: 0.0}
    with pytest.raises(InputError, match="1 answers without a rating"):
        read(results("what", ["ball", None]))
    with pytest.raises(InputError, match="are of 'vstar_when'"):
        vstar_chains.read_measures(
            results("when", [""]), benchmark="vstar_what", measure=vstar_chains._iou
        )
    odd = f'{{"benchmark": "vstar_what", "per_item": [{{"id": 1, "correct": 1{"0" * 400}}}]}}'
    for text in ("[]", "{", '{"per_item": [{"id": [1]}]}', '{"per_item": 1}', odd):
        (tmp_path / "a.json").write_text(text)
        with pytest.raises(InputError, match=r"a\.json cannot be used"):
            read(tmp_path / "a.json")

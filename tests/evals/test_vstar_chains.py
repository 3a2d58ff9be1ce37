"""V-STaR's figures over what, when and where: invented results, and the published table."""

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
    with pytest.raises(InputError, match="2 chains of when and 1 of where"):
        vstar_chains.aggregate(one, when=[one, one], where=[one])
    with pytest.raises(InputError, match="what and where are of other questions"):
        vstar_chains.aggregate(one, when=[one], where=[shares(1.0)])


ROW = {
    **{"vid": "a", "domain": "Sports", "fps": 30.0, "width": 640, "height": 360},
    **{"frame_count": 1800, "question": "What?", "answer": "a ball", "temporal_question": "When?"},
    **{"timestamps": [2.0, 6.0], "spatial_question": "Where?", "spatial_question_2": "Where?"},
    "bboxes": [{"timestamp": 3, "xmin": 0, "ymin": 0, "xmax": 10, "ymax": 10}],
}


@pytest.fixture
def results(write_files, tmp_path):
    """Writes what the scoring command prints of answers to as many equal rows; the path."""

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
    for text in ("[]", "{", '{"per_item": [{"id": [1]}]}', '{"per_item": 1}'):
        (tmp_path / "a.json").write_text(text)
        with pytest.raises(InputError, match=r"a\.json cannot be used"):
            read(tmp_path / "a.json")

"""Tests the scoring command: its contract, and its messages about unusable files."""

import json

import helpers
import numpy as np
import pytest
from PIL import Image
from scoring import score_files

from vxlpro_jax import score
from vxlpro_jax.evals import registry
from vxlpro_jax.utils.errors import InputError

QUERIES = [
    {"video": "A.mp4", "caption": "person sits down.", "timestamp": [2.0, 6.0]},
    {"video": "A.mp4", "caption": "person stands up.", "timestamp": [4.0, 8.0]},
    {"video": "B.mp4", "caption": "person runs.", "timestamp": [1, 3]},
]


def run(*arguments, code=0):
    process = helpers.python("-m", "vxlpro_jax.score", *arguments)
    out, err = process.communicate()
    assert process.returncode == code, err
    return out, err


def flags(benchmark, files):
    return ("--benchmark", benchmark, "--annotations", files[0], "--predictions", files[1])


def test_command_prints_metrics_and_every_item_as_json_and_draws(write_files, tmp_path):
    # IoUs: 2..6 with 2..6 gives 1, 4..8 with 6..10 gives 2/6, and the last has no answer.
    files = write_files(QUERIES, {0: "2 - 6", 1: "6 - 10", 2: None})
    picture = tmp_path / "spans.png"
    out, _ = run(*flags("charades_sta", files), "--json", "--plot", picture)
    found = json.loads(out)
    assert list(found)[:3] == ["benchmark", "profile", "metrics"]
    assert (found["benchmark"], found["profile"]) == ("charades_sta", "official")
    assert found["metrics"]["mIoU"] == pytest.approx(100 * (1 + 1 / 3) / 3)
    assert found["metrics"]["R1@0.5"] == pytest.approx(100 / 3)
    items = [(item["id"], item["parsed"], item["correct"]) for item in found["per_item"]]
    assert items == [(0, [2, 6], True), (1, [6, 10], False), (2, None, False)]
    assert found["counts"] == {"items": 3, "empty": 1, "unparsed": 1, "unscored": 0}
    with Image.open(picture) as image:
        pixels = np.asarray(image.convert("RGB")).reshape(-1, 3)
    assert len(np.unique(pixels, axis=0)) > 10
    assert not list(tmp_path.glob("*.tmp"))


def test_command_prints_a_table_and_says_what_waits_for_a_judge(write_files):
    records = {"7": {"order": [{"question": "Describe.", "answer": "x"}] * 2}}
    out, _ = run(*flags("tempcompass_captioning", write_files(records, ["A cat."])))
    lines = out.splitlines()
    assert lines[0].startswith("tempcompass_captioning (official): 2 items, 1 empty")
    assert lines[1].split() == ["answered", "50.00"]
    assert lines[2] == "Without a judge model 1 items stay unscored."


def test_mistake_is_one_sentence_and_code_2(write_files):
    out, err = run(*flags("charades_sta", write_files(QUERIES, {3: "1 - 2"})), code=2)
    assert out == ""
    assert err.startswith("error: ")
    assert err.endswith("predictions.jsonl, line 1: id 3 is not in the annotations.\n")


def test_jax_is_never_loaded(write_files):
    files = write_files(QUERIES, ["1 - 2"])
    arguments = [*map(str, flags("charades_sta", files)), "--json"]
    program = f"""
import sys
from vxlpro_jax import score
score.main({arguments!r})
assert not [name for name in sys.modules if name.split(".")[0] in ("jax", "flax", "torch")]
"""
    process = helpers.python("-c", program)
    _, err = process.communicate()
    assert process.returncode == 0, err


def test_null_missing_and_blank_predictions_are_empty_answers(write_files):
    annotations, predictions = write_files(QUERIES, [])
    predictions.write_text('{"id": 0, "prediction": null}\n\n{"id": 1}\n')
    found = score_files("charades_sta", annotations=annotations, predictions=predictions)
    assert found.counts["empty"] == 3
    assert found.metrics["mIoU"] == 0


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", "\n\n"])
def test_marks_and_line_ends_of_any_system(write_files, encoding, end):
    annotations, predictions = write_files(QUERIES, [])
    lines = ['{"id": 1, "prediction": "4\u20138\u2028"}', '{"id": 0, "prediction": "2 \\ud800- 6"}']
    predictions.write_bytes(end.join([*lines, ""]).encode(encoding))
    found = score_files("charades_sta", annotations=annotations, predictions=predictions)
    items = json.loads(json.dumps(found.to_json()))["per_item"]
    assert [item["parsed"] for item in items] == [None, [4, 8], None]


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        ('{"id": 0, "prediction": "a"}\n{"id": 0}', "line 2: id 0 occurs twice"),
        ('{"id": 0, "prediction": null}\n{"id": 0}', "line 2: id 0 occurs twice"),
        ('{"id": 9}', "line 1: id 9 is not in the annotations"),
        ('{"id": "1"}', "line 1: id '1' is not in the annotations. Ids are integers here"),
        (f'{{"id": "{"9" * 5000}"}}', r"line 1: id '9+\.\.\. is not in the annotations"),
        ('{"id": true}', "line 1: id True is not in the annotations"),
        ('{"id": 1.0}', "line 1: id 1.0 is not in the annotations"),
        ('{"id": [1]}', r"line 1: id \[1\] is not in the annotations"),
        ('{"prediction": "a"}', "line 1 is not an object with 'id'"),
        ("[0]", "line 1 is not an object with 'id'"),
        ('\n{"id": 0', "line 2 is not JSON"),
        ('{"id": 0, "prediction": ' + "[" * 100_000, "line 1 is not JSON"),
        ('{"id": 0, "prediction": 5}', "line 1: 'prediction' is 5"),
    ],
)
def test_predictions_that_cannot_be_used(write_files, lines, sentence):
    annotations, predictions = write_files(QUERIES, [])
    predictions.write_text(lines)
    with pytest.raises(InputError, match=sentence):
        score_files("charades_sta", annotations=annotations, predictions=predictions)


@pytest.mark.parametrize("more", ["", '{"id": 1}\n'])
def test_predictions_under_another_name_are_not_empty_answers(more, write_files):
    annotations, predictions = write_files(QUERIES, [])
    predictions.write_text(f'{{"id": 0, "answer": "1 - 2"}}\n{more}')
    with pytest.raises(InputError, match=r"have no field 'prediction', only \['answer'\]"):
        score_files("charades_sta", annotations=annotations, predictions=predictions)


def test_an_id_of_the_other_type_is_told(scored):
    records = [dict(QUERIES[0], question_id="7")]
    with pytest.raises(InputError, match=r"id 7 is not in the annotations\. Ids are text"):
        scored("charades_sta", records, {7: "1 - 2"})


def test_two_records_with_one_id_are_a_mistake(scored):
    records = [dict(QUERIES[0], question_id="q"), dict(QUERIES[1], question_id="q")]
    with pytest.raises(InputError, match="record 1: id 'q' occurs twice"):
        scored("charades_sta", records, [])


MLVU = [
    {"video": "a.mp4", "question": "Why?", "question_type": "plotQA", "candidates": ["x", "y"]}
    | {"answer": "y"},
    {"video": "a.mp4", "question": "Tell.", "question_type": "summary", "answer": "A cat."},
    {"video": "a.mp4", "question": "Who?", "question_type": "subPlot", "answer": "He"}
    | {"scoring_points": ["he"]},
    {"video": "b.mp4", "question": "Tell.", "question_type": "summary", "answer": "A dog."},
]


def test_stored_judgements_are_read(write_files, tmp_path):
    files = write_files(MLVU, ["B", "A cat.", "A man.", "A cow."])
    judgements = tmp_path / "judgements.jsonl"
    texts = [
        "{'score_accuracy': 5, 'score_relevance': 5}",  # Of a choice: no judge is asked.
        "{'score_completeness': 4, 'score_reliability': 5}",
        '{"score_accuracy": 3, "score_relevance": 2.5}',
    ]
    lines = [json.dumps({"id": i, "reply": text}) for i, text in enumerate(texts)]
    judgements.write_text("\n".join(lines))
    out, _ = run(*flags("mlvu_dev", files), "--judgements", judgements, "--json")
    found = json.loads(out)
    assert found["metrics"] == {
        **{"macro": 100, "micro": 100, "task/plotQA": 100},
        **{"judged/VS": 9, "judged/SSC": 5.5, "judged/G-Avg": 7.25},
    }
    assert (found["unscored"], found["counts"]["unscored"]) == ([3], 1)
    assert [item.get("judged") for item in found["per_item"]] == [
        *(None, {"score": 9}, {"score": 5.5}, None)
    ]


def test_empty_answers_need_no_judgement(write_files, tmp_path):
    files = write_files({"7": {"order": [{"question": "Describe.", "answer": "x"}]}}, [""])
    judgements = tmp_path / "judgements.jsonl"
    judgements.write_text("")
    out, _ = run(*flags("tempcompass_captioning", files), "--judgements", judgements, "--json")
    assert json.loads(out)["metrics"]["judged/accuracy"] == 0


def test_judgements_that_cannot_be_used(write_files, tmp_path):
    judgements = tmp_path / "judgements.jsonl"
    judgements.write_text('{"id": 9, "reply": "3"}')
    files = write_files(QUERIES, [])
    _, err = run(*flags("charades_sta", files), "--judgements", judgements, code=2)
    assert err.startswith(
        "error: Benchmark charades_sta needs no judge: --judgements is only for mlvu"
    )
    files = write_files(MLVU, [])
    _, err = run(*flags("mlvu_dev", files), "--judgements", judgements, code=2)
    assert err.endswith("judgements.jsonl, line 1: id 9 is not in the annotations.\n")


def test_chain_belongs_to_vstar(write_files):
    files = write_files(QUERIES, [])
    _, err = run(*flags("charades_sta", files), "--chain", 2, code=2)
    assert err.startswith("error: Benchmark charades_sta has no chains")
    assert registry.find("vstar_when", chain=2).fps == 1


def test_plot_belongs_to_spans(write_files, tmp_path):
    records = {"7": {"order": [{"question": "Describe.", "answer": "x"}]}}
    files = write_files(records, [])
    picture = tmp_path / "a.png"
    _, err = run(*flags("tempcompass_captioning", files), "--plot", picture, code=2)
    assert "has no spans to draw" in err
    assert not picture.exists()


def test_plot_that_cannot_be_written(write_files, tmp_path):
    arguments = flags("charades_sta", write_files(QUERIES, ["1 - 2"]))
    with pytest.raises(InputError, match="cannot be written"):
        score.main([*map(str, arguments), "--plot", str(tmp_path / "nowhere" / "a.png")])

"""Tests MLVU: letters, reference answers, macro and micro means."""

import json

import pytest

from vxlpro_jax.evals.benchmarks import mlvu
from vxlpro_jax.utils.errors import InputError

FOUR = ["Goat", "Horse", "Otter", "Crane"]
SIX = ["one", "two", "three", "four", "five", "six"]


def dev(task="plotQA", *, answer="Goat", candidates=FOUR, **fields):
    record = {"video": "a.mp4", "duration": 9.5, "question": "Which?", "question_type": task}
    return {**record, "candidates": candidates, "answer": answer, **fields}


def repacked(task="plotQA", *, answer="C", **fields):
    question = "Which\nof these?\n(A) Goat\n(B) Horse\n(C) Otter\n(D) Crane"
    record = {"video_name": "a", "question": question, "task_type": task, "answer": answer}
    return {**record, "question_id": "PQA_7", **fields}


def six_options(number, *, answer="one"):
    fields = {"question_id": f"AR_{number}", "question_type": "anomaly_reco", "video": "a.mp4"}
    return {**fields, "question": "Which?", "candidates": SIX, "answer": answer}


def correct(found):
    return [item["correct"] for item in found["per_item"]]


RIGHT = ["A", "A)", "A) x", "(A) x", "Yellow (A)"]
WRONG = ["A. x", "a", "", ")"]
STRIPPED = [" A", "A\n"]


def test_official_dev_takes_the_character_before_the_first_parenthesis(scored):
    answers = [*RIGHT, *WRONG, *STRIPPED]
    found = scored("mlvu_dev", [dev()] * len(answers), answers)
    assert correct(found) == [True] * 5 + [False] * 6
    assert [item["parsed"] for item in found["per_item"]][5:9] == ["A. x", "a", None, None]


@pytest.mark.parametrize("benchmark", ["mlvu_dev", "mlvu_test"])
def test_legacy_strips_first(scored, benchmark):
    answers = [*RIGHT, *WRONG, *STRIPPED, " (A) x"]
    found = scored(benchmark, [dev()] * len(answers), answers, profile="legacy2025")
    assert correct(found) == [True] * 5 + [False] * 4 + [True] * 3


def test_official_test_takes_the_text_before_the_first_parenthesis(scored):
    answers = ["A", " A ", "A)", " A ) x", "(A) x", "Yellow (A)", "A. x", ""]
    found = scored(
        "mlvu_test",
        [six_options(i) for i in range(8)],
        {f"AR_{i}": answer for i, answer in enumerate(answers)},
    )
    assert correct(found) == [True] * 4 + [False] * 4
    item = {"id": "AR_4", "parsed": "(A", "correct": False, "groups": ["task/anomaly_reco"]}
    assert found["per_item"][4] == item


@pytest.mark.parametrize("profile", ["official", "legacy2025"])
def test_six_options_are_all_answers(scored, profile):
    records = [six_options(0, answer="five"), six_options(1, answer="six")]
    found = scored("mlvu_test", records, {"AR_0": "E", "AR_1": "F)"}, profile=profile)
    assert correct(found) == [True, True]


def test_a_repeated_candidate_is_the_last_and_an_absent_answer_is_never_right(scored):
    twice = dev(candidates=["Goat", "Otter", "Goat", "Crane"])
    absent = dev(answer="Mouse")
    found = scored("mlvu_dev", [twice, twice, absent, absent], ["A", "C", "@", "A"])
    assert correct(found) == [False, True, False, False]


def test_answer_may_be_a_letter_but_candidates_go_first(scored):
    letters = dev(answer="B", candidates=["B", "C", "D", "A"])
    found = scored("mlvu_dev", [dev(answer="B"), letters, letters], ["B", "B", "A"])
    assert correct(found) == [True, False, True]


def test_macro_is_the_mean_over_tasks_and_micro_over_questions(scored):
    records = [dev("count"), dev("count"), dev("count"), dev("findNeedle")]
    answers = ["A", "B", "B", "A"]
    found = scored("mlvu_dev", records, answers)["metrics"]
    assert found == pytest.approx(
        {"macro": (100 / 3 + 100) / 2, "micro": 50, "task/count": 100 / 3, "task/needle": 100}
    )
    # lmms-eval divides by its seven tasks, and for the test set by nine.
    legacy = scored("mlvu_dev", records, answers, profile="legacy2025")["metrics"]
    assert legacy == pytest.approx({**found, "macro": (100 / 3 + 100) / 7})
    legacy = scored("mlvu_test", [six_options(0)], {"AR_0": "A"}, profile="legacy2025")["metrics"]
    assert legacy["macro"] == pytest.approx(100 / 9)


def test_generation_tasks_wait_for_a_judge_and_keep_their_places(scored):
    summary = {"video": "b.mp4", "question": "Tell.", "answer": "..", "question_type": "summary"}
    scene = {**summary, "question_type": "subPlot", "scoring_points": ["x"]}
    found = scored("mlvu_dev", [summary, dev(), scene], {0: "A story.", 1: "A"})
    assert found["unscored"] == [0, 2]
    assert correct(found) == [None, True, None]
    assert found["metrics"] == {"macro": 100, "micro": 100, "task/plotQA": 100}
    assert found["counts"] == {"items": 3, "empty": 1, "unparsed": 0, "unscored": 2}


def test_withheld_answers_of_the_test_set_stay_unscored_and_are_a_mistake_in_dev(scored):
    withheld = six_options(0)
    del withheld["answer"]
    assert scored("mlvu_test", [withheld], {"AR_0": "A"})["unscored"] == ["AR_0"]
    with pytest.raises(InputError, match="record 0: field 'answer' is missing"):
        scored("mlvu_dev", [withheld], {"AR_0": "A"})


def test_repacked_records_have_letters_and_their_own_ids(scored):
    found = scored("mlvu_dev", [repacked()], {"PQA_7": "C"})
    assert correct(found) == [True]


def test_the_authors_folder_is_its_files_put_together(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    with pytest.raises(InputError, match="data are a folder without JSON files"):
        mlvu.DEV.read(folder)
    summary = {"video": "b.mp4", "question": "Tell.", "answer": "..", "question_type": "summary"}
    files = {
        "9_summary": [summary],
        "1_plotQA": [dev(), dev(answer="Crane")],
        "4_count": [dev("count")],
    }
    for name, records in files.items():
        (folder / f"{name}.json").write_text(json.dumps(records))
    (folder / "README.md").write_text("no records")
    questions = mlvu.DEV.read(folder)
    found = [(question.id, question.task, question.gold) for question in questions]
    assert found == [
        (0, "plotQA", "A"),
        (1, "plotQA", "D"),
        (2, "count", "A"),
        (3, "summary", None),
    ]
    (folder / "4_count.json").write_text(json.dumps([dev(), {}]))
    with pytest.raises(
        InputError, match=r"4_count\.json, record 1: field 'question_type' is missing"
    ):
        mlvu.TEST.read(folder)


def read_one(tmp_path, record):
    file = tmp_path / "a.json"
    file.write_text(json.dumps([record]))
    return mlvu.DEV.read(file)[0]


def test_prompts_of_both_profiles(tmp_path):
    question = read_one(tmp_path, dev())
    asked = mlvu.DEV.prompt(question, "official")
    assert asked.system == (
        "Carefully watch this video and pay attention to every detail. Based on your observations,"
        " select the best option that accurately addresses the question."
    )
    assert asked.text == (
        "Question: Which?\nOptions:\n(A) Goat\n(B) Horse\n(C) Otter\n(D) Crane"
        "\nOnly give the best option."
    )
    assert asked.prefill == "Best Option: ("
    legacy = mlvu.DEV.prompt(question, "legacy2025")
    assert legacy.text == (
        "\nWhich?\n(A) Goat\n(B) Horse\n(C) Otter\n(D) Crane\nOnly give the best option.\n\n"
        "Best option: ("
    )
    assert (legacy.system, legacy.prefill) == ("You are a helpful assistant.", "")


def test_a_repacked_record_asks_the_same(tmp_path):
    question = read_one(tmp_path, repacked())
    assert question.video == "a.mp4"
    assert question.options == tuple(FOUR)
    legacy = mlvu.DEV.prompt(question, "legacy2025").text
    assert legacy == f"\n{repacked()['question']}\nOnly give the best option.\n\nBest option: ("
    official = mlvu.DEV.prompt(question, "official").text
    assert official.startswith("Question: Which\nof these?\nOptions:\n(A) Goat\n")


def test_generation_prompt(tmp_path):
    record = {"video": "b.mp4", "question": "Tell.", "answer": "..", "question_type": "summary"}
    asked = mlvu.DEV.prompt(read_one(tmp_path, record), "official")
    assert asked.text == "Tell."
    assert asked.system.endswith("Based on your observations, answer the given questions.")


def test_a_bad_record_is_named(scored):
    bad = dev()
    del bad["candidates"]
    with pytest.raises(InputError, match="record 1: field 'candidates' is missing"):
        scored("mlvu_dev", [dev(), bad], [])

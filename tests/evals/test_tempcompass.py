"""Tests TempCompass: the authors' matching rules, both file formats, aspects and match rate."""

import json

import pytest

from vxlpro_jax.evals.benchmarks import tempcompass
from vxlpro_jax.utils.errors import InputError

MC = {"question": "Where to?\nA. upward\nB. downward\nC. leftward", "answer": "B. downward"}
CAPTIONS = {
    "question": "Which caption?\nCaption A: a cat sits\nCaption B: a dog runs: fast",
    "answer": "Caption A: a cat sits",
}
OPTIONS = {"question": "Which?\nOption 1: a cat\nOption 2: a dog", "answer": "Option 2: a dog"}
YES_NO = {"question": "Is it up?", "answer": "no"}


def nested(asked, *, times=1, aspect="direction"):
    return {"1000000001": {aspect: [asked] * times}}


def correct_of(scored, task, asked, answers):
    found = scored(f"tempcompass_{task}", nested(asked, times=len(answers)), answers)
    return found, [item["correct"] for item in found["per_item"]]


def test_multi_choice_matches_the_line_a_letter_or_a_marked_letter(scored):
    right = ["B. downward", "B", "B.", "B) so", "B. upward", " B \n", "B</s>", "B.upward"]
    wrong = ["A. upward", "A", "C)"]
    unmatched = ["(B) downward", "B: downward", "b", "Answer: B", "downward", "", None, "BB", "E."]
    found, correct = correct_of(scored, "multi_choice", MC, [*right, *wrong, *unmatched])
    assert correct == [True] * len(right) + [False] * (len(wrong) + len(unmatched))
    assert [item["parsed"] for item in found["per_item"]][len(right) + len(wrong) :] == [None] * 9
    assert found["metrics"]["match_rate"] == pytest.approx(100 * 11 / 20)
    assert found["metrics"]["overall"] == pytest.approx(100 * 8 / 20)


def test_the_whole_gold_line_is_right_even_without_a_letter(scored):
    asked = {"question": "Where?\nupward\ndownward", "answer": "downward"}
    _, correct = correct_of(scored, "multi_choice", asked, ["downward", "upward"])
    assert correct == [True, False]


def test_yes_no_is_what_the_reply_begins_with(scored):
    answers = ["No.", "no", "Not sure", "Now it is", "NO</s>", "Yes", "It is no", "", None]
    found, correct = correct_of(scored, "yes_no", YES_NO, answers)
    assert correct == [True] * 5 + [False] * 4
    parsed = [item["parsed"] for item in found["per_item"]]
    assert parsed == ["no"] * 5 + ["yes", None, None, None]
    assert found["metrics"]["match_rate"] == pytest.approx(100 * 6 / 9)


@pytest.mark.parametrize(
    ("asked", "answer", "parsed", "correct"),
    [
        (CAPTIONS, "Caption A: a cat sits", "Caption A: a cat sits", True),
        (CAPTIONS, "a cat sits", "a cat sits", True),
        (CAPTIONS, "(A) a cat sits", "a cat sits", True),
        (CAPTIONS, "Caption A", "Caption A", True),
        (CAPTIONS, "Caption A.", "Caption A", True),
        (CAPTIONS, "A", "A", True),
        (CAPTIONS, "A.", "A", True),
        (CAPTIONS, " A</s>", "A", True),
        (CAPTIONS, "B", "B", False),
        # A sentence ends at its first ": ".
        (CAPTIONS, "a dog runs", "a dog runs", False),
        (CAPTIONS, "a dog runs: fast", None, False),
        (CAPTIONS, "Caption A: a cat", None, False),
        (CAPTIONS, "(A)", None, False),
        (CAPTIONS, "a", None, False),
        (CAPTIONS, "", None, False),
        (OPTIONS, "2", "2", True),
        (OPTIONS, "Option 2", "Option 2", True),
        (OPTIONS, "Option 1: a cat", "Option 1: a cat", False),
        (OPTIONS, "1", "1", False),
    ],
)
def test_caption_matching(scored, asked, answer, parsed, correct):
    found, _ = correct_of(scored, "caption_matching", asked, [answer])
    (item,) = found["per_item"]
    assert item == {
        **{"id": 0, "groups": ["aspect/direction"]},
        **{"parsed": parsed, "correct": correct},
    }


def test_of_several_matches_the_last_counts(scored):
    # The reply is the sentence of the first caption and the label of the second.
    asked = {
        "question": "Which?\nSentence A: B\nSentence B: a dog",
        "answer": "Sentence B: a dog",
    }
    found, correct = correct_of(scored, "caption_matching", asked, ["B"])
    assert correct == [True]
    assert found["per_item"][0]["parsed"] == "B"


def test_captions_wait_for_a_judge_unless_there_is_none(scored):
    found, correct = correct_of(scored, "captioning", MC, ["A kite falls.", "", "</s>", None])
    assert correct == [None, False, False, False]
    assert found["unscored"] == [0]
    assert found["metrics"] == {"answered": 25}


@pytest.mark.parametrize(
    ("judgement", "is_right"),
    [
        ("Reasoning: it falls.\nAnswer: B. downward", True),
        ("B. downward", True),
        ("Answer: B. downward or C. leftward", False),
        ("Answer: A. upward", False),
        ("Answer: downward", False),
        ("Answer: None of the choices are correct", False),
        ("Answer: A. upward\nAnswer: B. downward", True),
    ],
)
def test_a_judge_names_exactly_the_right_line(judgement, is_right):
    assert tempcompass.judge_chose_right(judgement, gold="B. downward") is is_right


def test_overall_is_pooled_over_questions_not_aspects(scored):
    records = {
        "1": {"direction": [YES_NO, YES_NO, YES_NO], "order": [YES_NO]},
        "2": {"direction": [YES_NO]},
    }
    found = scored("tempcompass_yes_no", records, ["no", "no", "no", "yes", "no"])
    assert found["metrics"] == {
        **{"overall": 80, "aspect/direction": 100, "aspect/order": 0, "match_rate": 100}
    }
    assert [item["id"] for item in found["per_item"]] == [0, 1, 2, 3, 4]


def test_fine_aspects_come_from_the_authors_meta_file(scored, tmp_path):
    meta = {"1": {"eval_dim": {"direction": {"type": "object motion"}, "order": {}}}}
    (tmp_path / "meta_info.json").write_text(json.dumps(meta))
    records = {"1": {"direction": [YES_NO], "order": [YES_NO]}, "2": {"direction": [YES_NO]}}
    found = scored(
        "tempcompass_yes_no", records, ["no", "yes", "yes"], name="questions/yes_no.json"
    )
    assert found["metrics"]["fine_aspect/object motion"] == 100
    assert found["metrics"]["fine_aspect/order"] == 0
    assert found["metrics"]["aspect/direction"] == 50


def test_rows_of_the_hub_are_the_same_questions(scored):
    rows = [
        {**YES_NO, "video_id": "1", "dim": "speed"},
        {**YES_NO, "video_id": "1", "dim": "order"},
    ]
    found = scored("tempcompass_yes_no", rows, ["no", "yes"])
    assert found["metrics"]["aspect/speed"] == 100
    assert found["metrics"]["aspect/order"] == 0


@pytest.mark.parametrize(
    ("task", "asked", "sentence"),
    [
        ("yes_no", {**YES_NO, "answer": "maybe"}, "field 'answer' is 'maybe'"),
        ("multi_choice", {"question": "?"}, "field 'answer' is missing"),
        ("caption_matching", MC, "field 'question' is"),
        ("caption_matching", {**CAPTIONS, "answer": "A"}, "the whole line of an option"),
    ],
)
def test_a_bad_record_is_named(scored, task, asked, sentence):
    with pytest.raises(InputError, match=f"record 0: .*{sentence}|{sentence}"):
        scored(f"tempcompass_{task}", nested(asked), [])


def test_a_bad_file_or_aspect_is_named(scored):
    for records in ({"1": []}, {"1": {"order": {}}}, {"1": {"order": ["x"]}}):
        with pytest.raises(InputError, match="clip '1': expected aspects"):
            scored("tempcompass_yes_no", records, [])
    with pytest.raises(InputError, match="field 'dim' is 'colour'"):
        scored("tempcompass_yes_no", nested(YES_NO, aspect="colour"), [])


@pytest.mark.parametrize(
    ("task", "asked", "ending"),
    [
        (tempcompass.MULTI_CHOICE, MC, "\nPlease directly give the best option:"),
        (tempcompass.CAPTION_MATCHING, CAPTIONS, "\nPlease directly give the best option:"),
        (tempcompass.YES_NO, YES_NO, "\nPlease answer yes or no:"),
        (tempcompass.CAPTIONING, MC, ""),
    ],
)
def test_prompts(tmp_path, task, asked, ending):
    file = tmp_path / "a.json"
    file.write_text(json.dumps(nested(asked)))
    (question,) = task.read(file)
    assert task.prompt(question, "official").text == asked["question"] + ending
    assert question.video == "1000000001.mp4"

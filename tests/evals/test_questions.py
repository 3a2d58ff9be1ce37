"""Tests the benchmark `questions`: its format, prompts, scores, and mistakes in its files."""

import contextlib
import json
import random

import pytest

from vxlpro_jax.evals.benchmarks.questions import QUESTIONS, find_option
from vxlpro_jax.utils.errors import InputError

CHOICE = {"video": "a.mp4", "question": "Which?", "options": ["a goat", "two cats"]}
RECORDS = [
    {**CHOICE, "answer": "two cats", "group": "animals"},
    {**CHOICE, "answer": "A", "group": "animals"},
    {"image": "b/c.png", "question": "What is it?", "answer": "A red Ball.", "id": "ball"},
    {"video": "a.mp4", "question": "When?", "spans": [[1, 3], [5, 7]], "group": "time"},
]


def read(tmp_path, records, *, name="own.json"):
    file = tmp_path / name
    text = records if isinstance(records, str) else json.dumps(records)
    file.write_text(text)
    return QUESTIONS.read_unique(file)


def test_letters_texts_and_spans_are_scored_overall_and_by_group(scored):
    answers = {0: "B. two cats", 1: "(B)", "ball": " a RED ball!", 3: "1s to 3s and 5s to 6s"}
    found = scored("questions", RECORDS, answers)
    assert [item["correct"] for item in found["per_item"]] == [True, False, True, True]
    assert [item["parsed"] for item in found["per_item"]] == [
        *("B", "B", "a red ball", [[1, 3], [5, 6]])
    ]
    assert found["per_item"][3]["iou"] == pytest.approx(3 / 4)
    assert found["metrics"] == {
        **{"overall": 75, "group/animals": 50, "group/time": 100, "mIoU": pytest.approx(75)},
        **{"R1@0.3": 100, "R1@0.5": 100, "R1@0.7": 100},
    }


def test_metrics_of_spans_are_there_only_with_spans(scored):
    assert scored("questions", RECORDS[:1], ["B"])["metrics"] == {
        "overall": 100,
        "group/animals": 100,
    }


def test_lists_and_lines_are_read_alike(tmp_path):
    lines = "\n".join(map(json.dumps, RECORDS))
    assert read(tmp_path, lines, name="own.jsonl") == read(tmp_path, RECORDS)


def test_prompts_are_the_questions_with_their_options(tmp_path):
    choice, _, text, when = (
        QUESTIONS.prompt(question, "official").text for question in read(tmp_path, RECORDS)
    )
    assert choice == (
        "Which?\nA. a goat\nB. two cats\n"
        "Answer with the option's letter from the given choices directly."
    )
    assert (text, when) == ("What is it?", "When?")


def test_videos_and_pictures_are_told_apart(tmp_path):
    questions = read(tmp_path, RECORDS)
    assert [question.is_image for question in questions] == [False, False, True, False]
    assert questions[2].video == "b/c.png"


@pytest.mark.parametrize(
    ("reply", "letter"),
    [
        ("B", "B"),
        ("B.", "B"),
        ("(B)", "B"),
        ("B) two cats", "B"),
        (" B: two cats", "B"),
        ("B\nbecause", "B"),
        ("two cats", "B"),
        ("Two cats.", "B"),
        ("A goat", "A"),
        ("a goat", "A"),
        ("The answer is B.", "B"),
        ("The correct option: (B)", "B"),
        ("Answer: B", "B"),
        ("Not option A, but option B.", "B"),
        ("The answer is a goat", None),
        ("Cat", None),
        ("C", None),
        ("b", None),
        ("", None),
    ],
)
def test_the_option_that_a_reply_names(reply, letter):
    assert find_option(reply, options=("a goat", "two cats")) == letter


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"video": None}, "field 'video' is None: expected a path here or in 'image'"),
        ({"image": "b.png"}, "field 'video' is 'a.mp4': expected a path here or in 'image'"),
        ({"video": "../a.mp4"}, r"'video' is '\.\./a\.mp4': expected a path relative to --videos"),
        ({"video": "/a.mp4"}, "expected a path relative to --videos and inside it"),
        ({"video": "c:\\a.mp4"}, "expected a path relative to --videos and inside it"),
        ({"video": "http://a/b.mp4"}, "expected a path relative to --videos and inside it"),
        ({"video": "a\0.mp4"}, "expected a path relative to --videos and inside it"),
        ({"video": 5}, "field 'video' is 5: expected text"),
        ({"question": ""}, "field 'question' is '': expected text"),
        ({"question": None}, "field 'question' is None: expected text"),
        ({"options": ["a goat"]}, "field 'options' is .*: expected 2 to 26"),
        ({"options": ["a goat", "A goat."]}, "that differ in more than punctuation"),
        ({"options": "ab"}, "field 'options' is 'ab': expected a non-empty list"),
        ({"options": ["B", "A"], "answer": "A"}, "but not two different ones"),
        ({"answer": "a horse"}, "field 'answer' is 'a horse': expected one of the options"),
        ({"answer": "C"}, "field 'answer' is 'C': expected one of the options"),
        ({"answer": True}, "field 'answer' is True: expected a number"),
        ({"answer": None}, "'answer' is None: expected the right answer here or in 'spans'"),
        ({"answer": "?!", "options": None}, "expected a text that is more than punctuation"),
        ({"spans": [[1, 2]]}, "expected the right answer here or in 'spans', not both"),
        ({"answer": None, "spans": [[1, 2]]}, "'options' is .*: expected none, since the answer"),
        ({"group": 5}, "field 'group' is 5: expected text"),
        ({"id": [1]}, r"field 'id' is \[1\]: expected text or an integer"),
    ],
)
def test_a_wrong_field_is_named_with_file_and_record(tmp_path, change, sentence):
    with pytest.raises(InputError, match=rf"own\.json, record 1: .*{sentence}"):
        read(tmp_path, [RECORDS[0], {**RECORDS[0], **change}])


@pytest.mark.parametrize(
    "spans", [[], [1, 2], [[1]], [[3, 1]], [[1, 1]], [[-1, 2]], [["1", "2"]], [[1, 1e999]], "1-2"]
)
def test_spans_are_pairs_of_seconds(tmp_path, spans):
    record = {"video": "a.mp4", "question": "When?", "spans": spans}
    with pytest.raises(InputError, match=r"own\.json, record 0: field 'spans' is"):
        read(tmp_path, [record])


def test_a_broken_line_is_named(tmp_path):
    with pytest.raises(InputError, match=r"own\.jsonl are not JSON .*line 2"):
        read(tmp_path, json.dumps(RECORDS[0]) + "\n{", name="own.jsonl")
    with pytest.raises(InputError, match="id 'x' occurs twice"):
        read(tmp_path, [{**RECORDS[0], "id": "x"}] * 2)


def read_or_refuse(tmp_path, records):
    """Returns the first question, or None if an error that names the file refuses it."""
    with contextlib.suppress(InputError):
        return read(tmp_path, records)[0]
    with pytest.raises(InputError, match=r"own\.json"):
        read(tmp_path, records)
    return None


VALUES = [
    *(None, True, 0, -1, 1e999, "", " ", "A", "..", "a\0b", [], [[]], {}, [1, 2], [[1, 2]]),
    *([["a"]], ["a", "b"], [None], "x" * 10_000, "\ud800", 10**400, [[0, 10**400]]),
]


def test_any_field_of_any_kind_is_read_or_refused(tmp_path):
    """Fuzzing: a thousand records with fields of the wrong type, and replies of all types."""
    rng = random.Random(0)
    refused = 0
    for _ in range(1000):
        record = dict(rng.choice(RECORDS))
        for _ in range(rng.randint(1, 3)):
            field = rng.choice([*RECORDS[0], "image", "spans", "id", "unknown"])
            record[field] = rng.choice(VALUES)
        question = read_or_refuse(tmp_path, [record])
        if question is None:
            refused += 1
            continue
        for reply in ("A", "", "1 to 2", "x" * 100, "9" * 400, str(rng.random())):
            score = QUESTIONS.score(question, reply, "official")
            json.dumps(score._asdict(), allow_nan=False)
        assert QUESTIONS.prompt(question, "official").text
    assert 300 < refused < 1000


def test_any_text_is_read_or_refused(tmp_path):
    """Fuzzing: a file with bytes removed, doubled or changed."""
    rng = random.Random(0)
    whole = json.dumps(RECORDS)
    for _ in range(500):
        at = rng.randrange(len(whole))
        text = whole[:at] + rng.choice(["", whole[at] * 2, '"', "{", "}", "\\", "\0"])
        read_or_refuse(tmp_path, text + whole[at + rng.randint(0, 2) :])

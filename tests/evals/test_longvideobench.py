"""Tests LongVideoBench: letters, guesses, and both published forms of records."""

import json

import pytest

from vxlpro_jax.evals.benchmarks import longvideobench
from vxlpro_jax.utils.errors import InputError


def record(number=0, *, right=1, options=4, group=15, category="T2E"):
    fields = {"id": f"v_{number}", "video_path": "v.mp4", "question": "Which?"}
    fields |= {"duration_group": group, "question_category": category, "correct_choice": right}
    return {**fields, "candidates": [f"option {i}" for i in range(options)]}


def score_answers(scored, answers, **fields):
    records = [record(i, **fields) for i in range(len(answers))]
    return scored("longvideobench", records, {f"v_{i}": a for i, a in enumerate(answers)})


@pytest.mark.parametrize(
    ("answer", "parsed"),
    [
        ("B", "B"),
        ("D. A book", "D"),
        ("The best option is B", "B"),
        ("Best answer: C", "C"),
        ("Best option: C", "C"),
        ("Answer: B", "A"),
        ("e", None),
        ("", None),
    ],
)
def test_first_letter_after_the_phrases(scored, answer, parsed):
    assert score_answers(scored, [answer])["per_item"][0]["parsed"] == parsed


def test_e_is_read_even_where_there_are_four_options(scored):
    found = score_answers(scored, ["E or B"])["per_item"][0]
    assert (found["parsed"], found["correct"]) == ("E", False)
    assert score_answers(scored, ["E"], options=5, right=4)["per_item"][0]["correct"]


def test_unparsed_is_wrong_and_a_guess_in_expectation(scored):
    found = score_answers(scored, ["B", "A", "", None])
    assert found["metrics"]["overall"] == 25
    assert found["metrics"]["overall_expected"] == pytest.approx(100 * (1 + 0 + 0.25 + 0.25) / 4)
    three = score_answers(scored, [""], options=3)["metrics"]
    assert three["overall_expected"] == pytest.approx(100 / 3)


def test_overall_counts_questions_once(scored):
    records = [record(0), record(1, group=3600, category="SSS"), record(2, group=3600)]
    found = scored("longvideobench", records, {"v_0": "B", "v_1": "B", "v_2": "C"})["metrics"]
    assert found == pytest.approx(
        {
            "overall": 200 / 3,
            "duration/15": 100,
            "category/T2E": 50,
            "duration/3600": 50,
            "category/SSS": 100,
            "overall_expected": 200 / 3,
        }
    )


def test_withheld_answers_stay_unscored(scored):
    nameless = record(2)
    del nameless["correct_choice"]
    records = [record(0), record(1, right=-1), nameless]
    found = scored("longvideobench", records, dict.fromkeys(("v_0", "v_1", "v_2"), "B"))
    assert found["unscored"] == ["v_1", "v_2"]
    assert found["metrics"]["overall"] == 100


def with_options(**fields):
    row = record()
    del row["candidates"]
    options = {f"option{i}": f"option {i}" if i < 3 else "N/A" for i in range(5)}
    return {**row, **options, **fields}


def test_rows_with_numbered_options_are_the_same_question(tmp_path):
    file = tmp_path / "a.json"
    file.write_text(json.dumps([with_options(), record(options=3)]))
    first, second = longvideobench.LONGVIDEOBENCH.read(file)
    assert first == second
    assert longvideobench.LONGVIDEOBENCH.prompt(first, "official").text == (
        "Which?\nA. option 0\nB. option 1\nC. option 2\n"
        "Answer with the option's letter from the given choices directly.\n"
    )


def test_a_right_choice_that_is_no_option_is_named(scored):
    with pytest.raises(InputError, match="record 0: field 'correct_choice' is 3"):
        scored("longvideobench", [with_options(correct_choice=3)], {})


def test_author_frames():
    # 10.5 s at 25 fps are 262 frames; a limit of 4 takes every 65th, a limit of 100 takes ten.
    indices = longvideobench.frame_indices(duration=10.5, fps=25, max_frames=4)
    assert indices == [0, 65, 130, 195]
    indices = longvideobench.frame_indices(duration=10.5, fps=25, max_frames=100)
    assert indices == [26 * i for i in range(10)]

"""Tests VNBench: letters, four tries, and means over types."""

import json

import pytest

from vxlpro_jax.evals.benchmarks import vnbench
from vxlpro_jax.utils.errors import InputError


def tries(video, *, kind="cnt_edit1", gold="CACB", count=4):
    return [
        {
            **{"video": f"./VNBench/{video}.mp4", "question": "How many?", "type": kind, "try": i},
            **{"options": [2, 5, 3, 4], "gt": 3, "gt_option": gold[i], "needle_time": [4]},
        }
        for i in range(count)
    ]


@pytest.mark.parametrize(
    ("answer", "parsed"),
    [
        ("C", "C"),
        ("C. A dog", "C"),
        ("(C) A dog", "A"),
        ("Answer: B", "A"),
        ("DCB", "B"),
        ("c", None),
        ("", None),
        (". C", None),
        (None, None),
    ],
)
def test_first_in_the_alphabet_before_the_first_full_stop(scored, answer, parsed):
    found = scored("vnbench", tries("a", gold="CCCC"), {0: answer})["per_item"][0]
    assert (found["parsed"], found["correct"]) == (parsed, parsed == "C")


def test_all_four_tries_must_be_right(scored):
    records = [*tries("a"), *tries("b")]
    found = scored("vnbench", records, [*"CACB", *"CACA"])
    assert found["metrics"] == {"overall": 50, "group/cnt": 50, "type/cnt_edit1": 50}
    assert [item["correct"] for item in found["per_item"]] == [True] * 7 + [False]


def test_tries_of_a_video_need_not_stand_together(scored):
    records = [one for pair in zip(tries("a"), tries("b"), strict=True) for one in pair]
    answers = [letter for pair in zip("CACB", "CACA", strict=True) for letter in pair]
    assert scored("vnbench", records, answers)["metrics"]["overall"] == 50


def test_fewer_than_four_tries_are_never_right(scored):
    assert scored("vnbench", tries("a", count=3), [*"CAC"])["metrics"]["overall"] == 0


def test_empty_answers_are_wrong_and_counted(scored):
    found = scored("vnbench", [*tries("a"), *tries("b")], {i: "CACB"[i] for i in range(4)})
    assert found["metrics"]["overall"] == 50
    assert found["counts"]["empty"] == 4
    assert scored("vnbench", tries("a"), [None] * 4)["metrics"]["overall"] == 0


def test_overall_is_the_mean_over_types_as_they_stand(scored):
    # Files of the type ret_insert1 are named ret_insert2; the type is what counts.
    records = [
        *tries("a_ret_insert2", kind="ret_insert1"),
        *tries("b_ret_insert2", kind="ret_insert1"),
        *tries("c_ret_edit1", kind="ret_edit1"),
        *tries("d_ord", kind="ord_edit1"),
    ]
    answers = [*"CACB", *"AAAA", *"CACB", *"AAAA"]
    assert scored("vnbench", records, answers)["metrics"] == pytest.approx(
        {
            **{"overall": 50, "group/ret": 75, "group/ord": 0},
            **{"type/ret_insert1": 50, "type/ret_edit1": 100, "type/ord_edit1": 0},
        }
    )


def test_gold_may_be_a_place(scored):
    records = tries("a", gold=[2, 0, 2, 1])
    assert scored("vnbench", records, [*"CACB"])["metrics"]["overall"] == 100


def test_prompt_and_a_bad_record(tmp_path, scored):
    file = tmp_path / "a.json"
    file.write_text(json.dumps(tries("a")))
    assert vnbench.VNBENCH.prompt(vnbench.VNBENCH.read(file)[0], "official").text == (
        "How many?\nA. 2\nB. 5\nC. 3\nD. 4\n"
        "Answer with the option's letter from the given choices directly."
    )
    with pytest.raises(InputError, match="record 0: field 'gt_option' is 'E'"):
        scored("vnbench", tries("a", gold="EEEE"), [])

"""Tests Video-MME: letters, denominators, prompts with and without subtitles."""

import json

import pytest

from vxlpro_jax.evals.benchmarks import videomme
from vxlpro_jax.utils.errors import InputError

OPTIONS = ["A. One.", "B. Two.", "C. Four.", "D. Six."]


def record(number=0, *, answer="B", duration="short", **fields):
    names = {"domain": "Knowledge", "sub_category": "Law", "task_type": "Counting Problem"}
    return {
        **{"question_id": f"905-{number}", "videoID": "abc", "question": "How many tents?"},
        **{"options": OPTIONS, "answer": answer, "duration": duration, **names, **fields},
    }


def score_answers(scored, answers, *, profile="official", gold="B", benchmark="videomme"):
    records = [record(i, answer=gold) for i in range(len(answers))]
    given = {f"905-{i}": answer for i, answer in enumerate(answers)}
    return scored(benchmark, records, given, profile=profile)


@pytest.mark.parametrize(
    ("answer", "official", "legacy"),
    [
        ("B", "B", "B"),
        ("(C) x", "C", "C"),
        ("b", None, None),
        ("", None, None),
        ("Based on the video, the answer is C.", "B", "B"),
        ("The answer is C", "C", "C"),
        ("Answer: C", "C", "A"),
        ("Option: D", "D", "D"),
        ("The correct answer C", "C", "C"),
        # "The best option is" is joined to the next phrase and is therefore not deleted.
        ("The best option is D", "D", "D"),
        ("Best answer: C", "B", "B"),
        ("Best answer:Best option:", None, None),
        ("E", None, None),
        ("none of the many words in this long reply is a capital letter", None, None),
    ],
)
def test_first_letter_after_the_phrases(scored, answer, official, legacy):
    for profile, parsed in (("official", official), ("legacy2025", legacy)):
        found = score_answers(scored, [answer], profile=profile)
        assert found["per_item"][0]["parsed"] == parsed


def test_unparsed_leaves_the_official_denominator_and_is_wrong_in_lmms_eval(scored):
    answers = ["B", "C", "no idea", None]
    found = score_answers(scored, answers)
    assert found["metrics"]["overall"] == 50
    assert [item["correct"] for item in found["per_item"]] == [True, False, None, None]
    assert found["counts"] == {"items": 4, "empty": 1, "unparsed": 2, "unscored": 0}
    legacy = score_answers(scored, answers, profile="legacy2025")
    assert legacy["metrics"]["overall"] == 25
    assert [item["correct"] for item in legacy["per_item"]] == [True, False, False, False]


def test_nothing_parsed_is_nought(scored):
    assert score_answers(scored, ["x", "y"])["metrics"]["overall"] == 0


def test_groups_are_pooled_over_their_questions(scored):
    records = [
        record(0),
        record(1),
        record(2, duration="long", domain="Life Record", sub_category="Travel"),
        record(3, duration="long", task_type="OCR Problems"),
    ]
    answers = {"905-0": "B", "905-1": "B", "905-2": "A", "905-3": "?"}
    found = scored("videomme_subtitles", records, answers)["metrics"]
    assert found == pytest.approx(
        {
            "overall": 200 / 3,
            "duration/short": 100,
            "duration/long": 0,
            "domain/Knowledge": 100,
            "domain/Life Record": 0,
            "sub_category/Law": 100,
            "sub_category/Travel": 0,
            "task/Counting Problem": 200 / 3,
            "task/OCR Problems": 0,
        }
    )


def read_one(tmp_path):
    file = tmp_path / "a.json"
    file.write_text(json.dumps([record()]))
    return videomme.VIDEOMME.read(file)[0]


LISTED = "How many tents?\nA. One.\nB. Two.\nC. Four.\nD. Six.\n"
OFFICIAL = (
    "Select the best answer to the following multiple-choice question based on the video. Respond"
    " with only the letter (A, B, C, or D) of the correct option.\n"
)
LEGACY = OFFICIAL.replace("the video.", "the video and the subtitles.")


def test_prompts_without_subtitles(tmp_path):
    question = read_one(tmp_path)
    assert question.video == "abc.mp4"
    assert (
        videomme.VIDEOMME.prompt(question, "official").text
        == f"{OFFICIAL}{LISTED}The best answer is:"
    )
    assert videomme.VIDEOMME.prompt(question, "legacy2025").text == (
        f"{LEGACY}{LISTED}\nAnswer with the option's letter from the given choices directly."
    )


def test_prompts_with_subtitles(tmp_path):
    question = read_one(tmp_path)
    asked = videomme.WITH_SUBTITLES.subtitled_prompt(question, "official", subtitles="hello\nthere")
    assert asked.text == (
        "This video's subtitles are listed below:\nhello\nthere\n"
        f"{OFFICIAL}{LISTED}The best answer is:"
    )
    asked = videomme.WITH_SUBTITLES.subtitled_prompt(
        question, "legacy2025", subtitles="hello\nthere"
    )
    assert asked.text == (
        "This video's subtitles are listed below: \nhello\nthere\n"
        f"{LEGACY}{LISTED}The best answer is:"
    )


def test_a_bad_record_is_named(scored):
    with pytest.raises(InputError, match="record 0: field 'duration' is 'brief': expected one of"):
        scored("videomme", [record(duration="brief")], {})


def test_the_authors_results_file_nests_questions_in_videos(scored):
    video = {key: record()[key] for key in ("duration", "domain", "sub_category")}
    names = ("question_id", "task_type", "question", "options", "answer")
    asked = [{key: record(i)[key] for key in names} for i in range(2)]
    records = [{**video, "video_id": "905", "questions": asked}]
    found = scored("videomme", records, {"905-0": "B", "905-1": "A"})
    assert found["metrics"]["task/Counting Problem"] == 50
    with pytest.raises(InputError, match="record 0: field 'questions' is"):
        scored("videomme", [{**video, "video_id": "905", "questions": ["x"]}], {})

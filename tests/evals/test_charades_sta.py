"""Tests Charades-STA: both parsers case by case, duplicates, IoU at the thresholds."""

import json

import pytest

from vxlpro_jax.evals.benchmarks import charades_sta as sta
from vxlpro_jax.utils.errors import InputError


def query(start=2.0, end=6.0, *, caption="person sits.", video="A.mp4"):
    return {"video": video, "caption": caption, "timestamp": [start, end]}


@pytest.mark.parametrize(
    ("answer", "legacy", "official"),
    [
        ("The event happens in the 24.3 - 30.4 seconds.", (24.3, 30.4), (24.3, 30.4)),
        ("from 3 to 9", (3, 9), (3, 9)),
        ("from 3s to 9s.", None, (3, 9)),
        ("1:05 - 1:20", (1, 5), (65, 80)),
        ("1:00:05 - 1:00:20", (1, 5), (3605, 3620)),
        ("start 00:00:18\nend 00:00:23", (0, 0), (18, 23)),
        ("starts at 00:00:18 and ends at 00:00:23", None, (18, 23)),
        ("9.0 - 3.0", (3, 9), (3, 9)),
        ("-3 - 5", (3, 5), (3, 5)),
        ("3 \u2013 9", None, (3, 9)),
        ("It starts at 4.5 seconds and ends at 10 seconds.", None, None),
        ("It starts at 4.5 seconds.\nIt ends at 10 seconds.", (4.5, 10), (4.5, 10)),
        ("start: 2.6s\nend: 9", (2, 9), (2, 9)),
        ("It starts at 4.5! It ends at 10?", (4.5, 10), (4.5, 10)),
        ("Starts at 4. Ends at 10.", None, None),
        # Without a keyword, only the newer parser looks at sentences.
        ("4\n10", None, (4, 10)),
        ("between 4 and\n10 - 12", (10, 12), (10, 12)),
        ("10 - 12\nit happens in 3 - 5", (10, 12), (3, 5)),
        ("1 - 2, then 5 - 9", (1, 2), (1, 2)),
        ("A specific example is : 20.8 - 30.0 seconds\n1 - 2", (1, 2), (1, 2)),
        ("tomorrow 3 stop 5", None, None),  # "to" becomes "-" even inside words.
        ("2 sto 5", None, (2, 5)),
        ("9. - 12.", (9, 12), None),
        ("5 - 9..", None, (5, 9)),
        ("12.5-", None, None),
        ("", None, None),
        ("no idea", None, None),
    ],
)
def test_parsers(answer, legacy, official):
    assert sta.parse_legacy(answer) == legacy
    assert sta.parse_official(answer) == official


def test_iou_is_over_the_hull_and_thresholds_are_inclusive(scored):
    records = [query(0, 10, caption=str(i)) for i in range(4)]
    # IoUs: exactly 0.5 and 0.7, 0.3 inside a longer answer, and disjoint.
    answers = ["0 - 5", "0 - 7", "7 - 17", "20 - 30"]
    found = scored("charades_sta", records, answers)
    assert [item["iou"] for item in found["per_item"]] == pytest.approx([0.5, 0.7, 3 / 17, 0])
    metrics = found["metrics"]
    assert (metrics["R1@0.3"], metrics["R1@0.5"], metrics["R1@0.7"]) == (50, 50, 25)
    assert metrics["mIoU"] == pytest.approx(100 * (0.5 + 0.7 + 3 / 17) / 4)
    assert [item["correct"] for item in found["per_item"]] == [True, True, False, False]


@pytest.mark.parametrize("profile", ["official", "legacy2025"])
def test_queries_without_a_span_stay_in_the_denominator(scored, profile):
    records = [query(caption="a"), query(caption="b")]
    found = scored("charades_sta", records, ["2 - 6", "no idea"], profile=profile)
    assert found["metrics"]["mIoU"] == 50
    assert found["per_item"][1]["parsed"] is None
    assert found["counts"]["unparsed"] == 1


def test_an_empty_hull_is_nought(scored):
    assert scored("charades_sta", [query(5, 5)], ["5 - 5"])["metrics"]["mIoU"] == 0


def test_nothing_is_clamped_and_reversed_spans_are_turned(scored):
    found = scored("charades_sta", [query(2, 6), query(2, 6, caption="b")], ["6 - 2", "2 - 600"])
    assert [item["iou"] for item in found["per_item"]] == pytest.approx([1, 4 / 598])


def test_exact_duplicates_count_once_with_their_last_answer(scored):
    records = [query(), query(caption="other."), query()]
    found = scored("charades_sta", records, ["2 - 6", "2 - 6", "none"])
    assert found["metrics"]["mIoU"] == 50
    assert len(found["per_item"]) == 3


@pytest.mark.parametrize("profile", ["official", "legacy2025"])
def test_infinite_times_are_no_span(scored, profile):
    answers = [f"{'9' * 400} - {'9' * 500}", f"3 - {'9' * 400}"]
    records = [query(), query(caption="b")]
    found = scored("charades_sta", records, answers, profile=profile)
    assert [item["parsed"] for item in found["per_item"]] == [None, None]
    assert found["metrics"]["mIoU"] == 0


def test_robust_measures_stand_beside(scored):
    answer = "It starts at 2 seconds and ends at 6 seconds."
    metrics = scored("charades_sta", [query()], [answer])["metrics"]
    assert (metrics["mIoU"], metrics["robust/mIoU"], metrics["robust/R1@0.7"]) == (0, 100, 100)


def test_the_original_text_file(scored):
    lines = "AB1CD 3.2 9.9##person shuts a laptop.\r\n\nAB1CD 0 4##person\u2028looks.\n\n"
    found = scored("charades_sta", lines, ["3.2 - 9.9", "0 - 2"], name="test.txt")
    assert found["metrics"]["mIoU"] == pytest.approx(75)
    with pytest.raises(InputError, match=r"line 2 is 'AB1CD 3\.2##x'"):
        scored("charades_sta", "A 1 2##a.\nAB1CD 3.2##x", [], name="test.txt")
    with pytest.raises(InputError, match="have no lines"):
        scored("charades_sta", "", [], name="test.txt")


def test_prompt_and_a_bad_record(tmp_path, scored):
    file = tmp_path / "a.json"
    file.write_text(json.dumps([query(caption="person shuts a laptop.")]))
    assert sta.CHARADES_STA.prompt(sta.CHARADES_STA.read(file)[0], "official").text == (
        "Please find the visual event described by a sentence in the video, determining its"
        " starting and ending times. The format should be: 'The event happens in the start time -"
        " end time'. For example, The event 'person turn a light on' happens in the 24.3 - 30.4"
        " seonds. Now I will give you the textual sentence: person shuts a laptop.. Please return"
        " its start time and end time."
    )
    with pytest.raises(InputError, match=r"record 0: field 'timestamp' is \[6, 2\]"):
        scored("charades_sta", [query(6, 2)], [])

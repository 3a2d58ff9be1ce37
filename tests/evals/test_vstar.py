"""Tests V-STaR: spans of exactly two numbers, boxes by second, and the means over rows."""

import json

import pytest

from vxlpro_jax.evals.benchmarks import vstar
from vxlpro_jax.utils.errors import InputError

BOXES = [
    {"timestamp": second, "frame_index": 30 * second, "xmin": 0, "ymin": 0, "xmax": 10, "ymax": 10}
    for second in (12, 13)
]


def row(**fields):
    return {
        **{"vid": "clip_77", "domain": "Sports", "fps": 30.0, "width": 640, "height": 360},
        **{"frame_count": 1800, "question": "What does she throw?", "chain": "<think><think>"},
        **{"object": "ball", "answer": "a ball", "temporal_question": "When does she throw it?"},
        **{"timestamps": [12.0, 17.5], "spatial_question": "Where is it during 12-17.5 s?"},
        **{"spatial_question_2": "Where is it?", "bboxes": BOXES, **fields},
    }


@pytest.mark.parametrize(
    ("answer", "parsed", "iou"),
    [
        ("From 12 to 17.5.", [12, 17.5], 1),
        ("[12.0, 17.5]", [12, 17.5], 1),
        ("12s to 17.5s", None, 0),
        ("12 to 17.5 of 60", None, 0),
        ("00:12 - 00:17", None, 0),
        ("12", None, 0),
        (".5 to 2", [5, 2], 0),
        ("17.5 to 12", [17.5, 12], 0),
        ("14 to 14", [14, 14], 0),
        ("0 to 55", [0, 55], 0.1),
        ("", None, 0),
    ],
)
def test_when_needs_exactly_two_numbers_as_they_stand(scored, answer, parsed, iou):
    found = scored("vstar_when", [row()], [answer])
    assert found["per_item"][0]["parsed"] == parsed
    assert found["per_item"][0]["iou"] == pytest.approx(iou)
    assert found["metrics"]["m_tIoU"] == pytest.approx(100 * iou)


def test_equal_spans_of_no_length_do_not_overlap(scored):
    assert scored("vstar_when", [row(timestamps=[5, 5])], ["5, 5"])["metrics"]["m_tIoU"] == 0


def test_when_counts_every_row_and_groups_by_duration_and_domain(scored):
    records = [
        row(timestamps=[0, 10], frame_count=1799),
        row(timestamps=[0, 10]),
        row(timestamps=[0, 10], frame_count=5399, domain="Cooking"),
        row(timestamps=[0, 10], frame_count=5400, domain="Cooking"),
    ]
    found = scored("vstar_when", records, ["0, 3", "0, 5", "0, 7", None])
    metrics = {key: value for key, value in found["metrics"].items() if "robust" not in key}
    recalls = {name: metrics.pop(name) for name in list(metrics) if name.count("/") == 2}
    assert len(recalls) == 5 * 3
    assert recalls["duration/short/R1@0.3"] == recalls["domain/Sports/R1@0.3"] == 100
    assert [recalls[f"domain/Sports/R1@{least}"] for least in (0.5, 0.7)] == [50, 0]
    assert recalls["domain/Cooking/R1@0.7"] == 50
    assert recalls["duration/long/R1@0.3"] == 0
    assert metrics == pytest.approx(
        {
            **{"m_tIoU": 37.5, "R1@0.3": 75, "R1@0.5": 50, "R1@0.7": 25},
            **{"duration/short": 30, "duration/medium": 60, "duration/long": 0},
            **{"domain/Sports": 40, "domain/Cooking": 35},
        }
    )


@pytest.mark.parametrize(
    ("answer", "iou"),
    [
        ('{"12": [0, 0, 10, 10], "13": [0, 0, 10, 10]}', 1),
        ('```json\n{"12": [0, 0, 10, 10]}\n```\nThat is {it}.', 0.5),
        ("Here: {'12': [0, 0, 10, 5], '13': [0, 0, 5, 10]}", 0.5),
        ('[{"12": [0, 0, 10, 10]}, {"13": [0, 0, 10, 10]}]', 1),
        ("[[12, [0, 0, 10, 10]], [13, [20, 20, 30, 30]]]", 0.5),
        # The best of several boxes counts; a box with reversed sides does not.
        ('{"12": [[0, 0, 10, 5], [0, 0, 10, 10]], "13": [10, 10, 0, 0]}', 0.5),
        # The key of a second must equal the annotated one.
        ('{"12.0": [0, 0, 10, 10], "13": [0, 0, 10, 10]}', 0.5),
        # Brackets are repaired only for objects.
        ('{"12": {"x": 1}, "13": [0, 0, 10, 10], "14": {"y": {}', 0.5),
        ('{"12": [0, 0, 10, 10}', 0),
        ('{"12": [0, 0, 10, 10], "13": {"x": {"y": 1}}', 0.5),
        ("[[12, [0, 0, 10, 10]", 0),
        ('{"12": [0, 0, 10], "13": "0, 0, 10, 10"}', 0),
        ('{"12": null, "13": {"box": [0, 0, 10, 10]}}', 0),
        ("[0, 0, 10, 10]", 0),
        ("{}", 0),
        ("no boxes", 0),
        ("", 0),
        ("[" * 100_000 + "]" * 100_000, 0),
        ("[" * 100_000, 0),
        # The first opening bracket counts, up to the last closing bracket of its kind.
        ('{"12": [0, 0, 10, 10]} [see', 0.5),
        ('see [1]: {"12": [0, 0, 10, 10]}', 0),
        # A box that is not finite is ignored and others count, but none count beside a box of text.
        ('{"12": [NaN, 0, 10, 10], "13": [0, 0, 1e999, 10]}', 0),
        ('{"12": [[0, 0, Infinity, 10], [0, 0, 10, 10]]}', 0.5),
        ('{"12": [[0, 0, 10, 10], ["0", 0, 10, 10]]}', 0),
        ('{"12": [[0, 0, 10], "x", {"y": 1}, [0, 0, 10, 10]]}', 0.5),
        (f'{{"12": [1{"0" * 200}, 0, 1{"0" * 300}, 1{"0" * 200}]}}', 0),
        (f'{{"12": [0, 0, 1{"0" * 400}, 10]}}', 0),
    ],
)
def test_where_reads_boxes_by_second(scored, answer, iou):
    assert scored("vstar_where", [row()], [answer])["metrics"]["m_vIoU"] == pytest.approx(100 * iou)


def test_what_was_parsed_of_boxes_is_json(scored):
    answer = '{"12": [0, 0, 10, 10], "13": [NaN, 1, 2, 3], "14": %s}' % ("[" * 900 + "]" * 900)
    found = scored("vstar_where", [row()], [answer])["per_item"][0]
    assert found["parsed"] == {"12": [0, 0, 10, 10]}


def test_where_means_over_rows_of_means_over_boxes(scored):
    # IoUs: 1 and 0.1; 0.5 and missing; none at all.
    answers = ['{"12": [0, 0, 10, 10], "13": [0, 0, 10, 1]}', '{"12": [0, 0, 10, 5]}', None]
    metrics = scored("vstar_where", [row()] * 3, answers)["metrics"]
    assert metrics == pytest.approx(
        {
            "m_vIoU": 100 * (0.55 + 0.25 + 0) / 3,
            "AP@0.1": 100 * (1 + 0.5 + 0) / 3,
            "AP@0.3": 100 * (0.5 + 0.5 + 0) / 3,
            "AP@0.5": 100 * (0.5 + 0.5 + 0) / 3,
            "AP@0.7": 100 * (0.5 + 0 + 0) / 3,
            "AP@0.9": 100 * (0.5 + 0 + 0) / 3,
            **{
                f"{group}{name}": 100 * (first + second) / 3
                for group in ("duration/medium", "domain/Sports")
                for name, first, second in (
                    *(("", 0.55, 0.25), ("/AP@0.1", 1, 0.5), ("/AP@0.3", 0.5, 0.5)),
                    *(("/AP@0.5", 0.5, 0.5), ("/AP@0.7", 0.5, 0), ("/AP@0.9", 0.5, 0)),
                )
            },
        }
    )


def test_boxes_in_the_form_of_the_readme_and_none_at_all(scored):
    box = {"xmin": 0, "ymin": 0, "xmax": 10, "ymax": 10}
    records = [row(bboxes=[{"12_360": box}, {"13_390": box}]), row(bboxes=[])]
    answer = '{"12": [0, 0, 10, 10], "13": [0, 0, 10, 10]}'
    assert scored("vstar_where", records, [answer, answer])["metrics"]["m_vIoU"] == 50


def test_what_waits_for_a_judge_unless_there_is_no_answer(scored):
    found = scored("vstar_what", [row()] * 4, ["a ball", "", None, "a cat"])
    assert [item["correct"] for item in found["per_item"]] == [None, False, False, None]
    assert found["unscored"] == [0, 3]
    assert found["metrics"] == {"answered": 50}


@pytest.mark.parametrize(
    ("shares", "am", "lgm"),
    [
        ((60.78, 16.67, 6.47), 27.97, 39.51),
        ((54.53, 11.48, 13.59), 26.53, 35.20),
        ((16.36, 0.11, 32.31), 16.26, 19.00),
    ],
)
def test_published_rows_of_am_and_lgm(shares, am, lgm):
    shares = [share / 100 for share in shares]
    assert 100 * vstar.arithmetic_mean(*shares) == pytest.approx(am, abs=0.006)
    assert 100 * vstar.log_geometric_mean(*shares) == pytest.approx(lgm, abs=0.006)


def test_lgm_of_a_perfect_share_is_infinite():
    assert vstar.log_geometric_mean(1.0, 0.5, 0.5) == float("inf")


def read_one(tmp_path, **fields):
    file = tmp_path / "a.json"
    file.write_text(json.dumps([row(**fields)]))
    return vstar.WHAT.read(file)[0]


def test_prompts_of_what_and_when(tmp_path):
    question = read_one(tmp_path, frame_count=1234)
    assert vstar.WHAT.prompt(question, "official").text == (
        "Answer the question about the video: What does she throw? \n (If the answer is a person,"
        " you don't need to identify the person.)"
    )
    assert vstar.WHEN.prompt(question, "official").text == (
        "This video is 41.13 seconds long. Answer the question about the video: When does she"
        " throw it? \n Output the start and end moment timestamps."
    )
    assert vstar.WHEN.other_chains[2].prompt(question, "official").text == (
        "This video is 41.13 seconds long with a resolution of 640x360 (width x height). Answer the"
        " question about the video: When does she throw it? \n There are 2 bounding boxes of the"
        " key object related to the question in the video without knowing the time, which are:"
        "[[0, 0, 10, 10], [0, 0, 10, 10]]. Output the start and end moment timestamps."
    )


def test_prompts_of_where(tmp_path):
    question = read_one(tmp_path, timestamps=[11.2, 13.9])
    first = vstar.WHERE.prompt(question, "official").text.split("\n" + 20 * " ")
    assert first[0] == (
        "Please answer the question about the video: Where is it during 12-17.5 s? with a series of"
        " bounding boxes in [x1, y1, x2, y2] format. \n"
    )
    assert first[1].startswith("For each whole second within the time range [12, 13] provided")
    assert first[2:] == ['Example output: {"12": [x1, y1, x2, y2],...}', ""]
    second = vstar.WHERE.other_chains[2].prompt(question, "official").text.split("\n" + 20 * " ")
    assert "Where is it? with a series" in second[0]
    assert "You only need to output 2 bbox(es)." in second[1]
    assert second[4].startswith('{"0": [x0,y0,x1,y1], "1":..., ..., "2":...} (if the frames at 0~2')


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"timestamps": [1]}, "field 'timestamps' is"),
        ({"fps": 0}, "field 'fps' is 0"),
        ({"bboxes": [{"timestamp": 3}]}, "field 'bboxes' is"),
        ({"bboxes": [5]}, "field 'bboxes' is"),
        ({"bboxes": [{"timestamp": 3, "xmin": "a", "ymin": 0, "xmax": 1, "ymax": 1}]}, "'bboxes'"),
        ({"bboxes": None}, "field 'bboxes' is None"),
    ],
)
def test_a_bad_record_is_named(scored, fields, sentence):
    with pytest.raises(InputError, match=f"record 0: .*{sentence}"):
        scored("vstar_when", [row(**fields)], [])

"""Tests parsing of spans in replies of any wording."""

import pytest

from vxlpro_jax.evals.metrics import temporal_iou
from vxlpro_jax.evals.parsing import TimeSpan, find_span, read_boxes


@pytest.mark.parametrize(
    ("text", "span"),
    [
        ("from 3.5s to 9s.", (3.5, 9)),
        ("The event happens in the 24.3 - 30.4 seonds.", (24.3, 30.4)),
        ("1:05 - 1:20", (65, 80)),
        ("1:00:05 \u2013 1:00:20", (3605, 3620)),
        ("[3.2, 9.1]", (3.2, 9.1)),
        ("between 3.5 sec and 9 sec", (3.5, 9)),
        ("1 - 2 minutes", (60, 120)),
        ("2 minutes 5 seconds to 2 min 20 s", (125, 140)),
        ("It starts at 4.5 seconds and ends at 10 seconds.", (4.5, 10)),
        ('{"start": "00:12", "end": "00:20"}', (12, 20)),
        ("Start: 3\nEnd: 8.25", (3, 8.25)),
        ("at 4 and also at 9", (4, 9)),
        ("The 3rd event is 4 to 9", (4, 9)),
        (".5 to 2", (0.5, 2)),
        ("9 - 3", (3, 9)),
        ("1 - 2 or 5 - 9", (1, 2)),
        ("at 4", None),
        ("1 2 3", None),
        ("12.5-", None),
        ("", None),
        ("no idea", None),
        ("9" * 5000, None),
        (f"{'9' * 5000} min 3 s to 1 s", None),
    ],
)
def test_find_span(text, span):
    assert find_span(text) == span


def test_iou():
    assert temporal_iou((0, 10), None) == 0
    assert temporal_iou((0, 10), TimeSpan(5, 15)) == pytest.approx(1 / 3)
    assert temporal_iou((0, 10), TimeSpan(20, 30)) == 0
    assert temporal_iou((5, 5), TimeSpan(5, 5)) == 0
    # A reversed span is kept, and overlaps nothing.
    assert temporal_iou((2, 10), TimeSpan(9, 3)) == 0


@pytest.mark.parametrize(
    ("reply", "boxes"),
    [
        ('```json\n{"1": [1, 2, 3, 4]}\n```', {"1": [1, 2, 3, 4]}),
        ('[] ```json \n\n{"1": [1, 2, 3, 4]} \n```\n{}', {"1": [1, 2, 3, 4]}),
        ('```json\n[\n```json\n{"1": [1, 2, 3, 4]}\n```', {"1": [1, 2, 3, 4]}),
        (
            '```json\n{"1": [1, 2, 3, 4]}\n```\n```json\n{"2": [1, 2, 3, 4]}\n```',
            {"1": [1, 2, 3, 4]},
        ),
        ('```json {"1": [1, 2, 3, 4]} ```', {"1": [1, 2, 3, 4]}),
    ],
)
def test_boxes_in_a_fence(reply, boxes):
    assert read_boxes(reply) == boxes

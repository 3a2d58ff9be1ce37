"""Numbers in replies of other languages are read completely by every parser of spans."""

# Other scripts are the point here.
# ruff: noqa: RUF001

import pytest

from vxlpro_jax.evals.benchmarks import charades_sta, vstar
from vxlpro_jax.evals.metrics import temporal_iou
from vxlpro_jax.evals.numerals import plain_numbers
from vxlpro_jax.evals.parsing import find_span

SPAN = (24.3, 30.4)
REPLIES = [
    *("事件发生在24.3秒-30.4秒", "24.3秒到30.4秒", "从24.3秒钟至30.4秒钟", "24.3秒～30.4秒"),
    *("24.3秒から30.4秒まで", "24.3초에서 30.4초까지", "с 24,3 по 30,4 секунды", "24.3с - 30.4с"),
    *("24.3 сек. – 30.4 сек.", "٢٤٫٣ - ٣٠٫٤ ثانية", "२४.३ - ३०.४", "２４．３－３０．４"),
    *("24,3 - 30,4", "24,3 – 30,4 s", "24.3″ - 30.4″", "de 24,3 à 30,4"),
    *("24.3\u2212 30.4", "0分24.3秒到0分30.4秒", "在24.3-30.4之间"),
]


@pytest.mark.parametrize("reply", REPLIES)
def test_every_parser_reads_numbers_whole(reply):
    assert find_span(reply) == SPAN
    assert charades_sta.parse_official(reply) == SPAN


@pytest.mark.parametrize("reply", [*REPLIES, "24.3giây đến 30.4giây", "24.3é 30.4é"])
def test_vstar_reads_numbers_whole(reply):
    row = vstar.WHEN.score
    question = type("Question", (), {"span": SPAN})()
    assert row(question, reply, "official").measures["iou"] == temporal_iou(SPAN, SPAN) == 1


@pytest.mark.parametrize(
    "text",
    [
        *("from 3 to 9", "[3,9]", "(3,9)", "3,9", "[3.5,9.2]", "[3,9], [12,15]", "[1,2,3,4]"),
        *("start: 2.6s\nend: 9", "The 3rd, 4th", "1:05 - 1:20", "3, 9", "", "x,y", "à 3"),
    ],
)
def test_other_text_is_unchanged(text):
    assert plain_numbers(text) == text


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("from 1,234 to 1,250", "from 1234 to 1250"),
        ("00:00:24,300 --> 00:00:30,400", "00:00:24.300 --> 00:00:30.400"),
        ("1分5秒 2分", " 65  2 minutes "),
        (f"{'9' * 400}分3秒", f"{'9' * 400} minutes 3 "),
    ],
)
def test_forms_of_numbers(text, plain):
    assert plain_numbers(text) == plain

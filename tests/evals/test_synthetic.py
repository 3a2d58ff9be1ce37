"""Tests the embedded benchmark: its questions, scores, chance levels and command."""

import json

import pytest
from helpers import write_model

from vxlpro_jax import evaluate
from vxlpro_jax.data.synthetic import clips
from vxlpro_jax.evals import synthetic
from vxlpro_jax.inference.engine import Engine

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model folder with random weights."""
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(clips, "SIZES", {"train": 4, "eval": 4})


def test_every_question_is_asked_with_and_without_the_clip(few, folder, tmp_path):
    engine = Engine.load(folder)
    file = clips.synthetic_set(tmp_path).eval
    asked = synthetic.read_samples(file)
    seen, blind = (
        list(ask(engine, asked, keep_ratio=0.9)) for ask in (synthetic.ask, synthetic.ask_blind)
    )
    samples = json.loads(file.read_text())
    for replies in (seen, blind):
        assert [reply.kind for reply in replies] == [sample["kind"] for sample in samples]
        assert [reply.answer for reply in replies] == [
            sample["conversations"][1]["value"] for sample in samples
        ]
    assert [r.reply for r in seen] != [r.reply for r in blind]
    by_question = {}
    for reply in blind:
        by_question.setdefault(reply.question, set()).add(reply.reply)
    assert all(len(replies) == 1 for replies in by_question.values())
    for reply in blind:
        assert reply.reply in {other.answer for other in blind if other.question == reply.question}


@pytest.mark.parametrize(
    ("reply", "answer", "score"),
    [
        ("red", "red", 1),
        ("red ", "red", 0),
        ("", "red", 0),
        ("0.5s to 1.5s", "0.5s to 1.5s", 1),
        ("0.5s to 1.5s", "1.0s to 2.0s", 1 / 3),
        ("0.0s to 3.0s", "1.0s to 2.0s", 1 / 3),
        ("0.5s to 1.0s", "1.0s to 2.0s", 0),
        ("2.0s to 1.0s", "1.0s to 2.0s", 0),
        ("1.0s", "1.0s to 2.0s", 0),
    ],
)
def test_scores(reply, answer, score):
    assert synthetic.score_reply(reply, answer=answer) == pytest.approx(score)


def replies_to(question: str, answers: list[str], *, kind: str) -> list[synthetic.SyntheticReply]:
    return [
        synthetic.SyntheticReply(kind, "clip.mp4", question, answer, "", 0.0, 0)
        for answer in answers
    ]


def test_chance_is_that_of_guessing_by_the_question():
    replies = replies_to("Which?", ["a", "b", "c", "d"] * 3, kind="order")
    replies += replies_to("When?", ["0.0s to 1.0s", "0.5s to 1.5s"], kind="when")
    chance = synthetic.chance(replies)
    assert chance == {"order": pytest.approx(0.25), "when_iou": pytest.approx((1 + 1 / 3) / 2)}


def run(benchmark: str, *, folder, out, cache) -> dict:
    arguments = f"--checkpoint {folder} --benchmark {benchmark} --out {out} --cache_dir {cache}"
    evaluate.main(arguments.split())
    return json.loads((out / "results.json").read_text())


def test_the_command_for_held_out_questions(few, folder, tmp_path, capsys):
    out = tmp_path / "out"
    results = run("embedded", folder=folder, out=out, cache=tmp_path)
    kinds = {"appearance", "count", "order", "direction", "when_iou", "needle"}
    for who in ("accuracy", "blind", "chance"):
        assert results[who].keys() == kinds
        assert all(0 <= figure <= 1 for figure in results[who].values())
    replies = [json.loads(line) for line in (out / "replies.jsonl").read_text().splitlines()]
    assert {reply["run"] for reply in replies} == {"seen", "blind"}
    assert (out / "results.md").read_text() in capsys.readouterr().out

"""The embedded task's questions, asked of a model: scores, blindness, needles, and the command."""

import itertools
import json

import pytest
from helpers import write_model

from vxlpro_jax import evaluate
from vxlpro_jax.data.synthetic import clips, haystacks
from vxlpro_jax.evals import embedded
from vxlpro_jax.inference.engine import Engine


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model folder with random weights."""
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(clips, "SIZES", {"train": 4, "eval": 4})
    monkeypatch.setattr(haystacks, "NEEDLE_FRAMES", (8, 24))
    monkeypatch.setattr(haystacks, "NEEDLE_DEPTHS", (0.0, 1.0))
    monkeypatch.setattr(haystacks, "NEEDLES", 2)


def test_every_question_is_asked_with_and_without_the_clip(few, folder, tmp_path):
    engine = Engine.load(folder)
    file = clips.synthetic_set(tmp_path).eval
    seen, blind = (
        list(embedded.ask(engine, file, keep_ratio=0.9, is_blind=is_blind))
        for is_blind in (False, True)
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
    assert embedded.score(reply, answer=answer) == pytest.approx(score)


def told(question: str, answers: list[str], *, kind: str) -> list[embedded.Reply]:
    return [
        embedded.Reply(kind, "clip.mp4", question, answer, "", 0.0, 0, 0.0) for answer in answers
    ]


def test_chance_is_that_of_guessing_by_the_question():
    replies = told("Which?", ["a", "b", "c", "d"] * 3, kind="order")
    replies += told("When?", ["0.0s to 1.0s", "0.5s to 1.5s"], kind="when")
    chance = embedded.chance(replies)
    assert chance == {"order": pytest.approx(0.25), "when_iou": pytest.approx((1 + 1 / 3) / 2)}


def test_needle_grid_is_the_mean_of_each_cell(tmp_path):
    reply = told("Where?", ["red"], kind="needle")[0]
    cells = itertools.product((8, 32), (0.0, 1.0))
    replies = [
        reply._replace(frames=frames, depth=depth, score=score)
        for frames, depth in cells
        for score in (0.0, float(frames == 8), depth, 1.0)
    ]
    grid = embedded.needle_grid(replies)
    assert {(c["frames"], c["depth"]): c["accuracy"] for c in grid} == {
        (8, 0.0): 0.5,
        (8, 1.0): 0.75,
        (32, 0.0): 0.25,
        (32, 1.0): 0.5,
    }
    embedded.draw_needles(grid, path=tmp_path / "needles.png")
    assert (tmp_path / "needles.png").read_bytes().startswith(b"\x89PNG")


def run(benchmark: str, *, folder, out, cache) -> dict:
    arguments = f"--checkpoint {folder} --benchmark {benchmark} --out {out} --cache {cache}"
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


def test_the_command_for_needles(few, folder, tmp_path, capsys):
    out = tmp_path / "out"
    results = run("needles", folder=folder, out=out, cache=tmp_path)
    places = [(cell["frames"], cell["depth"]) for cell in results["needle_grid"]]
    assert places == [(8, 0.0), (8, 1.0), (24, 0.0), (24, 1.0)]
    assert len((out / "replies.jsonl").read_text().splitlines()) == 8
    assert "| depth | 8 frames | 24 frames |" in capsys.readouterr().out
    assert (out / "needles.png").exists()

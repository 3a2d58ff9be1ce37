"""Tests the command: its questions, its files, and resuming."""

import json
import signal
import time

import pytest
from helpers import MICRO, last_of_each, python

from vxlpro_jax import needle as command
from vxlpro_jax.inference.engine import Engine
from vxlpro_jax.utils.errors import InputError

pytestmark = pytest.mark.slow


@pytest.fixture
def run(micro_folder, film, colour_needles, tmp_path, monkeypatch):
    """Runs the command with a stand-in model; returns its results and its replies."""

    def run(engine, *arguments, mode="mcq", out=tmp_path / "out"):
        monkeypatch.setattr(Engine, "load", lambda _folder, dtype: engine)
        given = {
            "checkpoint": str(micro_folder),
            "out": str(out),
            "mode": mode,
            "haystack": str(film),
            "needles": str(colour_needles),
            "frames": "8,21,40",
            "depths": "0,0.5,1",
            "keep_ratio": "0.5,1",
        }
        flags = [f"--{name}={value}" for name, value in given.items()]
        command.main(last_of_each([*flags, *arguments]))
        lines = (out / "replies-0-of-1.jsonl").read_text().splitlines()
        results = json.loads((out / "results.json").read_text())
        return results, [json.loads(line) for line in lines]

    return run


@pytest.mark.parametrize("mode", ["mcq", "teacher_forced"])
def test_who_sees_all_is_always_right(run, seer, mode, tmp_path, capsys):
    engine = seer()
    results, replies = run(engine, mode=mode)
    assert results["accuracy"] == {"0.5": 1.0, "1": 1.0}
    assert len(replies) == engine.replies == 3 * 3 * 4 * 2
    assert len({(r["frames"], r["depth"], r["needle"], r["keep_ratio"]) for r in replies}) == 72
    # The haystack, and for each needle its group and the last group of 21 frames.
    assert engine.encoded_groups == 10 + 4 * (3 + 5 + 3)
    assert "| 0% | 1.000 | 1.000 | 1.000 |" in capsys.readouterr().out
    assert (tmp_path / "out" / "needle.png").read_bytes().startswith(b"\x89PNG")
    assert len((tmp_path / "out" / "needle.csv").read_text().splitlines()) == 1 + 18


@pytest.mark.parametrize("mode", ["mcq", "teacher_forced"])
def test_who_sees_the_beginning_finds_only_what_lies_there(run, seer, mode):
    results, _ = run(seer(reach=11), mode=mode)
    right = {(cell["frames"], cell["depth"]): cell["accuracy"] for cell in results["grid"]}
    # A model that sees no colour answers A, which is right in one of four cases.
    missed = 0.25 if mode == "mcq" else 0.0
    for (frames, depth), accuracy in right.items():
        assert accuracy == (1.0 if depth * (frames - 1) < 11 else missed)


def test_a_second_start_asks_only_what_is_missing(run, seer, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(seer(dies_after=30))
    kept = tmp_path / "out" / "replies-0-of-1.jsonl"
    whole = kept.read_bytes()
    assert whole.count(b"\n") == 30
    kept.write_bytes(whole[:-9])  # The last line is truncated, so its question is asked again.
    second = seer()
    results, replies = run(second)
    assert second.replies == 72 - 29
    assert len(replies) == 72
    assert results["accuracy"] == {"0.5": 1.0, "1": 1.0}
    third = seer()
    assert run(third) == (results, replies)
    assert third.replies == third.encoded_groups == 0
    # Another length is added to the existing results.
    wider, replies = run(third, "--frames=8,12")
    assert third.replies == 24
    assert {cell["frames"] for cell in wider["grid"]} == {8, 12}
    assert len(replies) == 96


def test_other_settings_need_another_folder(run, seer, tmp_path):
    run(seer(), "--frames=8")
    with pytest.raises(InputError, match=r"with other settings \(mode\): choose another --out"):
        run(seer(), mode="teacher_forced")
    with pytest.raises(InputError, match=r"\(max_context\)"):
        run(seer(), "--max_context=9000")
    with pytest.raises(InputError, match=r"\(keep_stamps\)"):
        run(seer(), "--keep_stamps=touched")
    (tmp_path / "red.png").write_bytes((tmp_path / "blue.png").read_bytes())
    with pytest.raises(InputError, match=r"\(needles\)"):
        run(seer())


def test_a_stopped_run_leaves_results_of_the_lengths_that_are_done(run, seer, tmp_path):
    engine = seer()
    stop = engine.answer

    def answer(encoded, plan, *, options):
        if len(encoded.visual) > 6:  # Of 40 frames.
            raise KeyboardInterrupt
        return stop(encoded, plan, options=options)

    engine.answer = answer
    with pytest.raises(KeyboardInterrupt):
        run(engine)
    lines = (tmp_path / "out" / "needle.csv").read_text().splitlines()[1:]
    assert {line.split(",")[1] for line in lines} == {"8", "21"}
    assert not (tmp_path / "out" / "results.json").exists()
    assert (tmp_path / "out" / "needle.png").exists()
    results, _ = run(seer())
    assert {cell["frames"] for cell in results["grid"]} == {8, 21, 40}


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--depths=0,1.5",), "--depths has 1.5"),
        (("--frames=0,8",), "--frames has 0"),
        (("--keep_ratio=0",), "--keep_ratio has 0"),
        (("--frames=8,41",), "The haystack has 40 frames"),
        (("--haystack=nowhere.mp4",), "nowhere.mp4 does not exist"),
        (("--needles=nowhere.json",), "nowhere.json does not exist"),
    ],
)
def test_what_cannot_be_asked(run, seer, arguments, complaint):
    with pytest.raises(InputError, match=complaint):
        run(seer(), *arguments)


def test_a_context_too_short_for_the_longest_is_told_first(run, seer):
    engine = seer()
    with pytest.raises(InputError, match="context is too short"):
        run(engine, "--max_context=9")
    assert engine.replies == engine.encoded_groups == 0
    run(engine, "--max_context=10")
    assert engine.replies == 72


def test_where_less_is_kept_than_asked_for_is_told(run, seer, caplog):
    run(seer(most_kept=16))
    told = "Of 40 frames only 16 visual tokens are kept instead of 32 (keep ratio 1)"
    [message] = caplog.messages
    assert message.startswith(told)


def test_needles_that_do_not_suit_the_mode(run, seer, write_needles):
    path = write_needles([{"media": "red.png", "question": "Which colour?", "answer": "red"}])
    engine = seer()
    with pytest.raises(InputError, match="has no options and its answer is 'red'"):
        run(engine, f"--needles={path}")
    assert engine.replies == 0


def test_a_killed_process_goes_on(micro_folder, film, tmp_path, capsys):
    """The real model with our own needles is killed after some replies and started again."""
    arguments = [
        *("--checkpoint", micro_folder, "--mode=mcq", "--out", tmp_path / "out"),
        *("--cache_dir", tmp_path, "--haystack", film, "--frames=8,24"),
        *("--depths=0,0.3,0.6,1", "--keep_ratio=0.5,1"),
    ]
    kept = tmp_path / "out" / "replies-0-of-1.jsonl"
    process = python("-m", "vxlpro_jax.needle", *arguments)
    deadline = time.monotonic() + 300
    while not (kept.exists() and kept.read_bytes().count(b"\n") >= 3):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    before = kept.read_text().splitlines()[:3]
    command.main([*map(str, arguments)])
    lines = kept.read_text().splitlines()
    assert lines[:3] == before
    replies = [json.loads(line) for line in lines]
    cells = {(r["frames"], r["depth"], r["needle"], r["keep_ratio"]) for r in replies}
    assert len(replies) == len(cells) == 2 * 4 * 4 * 2
    assert {reply["reply"] for reply in replies} <= {"red", "green", "blue", "yellow"}
    tokens = MICRO.tokens_per_group
    for reply in replies:  # Multiples of 16.
        assert reply["kept"] == int(reply["frames"] / 4 * tokens * reply["keep_ratio"]) // 16 * 16
    assert "keep ratio 0.5, mean" in capsys.readouterr().out

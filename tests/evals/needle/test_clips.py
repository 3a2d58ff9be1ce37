"""Tests the needle test on short synthetic clips, with a real model of random weights."""

import json
import shutil

import pytest
from helpers import last_of_each, write_model

from vxlpro_jax import needle as command
from vxlpro_jax.data.synthetic import haystacks
from vxlpro_jax.evals import synthetic
from vxlpro_jax.evals.needle import clips
from vxlpro_jax.inference.engine import Engine
from vxlpro_jax.utils.errors import InputError

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model folder with random weights."""
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def run(folder, tmp_path, monkeypatch):
    """Runs the command on clips of 8 and 24 frames, two per depth."""
    monkeypatch.setattr(haystacks, "NEEDLE_FRAMES", (8, 24))
    monkeypatch.setattr(haystacks, "NEEDLE_DEPTHS", (0.0, 1.0))
    monkeypatch.setattr(haystacks, "NEEDLES", 2)

    def run(*arguments, out=tmp_path / "out"):
        argv = f"--checkpoint={folder} --mode=clips --out={out} --cache_dir={tmp_path}".split()
        command.main(last_of_each([*argv, *arguments]))
        lines = (out / "replies-0-of-1.jsonl").read_text().splitlines()
        return json.loads((out / "results.json").read_text()), list(map(json.loads, lines))

    return run


def test_every_clip_is_asked_with_every_keep_ratio(run, tmp_path, capsys):
    results, replies = run("--keep_ratio=0.5,1")
    places = [(cell["keep_ratio"], cell["frames"], cell["depth"]) for cell in results["grid"]]
    lengths = [(8, 0.0), (8, 1.0), (24, 0.0), (24, 1.0)]
    assert places == [(ratio, *place) for ratio in (0.5, 1.0) for place in lengths]
    assert results["chance"] == 0.25
    assert len(replies) == 2 * 4 * 2
    assert (tmp_path / "out" / "needle.png").exists()
    assert "| depth | 8 frames | 24 frames |" in capsys.readouterr().out


def test_replies_are_those_to_the_samples_of_the_data_file(run, folder, tmp_path):
    _, replies = run("--keep_ratio=0.5")
    engine = Engine.load(folder)
    samples = synthetic.read_samples(haystacks.needle_set(tmp_path))
    asked = synthetic.ask(engine, samples, keep_ratio=0.5)
    assert [(r["needle"], r["answer"], r["reply"], r["kept"], r["right"]) for r in replies] == [
        (r.video, r.answer, r.reply, r.kept, bool(r.score)) for r in asked
    ]


def test_only_some_lengths_and_a_second_start(run, tmp_path, monkeypatch):
    results, replies = run("--frames=8", "--keep_ratio=1")
    assert {cell["frames"] for cell in results["grid"]} == {8}
    assert len(replies) == 4
    asked = []
    monkeypatch.setattr(clips.ClipTest, "ask", lambda *_, **__: asked.append(1))
    assert run("--frames=8", "--keep_ratio=1") == (results, replies)
    assert not asked


def test_the_keep_ratio_is_that_of_the_model_folder(run, folder, tmp_path):
    asked = json.dumps({"max_frames": 8, "fps": 0.0, "keep_ratio": 0.5})
    model = shutil.copytree(folder, tmp_path / "model")
    (model / "inference_config.json").write_text(asked)
    _, replies = run("--frames=8", f"--checkpoint={model}")
    assert {reply["keep_ratio"] for reply in replies} == {0.5}


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--frames=7",), "--frames has 7, but --mode clips has only 8, 24"),
        (("--depths=0.5",), "--depths has 0.5, but --mode clips has only 0, 1"),
        (("--needles=a.json",), "leave out --haystack and --needles"),
    ],
)
def test_flags_that_do_not_go_with_clips(run, arguments, complaint):
    with pytest.raises(InputError, match=complaint):
        run(*arguments)

"""Published benchmarks run end to end with a random model and generated videos."""

import dataclasses
import json
import shutil
import time

import helpers
import numpy as np
import published_files
import pytest
from scoring import score_files

from vxlpro_jax import evaluate
from vxlpro_jax.data.video import reader
from vxlpro_jax.evals import registry
from vxlpro_jax.inference.encoder import Encoder
from vxlpro_jax.inference.engine import Engine
from vxlpro_jax.utils import errors
from vxlpro_jax.utils.errors import InputError

pytestmark = pytest.mark.slow

# The tiny tokenizer splits most words into letters, so prompts are long.
CONFIG = dataclasses.replace(
    helpers.MICRO, decoder=dataclasses.replace(helpers.MICRO.decoder, max_positions=8192)
)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model folder with random weights."""
    return helpers.write_model(tmp_path_factory.mktemp("model"), model=CONFIG, scale=1.0)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    return published_files.write_videos(tmp_path_factory.mktemp("videos"))


@pytest.fixture
def flags(model, videos, tmp_path):
    """Returns the flags of a run of a benchmark with the output folder `out`."""

    def make(name, *more, out="out"):
        annotations = published_files.write_annotations(name, tmp_path)
        given = {
            "checkpoint": model,
            "benchmark": name,
            "annotations": annotations,
            "videos": videos,
            "out": tmp_path / out,
            "max_new_tokens": 4,
        }
        words = [
            word
            for flag, value in given.items()
            if f"--{flag}" not in more
            for word in (f"--{flag}", value)
        ]
        return [*map(str, words), *map(str, more)]

    return make


def lines_of(out):
    return [
        json.loads(line)
        for file in sorted(out.glob("answers-*.jsonl"))
        for line in file.read_text().splitlines()
    ]


def predictions_of(out):
    return (out / "predictions.jsonl").read_text()


def results_of(out):
    return json.loads((out / "results.json").read_text())


@pytest.mark.parametrize("name", list(registry.find_all()))
def test_every_benchmark_end_to_end(name, flags, tmp_path, capsys):
    more = []
    if name == "videomme_subtitles":
        more = ["--subtitles", published_files.write_subtitles(tmp_path / "srt")]
    argv = flags(name, *more)
    evaluate.main(argv)
    out, annotations = tmp_path / "out", tmp_path / f"{name}.json"
    records = registry.find(name).read(annotations)
    lines = {line["id"]: line for line in lines_of(out)}
    found = results_of(out)
    assert set(lines) == {record.id for record in records}
    for record, item in zip(records, found["per_item"], strict=True):
        line, benchmark = lines[record.id], registry.find(name)
        if name != "videomme_subtitles":
            asked = benchmark.prompt(record, "official")
            assert (line["system"], line["prompt"], line["prefill"]) == (
                asked.system,
                asked.text,
                asked.prefill,
            )
        step = 1 / (benchmark.fps or 2)
        length = 4.0 if record.video.endswith("a.mp4") else 2.5
        assert line["frames"] == pytest.approx(np.arange(0, length, step).tolist())
        score = benchmark.score(record, line["answer"], "official")
        assert (item["parsed"], item["correct"]) == (score.parsed, score.correct)
    # The score command computes the same from the written predictions.
    scored = score_files(name, annotations=annotations, predictions=out / "predictions.jsonl")
    assert scored.metrics == found["metrics"]
    assert found["unreadable"] == {}
    table = capsys.readouterr().out
    assert table.strip() == (out / "results.md").read_text().strip()
    # These are not all the questions of the published file.
    assert found["published"] == {}
    assert ("Published figures are left out" in table) == (benchmark.published is not None)


def test_subtitles_are_those_that_the_frames_show(flags, tmp_path):
    subtitles = published_files.write_subtitles(tmp_path / "srt")
    evaluate.main(flags("videomme_subtitles", "--subtitles", subtitles))
    seen, _, unsubtitled = (line["prompt"] for line in lines_of(tmp_path / "out"))
    assert seen.startswith("This video's subtitles are listed below:\nhello\nSelect the best")
    assert "never" not in seen
    assert unsubtitled.startswith("Select the best")
    argv = flags("videomme_subtitles", "--subtitles", subtitles, out="old")
    evaluate.main([*argv, "--profile", "legacy2025"])
    assert "below: \nNo subtitles available\n" in lines_of(tmp_path / "old")[2]["prompt"]


def test_subtitles_that_cannot_be_used_do_not_cost_the_question(flags, tmp_path):
    subtitles = published_files.write_subtitles(tmp_path / "srt")
    (subtitles / "a.srt").write_text("1\n00:00:0x,000 --> 00:00:01,000\nhello\n")
    evaluate.main(flags("videomme_subtitles", "--subtitles", subtitles))
    assert lines_of(tmp_path / "out")[0]["prompt"].startswith("Select the best")
    found = results_of(tmp_path / "out")
    assert found["unreadable"] == {}
    assert list(found["unused_subtitles"]) == ["a.mp4"]
    assert "Subtitles that could not be used: 1" in (tmp_path / "out" / "results.md").read_text()


def test_system_message_and_prefill_are_read(flags, tmp_path, monkeypatch):
    """The decoder reads the whole prompt, including the beginning of the reply."""
    read = []
    prefill = Engine.prefill

    def spied(engine, encoded, plans, *, options):
        read.extend((engine.tokenizer, plan) for plan in plans)
        return prefill(engine, encoded, plans, options=options)

    monkeypatch.setattr(Engine, "prefill", spied)
    evaluate.main(flags("mlvu_dev", "--limit", 1))
    ((tokenizer, plan),) = read
    (line,) = lines_of(tmp_path / "out")
    before, after = np.split(plan.ids, np.flatnonzero(plan.ids < 0)[:1])
    assert before.tolist() == tokenizer.encode(
        f"<|im_start|>system\n{line['system']}<|im_end|>\n<|im_start|>user\n"
    )
    asked = f"\n{line['prompt']}<|im_end|>\n<|im_start|>assistant\n"
    assert after[1:].tolist() == [*tokenizer.encode(asked), *tokenizer.encode("Best Option: (")]
    stamps = 10 * 2
    assert plan.positions == len(plan.ids) - 1 + stamps + plan.keep


def start(argv):
    return helpers.python("-m", "vxlpro_jax.evaluate", *argv)


def finished(process):
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out


def test_killed_and_resumed_and_in_two_processes_as_in_one(flags, tmp_path):
    count = 24  # There are so many that the process is killed before the end.
    queries = [
        {"video": f"{'aab'[i % 3]}.mp4", "caption": f"person does {i:02}.", "timestamp": [1, 3]}
        for i in range(count)
    ]
    many = tmp_path / "many.json"
    many.write_text(json.dumps(queries))

    def argv(out):
        return flags("charades_sta", "--annotations", many, out=out)

    evaluate.main(argv("whole"))
    expected = results_of(tmp_path / "whole")
    assert len({line["answer"] for line in lines_of(tmp_path / "whole")}) > 1

    killed = start(argv("killed"))
    journal = tmp_path / "killed" / "answers-0-of-1.jsonl"
    while not (journal.exists() and journal.read_bytes().count(b"\n")):
        assert killed.poll() is None, killed.communicate()
        time.sleep(0.001)
    killed.kill()
    killed.communicate()
    before = journal.read_text().splitlines()
    assert 0 < len(before) < count
    assert not (tmp_path / "killed" / "results.json").exists()
    with journal.open("a") as file:
        file.write('{"key": "23", "id": 23, "answ')  # An interrupted write leaves such a line.
    evaluate.main(argv("killed"))
    after = journal.read_text().splitlines()
    assert after[: len(before) - 1] == before[:-1]
    assert sorted(json.loads(line)["id"] for line in after) == list(range(count))
    assert results_of(tmp_path / "killed") == expected
    assert predictions_of(tmp_path / "killed") == predictions_of(tmp_path / "whole")

    both = [start([*argv("two"), "--process_id", i, "--num_processes", 2]) for i in (0, 1)]
    printed = [finished(process) for process in both]
    shares = [
        {json.loads(line)["video"] for line in file.read_text().splitlines()}
        for file in sorted((tmp_path / "two").glob("answers-*-of-2.jsonl"))
    ]
    assert shares == [{"a.mp4"}, {"b.mp4"}]
    assert results_of(tmp_path / "two") == expected
    assert predictions_of(tmp_path / "two") == predictions_of(tmp_path / "whole")
    assert any((tmp_path / "whole" / "results.md").read_text() in each for each in printed)


def test_a_finished_run_loads_no_model_and_other_settings_are_refused(flags, tmp_path, monkeypatch):
    argv = flags("charades_sta", "--limit", 1)
    evaluate.main(argv)
    assert results_of(tmp_path / "out")["counts"]["items"] == 1

    def refuse(*_, **__):
        raise AssertionError("loaded")

    monkeypatch.setattr(Engine, "load", refuse)
    evaluate.main(argv)
    with pytest.raises(AssertionError, match="loaded"):
        evaluate.main(flags("charades_sta", "--limit", 2))
    with pytest.raises(InputError, match=r"with other settings \(profile, max_frames\)"):
        evaluate.main([*argv, "--profile", "legacy2025", "--max_frames", "4"])


def test_tokens_of_videos_are_kept_between_runs(flags, tmp_path, monkeypatch):
    """This also holds with frames at a fixed rate; another number of frames is encoded again."""
    cached = ("charades_sta", "--token_cache", tmp_path / "tokens")
    evaluate.main(flags(*cached))
    encoded = []
    encode = Encoder._blocks
    monkeypatch.setattr(Encoder, "_blocks", lambda *args: encoded.append(1) or encode(*args))
    evaluate.main(flags(*cached, out="again"))
    assert not encoded

    def told(out):
        return [line | {"seconds": 0} for line in lines_of(tmp_path / out)]

    assert told("again") == told("out")
    evaluate.main(flags(*cached, "--max_frames", 1, out="fewer"))
    assert encoded


def test_a_cache_that_goes_away_is_no_fault_of_a_video(flags, tmp_path, monkeypatch):
    tokens, stream_video = tmp_path / "tokens", reader.stream_video

    def unmounted(*args, **kwargs):
        shutil.rmtree(tokens)
        return stream_video(*args, **kwargs)

    monkeypatch.setattr(reader, "stream_video", unmounted)
    with pytest.raises(errors.Failure, match=r"tokens cannot be written .*free space"):
        evaluate.main(flags("charades_sta", "--token_cache", tokens))
    assert not any(file.stat().st_size for file in (tmp_path / "out").glob("unreadable*"))


def test_what_the_decoder_reads_is_set_by_flags(flags, tmp_path):
    evaluate.main(flags("mlvu_dev", "--max_context", 8000, "--kv_cache", "int8"))
    with pytest.raises(InputError, match="kv_cache"):
        evaluate.main(flags("mlvu_dev", "--max_context", 8000))


def test_bad_videos_are_named_and_counted_and_tried_again(flags, videos, tmp_path):
    broken = tmp_path / "videos"
    broken.mkdir()
    (broken / "a.mp4").write_bytes(b"no video")
    argv = flags("charades_sta", "--videos", broken)
    with pytest.raises(errors.Failure, match="2 videos cannot be used"):
        evaluate.main([*argv, "--max_unreadable", "1"])
    evaluate.main([*argv, "--max_unreadable", "2"])
    found = results_of(tmp_path / "out")
    assert set(found["unreadable"]) == {"a.mp4", "b.mp4"}
    assert "'b.mp4' is not in" in found["unreadable"]["b.mp4"]
    assert found["counts"]["empty"] == 3
    assert "- a.mp4: " in (tmp_path / "out" / "results.md").read_text()
    (broken / "b.mp4").write_bytes((videos / "b.mp4").read_bytes())
    evaluate.main(argv)
    assert set(results_of(tmp_path / "out")["unreadable"]) == {"a.mp4"}
    assert [line["video"] for line in lines_of(tmp_path / "out")] == ["b.mp4"]


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--videos", "/nowhere"], "/nowhere is not a folder"),
        (["--process_id", "2", "--num_processes", "2"], "--process_id is 2: give 0 to 1"),
        (["--process_id", "0"], "together"),
        (["--judge_url", "http://x"], "together"),
        (["--judge_url", "file:///x", "--judge_model", "m"], "is not an HTTP address"),
        (["--subtitles", "/"], "which no other benchmark takes"),
        (["--chain", "2"], "has no chains"),
        (["--keep_ratio", "0"], "keep_ratio"),
    ],
)
def test_mistakes(flags, more, sentence, tmp_path):
    with pytest.raises(InputError, match=sentence):
        evaluate.main(flags("charades_sta", *more))
    assert not (tmp_path / "out").exists()


def test_embedded_questions_take_no_flags_of_the_decoder(model, tmp_path):
    argv = ["--checkpoint", str(model), "--benchmark", "embedded", "--out", str(tmp_path / "out")]
    with pytest.raises(InputError, match="takes no flags of the decoder: leave out --kv_cache"):
        evaluate.main([*argv, "--kv_cache", "int8"])
    with pytest.raises(InputError, match="leave out --max_frames"):
        evaluate.main([*argv, "--max_frames", "4"])

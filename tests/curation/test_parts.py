"""Tests the parts of the rules separately."""

import json

import numpy as np
import planted
import pytest
from array_record.python.array_record_module import ArrayRecordWriter

from vxlpro_jax.curation import duplicates, rules, samples
from vxlpro_jax.curation.embedding import WIDTH, embed_clip
from vxlpro_jax.curation.measure import ClipMeasurement
from vxlpro_jax.curation.motion import measure_motion
from vxlpro_jax.curation.text import text_fault
from vxlpro_jax.data.sources import arrayrecord_format as ingested
from vxlpro_jax.data.text.chat import Turn
from vxlpro_jax.data.video.sampling import Video
from vxlpro_jax.utils import journal
from vxlpro_jax.utils.errors import InputError

RNG = np.random.default_rng(0)


def greedy(embeddings, threshold):
    """Finds duplicates one clip after another, in float64."""
    x = embeddings.astype(float)
    x /= np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-3)
    kept, nearest = [], []
    for row in range(len(x)):
        cosines = [(float(x[row] @ x[other]), -other) for other in kept]
        best, other = max(cosines, default=(0.0, 1))
        nearest.append((-other if best > 0 else -1, max(best, 0.0)))
        if best < threshold:
            kept.append(row)
    return nearest, [similarity >= threshold for _, similarity in nearest]


@pytest.mark.parametrize("block", [1, 7, 1024])
def test_duplicates_equal_a_plain_search(monkeypatch, block):
    monkeypatch.setattr(duplicates, "_BLOCK", block)
    monkeypatch.setattr(duplicates, "_KEPT_AT_ONCE", 5)
    centres = RNG.normal(size=(12, 6))
    x = centres[RNG.integers(12, size=60)] + RNG.normal(0, 0.2, (60, 6))
    x[[5, 30]] = 0
    found = duplicates.find_duplicates(x.astype(np.float32), threshold=0.95)
    nearest, is_duplicate = greedy(x, 0.95)
    assert found.is_duplicate.tolist() == is_duplicate
    assert 10 < sum(is_duplicate) < 50
    assert found.place.tolist() == [place for place, _ in nearest]
    np.testing.assert_allclose(found.similarity, [s for _, s in nearest], atol=1e-6)
    for row in np.flatnonzero(found.is_duplicate):
        assert not found.is_duplicate[found.place[row]]


def test_find_duplicates_of_nothing():
    assert len(duplicates.find_duplicates([], threshold=0.9).place) == 0


def test_first_of_a_set_of_duplicates_is_kept():
    x = np.repeat(RNG.normal(size=(5, 8)), 3, axis=0)[RNG.permutation(15)]
    found = duplicates.find_duplicates(x, threshold=0.99)
    firsts = sorted(np.unique(x, axis=0, return_index=True)[1].tolist())
    assert np.flatnonzero(~found.is_duplicate).tolist() == firsts


def shown(frames) -> np.ndarray:
    return np.stack(frames)[:, :32, :32]


def test_embedding_ignores_brightness():
    frames = shown(planted.pan(1))
    one = embed_clip(frames)
    assert one.shape == (WIDTH,)
    assert np.linalg.norm(one) == pytest.approx(1, abs=1e-5)
    assert one @ embed_clip((frames * 0.5 + 60).astype(np.uint8)) > 0.999
    assert one @ embed_clip(np.repeat(frames, 2, axis=0)) > 0.999
    assert one @ embed_clip(frames[:, :, ::-1]) < 0.8
    assert one @ embed_clip(frames[::-1]) < 0.8
    assert one @ embed_clip(shown(planted.pan(2))) < 0.6
    assert one @ embed_clip(frames[..., ::-1]) < 0.99  # Same shapes, other colours.


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_embedding_of_few_frames(count):
    frames = shown(planted.pan(3))[:count]
    assert np.linalg.norm(embed_clip(frames)) == pytest.approx(1, abs=1e-5)


def test_flat_picture_has_a_zero_embedding():
    assert not embed_clip(np.full((4, 32, 32, 3), 7, np.uint8)).any()


def test_motion_of_known_frames():
    flat = [np.full((32, 32, 3), level, np.uint8) for level in (10, 10, 10, 90, 90, 93)]
    found = measure_motion(Video(np.stack(flat), np.arange(6) / 2))
    assert found.seconds == 3.0
    assert found.change == pytest.approx((80 + 3) / 5, rel=1e-5)
    assert found.still == pytest.approx(4 / 5)
    assert found.slides == 2
    assert found.shots == 2


def test_single_frame_is_still():
    found = measure_motion(Video(np.zeros((1, 32, 32, 3), np.uint8), np.zeros(1)))
    assert (found.seconds, found.still, found.slides, found.shots) == (0.5, 1.0, 0, 1)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("word " * 10, ""),
        ("word " * 11, "repeats itself"),
        ("- " * 40, ""),
        ("o" * 20, ""),
        ("o" * 21, "repeats itself"),
        ("=" * 80, ""),
        ("a\tb\r\nc", ""),
        ("a\x00b", "control"),
        ("\x1b[31m", "control"),
        ("<|vision_start|>", "special token"),
        ("a <| b |> c", ""),
        ("\u3000", "is empty"),
    ],
)
def test_text_fault(text, fault):
    found = text_fault([Turn("human", "<image>\nWhat?"), Turn("gpt", text)])
    assert fault in found
    assert bool(found) == bool(fault)


def test_leading_reply_is_ignored_as_in_training():
    turns = [Turn("gpt", ""), Turn("human", "<image> What?"), Turn("gpt", "A hill.")]
    assert text_fault(turns) == ""
    assert "not a reply" in text_fault(turns[:1])


@pytest.mark.parametrize(
    ("seen", "blind", "drops"),
    [(1.0, 1.0, True), (0.9, 1.0, False), (0.96, 1.0, True), (2.0, 1.0, True)],
)
def test_blind_rule_drops_below_the_margin(seen, blind, drops):
    [verdict] = rules.apply_blind_rule([None], {0: rules.ReplyLosses(seen, blind)}, margin=0.05)
    assert (verdict is not None) == drops


def test_unscored_samples_are_kept():
    [verdict] = rules.apply_blind_rule(
        [None], {0: rules.ReplyLosses(None, None, "no")}, margin=0.05
    )
    assert verdict is None


def test_measurement_json_round_trip():
    video = Video(shown(planted.pan(4)), np.arange(40) / 2)
    whole = ClipMeasurement(motion=measure_motion(video), embedding=embed_clip(video.frames))
    again = ClipMeasurement.from_json(json.loads(json.dumps(whole.to_json())))
    assert again.motion == whole.motion
    np.testing.assert_allclose(again.embedding, whole.embedding, atol=1e-3)
    bad = ClipMeasurement("is gone.", "missing")
    assert ClipMeasurement.from_json(json.loads(json.dumps(bad.to_json()))) == bad


def test_journal_skips_torn_lines_and_reads_all_shards(tmp_path):
    shares = [journal.Shard(0, 2), journal.Shard(1, 2)]
    for share in shares:
        journal.Journal(tmp_path, name="x", shard=share).add(f"k{share.index}", {"v": 1})
    file = tmp_path / "x-0-of-2.jsonl"
    with file.open("a") as stream:
        stream.write('{"key": "torn", "v"')
    with (tmp_path / "x-1-of-2.jsonl").open("a") as stream:
        stream.write('{"key": "whole", "v": 3}\n17\n{"v": 2}\n')
    found = journal.Journal(tmp_path, name="x", shard=shares[0])
    assert found.entries == {"k0": {"v": 1}, "k1": {"v": 1}, "whole": {"v": 3}}
    found.add("next", {"v": 4})
    assert [json.loads(line)["key"] for line in file.read_text().splitlines()] == ["k0", "next"]


def write_samples(folder, *items):
    file = folder / "samples.json"
    file.write_text(json.dumps(items))
    return file


def test_manifest_keeps_all_fields_of_samples(tmp_path):
    turns = planted.chat("What?", "This.")
    items = (
        {"id": 7, "video": "a.mp4", "conversations": turns, "more": [{"x": 1.5}, "\ud800 ü"]},
        {"video": "a.mp4", "conversations": "nothing"},
        {"video": "../a.mp4", "conversations": turns},
        ["no object"],
        {"image": ["b.png", "c.png"], "conversations": turns},
    )
    found = samples.load_manifest(write_samples(tmp_path, *items))
    assert [json.loads(sample.written) for sample in found] == list(items)
    assert [bool(sample.fault) for sample in found] == [False, True, True, True, False]
    clips = samples.index_clips(found)
    assert clips.of_sample == [0, 0, -1, -1, 1]
    assert [clip.name for clip in clips.clips] == ["a.mp4", "b.png, c.png"]
    assert found[0].id == "7"
    assert len({sample.key for sample in found}) == 5


def test_several_roots_are_an_error(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write_samples(tmp_path / name, {"video": "a.mp4", "conversations": []})
    both = f"{tmp_path}/{{one,two}}/samples.json"
    with pytest.raises(InputError, match=r"videos have 2 roots .* give --video_root"):
        samples.index_clips(samples.load_manifest(both))
    assert samples.index_clips(samples.load_manifest(both, video_root=str(tmp_path))).of_sample == [
        0,
        0,
    ]


def test_mixture_weights_are_an_error(tmp_path):
    write_samples(tmp_path, {"conversations": []})
    mixture = tmp_path / "mixture.yaml"
    mixture.write_text("datasets: [{json_path: samples.json, weight: 2}]")
    with pytest.raises(InputError, match="weights"):
        samples.load_manifest(mixture)


def write_shard(path, *records):
    writer = ArrayRecordWriter(str(path), "group_size:1,uncompressed")
    for record in records:
        writer.write(ingested.encode_record(record))
    writer.close()


def test_shards_with_video_paths_can_be_pruned(tmp_path):
    turns = tuple(planted.chat("What?", "This."))
    shard = tmp_path / "a.arrayrecord"
    write_shard(shard, ingested.IngestedRecord("x", turns, "clips/a.mp4"))
    [sample] = samples.load_manifest(shard)
    assert json.loads(sample.written) == {
        "id": "x",
        "video": "clips/a.mp4",
        "conversations": list(turns),
    }
    write_shard(shard, ingested.IngestedRecord("x", turns, b"\0\0\0\x18ftypmp42"))
    with pytest.raises(InputError, match=r"record 0 contains its video"):
        list(samples.load_manifest(shard))

"""Tests batches: shapes, order, resumption, processes, workers and bad records."""

import collections
import dataclasses
import json

import grain
import numpy as np
import orbax.checkpoint as ocp
import pytest
from PIL import Image

from vxlpro_jax.config.schema import IGNORE_LABEL, IMAGE_TOKEN, DataConfig
from vxlpro_jax.data.loader.build import build_pipeline, tokenizer_for
from vxlpro_jax.data.synthetic.clips import synthetic_set
from vxlpro_jax.data.text.chat import Turn, encode_conversation, encode_stamps
from vxlpro_jax.data.video.reader import group_video, read_video
from vxlpro_jax.utils.errors import InputError

pytestmark = pytest.mark.slow

SIZE = 28
VISUAL = [{"from": "human", "value": "<image>\nWho?"}, {"from": "gpt", "value": "Me."}]
TEXT = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho"}]


@pytest.fixture
def embedded(cache):
    return DataConfig(cache_dir=str(cache), batch_size=4)


@pytest.fixture
def pipeline():
    """Calls `build_pipeline` with a small image size; closes the pipeline when the test ends."""
    opened = []

    def build(data, *, seed=0, **options):
        opened.append(build_pipeline(data, image_size=SIZE, seed=seed, **options))
        return opened[-1]

    yield build
    for iterator in opened:
        iterator.close()


def take(iterator, count):
    return [next(iterator) for _ in range(count)]


def assert_same(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        assert a.keys() == b.keys()
        for key in a:
            np.testing.assert_array_equal(a[key], b[key], err_msg=key)


@pytest.fixture
def write_data(tmp_path, write_video):
    """Writes a data file of six unequal clips, a picture and a text; returns its config."""

    def write(*more, **options) -> DataConfig:
        for count in range(3, 9):
            write_video(range(0, count * 500, 500), name=f"v{count}.mp4")
        Image.new("RGB", (2 * SIZE, SIZE), (9, 9, 9)).save(tmp_path / "wide.png")
        samples = [{"video": f"v{count}.mp4", "conversations": VISUAL} for count in range(3, 9)]
        samples += [{"image": "wide.png", "conversations": VISUAL}, {"conversations": TEXT}, *more]
        path = tmp_path / "data.json"
        path.write_text(json.dumps(samples))
        return DataConfig(path=str(path), batch_size=len(samples), **options)

    return write


def test_batches_have_the_promised_arrays(embedded, pipeline):
    batch = next(pipeline(embedded))
    shapes = {key: (value.shape, value.dtype.name) for key, value in batch.items()}
    assert shapes == {
        "frames": ((4, 2, 4, SIZE, SIZE, 3), "uint8"),
        "stamp_ids": ((4, 2, 10), "int32"),
        "group_segments": ((4, 2), "int32"),
        "tokens": ((4, 96), "int32"),
        "token_segments": ((4, 96), "int32"),
        "labels": ((4, 96), "int32"),
    }


def test_rows_hold_videos_pictures_and_texts_and_padding(write_data, pipeline, tmp_path):
    data = write_data(max_text_tokens=60)
    tokenizer = tokenizer_for(data)
    batch = next(pipeline(data))
    seen = []
    for row in range(data.batch_size):
        groups, spoken = batch["group_segments"][row] == 1, batch["token_segments"][row] == 1
        has_image = IMAGE_TOKEN in batch["tokens"][row]
        turns = [Turn(turn["from"], turn["value"]) for turn in (VISUAL if has_image else TEXT)]
        chat = encode_conversation(turns, tokenizer=tokenizer)
        np.testing.assert_array_equal(batch["tokens"][row][spoken], chat.ids)
        np.testing.assert_array_equal(batch["labels"][row][spoken][1:], chat.labels[1:])
        assert batch["labels"][row][0] == IGNORE_LABEL
        assert (batch["tokens"][row][~spoken] == 0).all()
        assert (batch["labels"][row][~spoken] == IGNORE_LABEL).all()
        assert (batch["frames"][row][~groups] == 0).all()
        assert (batch["stamp_ids"][row][~groups] == 0).all()
        assert groups.any() == has_image
        seen.append((batch["frames"][row][groups], batch["stamp_ids"][row][groups]))

    start, later = (encode_stamps([time], tokenizer=tokenizer)[0].tolist() for time in (0.0, 2.0))
    stamps = sorted(stamp.tolist() for _, stamp in seen)
    assert stamps == sorted([[], *[[start]] * 2, *[[start, later]] * 4, [start, start]])
    for count in (3, 8):
        video = read_video(tmp_path / f"v{count}.mp4", max_frames=8, size=SIZE)
        expected = group_video(video).frames
        assert any(np.array_equal(expected, frames) for frames, _ in seen)
    assert any(frames.size and (frames == 9).all() for frames, _ in seen)


def test_scale_stretches_the_stamps(write_data, pipeline):
    slow = {"video": "v8.mp4", "conversations": VISUAL, "scale": 3.5}
    data = write_data(slow)
    stamps = next(pipeline(data))["stamp_ids"][:, 1].tolist()
    assert encode_stamps([2.0], tokenizer=tokenizer_for(data), scale=3.5)[0].tolist() in stamps


def test_the_seed_decides_the_order(embedded, pipeline):
    first = take(pipeline(embedded, seed=3), 5)
    assert_same(first, take(pipeline(embedded, seed=3), 5))
    other = take(pipeline(embedded, seed=4), 5)
    assert any((a["tokens"] != b["tokens"]).any() for a, b in zip(first, other, strict=True))


def row_codes(batch) -> list[str]:
    return [
        f"{frames.tobytes()}{tokens.tobytes()}"
        for frames, tokens in zip(batch["frames"], batch["tokens"], strict=True)
    ]


def test_every_epoch_holds_every_record_in_another_order(write_data, pipeline):
    data = dataclasses.replace(write_data(), batch_size=4)
    batches = take(pipeline(data), 6)
    epochs = [row_codes(batches[i]) + row_codes(batches[i + 1]) for i in (0, 2, 4)]
    assert len(set(epochs[0])) == 8
    assert set(epochs[0]) == set(epochs[1]) == set(epochs[2])
    assert epochs[0] != epochs[1] or epochs[1] != epochs[2]


def test_workers_change_nothing_and_resume_anywhere(embedded, pipeline):
    expected = take(pipeline(embedded), 7)
    workers = pipeline(dataclasses.replace(embedded, num_workers=2))
    assert_same(take(workers, 4), expected[:4])
    state = json.loads(json.dumps(workers.get_state()))

    threads = pipeline(embedded)
    before = threads.get_state()
    threads.set_state(state)
    assert_same(take(threads, 3), expected[4:])
    workers.set_state(before)
    assert_same(take(workers, 2), expected[:2])


@pytest.mark.parametrize("seen", [0, 1, 5])
def test_a_restored_iterator_continues_bit_for_bit(seen, embedded, pipeline, tmp_path):
    whole = pipeline(embedded)
    take(whole, seen)
    with ocp.CheckpointManager(tmp_path / "run") as manager:
        manager.save(3, args=ocp.args.Composite(data=grain.checkpoint.CheckpointSave(whole)))
        manager.wait_until_finished()
        resumed = pipeline(embedded)
        take(resumed, 2)
        args = ocp.args.Composite(data=grain.checkpoint.CheckpointRestore(resumed))
        manager.restore(3, args=args)
    assert resumed.get_state() == whole.get_state()
    assert_same(take(resumed, 3), take(whole, 3))


def test_processes_share_a_batch_row_by_row(embedded, pipeline):
    whole = take(pipeline(embedded), 3)
    halves = [take(pipeline(embedded, process_index=i, process_count=2), 3) for i in range(2)]
    joined = [
        {key: np.concatenate([a[key], b[key]]) for key in a} for a, b in zip(*halves, strict=True)
    ]
    assert_same(joined, whole)


def bad_data(tmp_path, cache, *, broken, quota, **options):
    """Writes the first 96 clips of the embedded set; those numbered `broken` are truncated."""
    synthetic, root = synthetic_set(cache), tmp_path / f"without{len(broken)}"
    root.mkdir()
    records = json.loads(synthetic.train.read_text())[:96]
    (root / "train.json").write_text(json.dumps(records))
    for index, record in enumerate(records):
        clip = (synthetic.root / record["video"]).read_bytes()
        (root / record["video"]).write_bytes(clip[:200] if index in broken else clip)
    return DataConfig(
        path=str(root / "train.json"), batch_size=48, bad_sample_quota=quota, **options
    )


@pytest.mark.parametrize("num_workers", [0, 1])
def test_bad_records_are_named_and_replaced(num_workers, cache, pipeline, tmp_path, caplog):
    broken = {5, 17, 60}
    data = bad_data(tmp_path, cache, broken=broken, quota=0.05, num_workers=num_workers)
    listed = tmp_path / "bad_samples.jsonl"
    damaged = pipeline(data, bad_samples_path=listed)
    whole = pipeline(bad_data(tmp_path, cache, broken=(), quota=0))

    ours, theirs = (
        [code for batch in take(it, 4) for code in row_codes(batch)] for it in (damaged, whole)
    )
    # Each row skips its own bad records and continues with the next record of its stream.
    missing = collections.Counter(theirs[:96]) - collections.Counter(ours)
    assert len(missing) == len(broken)
    for row in range(48):
        kept = [code for code in theirs[row::48] if code not in missing]
        assert ours[row::48][: len(kept)] == kept

    entries = [json.loads(line) for line in listed.read_text().splitlines()]
    assert sorted(entry["name"].split("(id ")[1] for entry in entries) == [
        f"'train{index:04d}-0')" for index in sorted(broken)
    ]
    assert all("cannot be read" in entry["reason"] for entry in entries)
    assert {entry["kind"] for entry in entries} <= {"damaged", "cut_off"}
    assert caplog.text.count("Skipped") == len(broken)
    assert damaged.get_state()["bad_records"] == sorted(entry["record"] for entry in entries)


def test_bad_records_are_not_named_again_after_a_resume(cache, pipeline, tmp_path):
    data = bad_data(tmp_path, cache, broken=[5], quota=0.05)
    listed = tmp_path / "bad_samples.jsonl"
    first = pipeline(data, bad_samples_path=listed)
    take(first, 4)
    resumed = pipeline(data, bad_samples_path=listed)
    resumed.set_state(first.get_state())
    take(resumed, 4)
    assert len(listed.read_text().splitlines()) == 1


@pytest.mark.parametrize("num_workers", [0, 1])
def test_too_many_bad_records_stop_the_run(num_workers, cache, pipeline, tmp_path):
    data = bad_data(tmp_path, cache, broken=range(20), quota=0.05, num_workers=num_workers)
    iterator = pipeline(data, bad_samples_path=tmp_path / "bad.jsonl")
    with pytest.raises(InputError, match=r"more than the 4 that data.bad_sample_quota .*bad.jsonl"):
        take(iterator, 4)


def test_a_wrong_root_stops_the_run_with_its_reason(cache, pipeline, tmp_path):
    train = synthetic_set(cache).train
    data = DataConfig(path=str(train), video_root=str(tmp_path), batch_size=4)
    with pytest.raises(InputError, match=r"such as train\d+\.mp4 .* set data\.video_root"):
        next(pipeline(data))


@pytest.mark.parametrize(
    ("sample", "options", "reason"),
    [
        ({"conversations": [TEXT[0] | {"value": "long " * 99}]}, {}, "more than data.max_text"),
        ({"video": "far.mp4", "conversations": VISUAL}, {}, "leads out of its folder"),
        ({"video": "wide.txt", "conversations": VISUAL}, {}, "cannot be read"),
        ({"image": "v8.mp4", "conversations": VISUAL}, {}, "cannot be read"),
    ],
)
def test_every_kind_of_bad_record(sample, options, reason, write_data, pipeline, tmp_path, caplog):
    (tmp_path / "far.mp4").symlink_to("/etc/hosts")
    (tmp_path / "wide.txt").write_text("text")
    data = write_data(sample, bad_sample_quota=0.2, **options)
    take(pipeline(data), 2)
    assert "record 8" in caplog.text
    assert reason in caplog.text


def test_pictures_keep_to_the_row(write_data, pipeline, tmp_path):
    data = write_data(max_frames=4)
    batch = next(pipeline(data))
    assert batch["group_segments"].shape[1] == 1
    assert (batch["group_segments"].sum(1) == 1).sum() == 7


@pytest.mark.parametrize(
    ("changes", "options", "sentence"),
    [
        ({"max_frames": 6}, {}, "data.max_frames is 6"),
        ({"max_frames": 0}, {}, "data.max_frames is 0"),
        ({"batch_size": 5}, {"process_count": 2}, "data.batch_size is 5"),
        ({"batch_size": 0}, {}, "data.batch_size is 0"),
        ({"tokenizer": "/nowhere"}, {}, "No tokenizer in /nowhere"),
        ({"path": "/nowhere.json"}, {}, "/nowhere.json does not exist"),
        ({}, {"pinpoints": [[3 * SIZE, SIZE]]}, "raise data.max_frames"),
    ],
)
def test_settings_that_do_not_fit(changes, options, sentence, embedded, pipeline):
    with pytest.raises(InputError, match=sentence):
        pipeline(dataclasses.replace(embedded, **changes), **options)


# ---- Packed rows ---------------------------------------------------------------------------------


@pytest.fixture
def mixed(write_video, tmp_path):
    """Writes thirty clips of unequal length with unequal texts; one clip is broken."""
    samples = []
    for number in range(30):
        frames = 1 + number * 7 % 23
        write_video(range(0, frames * 500, 500), name=f"{number}.mp4")
        turns = [VISUAL[0], {"from": "gpt", "value": f"{number} " * (1 + number % 4)}]
        samples.append({"video": f"{number}.mp4", "conversations": turns})
    (tmp_path / "7.mp4").write_bytes(b"no video")
    (tmp_path / "data.json").write_text(json.dumps(samples))
    return DataConfig(
        path=str(tmp_path / "data.json"),
        batch_size=4,
        max_frames=32,
        max_text_tokens=300,
        samples_per_row=4,
    )


def answers(batches):
    """Returns the answer of each sample, batch by batch and row by row."""
    tokenizer = tokenizer_for(DataConfig())
    found = []
    for batch in batches:
        for row in range(len(batch["tokens"])):
            for segment in range(1, batch["token_segments"][row].max() + 1):
                here = batch["token_segments"][row] == segment
                labels = batch["labels"][row][here]
                found.append(tokenizer.decode(labels[labels != IGNORE_LABEL].tolist()).split()[0])
    return found


def test_packed_rows_hold_every_sample_once_an_epoch(mixed, pipeline):
    iterator = pipeline(mixed)
    batches = take(iterator, 12)
    counts = collections.Counter(answers(batches))
    assert "7" not in counts
    assert max(counts.values()) - min(counts.values()) <= 1 + mixed.batch_size
    assert len(counts) == 29
    assert max(batch["group_segments"].max() for batch in batches) == 4
    for batch in batches:
        for key in ("group_segments", "token_segments"):
            steps = np.diff(batch[key], axis=1)
            assert ((steps >= 0) | (batch[key][:, 1:] == 0)).all()


@pytest.mark.parametrize("seed", range(20))
def test_an_iterator_stopped_anywhere_continues_with_any_number_of_processes(mixed, pipeline, seed):
    rng, length = np.random.default_rng(seed), 6
    expected = take(pipeline(mixed), length)
    state, batches, counts = None, [], rng.permutation([1, 2, 4])
    for count in [*counts, 1]:
        parts = [pipeline(mixed, process_index=i, process_count=count) for i in range(count)]
        for part in parts:
            if state:
                part.set_state(state)
        more = int(rng.integers(0, 3)) if count != counts[-1] else 1
        rest = length - len(batches)
        taken = [take(part, min(more, rest)) for part in parts]
        batches += [
            {key: np.concatenate([part[key] for part in step]) for key in step[0]}
            for step in zip(*taken, strict=True)
        ]
        state = parts[0].join_states(json.loads(json.dumps([p.get_state() for p in parts])))
        for part in parts:
            part.close()
    assert_same(batches, expected[: len(batches)])
    assert batches


@pytest.mark.parametrize(
    "change",
    [
        {"batch_size": 10**9},
        {"batch_size": 10**30},
        {"max_frames": 4 * 10**12},
        {"max_text_tokens": 10**14},
        {"batch_size": 4000, "max_frames": 40_000},
    ],
)
def test_sizes_that_no_memory_holds_are_refused_at_once(change):
    data = dataclasses.replace(DataConfig(), **change)
    with pytest.raises(InputError, match=r"data\.batch_size"):
        build_pipeline(data, image_size=384, seed=0)

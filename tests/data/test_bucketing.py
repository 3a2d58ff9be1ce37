"""Buckets give every record once per epoch in the shape it needs, for any number of processes."""

import collections
import dataclasses
import itertools
import json
import random
import threading
from pathlib import Path

import numpy as np
import pytest
from helpers import write_clip
from PIL import Image

from vxlpro_jax.config.schema import DataConfig
from vxlpro_jax.data.loader.bucketing import BucketSchedule
from vxlpro_jax.data.loader.build import build_pipeline
from vxlpro_jax.utils.errors import InputError

SIZE = 28
VISUAL = [{"from": "human", "value": "<image>\nWho?"}, {"from": "gpt", "value": "Me."}]
KINDS = {"text": 9, "picture": 6, "video": 15}
GROUPS = {"text": 1, "picture": 2, "video": 4}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Writes 9 texts, 6 pictures of at most two crops, and 15 videos of up to 16 frames."""
    folder = tmp_path_factory.mktemp("mixed")
    for number in range(3):
        write_clip(folder / f"{number}.mp4", frames=9 + number)
    Image.new("RGB", (2 * SIZE, SIZE), (9, 9, 9)).save(folder / "wide.png")
    media = {"text": {}, "picture": {"image": "wide.png"}, "video": {"video": "0.mp4"}}
    samples = []
    for kind, count in KINDS.items():
        for number in range(count):
            mark = "" if kind == "text" else "<image>\n"
            asked = [{"from": "human", "value": f"{mark}{kind} {number}?"}, VISUAL[1]]
            samples.append({**media[kind], "conversations": asked})
    random.Random(0).shuffle(samples)
    path = folder / "data.json"
    path.write_text(json.dumps(samples))
    return DataConfig(path=str(path), batch_size=2, max_frames=16, frame_buckets=(4, 8))


def opened(data, **options):
    pinpoints = [[2 * SIZE, SIZE], [SIZE, SIZE]]
    return build_pipeline(data, image_size=SIZE, seed=0, pinpoints=pinpoints, **options)


def rows(batch):
    """Returns each row's text and its number of group slots."""
    groups = batch["frames"].shape[1]
    return [(tokens.tobytes(), groups) for tokens in batch["tokens"]]


def test_every_record_comes_once_an_epoch_in_the_shape_of_its_kind(data):
    """30 records make 15 batches of two; each kind has as many as it has pairs, or one less."""
    batches = opened(data)
    taken = [next(batches) for _ in range(30)]
    batches.close()
    shapes = collections.Counter(batch["frames"].shape[1] for batch in taken[:15])
    assert set(shapes) == set(GROUPS.values())
    for kind, groups in GROUPS.items():
        assert abs(shapes[groups] - KINDS[kind] / 2) < 1
    seen = collections.defaultdict(list)
    for batch in taken:
        shows = batch["group_segments"].any(axis=1)
        assert shows.tolist() == [batch["frames"].shape[1] > GROUPS["text"]] * 2
        for text, groups in rows(batch):
            seen[groups].append(text)
    for kind, groups in GROUPS.items():
        count = KINDS[kind]
        for start in range(0, len(seen[groups]) - count + 1, count):
            assert len(set(seen[groups][start : start + count])) == count


def test_no_buckets_are_the_one_shape_of_before(data):
    batches = opened(dataclasses.replace(data, frame_buckets=()))
    assert next(batches)["frames"].shape == (2, 4, 4, SIZE, SIZE, 3)
    assert batches.parts == (batches,)
    batches.close()


@pytest.mark.parametrize("seed", range(4))
def test_any_processes_continue_any_others(data, seed):
    """After random stops, any number of processes gives the same rows as an uninterrupted run."""
    rng, whole = random.Random(seed), opened(data)
    expected = [row for _ in range(24) for row in rows(next(whole))]
    whole.close()
    found, state, left = [], None, 24
    while left:
        count, steps = rng.choice((1, 2)), min(rng.randint(1, 7), left)
        processes = [opened(data, process_index=i, process_count=count) for i in range(count)]
        if state:
            for process in processes:
                process.set_state(json.loads(json.dumps(state)))
        for _ in range(steps):
            found += itertools.chain.from_iterable(rows(next(process)) for process in processes)
        state = processes[0].join_states([process.get_state() for process in processes])
        for process in processes:
            process.close()
        left -= steps
    assert found == expected


def test_a_bucket_with_too_few_records_joins_the_next(data):
    batches = opened(dataclasses.replace(data, batch_size=10))
    shapes = {next(batches)["frames"].shape[1] for _ in range(6)}
    batches.close()
    assert shapes == {2, 4}  # Nine texts fill no batch of ten, but with six pictures they do.


@pytest.mark.parametrize("shares", [(1,), (3, 1), (1, 5, 2), (7, 7)])
def test_turns_keep_to_the_shares(shares):
    turns, taken = BucketSchedule(shares), [0] * len(shares)
    for step in range(1, 200):
        taken[turns.next(taken)] += 1
        behind = np.array(shares) * step / sum(shares) - taken
        assert (np.abs(behind) < 1).all() or (len(shares) > 2 and (np.abs(behind) < 2).all())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"samples_per_row": 2}, "packing fills rows of one shape"),
        ({"frame_buckets": (6,)}, "data.frame_buckets is 6"),
        ({"frame_buckets": (32,)}, "has 32, more than data.max_frames"),
    ],
)
def test_what_cannot_be(data, options, said):
    with pytest.raises(InputError, match=said):
        opened(dataclasses.replace(data, **options))


def test_bad_records_of_all_buckets_count_together(data, tmp_path):
    """One bad picture is more than a twentieth of the six pictures, but not of all 30 records."""
    samples = json.loads(Path(data.path).read_text())
    missing = next(index for index, sample in enumerate(samples) if "image" in sample)
    samples[missing] |= {"image": "missing.png"}
    path, listed = tmp_path / "data.json", tmp_path / "bad.jsonl"
    path.write_text(json.dumps(samples))
    root = str(Path(data.path).parent)
    some = dataclasses.replace(data, path=str(path), video_root=root, image_root=root)
    batches = opened(some, bad_samples_path=listed)
    for _ in range(30):
        next(batches)
    assert batches.num_bad == 1
    batches.close()
    assert [json.loads(line)["record"] for line in listed.read_text().splitlines()] == [missing]
    batches = opened(dataclasses.replace(some, bad_sample_quota=0.0))
    with pytest.raises(InputError, match="more than the"):
        list(itertools.islice(batches, 30))
    batches.close()


def test_a_state_of_other_buckets_is_refused(data):
    batches = opened(dataclasses.replace(data, frame_buckets=(4,)))
    other = opened(dataclasses.replace(data, frame_buckets=(8,)))
    with pytest.raises(InputError, match="use the setting with which the run was started"):
        other.set_state(batches.get_state())
    batches.close()
    other.close()


def timed(folder, **durations):
    """Writes clips at 30 frames per second, named by length; some given durations are wrong."""
    samples = []
    for name, duration in durations.items():
        frames = int(name.strip("f"))
        write_clip(folder / f"{frames}.mp4", frames=frames)
        told = {} if duration is None else {"duration": duration}
        samples.append({"video": f"{frames}.mp4", "conversations": VISUAL, **told})
    (folder / "timed.json").write_text(json.dumps(samples))
    return DataConfig(
        path=str(folder / "timed.json"), batch_size=1, max_frames=32, fps=30.0, frame_buckets=(4, 8)
    )


def shapes_of(data, *, steps):
    """Returns, by the number of group slots of a batch, how many are filled."""
    batches = opened(data)
    found = collections.defaultdict(set)
    for _ in range(steps):
        segments = next(batches)["group_segments"]
        found[segments.shape[1]].add(int((segments > 0).sum()))
    batches.close()
    return dict(found)


def test_duration_determines_the_bucket_at_a_fixed_rate(tmp_path):
    data = timed(tmp_path, f4=4 / 30, f5=5 / 30, f8=8 / 30, f9=9 / 30, f20=None)
    assert shapes_of(data, steps=10) == {1: {1}, 2: {2}, 8: {3, 5}}
    uniform = dataclasses.replace(data, fps=0.0)
    assert set(shapes_of(uniform, steps=5)) == {8}


def test_a_video_longer_than_it_says_loses_groups(tmp_path):
    assert shapes_of(timed(tmp_path, f20=0.2), steps=2) == {2: {2}}


def test_a_last_bucket_with_too_few_records_takes_those_of_the_one_below(tmp_path):
    data = timed(tmp_path, f4=4 / 30, f3=3 / 30, f2=2 / 30, f8=8 / 30, f7=7 / 30, f20=None)
    found = shapes_of(dataclasses.replace(data, batch_size=2), steps=9)
    assert set(found) == {1, 8}


def test_a_bad_record_does_not_stop_a_small_last_bucket(tmp_path):
    data = timed(tmp_path, **{f"f{frames}": frames / 30 for frames in (1, 2, 3, 4)})
    samples = json.loads(Path(data.path).read_text())
    samples.append({"video": "missing.mp4", "conversations": VISUAL})
    Path(data.path).write_text(json.dumps(samples))
    data = dataclasses.replace(data, batch_size=2, bad_sample_quota=0.5)
    assert set(shapes_of(data, steps=6)) == {8}


@pytest.mark.parametrize("buckets", [(), (4, 8)])
def test_batches_are_placed_where_they_are_wanted(data, buckets):
    """The thread that reads ahead places the batches."""
    data = dataclasses.replace(data, frame_buckets=buckets)
    plain, placed = opened(data), opened(data)
    readers = set()

    def place(batch):
        readers.add(threading.current_thread().name)
        return int(batch["tokens"].sum())

    placed.place_with(place)
    assert [next(placed) for _ in range(6)] == [next(plain)["tokens"].sum() for _ in range(6)]
    assert all(name.startswith("batches") for name in readers)
    plain.close()
    placed.close()

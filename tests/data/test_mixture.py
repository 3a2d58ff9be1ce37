"""Tests mixtures: which records are selected, how often they occur, and in which order."""

import itertools
import json
import pickle
import time
from collections import Counter

import pytest
from helpers import chat

from vxlpro_jax.config.schema import DataConfig
from vxlpro_jax.data.loader.build import build_pipeline
from vxlpro_jax.data.loader.shuffle import epoch_length, record_order
from vxlpro_jax.data.sources.load import load_records, load_visual_records
from vxlpro_jax.data.sources.mixture import Strategy
from vxlpro_jax.utils.errors import InputError


@pytest.fixture
def write(tmp_path):
    """Writes `a.json` with 5 texts, `sub/b.jsonl` with 10, and a mixture of the given YAML."""
    (tmp_path / "sub").mkdir()
    for name, letter, count in (("a.json", "a", 5), ("sub/b.jsonl", "b", 10)):
        samples = [{"id": f"{letter}{i}", "conversations": chat("Hi", "Ho")} for i in range(count)]
        is_list = name.endswith(".json")
        lines = json.dumps(samples) if is_list else "\n".join(map(json.dumps, samples))
        (tmp_path / name).write_text(lines)

    def write(yaml):
        (tmp_path / "mixture.yaml").write_text(yaml)
        return tmp_path / "mixture.yaml"

    return write


def ids(records):
    return [record.name.rpartition("(id ")[2].strip("')") for record in records]


def test_a_mixture(write, tmp_path):
    records = load_records(
        write(
            f"""
            datasets:
              - json_path: a.json
                sampling_strategy: first:2
              - json_path: {tmp_path}/sub/b.jsonl
                sampling_strategy: end:1
                weight: 2
              - json_path: "{{a.json,sub/b.jsonl}}"
            """
        )
    )
    assert records.counts == (2, 1, 15)
    assert records.weights == (1.0, 2.0, 1.0)
    assert ids(records)[:4] == ["a0", "a1", "b9", "a0"]


@pytest.mark.parametrize(
    ("strategy", "taken"),
    [
        (Strategy(), range(7)),
        (Strategy("first", 3), range(3)),
        (Strategy("first", 30), range(7)),
        (Strategy("first", 30, True), range(3)),
        (Strategy("end", 3), range(4, 7)),
        (Strategy("end", 30), range(7)),
    ],
)
def test_strategies(strategy, taken):
    assert list(strategy.choose(7, seed=0)) == list(taken)


def test_random_takes_a_share_by_the_seed():
    first, second = (list(Strategy("random", 100).choose(1000, seed=s)) for s in (1, 2))
    assert first == sorted(set(first)) != second
    assert len(first) == len(second) == 100
    assert set(first) <= set(range(1000))
    assert 30 < sum(i < 500 for i in first) < 70
    assert first == list(Strategy("random", 10, True).choose(1000, seed=1))
    assert set(first) < set(Strategy("random", 200).choose(1000, seed=1))
    # The draw is the same in every version of numpy: a resumed run must find its records.
    assert list(Strategy("random", 3).choose(20, seed=5)) == [4, 7, 8]


def test_the_config_seed_decides_what_random_takes(write):
    path = write("datasets: [{json_path: sub/b.jsonl, sampling_strategy: 'random:5'}]")
    taken = [ids(load_records(path, seed=seed)) for seed in (0, 1, 0)]
    assert taken[0] == taken[2] != taken[1]
    data = DataConfig(path=str(path), batch_size=1)
    for seed, expected in enumerate(taken[:2]):
        with_seed = build_pipeline(data, image_size=28, seed=seed)
        assert ids(with_seed.source.records) == expected


def test_datasets_have_roots_of_their_own(write, tmp_path):
    for name in ("v.json", "sub/w.json"):
        shown = chat("<image>\nWho?", "Me.")
        samples = [{key: "x", "conversations": shown} for key in ("video", "image")]
        (tmp_path / name).write_text(json.dumps(samples))
    path = write(
        """
        datasets:
          - {json_path: v.json, video_root: videos, image_root: /pictures}
          - {json_path: sub/w.json}
        """
    )
    folder = str(tmp_path)
    roots = [record.root for record in load_visual_records(path)]
    assert roots == [f"{folder}/videos", "/pictures", f"{folder}/sub", f"{folder}/sub"]
    roots = [record.root for record in load_records(path, video_root="/all")]
    assert roots == [f"{folder}/videos", "/pictures", "/all", f"{folder}/sub"]


@pytest.mark.parametrize(
    ("yaml", "what"),
    [
        ("", r"'datasets' is None: expected a non-empty list"),
        ("datasets: []", r"'datasets' is \[\]: expected"),
        ("datasets: [", r"is not YAML \(.*line 1"),
        ("!!python/object/apply:os.getcwd []", "is not YAML"),
        ("[1]", "'datasets' is None"),
        ("datasets: [a.json]", "dataset 0 is 'a.json': expected a mapping"),
        ("datasets: [{json_path: a.json}, {}]", "dataset 1: field 'json_path' is missing"),
        ("datasets: [{json_path: 3}]", "'json_path' is 3: expected a path or URL"),
        ("datasets: [{json_path: m.yaml}]", "'json_path' names a mixture"),
        ("datasets: [{json_path: none.json}]", "none.json does not exist.*json_path"),
        ("datasets: [{json_path: a.json, wieght: 2}]", "field 'wieght': did you mean 'weight'"),
        ("datasets: [{json_path: a.json, weight: 0}]", "'weight' is 0: expected a number above 0"),
        ("datasets: [{json_path: a.json, weight: .inf}]", "'weight' is inf"),
        ("datasets: [{json_path: a.json, weight: '2'}]", "'weight' is '2'"),
        ("datasets: [{json_path: a.json, video_root: 7}]", "'video_root' is 7: expected a path"),
    ],
)
def test_entries_that_cannot_be_used(yaml, what, write):
    with pytest.raises(InputError, match=rf"(?s)(Mixture .*mixture.yaml|Data file).*{what}"):
        load_records(write(yaml))


HOSTILE = {
    "aliases": "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n"
    + "".join(f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 30))
    + "datasets: [{json_path: a.json, weight: *a29}]",
    "merged aliases": "a0: &a0 {x: 1}\n"
    + "".join(f"a{i}: &a{i} {{<<: [{','.join([f'*a{i - 1}'] * 10)}]}}\n" for i in range(1, 30))
    + "datasets: [*a29]",
    "an alias of itself": "datasets: &a [*a]",
    "depth": f"datasets: {'[' * 2000}",
    "a file too large": "# " + "x" * (3 << 20),
    "no timestamp": "datasets: [{json_path: a.json, weight: !!timestamp x}]",
    "no integer": "datasets: [{json_path: a.json, weight: !!int ''}]",
    "no truth": "datasets: [{json_path: a.json, weight: !!bool x}]",
    "a number without end": f"datasets: [{{json_path: a.json, weight: 0x{'f' * 9999}}}]",
    "a long number": f"datasets: [{{json_path: a.json, weight: {'9' * 9999}}}]",
    "a weight too large": "datasets: [{json_path: a.json, weight: 1.0e+300}]",
    "a number of records too large": (
        f"datasets: [{{json_path: a.json, sampling_strategy: 'first:{'9' * 400}'}}]"
    ),
    "an unknown user": "datasets: [{json_path: ~nosuchuser/a.json}]",
    "Python": "datasets: [!!python/object/apply:os.getcwd []]",
    "an address that is none": "datasets: [{json_path: 'http://[x/a.json'}]",
    "braces without end": f"datasets: [{{json_path: '{'{a,b}' * 40}.json'}}]",
    "a range without end": "datasets: [{json_path: 'a{0..999999999}.json'}]",
    "a field twice": "datasets: [{json_path: a.json, weight: 1, weight: 2}]",
    "a character that is not seen": "datasets: {a: \ufeffb, [",
    "keys that are lists": "datasets: [{[a, b]: c}]",
    "a null byte": 'datasets: [{json_path: "a\\0.json"}]',
}


@pytest.mark.parametrize("kind", list(HOSTILE))
def test_hostile_mixtures_are_told_at_once(kind, write):
    started = time.process_time()
    with pytest.raises(InputError) as told:
        load_records(write(HOSTILE[kind]))
    assert time.process_time() - started < 20
    assert len(str(told.value)) <= 500
    assert str(told.value).isprintable()


def test_fields_of_a_mixture_that_are_not_used_are_named(write, caplog):
    load_records(write("dataset: [x]\nweight: 3\ndatasets: [{json_path: a.json}]"))
    (line,) = [record.getMessage() for record in caplog.records if "Mixture" in record.getMessage()]
    assert line.endswith("mixture.yaml has fields that are not used: 'dataset', 'weight'.")


def test_null_is_absent(write):
    nulls = "sampling_strategy: , weight: null, video_root: ~"
    records = load_records(write(f"datasets: [{{json_path: a.json, {nulls}}}]"))
    assert records.weights == (1.0,)


def test_aliases_may_repeat_a_root(write):
    records = load_records(
        write("x: &x {json_path: a.json}\ndatasets: [{<<: *x, weight: 2}, {<<: *x}]")
    )
    assert records.weights == (2.0, 1.0)


@pytest.mark.parametrize(
    "strategy", ["some", "first", "first:0", "end:-1", "random:101%", "first:1.5", "all:3", 5]
)
def test_strategies_that_are_none(strategy, write):
    path = write(json.dumps({"datasets": [{"json_path": "a.json", "sampling_strategy": strategy}]}))
    with pytest.raises(InputError, match=r"dataset 0: field 'sampling_strategy' is .*expected all"):
        load_records(path)


def epochs(order, *, length, count):
    return [[order[i] for i in range(n * length, (n + 1) * length)] for n in range(count)]


def test_without_weights_every_record_comes_once_an_epoch():
    order = record_order([3, 4], weights=[1.0, 1.0], seed=1)
    assert epoch_length([3, 4], weights=[1.0, 1.0]) == 7
    first, second = epochs(order, length=7, count=2)
    assert sorted(first) == sorted(second) == list(range(7))
    assert first != second


@pytest.mark.parametrize("seed", range(3))
def test_weights_change_how_often_records_come(seed):
    counts, weights = [10, 4, 20, 0], [2.0, 1.0, 0.5, 3.0]
    order = record_order(counts, weights=weights, seed=seed)
    assert epoch_length(counts, weights=weights) == 20 + 4 + 10
    found = epochs(order, length=34, count=4)
    for epoch in found:
        often = Counter(epoch)
        assert all(often[i] == 2 for i in range(10))
        assert all(often[i] == 1 for i in range(10, 14))
        assert sum(often[i] for i in range(14, 34)) == 10
    for pair in (found[:2], found[2:]):
        both = Counter(itertools.chain(*pair))
        assert all(both[i] == 1 for i in range(14, 34))
    assert found[0] != found[1]


def test_small_weights_leave_no_dataset_out():
    order = record_order([3, 1000], weights=[0.01, 1.0], seed=0)
    found = [order[i] for i in range(3 * 1001)]
    assert sorted(i for i in found if i < 3) == [0, 1, 2]


def test_datasets_are_mixed_throughout_an_epoch():
    order = record_order([500, 500], weights=[1.0, 1.5], seed=0)
    halves = [sum(order[i] < 500 for i in range(*ends)) for ends in ((0, 625), (625, 1250))]
    assert sum(halves) == 500
    assert all(200 < half < 300 for half in halves)


def test_a_position_is_the_whole_state():
    arguments = {"weights": [2.0, 0.5], "seed": 3}
    order = record_order([7, 9], **arguments)
    far = [order[i] for i in range(10**9, 10**9 + 50)]
    assert far == [pickle.loads(pickle.dumps(order))[i] for i in range(10**9, 10**9 + 50)]
    assert far == [record_order([7, 9], **arguments)[i] for i in range(10**9, 10**9 + 50)]
    other = record_order([7, 9], weights=[2.0, 0.5], seed=4)
    assert far != [other[i] for i in range(10**9, 10**9 + 50)]


def test_a_run_follows_the_weights(write):
    path = write("datasets: [{json_path: a.json, weight: 3}, {json_path: sub/b.jsonl}]")
    source = build_pipeline(DataConfig(path=str(path), batch_size=5), image_size=28, seed=0).source
    often = Counter(source.order[i] for i in range(25))
    assert [often[i] for i in range(15)] == [3] * 5 + [1] * 10

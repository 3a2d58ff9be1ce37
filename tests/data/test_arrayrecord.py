"""Tests ingested shards: records are read on demand, and damaged shards are reported."""

import dataclasses
import json
import pickle

import pytest
from array_record.python.array_record_module import ArrayRecordWriter
from helpers import chat, write_clip

from vxlpro_jax.config.schema import DataConfig
from vxlpro_jax.data.loader.build import build_pipeline
from vxlpro_jax.data.sources import arrayrecord_format as ingested
from vxlpro_jax.data.sources.load import load_records, load_visual_records
from vxlpro_jax.data.sources.storage import open_media
from vxlpro_jax.data.text.chat import Turn
from vxlpro_jax.utils.errors import InputError

TALK = tuple(chat("<image>\nWho?", "Me."))


@pytest.fixture
def write(tmp_path):
    """Writes a shard of records, or of bytes that are not records."""

    def write(name, *records):
        path = tmp_path / f"{name}.arrayrecord"
        writer = ArrayRecordWriter(str(path), "group_size:1,uncompressed")
        for record in records:
            writer.write(record if isinstance(record, bytes) else ingested.encode_record(record))
        writer.close()
        return path

    return write


@pytest.fixture
def manifest(tmp_path):
    def manifest(*shards):
        entries = [
            {"file": path and path.name, "records": count, "sha256": "f", "bytes": size(path)}
            for path, count in shards
        ]
        (tmp_path / "manifest.json").write_text(json.dumps({"shards": entries}))
        return tmp_path

    return manifest


def size(path):
    return path.stat().st_size if path and path.exists() else 0


def held(name, content=b"\0\0\0\x18ftypmp42"):
    return ingested.IngestedRecord(name, TALK, content)


def named(name, video="clips/a.mp4"):
    return ingested.IngestedRecord(name, TALK, video)


def test_records_hold_bytes_or_paths(write, tmp_path):
    path = write("one", held("x"), named("y"))
    first, second = load_records(path, video_root="/videos")
    assert (first.content, first.video) == (b"\0\0\0\x18ftypmp42", "")
    assert (second.content, second.video, second.root) == (b"", "clips/a.mp4", "/videos")
    assert first.turns == (Turn("human", "<image>\nWho?"), Turn("gpt", "Me."))
    assert [r.name for r in (first, second)] == [
        f"{path}, record 0 (id 'x')",
        f"{path}, record 1 (id 'y')",
    ]
    assert load_records(path)[1].root == str(tmp_path)
    assert first.has_visual
    with open_media(first.media[0]) as stream:
        assert stream.read() == first.content
        assert stream.name == first.name


def test_a_folder_a_star_and_braces_name_the_same(write, manifest, tmp_path):
    shards = [(write("a", held("0"), held("1")), 2), (None, 0), (write("b", held("2")), 1)]
    folder = manifest(*shards)
    for path in (folder, folder / "*.arrayrecord", folder / "{a,b}.arrayrecord"):
        records = load_records(path)
        assert records.counts == (3,)
        assert [record.name[-3] for record in records] == list("012")
        assert load_visual_records(path)[2].content == records[2].content


def test_readers_do_not_travel_between_processes(write):
    records = load_records(write("a", held("0")))
    first = records[0]
    assert pickle.loads(pickle.dumps(records))[0] == first


def test_batches_are_those_of_files(write, tmp_path):
    clips = [write_clip(tmp_path / f"{n}.mp4", frames=4, seed=n) for n in range(3)]
    samples = [{"video": clip.name, "conversations": TALK} for clip in clips]
    (tmp_path / "data.json").write_text(json.dumps(samples))
    write("held", *(held(clip.stem, clip.read_bytes()) for clip in clips))
    write("named", *(named(clip.stem, clip.name) for clip in clips))
    batches = []
    for name in ("data.json", "held.arrayrecord", "named.arrayrecord"):
        data = DataConfig(path=str(tmp_path / name), batch_size=3)
        pipeline = build_pipeline(data, image_size=28, seed=0)
        batches.append(next(pipeline))
        pipeline.close()
    for other in batches[1:]:
        for key, value in batches[0].items():
            assert value.tobytes() == other[key].tobytes(), key


def test_a_damaged_record_is_a_bad_sample(write, tmp_path):
    clip = write_clip(tmp_path / "clip.mp4", frames=4).read_bytes()
    records = [held(str(n), clip) for n in range(40)]
    path = write("a", *records, b"no record")
    data = bytearray(path.read_bytes())
    place = data.index(ingested.encode_record(records[20])[:20])
    data[place + 100 : place + 110] = bytes(10)
    path.write_bytes(data)

    loaded = load_records(path)
    assert loaded[19].content == loaded[21].content == clip
    with pytest.raises(InputError, match=r"a.arrayrecord, record 20: cannot be read"):
        loaded[20]
    with pytest.raises(InputError, match=r"a.arrayrecord, record 40: .* not a complete record"):
        loaded[40]

    config = DataConfig(path=str(path), batch_size=41, bad_sample_quota=0.2)
    pipeline = build_pipeline(config, image_size=28, seed=0, bad_samples_path=tmp_path / "bad")
    next(pipeline)
    assert pipeline.get_state()["bad_records"] == [20, 40]
    pipeline.close()
    listed = [json.loads(line) for line in (tmp_path / "bad").read_text().splitlines()]
    assert sorted((bad["record"], bad["name"]) for bad in listed) == [
        (20, "record 20"),
        (40, "record 40"),
    ]
    strict = dataclasses.replace(config, bad_sample_quota=0.0)
    pipeline = build_pipeline(strict, image_size=28, seed=0)
    with pytest.raises(InputError, match=r"2 of 41 records|1 of 41 records"):
        next(pipeline)
    pipeline.close()


@pytest.mark.parametrize("content", [b"", b"hello" * 100, "half"])
def test_a_damaged_shard_is_named(content, write):
    path = write("a", *(held(str(n), bytes(3000)) for n in range(50)))
    path.write_bytes(path.read_bytes()[:80_000] if content == "half" else content)
    with pytest.raises(InputError, match=r"Shard .*a.arrayrecord cannot be read .*ingest it again"):
        load_records(path)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("{", "is not the manifest of an ingest"),
        ("{}", "is not the manifest of an ingest"),
        ('{"shards": [{"file": "a"}]}', "is not the manifest of an ingest"),
        ('{"shards": []}', "lists no shards"),
        (
            '{"shards": [{"file": "../a", "records": 1, "sha256": "", "bytes": 1}]}',
            "is not the man",
        ),
    ],
)
def test_manifests_that_are_none(text, what, tmp_path):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(InputError, match=rf"manifest.json {what}"):
        load_records(tmp_path)


def test_a_folder_needs_its_manifest_and_all_shards(write, manifest, tmp_path):
    with pytest.raises(InputError, match=r"manifest.json does not exist"):
        load_records(tmp_path)
    folder = manifest((write("a", held("0")), 1), (tmp_path / "gone.arrayrecord", 1))
    with pytest.raises(InputError, match=r"gone.arrayrecord does not exist"):
        load_records(folder)
    write("gone", held("1"), held("2"))
    with pytest.raises(InputError, match=r"gone.arrayrecord has .* bytes, but .* says 0 bytes"):
        load_records(folder)

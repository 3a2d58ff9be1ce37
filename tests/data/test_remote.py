"""Tests data files, videos and shards on real servers: reads, and messages on failure."""

import json
import pickle
import shutil
import time
import urllib.request

import fsspec
import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordWriter
from helpers import chat, free_port, write_clip
from servers import http_files, put, s3_server

from vxlpro_jax.config.schema import DataConfig
from vxlpro_jax.data.loader.build import build_pipeline
from vxlpro_jax.data.sources import arrayrecord_format as ingested
from vxlpro_jax.data.sources.load import load_records
from vxlpro_jax.data.sources.storage import StoredFile, fingerprint, open_binary, open_media
from vxlpro_jax.utils.errors import InputError

pytestmark = pytest.mark.slow

SAMPLES = [
    {"video": "clips/a b#1.mp4", "conversations": chat("<image>\nWho?", "Me.")},
    {"video": "clips/long.mp4", "conversations": chat("<image>\nWho?", "You.")},
]


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    """A folder with data files, their clips and shards."""
    folder = tmp_path_factory.mktemp("files")
    (folder / "clips").mkdir()
    write_clip(folder / "clips" / "a b#1.mp4", frames=3)
    write_clip(folder / "clips" / "long.mp4", frames=8)
    (folder / "data.json").write_text(json.dumps(SAMPLES))
    (folder / "data.jsonl").write_text("\n".join(map(json.dumps, SAMPLES)))
    (folder / "mixture.yaml").write_text("datasets: [{json_path: 'data.{json,jsonl}'}]")
    (folder / "secret.json").write_text("[]")
    (folder / "shards").mkdir()
    file = folder / "shards" / "shard-00000-of-00001.arrayrecord"
    writer = ArrayRecordWriter(str(file), "group_size:1")
    for sample in SAMPLES:
        video = (folder / sample["video"]).read_bytes()
        turns = tuple(sample["conversations"])
        writer.write(ingested.encode_record(ingested.IngestedRecord(sample["video"], turns, video)))
    writer.close()
    shard = {"file": file.name, "records": 2, "sha256": "0" * 64, "bytes": file.stat().st_size}
    (folder / "shards" / "manifest.json").write_text(json.dumps({"shards": [shard]}))
    return folder


@pytest.fixture
def http(files):
    with http_files(files) as (url, _):
        yield url


@pytest.fixture(scope="module")
def bucket(files):
    """The address of an S3 server whose bucket `videos` holds the files."""
    with s3_server() as address:
        put(f"{address}/videos", b"")
        for file in files.rglob("*.*"):
            name = urllib.request.quote(str(file.relative_to(files)))
            put(f"{address}/videos/{name}", file.read_bytes())
        yield address


@pytest.fixture
def s3(bucket, monkeypatch):
    """The URL of the bucket."""
    environment = {"ENDPOINT_URL": bucket, "ACCESS_KEY_ID": "a", "SECRET_ACCESS_KEY": "b"}
    for name, value in {**environment, "DEFAULT_REGION": "us-east-1"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    return "s3://videos"


@pytest.fixture(params=["http", "s3"])
def place(request):
    return request.getfixturevalue(request.param)


def media_bytes(record):
    with open_media(record.media[0]) as stream:
        return stream.read()


@pytest.mark.parametrize("name", ["data.json", "data.jsonl", "mixture.yaml", "data.{json,jsonl}"])
def test_data_files_and_their_videos(name, place, files):
    records = load_records(f"{place}/{name}")
    assert len(records) == (2 if name.startswith("data.json") else 4)
    for record, sample in zip(records, SAMPLES * 2, strict=False):
        assert (record.video, record.root) == (sample["video"], place)
        assert media_bytes(record) == (files / sample["video"]).read_bytes()


def test_stars_match_in_a_bucket(s3):
    names = [record.name for record in load_records(f"{s3}/dat*.json*")]
    assert [name.partition(",")[0] for name in names] == [f"{s3}/data.json"] * 2 + [
        f"{s3}/data.jsonl"
    ] * 2
    with pytest.raises(InputError, match="no file matches"):
        load_records(f"{s3}/none*.json")


def test_a_server_lists_no_files(http):
    with pytest.raises(InputError, match=r"does not list its files.* brace list"):
        load_records(f"{http}/*.json")


def test_local_data_with_remote_videos(place, files, tmp_path):
    shutil.copy(files / "data.json", tmp_path)
    record = load_records(tmp_path / "data.json", video_root=place)[1]
    assert media_bytes(record) == (files / "clips/long.mp4").read_bytes()


def test_a_file_object_seeks(place, files):
    content = (files / "clips/long.mp4").read_bytes()
    with open_media(StoredFile(place, "clips/long.mp4")) as stream:
        assert stream.seek(-10, 2) == len(content) - 10
        assert stream.read() == content[-10:]
        assert stream.seek(100) == stream.tell() == 100
        assert stream.read(50) == content[100:150]


def test_batches_are_those_of_local_files(place, files, tmp_path):
    def batch(path):
        data = DataConfig(path=path, batch_size=2, cache_dir=str(tmp_path))
        pipeline = build_pipeline(data, image_size=28, seed=0)
        with_all = next(pipeline)
        pipeline.close()
        return with_all

    local = batch(str(files / "data.json"))
    for name in ("data.jsonl", "shards"):
        remote = batch(f"{place}/{name}")
        for key in local:
            np.testing.assert_array_equal(remote[key], local[key], err_msg=key)


def test_a_remote_shard_is_copied_once(files, tmp_path):
    with http_files(files) as (url, asked):
        records = load_records(f"{url}/shards", cache_dir=tmp_path)
        assert len(records) == 2
        assert not any("arrayrecord" in request for request in asked)
        contents = [records[i].content for i in (1, 0, 1)]
        again = pickle.loads(pickle.dumps(records))[0].content
    expected = [(files / sample["video"]).read_bytes() for sample in SAMPLES]
    assert [*contents, again] == [expected[1], expected[0], expected[1], expected[0]]
    gets = [request for request in asked if request.startswith("GET") and "arrayrecord" in request]
    assert len(gets) == 1
    assert [file.name.partition("-")[2] for file in (tmp_path / "shards").glob("*.arrayrecord")]


def test_one_shard_may_be_named(place, tmp_path):
    name = f"{place}/shards/shard-00000-of-00001.arrayrecord"
    assert [len(r.content) > 0 for r in load_records(name, cache_dir=tmp_path)] == [True, True]


def test_a_changed_file_has_another_fingerprint(s3):
    file = StoredFile(s3, "changing.mp4")
    prints = []
    for content in (b"one", b"two", b"two"):
        time.sleep(1.1 if prints else 0)  # Servers report another modification time.
        fsspec.filesystem("s3").pipe("videos/changing.mp4", content)
        prints.append(fingerprint(file))
    assert prints[0] != prints[1] == prints[2]


@pytest.mark.parametrize("name", ["../data.json", "/data.json", "clips/../../x", "http://h/x"])
def test_names_stay_inside_their_root(name, http):
    with (
        pytest.raises(InputError, match="leads out of its folder http"),
        open_media(StoredFile(f"{http}/clips", name)),
    ):
        pass


def test_percent_signs_in_a_name_are_no_way_out(files):
    with http_files(files) as (url, asked):
        name = "%2e%2e/data.json"
        with (
            pytest.raises(InputError, match="does not exist"),
            open_media(StoredFile(f"{url}/clips", name)),
        ):
            pass
    assert asked
    assert all("/clips/%252e%252e/data.json" in request for request in asked)


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("none.json", "none.json does not exist: check its name"),
        ("none.yaml", "none.yaml does not exist: check its name"),
        ("none.arrayrecord", "none.arrayrecord does not exist: check its name"),
        ("clips", "clips/manifest.json does not exist"),
        ("secret.json", "secret.json cannot be read .*403"),
    ],
)
def test_what_cannot_be_had_is_named(name, what, http, tmp_path):
    with pytest.raises(InputError, match=what):
        load_records(f"{http}/{name}", cache_dir=tmp_path)


def test_a_missing_bucket_and_key(s3):
    for url in (f"{s3}/none.json", "s3://nowhere/data.json"):
        with pytest.raises(InputError, match=rf"{url} does not exist"):
            load_records(url)


def test_a_server_that_is_gone_is_named():
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(InputError, match=rf"{url}/data.json cannot be read"):
        load_records(f"{url}/data.json")
    with (
        pytest.raises(InputError, match=rf"File {url}/a.mp4 cannot be read"),
        open_media(StoredFile(url, "a.mp4")),
    ):
        pass


def test_a_server_that_goes_while_a_file_is_read(files):
    (files / "large.mp4").write_bytes(bytes(9 << 20))
    with http_files(files) as (url, _), open_media(StoredFile(url, "large.mp4")) as stream:
        assert stream.read(100) == bytes(100)
        (files / "large.mp4").unlink()
        stream.seek(8 << 20)
        with pytest.raises(InputError, match=rf"{url}/large.mp4 cannot be read .*404"):
            stream.read(100)


def test_a_server_without_ranges(files):
    with http_files(files, ranges=False) as (url, _):
        assert len(load_records(f"{url}/data.json")) == 2
        with (
            pytest.raises(InputError, match=r"long.mp4 cannot be read"),
            open_media(StoredFile(url, "clips/long.mp4")) as stream,
        ):
            stream.read()


def test_messages_redact_credentials_of_urls():
    with pytest.raises(InputError) as error, open_binary("http://me:pass@127.0.0.1:1/a?key=s"):
        pass
    assert "http://127.0.0.1:1/a " in str(error.value)
    assert "pass" not in str(error.value)
    assert "key" not in str(error.value)


@pytest.mark.parametrize(
    "url", ["ftp://host/data.json", "memory://data.json", "file:///etc/passwd"]
)
def test_other_schemes_are_refused(url, tmp_path):
    with pytest.raises(InputError, match="give a local path or a URL of http, https, s3, gs"):
        load_records(url)
    (tmp_path / "data.json").write_text(json.dumps(SAMPLES))
    with pytest.raises(InputError, match="give a local path or a URL of"):
        load_records(tmp_path / "data.json", video_root=url)

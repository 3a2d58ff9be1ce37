"""Tests ingest by its launch script and environment, from real servers, killed and resumed.

Run by name, `pytest tests/data/ingest_end_to_end.py`, because it installs TensorFlow, 1.5 GB.
"""

import hashlib
import json
import os
import pickle
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest
from array_record.python.array_record_module import ArrayRecordReader
from helpers import ROOT
from servers import http_files, put, s3_server

from vxlpro_jax.data.sources.arrayrecord_format import decode_record

SCRIPT = ROOT / "launch" / "ingest.sh"
SHARDS, PER_SHARD = 20, 500
# If pytest's Python is too new for TensorFlow, the script looks for another.
PYTHON = os.environ.get("PYTHON") or (sys.executable if sys.version_info < (3, 13) else "")


@pytest.fixture(scope="module")
def s3():
    """The address of an S3 server that has bucket `videos`."""
    with s3_server() as address:
        put(f"{address}/videos", b"")
        yield address


# ---- A set of 10,000 records --------------------------------------------------------------------

WRITE = """
import pathlib, pickle, sys
import tensorflow as tf
for file, records in pickle.loads(pathlib.Path(sys.argv[1]).read_bytes()).items():
    with tf.io.TFRecordWriter(file) as writer:
        for fields in records:
            features = {
                name: tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
                for name, value in fields.items()
            }
            example = tf.train.Example(features=tf.train.Features(feature=features))
            writer.write(example.SerializeToString() if fields else b"no example")
"""


def fields(n):
    """Returns the fields of sample n, as its example stores them; a few samples are bad."""
    turns = [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": f"nº {n}"}]
    chance = random.Random(n)
    video = b"\0\0\0\x18ftypmp42" + chance.randbytes(chance.randrange(100, 2100))
    good = {
        "id": f"id {n}".encode(),
        "conversations": json.dumps(turns).encode(),
        "video": video if n % 4 else f"clips/{n}.mp4".encode(),
    }
    spoilt = {
        11: {"conversations": b"{"},
        512: {"video": b""},
        1513: {"video": b"../elsewhere.mp4"},
        2514: {"video": b"\0" * 50},
        3015: {"id": b"id 3014"},
        5016: {"id": b"id 16"},
    }
    if n == 4017:
        return {}
    return good | spoilt.get(n, {})


BAD = {  # Shard, record within it, kind; the last repeats an id of the first shard.
    (0, 11, "conversations"),
    (1, 12, "video"),
    (3, 13, "path"),
    (5, 14, "video"),
    (6, 15, "duplicate"),
    (8, 17, "example"),
    (10, 16, "duplicate"),
}
REWRITTEN = "00010"  # The shard that loses this last record once all ids are known.
CORRUPTED, CUT = 7, 16  # Shards, served by HTTP and by S3.
FLIPPED = 0.5  # Position in the shard at which one byte is changed.
CUT_BYTES = 1000


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """The environment that the launch script creates."""
    folder = tmp_path_factory.mktemp("ingest") / "venv"
    run = ingest_sh("--help", VENV=str(folder), PYTHON=PYTHON)
    assert run.returncode == 0, run.stderr
    assert "--max_bad" in run.stdout
    yield folder
    # The environment is large, and pytest keeps its folders, so it is removed in the background.
    os.spawnlp(os.P_NOWAIT, "rm", "rm", "-rf", str(folder))


@pytest.fixture(scope="module")
def folder(environment, tmp_path_factory):
    """The shards as files: 10,000 samples; shard CORRUPTED has a wrong byte, CUT is truncated."""
    folder = tmp_path_factory.mktemp("shards")
    names = [f"s-{shard:02d}.tfrecord" for shard in range(SHARDS)]
    sets = {
        str(folder / name): [fields(shard * PER_SHARD + i) for i in range(PER_SHARD)]
        for shard, name in enumerate(names)
    }
    (folder / "sets").write_bytes(pickle.dumps(sets))
    subprocess.run([environment / "bin/python", "-c", WRITE, folder / "sets"], check=True)
    data = bytearray((folder / names[CORRUPTED]).read_bytes())
    data[int(len(data) * FLIPPED)] ^= 1
    (folder / names[CORRUPTED]).write_bytes(data)
    (folder / names[CUT]).write_bytes((folder / names[CUT]).read_bytes()[:-CUT_BYTES])
    return folder


@pytest.fixture(scope="module")
def sources(folder, s3):
    """The arguments for all shards, half by HTTP and half by S3, and the environment."""
    for name in sorted(file.name for file in folder.glob("s-1*")):
        put(f"{s3}/videos/train/{name}", (folder / name).read_bytes())
    keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_REGION": "us-east-1"}
    with http_files(folder, delay=0.05) as (url, _):  # Slow as a network.
        yield [f"{url}/s-{{00..09}}.tfrecord", "s3://videos/train/*"], {"S3_ENDPOINT": s3, **keys}


def ingest_sh(*arguments, **environment):
    process = start(*arguments, **environment)
    out, error = process.communicate(timeout=600)
    return subprocess.CompletedProcess(process.args, process.returncode, out, error)


def start(*arguments, **environment):
    return subprocess.Popen(
        ["bash", str(SCRIPT), *map(str, arguments)],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def tree(folder):
    """Returns the content of all files under a folder, by name."""
    files = (file for file in folder.rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


@pytest.fixture(scope="module")
def in_one_go(environment, sources, tmp_path_factory):
    """The output folder of an uninterrupted run."""
    out = tmp_path_factory.mktemp("out") / "whole"
    arguments, servers = sources
    run = ingest_sh(
        *arguments,
        f"--out={out}",
        "--workers=2",
        "--max_bad=0.05",
        VENV=str(environment),
        **servers,
    )
    assert run.returncode == 0, run.stderr
    assert f"{out} holds" in run.stdout
    return out


def test_unsupported_python_is_an_error(tmp_path):
    fake_python(tmp_path / "python", "exit 1")
    run = ingest_sh("--help", VENV=str(tmp_path / "venv"), PYTHON=str(tmp_path / "python"))
    assert run.returncode == 2
    assert "needs Python 3.11 or 3.12" in run.stderr
    assert not (tmp_path / "venv").exists()


def test_script_looks_for_a_supported_python(tmp_path):
    fake_python(tmp_path / "python3", "exit 1")
    fake_python(tmp_path / "python3.12", '[[ $1 == -c ]] || { echo "$0 $*"; exit 9; }')
    path = f"{tmp_path}:{os.environ['PATH']}"
    run = ingest_sh("--help", VENV=str(tmp_path / "venv"), PYTHON="", PATH=path)
    assert run.stdout == f"{tmp_path}/python3.12 -m venv {tmp_path}/venv\n"
    assert run.returncode == 9


def fake_python(file, text):
    file.write_text(f"#!/usr/bin/env bash\n{text}\n")
    file.chmod(0o755)


# ---- The whole of it ----------------------------------------------------------------------------


def test_output_holds_the_good_records_of_the_shards(in_one_go, folder):
    manifest = json.loads((in_one_go / "manifest.json").read_text())
    listed = [json.loads(x) for x in (in_one_go / "bad_records.jsonl").read_text().splitlines()]
    found = [(int(re.search(r"s-(\d+)", x["shard"])[1]), x["record"], x["kind"]) for x in listed]
    assert found == sorted(found)
    damage = {shard: record for shard, record, kind in found if kind == "damage"}
    # All complete records before the damage are kept.
    corrupted, cut = ((folder / f"s-{x:02d}.tfrecord").read_bytes() for x in (CORRUPTED, CUT))
    assert damage == {
        CORRUPTED: whole_records(corrupted, end=int(len(corrupted) * FLIPPED)),
        CUT: whole_records(cut, end=len(cut)),
    }
    assert {x for x in found if x[2] != "damage"} == BAD
    assert {x["shard"].partition("://")[0] for x in listed} == {"http", "s3"}

    bad = {(shard, record) for shard, record, _ in found}
    for shard, entry in enumerate(manifest["shards"]):
        wanted = [
            fields(shard * PER_SHARD + i)
            for i in range(damage.get(shard, PER_SHARD))
            if (shard, i) not in bad
        ]
        records = read_shard(in_one_go / entry["file"])
        assert [record.id.encode() for record in records] == [x["id"] for x in wanted]
        for record, sample in zip(records, wanted, strict=True):
            assert list(record.conversations) == json.loads(sample["conversations"])
            video = sample["video"]
            assert record.video == (video.decode() if video.startswith(b"clips") else video)
    assert len(listed) == len(set(found))


def whole_records(data, *, end):
    """Returns the number of records of a TFRecord shard that end at or before byte `end`."""
    count = at = 0
    while (at := at + 16 + int.from_bytes(data[at : at + 8], "little")) <= end:
        count += 1
    return count


def read_shard(file):
    reader = ArrayRecordReader(str(file))
    records = [decode_record(data) for data in reader.read_all()]
    reader.close()
    return records


def test_manifest_describes_the_output(in_one_go, folder):
    manifest = json.loads((in_one_go / "manifest.json").read_text())
    files = tree(in_one_go)
    assert set(files) == {x["file"] for x in manifest["shards"]} | {
        "manifest.json",
        "bad_records.jsonl",
    }
    for entry in manifest["shards"]:
        data = files[entry["file"]]
        assert entry["bytes"] == len(data)
        assert entry["sha256"] == hashlib.sha256(data).hexdigest()
        name = entry["source"]["url"].rpartition("/")[2]
        assert entry["source"]["bytes"] == (folder / name).stat().st_size
    assert manifest["records"] == sum(x["records"] for x in manifest["shards"])
    assert manifest["bytes"] == sum(x["bytes"] for x in manifest["shards"])
    assert manifest["bad"] == Counter(kind for _, _, kind in BAD) | {"damage": 2}
    hidden = SHARDS * PER_SHARD - manifest["records"] - len(BAD)
    assert manifest["lost"] == pytest.approx(hidden, rel=0.1)


def test_killed_and_resumed_ingest_gives_the_same_bytes(in_one_go, environment, sources, tmp_path):
    arguments, servers = sources
    out = tmp_path / "killed"
    command = [*arguments, f"--out={out}", "--max_bad=0.05"]
    for parts, workers in ((2, 1), (9, 3)):
        process = start(*command, f"--workers={workers}", VENV=str(environment), **servers)
        while len(list(out.glob("partial/*[0-9].json"))) < parts:
            assert process.poll() is None, process.communicate()
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=20)  # Returns after the workers end.
        assert not (out / "manifest.json").exists()
        assert not list(out.glob("*.arrayrecord"))
    done = {file.stem: file.with_suffix(".arrayrecord") for file in out.glob("partial/*[0-9].json")}
    written = {name: file.stat().st_mtime_ns for name, file in done.items() if name != REWRITTEN}
    again = ingest_sh(*command, "--workers=1", VENV=str(environment), **servers)
    assert again.returncode == 0, again.stderr
    assert tree(out) == tree(in_one_go)
    shards = {file.name.split("-")[1]: file.stat().st_mtime_ns for file in out.glob("shard-*")}
    assert written.items() <= shards.items()  # They were not read again.
    # Another start finds the ingest complete.
    again = ingest_sh(*command, "--workers=1", VENV=str(environment), **servers)
    assert again.returncode == 0, again.stderr
    assert tree(out) == tree(in_one_go)
    # Other shards are refused.
    other = ingest_sh(arguments[0], f"--out={out}", VENV=str(environment), **servers)
    assert other.returncode == 2
    assert "other shards" in other.stderr


def test_too_many_bad_records_end_the_run(in_one_go, environment, sources, tmp_path):
    arguments, servers = sources
    command = [*arguments, f"--out={tmp_path}"]
    run = ingest_sh(*command, "--workers=2", VENV=str(environment), **servers)
    assert run.returncode == 2
    assert re.search(
        r"error: 5 bad records and about \d+ records lost after damage are 2.\d%", run.stderr
    )
    assert "Traceback" not in run.stderr
    listed = (tmp_path / "bad_records.jsonl").read_text().splitlines()
    assert listed == (in_one_go / "bad_records.jsonl").read_text().splitlines()[: len(listed)]
    assert '"damage"' in listed[-1]
    # With a higher limit it continues.
    run = ingest_sh(*command, "--workers=1", "--max_bad=0.05", VENV=str(environment), **servers)
    assert run.returncode == 0, run.stderr
    assert tree(tmp_path) == tree(in_one_go)


def test_requests_to_a_failing_server_are_retried(environment, folder, tmp_path):
    with http_files(folder, failing=1) as (url, _):
        run = ingest_sh(f"{url}/moved/s-00.tfrecord", f"--out={tmp_path}", VENV=str(environment))
    assert run.returncode == 0, run.stderr
    assert json.loads((tmp_path / "manifest.json").read_text())["records"] == PER_SHARD - 1


def test_unreadable_shards_are_an_error_in_one_sentence(environment, sources, tmp_path):
    _, servers = sources
    shards = ("s3://videos/no.tfrecord", "s3://nobody/*.tfrecord", f"{tmp_path}/no", "ftp://a/b")
    processes = [
        start(shard, f"--out={tmp_path}/out", VENV=str(environment), **servers) for shard in shards
    ]
    for process in processes:
        _, error = process.communicate(timeout=100)
        assert process.returncode == 2, error
        assert re.search(r"^error: .*(exist|matches|supported)", error, re.MULTILINE)
        assert "Traceback" not in error
    assert not (tmp_path / "out").exists()

"""Tests parts of ingest that need no TensorFlow: patterns, shard conversion, counts, workers."""

import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from array_record.python.array_record_module import ArrayRecordReader
from helpers import ROOT, chat, free_port
from servers import http_files

from vxlpro_jax.data.errors import ProgramError
from vxlpro_jax.data.ingest import tfrecord, workers
from vxlpro_jax.data.ingest.convert import ConvertedShard, write_shard
from vxlpro_jax.data.ingest.quota import Tally
from vxlpro_jax.data.ingest.tfrecord import DamagedShard, Example, SourceShard
from vxlpro_jax.data.sources import paths
from vxlpro_jax.data.sources.arrayrecord_format import BadRecord, decode_record
from vxlpro_jax.utils.errors import InputError

pytestmark = pytest.mark.slow

TALK = json.dumps(chat("<image>", "a")).encode()


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("a.tfrecord", ["a.tfrecord"]),
        ("{a,b}/x-{8..10}", ["a/x-8", "a/x-9", "a/x-10", "b/x-8", "b/x-9", "b/x-10"]),
        ("https://h/{098..100}", ["https://h/098", "https://h/099", "https://h/100"]),
        ("{a,b{1,2}}", ["a", "b1", "a", "b2"]),
    ],
)
def test_braces_are_expanded(pattern, names):
    assert paths.expand_braces(pattern) == names


def test_braces_without_list_or_range_are_an_error():
    with pytest.raises(InputError, match="braces hold a list"):
        paths.expand_braces("a{x}b")


@pytest.mark.parametrize("url", ["http://h/*.tfrecord", "ftp://h/a", "hdfs://h/a"])
def test_patterns_that_cannot_be_listed_are_an_error(url):
    with pytest.raises(InputError, match=r"brace pattern|is not supported"):
        tfrecord.find_shards(url)


def test_redact_url_removes_credentials_and_query():
    url = "https://me:pass@host:80/a/b.tfrecord?X-Amz-Signature=123"
    assert paths.redact_url(url) == "https://host:80/a/b.tfrecord"
    assert paths.redact_url("/a/b?c") == "/a/b?c"


def test_shard_size_over_http(tmp_path):
    (tmp_path / "a").write_bytes(bytes(12345))
    (tmp_path / "none").write_bytes(b"")
    with http_files(tmp_path) as (url, _):
        assert tfrecord.shard_size(f"{url}/a") == 12345
        assert tfrecord.shard_size(f"{url}/moved/a") == 12345
        assert tfrecord.shard_size(f"{url}/none") == 0
        for name, told in (("no", "does not exist"), ("secret/a", "may not be read")):
            with pytest.raises(InputError, match=told):
                tfrecord.shard_size(f"{url}/{name}")
    without = pytest.raises(InputError, match="range requests")
    with http_files(tmp_path, ranges=False) as (url, _), without:
        tfrecord.shard_size(f"{url}/a")
    with http_files(tmp_path, failing=1) as (url, _), pytest.raises(tfrecord.UnreachableShard):
        tfrecord.shard_size(f"{url}/a")
    with pytest.raises(tfrecord.UnreachableShard):
        tfrecord.shard_size(f"http://127.0.0.1:{free_port()}/a")


def examples(*names, damage=None):
    """Returns one example for each name; `bad` and `video` are bad."""
    for name in names:
        video = b"" if name == "video" else b"a.mp4"
        sample = {"id": name.encode(), "conversations": TALK, "video": video}
        yield Example(BadRecord("example", "no") if name == "bad" else sample, 100)
    if damage:
        raise DamagedShard(damage)


def test_write_shard_keeps_good_records_up_to_the_damage(tmp_path):
    heard = []
    names = ("a", "bad", "b", "a", "video", "c")
    part = write_shard(
        examples(*names, damage="cut"), file=tmp_path / "part", report_bytes=heard.append
    )
    assert part.ids == ["a", "b", "c"]
    assert [(position, kind) for position, kind, _ in part.bad] == [
        (1, "example"),
        (3, "duplicate"),
        (4, "video"),
    ]
    assert part.damage == "cut"
    assert part.read_bytes == sum(heard) == 600
    data = (tmp_path / "part").read_bytes()
    assert (part.bytes, part.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    reader = ArrayRecordReader(str(tmp_path / "part"))
    assert [decode_record(record).id for record in reader.read_all()] == part.ids
    reader.close()


def test_write_shard_without_good_records_writes_none(tmp_path):
    part = write_shard(examples("bad", "bad"), file=tmp_path / "part", report_bytes=lambda _: None)
    assert part.ids == []
    assert len(part.bad) == 2


def part(*, kept, bad=0, read_bytes, damage=""):
    return ConvertedShard(
        [str(i) for i in range(kept)], [(0, "id", "")] * bad, damage, read_bytes, 0, ""
    )


def test_lost_records_are_estimated_from_lost_bytes():
    whole = Tally().add(SourceShard("a", 1000), part(kept=98, bad=2, read_bytes=1000))
    assert (whole.lost, whole.bad_share(all_bytes=1000)) == (0, 0.02)
    # Relative to the bytes of ten shards, the bad records of one shard are a tenth of the share.
    assert whole.bad_share(all_bytes=10_000) == pytest.approx(0.002)
    half = whole.add(SourceShard("b", 1000), part(kept=50, read_bytes=500, damage="x"))
    assert half.lost == 50
    assert half.bad_share(all_bytes=2000) == pytest.approx(52 / 200)
    none = Tally().add(SourceShard("a", 1000), part(kept=0, read_bytes=0, damage="x"))
    assert (none.lost, none.bad_share(all_bytes=1000)) == (1, 1.0)
    assert Tally().add(SourceShard("a", 0), part(kept=0, read_bytes=0)).bad_share(all_bytes=0) == 0


# ---- Workers ------------------------------------------------------------------------------------


def double(item, report_bytes):
    report_bytes(item)
    return 2 * item, os.getpid()


def die_once(marker, report_bytes):
    del report_bytes
    if not Path(marker).exists():
        Path(marker).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "done"


def die(item, report_bytes):
    del report_bytes
    os._exit(3)


def leave_open(item, report_bytes):
    del report_bytes
    globals().setdefault("open_files", []).extend(os.dup(0) for _ in range(300))
    return os.getpid()


def complain(item, report_bytes):
    del report_bytes
    raise {"user": InputError("mend it"), "code": KeyError("oops")}[item]


def test_worker_results_come_in_order_of_the_items():
    with workers.Workers(2) as pool:
        results = pool.results(double, range(20))
        heard = [x.bytes for x in pool.run(double, [1, 2]) if isinstance(x, workers.BytesRead)]
    assert [result for result, _ in results] == list(range(0, 40, 2))
    assert len({process for _, process in results}) == 2
    assert sorted(heard) == [1, 2]


def test_killed_worker_is_replaced(tmp_path):
    with workers.Workers(1) as pool:
        assert pool.results(die_once, [str(tmp_path / "marker")]) == ["done"]
        with pytest.raises(workers.IngestError, match=r"7 killed 2 processes.*exit code 3"):
            pool.results(die, [7])


def test_worker_with_many_open_files_is_replaced():
    with workers.Workers(1) as pool:
        first, second, third = pool.results(leave_open, range(3))
    assert first == second != third


def test_errors_in_workers_are_raised_in_the_parent():
    with workers.Workers(1) as pool:
        with pytest.raises(InputError, match="mend it"):
            pool.results(complain, ["user"])
        with pytest.raises(ProgramError, match="KeyError: 'oops'"):
            pool.results(complain, ["code"])


def test_ingest_imports_only_its_own_requirements():
    """`launch/ingest.sh` runs in an environment without JAX and without the package."""
    code = (
        "import sys; before = set(sys.modules); from vxlpro_jax.data.ingest import __main__;"
        "names = {name.partition('.')[0] for name in set(sys.modules) - before};"
        "print(*names - sys.stdlib_module_names)"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    assert {name for name in loaded if not name.startswith("_")} <= {"vxlpro_jax", "tqdm"}

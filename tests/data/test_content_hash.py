"""Content hashes depend only on bytes, and each file is read once."""

import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from servers import http_files

from vxlpro_jax.data.sources import content_hash as contents_module
from vxlpro_jax.data.sources.content_hash import ContentHashes, media_name, visual_key
from vxlpro_jax.data.sources.storage import StoredFile
from vxlpro_jax.utils.errors import InputError


@pytest.fixture
def reads(monkeypatch):
    """Records the names of the files that are read completely."""
    names = []
    read = contents_module._hash

    def counted(file):
        names.append(file.name)
        return read(file)

    monkeypatch.setattr(contents_module, "_hash", counted)
    return names


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_a_file_counts_by_its_bytes(tmp_path):
    for name, content in (("a", b"one"), ("b", b"one"), ("c", b"two")):
        (tmp_path / name).write_bytes(content)
    contents = ContentHashes(tmp_path / "index")
    a, b, c = (contents(StoredFile(str(tmp_path), name)) for name in "abc")
    assert a == b == sha(b"one") == contents(StoredFile("", "held", b"one"))
    assert c == sha(b"two")


def test_a_file_is_read_again_only_when_it_changed(tmp_path, reads):
    file = StoredFile(str(tmp_path), "a")
    (tmp_path / "a").write_bytes(b"one")
    for _ in range(3):
        contents = ContentHashes(tmp_path / "index")
        assert contents(file) == contents(file) == sha(b"one")
    assert reads == ["a"]
    (tmp_path / "a").write_bytes(b"three")
    assert ContentHashes(tmp_path / "index")(file) == sha(b"three")
    assert reads == ["a", "a"]


def test_a_change_within_a_run_does_not_count(tmp_path):
    file = StoredFile(str(tmp_path), "a")
    (tmp_path / "a").write_bytes(b"one")
    contents = ContentHashes(tmp_path / "index")
    before = contents(file)
    (tmp_path / "a").write_bytes(b"three")
    assert contents(file) == before


def test_threads_that_ask_for_one_file_read_it_once(tmp_path, reads):
    (tmp_path / "a").write_bytes(bytes(1 << 22))
    contents, together = ContentHashes(tmp_path / "index"), threading.Barrier(8)

    def ask(_):
        together.wait()
        return contents(StoredFile(str(tmp_path), "a"))

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(ask, range(8))) == {sha(bytes(1 << 22))}
    assert reads == ["a"]


def test_a_torn_line_is_passed_over(tmp_path, reads):
    file = StoredFile(str(tmp_path), "a")
    (tmp_path / "a").write_bytes(b"one")
    ContentHashes(tmp_path / "index")(file)
    (index,) = (tmp_path / "index").iterdir()
    whole = index.read_text()
    for text in (whole[:40], f"{whole}{{", f"3\nnull\n[]\n{whole}"):
        index.write_text(text)
        assert ContentHashes(tmp_path / "index")(file) == sha(b"one")
    assert len(reads) == 2


def test_a_remote_file_is_asked_for_once_a_run_and_read_once(tmp_path, reads):
    root = tmp_path / "served"
    root.mkdir()
    (root / "a.mp4").write_bytes(b"bytes")
    with http_files(root) as (url, asked):
        file = StoredFile(url, "a.mp4")
        for _ in range(2):
            contents = ContentHashes(tmp_path / "index")
            asked.clear()
            assert contents(file) == sha(b"bytes")
            contents(file)
        assert [request.split()[0] for request in asked] == ["HEAD"]
    assert reads == ["a.mp4"]
    assert "http" not in next((tmp_path / "index").iterdir()).read_text()


@pytest.mark.parametrize("name", ["none", "../secret", "link", "folder", "x" * 300])
def test_unreadable_file_raises_each_time(name, tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "secret").write_text("outside")
    (root / "link").symlink_to(tmp_path / "secret")
    (root / "folder").mkdir()
    (root / "folder" / "1.png").symlink_to(tmp_path / "secret")
    contents = ContentHashes(tmp_path / "index")
    for _ in range(2):
        with pytest.raises(InputError, match=r"check|leads out"):
            contents(StoredFile(str(root), name))


def test_names_and_keys_tell_files_order_and_reading_apart():
    a, b = StoredFile("r", "a"), StoredFile("r", "b")
    names = [media_name(media) for media in ([a], [b], [a, b], [b, a], [StoredFile("r\0a", "")])]
    assert len(set(names)) == len(names)
    shown = [(["1"], "x"), (["1"], "y"), (["1", "2"], "x"), (["2", "1"], "x")]
    keys = [visual_key(hashes, reading=reading) for hashes, reading in shown]
    assert len(set(keys)) == len(keys)
    assert all(len(bytes.fromhex(key)) == len(name) == 16 for key in keys for name in names)

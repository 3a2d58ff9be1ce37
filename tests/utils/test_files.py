"""Tests text of any editor, files that are none, and folders that cannot be written."""

import errno
import functools
import os

import pytest

from vxlpro_jax.data.sources import storage
from vxlpro_jax.data.text import tokenizer_files
from vxlpro_jax.evals import annotations, subtitles
from vxlpro_jax.utils import files
from vxlpro_jax.utils.errors import InputError


def test_a_folder_is_made_and_nothing_is_left_in_it(tmp_path):
    for _ in range(2):
        files.make_writable(tmp_path / "a" / "b", flag="--out")
    assert list((tmp_path / "a" / "b").iterdir()) == []


@pytest.mark.parametrize("place", ["file", "file/below", "x" * 300, "/proc/nowhere"])
def test_places_that_cannot_be_written_are_refused_by_name(tmp_path, place):
    (tmp_path / "file").write_text("")
    with pytest.raises(
        InputError, match=r"cannot be written .* choose another --workdir"
    ) as caught:
        files.make_writable(tmp_path / place, flag="--workdir")
    assert str(tmp_path / place) in str(caught.value)


def test_a_full_disk_is_no_matter_of_rights(tmp_path, monkeypatch):
    def full(**_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.tempfile, "TemporaryFile", full)
    with pytest.raises(OSError, match="No space"):
        files.make_writable(tmp_path, flag="--out")


def test_text_of_any_editor_is_the_same(tmp_path):
    file = tmp_path / "text"
    for content in (b"a\nb\n", b"a\r\nb\r\n", b"a\rb\r", b"\xef\xbb\xbfa\nb\n"):
        file.write_bytes(content)
        assert files.read_text(file) == "a\nb\n"
    file.write_bytes(b"a\xff")
    with pytest.raises(InputError, match=rf"Notes {file} is not UTF-8 text \(at byte 1\): save"):
        files.read_text(file, what="Notes")


def open_data(file):
    with storage.open_binary(str(file)) as stream:
        return stream.read(1)


@pytest.mark.parametrize(
    "read",
    [
        files.read_json,
        annotations.read_rows,
        functools.partial(annotations.read_predictions, ids=["a"]),
        subtitles.read_srt,
        tokenizer_files.read_whole,
        open_data,
    ],
)
@pytest.mark.parametrize("device", ["", "/dev/zero"], ids=["pipe", "zeros"])
def test_pipes_and_devices_are_refused_at_once(read, device, tmp_path):
    file = tmp_path / "file"
    if device:
        file.symlink_to(device)
    else:
        os.mkfifo(file)
    with pytest.raises(InputError, match=r"is a pipe or a device: copy its content to a file"):
        read(file)

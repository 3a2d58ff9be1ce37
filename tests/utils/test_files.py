"""Tests folders that cannot be written."""

import errno

import pytest

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

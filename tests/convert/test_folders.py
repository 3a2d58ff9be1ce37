"""If two processes write to one destination, one succeeds and the other reports it."""

import os

import pytest

from checkpoints_convert.folders import new_file, new_folder
from vxlpro_jax.utils.errors import InputError


def folder(destination):
    return new_folder(destination, needed_bytes=0)


def fill(path, text):
    (path / "content" if path.is_dir() else path).write_text(text)


def read(path):
    return (path / "content" if path.is_dir() else path).read_text()


@pytest.fixture(params=[folder, new_file])
def new(request):
    return request.param


def test_only_the_result_remains(tmp_path, new):
    with new(tmp_path / "out") as path:
        fill(path, "whole")
    assert read(tmp_path / "out") == "whole"
    assert [path.name for path in tmp_path.rglob("*")] in (["out"], ["out", "content"])


def test_second_writer_is_refused_and_harms_nothing(tmp_path, new):
    with new(tmp_path / "out") as path:
        fill(path, "first")
        with pytest.raises(InputError, match="is being written by another process"):
            new(tmp_path / "out").__enter__()
    assert read(tmp_path / "out") == "first"


def test_leftovers_of_a_killed_run_are_replaced(tmp_path, new):
    (tmp_path / "out.partial" / "inner").mkdir(parents=True)
    (tmp_path / "out.partial" / ".lock").touch()
    (tmp_path / "out.partial" / "content").write_text("torn")
    with new(tmp_path / "out") as path:
        assert not (tmp_path / "out.partial" / "inner").exists()
        fill(path, "whole")
    assert os.listdir(tmp_path) == ["out"]


def test_writer_that_was_overtaken(tmp_path, new, monkeypatch):
    """The other writer finishes after the first check and before the lock is taken."""
    from checkpoints_convert import folders

    take = folders._take

    def overtaken(*arguments):
        (tmp_path / "out").mkdir()
        take(*arguments)

    monkeypatch.setattr(folders, "_take", overtaken)
    with pytest.raises(InputError, match="exists already"):
        new(tmp_path / "out").__enter__()
    assert os.listdir(tmp_path) == ["out"]


def test_error_leaves_nothing(tmp_path, new):
    def fail():
        with new(tmp_path / "out") as path:
            fill(path, "half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert not os.listdir(tmp_path)

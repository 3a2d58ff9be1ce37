"""A bug of the program, or a changed interface of a library, never counts as a bad file."""

import re

import av
import numpy as np
import pytest
from helpers import ROOT, python, write_dataset
from PIL import Image

from vxlpro_jax.config.schema import DataConfig
from vxlpro_jax.data.errors import BadFile, ProgramError
from vxlpro_jax.data.loader.build import build_pipeline
from vxlpro_jax.data.sources import storage
from vxlpro_jax.data.synthetic.drawing import write_mp4
from vxlpro_jax.data.video import known_good
from vxlpro_jax.data.video.images import open_picture
from vxlpro_jax.data.video.known_good import check_decoding
from vxlpro_jax.data.video.pool import DecoderPool
from vxlpro_jax.data.video.reader import read_video, stream_video

ASK = {"max_frames": 4, "size": 32}

# Every Python process with this folder in PYTHONPATH runs this file.
CHANGED_PYAV = """
import av
def changed(*_, **__):
    raise TypeError("open() got an unexpected keyword argument 'options'")
av.open = changed
"""


@pytest.fixture(autouse=True)
def unchecked():
    """Resets the check of the known-good clip before and after the test."""
    check_decoding.cache_clear()
    yield
    check_decoding.cache_clear()


@pytest.fixture
def changed_pyav(tmp_path, monkeypatch):
    """Makes `av.open` refuse its usual arguments in processes that are started from now on."""
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(CHANGED_PYAV)
    monkeypatch.setenv("PYTHONPATH", str(folder))


def refuse(*_, **__):
    raise TypeError("open() got an unexpected keyword argument 'options'")


def test_the_clip_is_read():
    check_decoding()


@pytest.mark.parametrize("read", [read_video, stream_video])
def test_a_call_that_a_library_no_longer_takes_is_a_fault_of_the_program(
    read, write_video, monkeypatch
):
    path = write_video([0, 40, 80])
    monkeypatch.setattr(av, "open", refuse)
    said = rf"with PyAV {re.escape(av.__version__)} \(TypeError: open\(\).*not of your files"
    with pytest.raises(ProgramError, match=said) as error:
        read(path, **ASK)
    assert isinstance(error.value.__cause__, TypeError)


def test_a_library_that_cannot_decode_is_a_fault_of_the_installation(write_video, monkeypatch):
    path = write_video([0, 40, 80])

    def fail(*_, **__):
        raise av.error.DecoderNotFoundError(1, "Decoder not found")

    monkeypatch.setattr(av, "open", fail)
    with pytest.raises(ProgramError, match="not of your files"):
        read_video(path, **ASK)


@pytest.mark.parametrize(
    ("count", "fps", "colour", "said"),
    [(2, 2, 30, "frames come at"), (3, 4, 30, "frames come at"), (3, 2, 0, "colours are off")],
)
def test_wrongly_decoded_clip_is_a_program_error(count, fps, colour, said, tmp_path, monkeypatch):
    path = tmp_path / "clip.mp4"
    write_mp4(path, (np.full((32, 32, 3), colour, np.uint8) for _ in range(count)), fps=fps)
    monkeypatch.setattr(known_good, "CLIP", path)
    with pytest.raises(ProgramError, match=said):
        check_decoding()


def test_the_clip_is_read_once_in_a_process(write_video, monkeypatch):
    path = write_video([0, 40, 80])
    read_video(path, **ASK)
    monkeypatch.setattr(known_good, "CLIP", path.with_name("none.mp4"))
    read_video(path, **ASK)


def test_a_mistake_in_the_reading_of_a_file_is_raised_as_it_is(write_video, monkeypatch):
    path = write_video([0, 40, 80])
    read_video(path, **ASK)
    monkeypatch.setattr(av, "open", refuse)
    for read in (read_video, stream_video):
        with pytest.raises(TypeError, match="unexpected keyword"):
            read(path, **ASK)
    picture = path.with_name("a.png")
    Image.new("RGB", (8, 8)).save(picture)
    monkeypatch.setattr(Image, "open", refuse)
    with pytest.raises(TypeError, match="unexpected keyword"):
        open_picture(picture)


def test_a_mistake_in_a_call_of_a_remote_file_system_is_raised_as_it_is(monkeypatch):
    monkeypatch.setattr(storage, "_filesystem", refuse)
    with pytest.raises(TypeError, match="unexpected keyword"):
        storage.version("s3://bucket/clip.mp4")


def test_a_codec_that_nobody_knows_is_a_bad_file(write_video):
    path = write_video([0, 40, 80])
    path.write_bytes(path.read_bytes().replace(b"avc1", b"zzzz"))
    for read in (read_video, stream_video):
        with pytest.raises(BadFile, match="is in a codec that FFmpeg does not know") as error:
            read(path, **ASK)
        assert error.value.kind == "damaged"


@pytest.mark.parametrize("version", [(1, 1), (3, 0)])
def test_another_format_of_arrays_is_a_bad_file(version, tmp_path):
    path = tmp_path / "a.npy"
    path.write_bytes(b"\x93NUMPY" + bytes(version) + bytes(200))
    with pytest.raises(BadFile, match=rf"format \({version[0]}, {version[1]}\)"):
        read_video(path, **ASK)


# ---- Decoder processes ---------------------------------------------------------------------------


def test_fault_in_a_decoder_process_has_its_traceback(changed_pyav, write_video):
    path = write_video([0, 40, 80])
    with DecoderPool(1, time_limit=60) as pool:
        for _ in range(2):  # The decoder accepts another file, and reports the same error for it.
            with pytest.raises(ProgramError, match="not because of its file") as error:
                pool.read(path, **ASK)
            assert "Traceback" in str(error.value)
            assert "TypeError: open() got an unexpected" in str(error.value)
            assert "not of your files" in str(error.value)


def test_a_decoder_process_that_an_exception_ends_is_no_bad_file(
    write_video, tmp_path, monkeypatch, capfd
):
    (tmp_path / "sitecustomize.py").write_text(
        "from vxlpro_jax.data.video import worker\ndel worker._send_frames\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")
    path = write_video([0, 40, 80])
    with (
        DecoderPool(1, time_limit=60) as pool,
        pytest.raises(ProgramError, match=r"failed \(exit code 1\)"),
    ):
        pool.read(path, **ASK)
    assert "NameError" in capfd.readouterr().err


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_fault_ends_the_reading_of_all_data(num_workers, changed_pyav, tmp_path, monkeypatch):
    path = write_dataset(tmp_path)
    monkeypatch.setattr(av, "open", refuse)
    data = DataConfig(
        path=str(path),
        batch_size=4,
        num_workers=num_workers,
        bad_sample_quota=1.0,
    )
    listed = tmp_path / "bad_samples.jsonl"
    iterator = build_pipeline(data, image_size=28, seed=0, bad_samples_path=listed)
    with pytest.raises(ProgramError, match="not of your files"):
        next(iterator)
    iterator.close()
    assert not listed.exists()


@pytest.mark.slow
def test_a_command_ends_with_a_traceback(changed_pyav, tmp_path):
    process = python(
        *("-m", "vxlpro_jax.inspect_data", "--config=configs/stage2.py:tiny,batch=2,text=160"),
        *(f"--config.data.path={write_dataset(tmp_path)}", f"--out={tmp_path / 'out'}"),
    )
    _, said = process.communicate()
    assert process.returncode == 1
    assert "Traceback" in said
    assert "not of your files" in said
    assert "damaged" not in said

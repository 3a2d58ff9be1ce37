"""A wrong root is found before anything is decoded; single missing files are not reported here."""

import json

import pytest

from vxlpro_jax.config.schema import DataConfig
from vxlpro_jax.data.loader.build import build_pipeline
from vxlpro_jax.data.loader.media_check import check_roots
from vxlpro_jax.data.sources.load import load_records
from vxlpro_jax.utils.errors import InputError

TURNS = [{"from": "human", "value": "<image>\nWho?"}, {"from": "gpt", "value": "Me."}]


@pytest.fixture
def write(tmp_path):
    def write(count, *, there=(), name="data.json", key="video"):
        samples = [{key: f"{i}.mp4", "conversations": TURNS} for i in range(count)]
        (tmp_path / name).write_text(json.dumps(samples))
        for i in there:
            (tmp_path / f"{i}.mp4").touch()
        return tmp_path / name

    return write


@pytest.mark.parametrize("key", ["video", "image"])
def test_a_wrong_root_is_named(key, write, tmp_path):
    path = write(100, there=range(100), key=key)
    check_roots(load_records(path))
    with pytest.raises(InputError, match=rf"such as 0\.mp4 .*/wrong: set data.{key}_root"):
        check_roots(load_records(path, **{f"{key}_root": tmp_path / "wrong"}))


def test_of_several_data_sets_each_is_looked_at(write, tmp_path):
    write(3, there=range(3), name="a.json")
    write(3, name="b.json")
    mixture = tmp_path / "mixture.yaml"
    mixture.write_text("datasets: [{json_path: a.json}, {json_path: b.json, video_root: wrong}]")
    with pytest.raises(InputError, match=r"such as 0\.mp4 of .*b\.json, record 0"):
        check_roots(load_records(mixture))


def test_single_files_may_be_missing_and_text_needs_none(write, tmp_path):
    check_roots(load_records(write(100, there=[0])))
    (tmp_path / "text.json").write_text(
        json.dumps([{"conversations": [{"from": "human", "value": "Hi"}]}])
    )
    check_roots(load_records(tmp_path / "text.json"))


def test_the_pipeline_is_not_built(write, tmp_path):
    data = DataConfig(path=str(write(4)), video_root=str(tmp_path / "wrong"), batch_size=1)
    with pytest.raises(InputError, match=r"set data\.video_root"):
        build_pipeline(data, image_size=28, seed=0)

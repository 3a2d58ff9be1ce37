"""The comparison detects every flipped bit and names its tensor."""

import json

import pytest

from checkpoints_convert import to_orbax
from checkpoints_convert.verify_tensors import compare, to_json, to_markdown
from vxlpro_jax.utils.errors import InputError


@pytest.mark.slow
def test_equal_weights(tmp_path, release, tensors):
    to_orbax.convert(release, tmp_path / "orbax")
    report = compare(torch=release, orbax=tmp_path / "orbax")
    assert report.ok
    assert {row.name for row in report.rows} == tensors.keys()
    assert {row.status for row in report.rows} == {"identical"}
    entries = sum(tensor.numel() for tensor in tensors.values())
    assert report.summary == f"{len(tensors)} tensors with {entries:,} entries: " + (
        f"{len(tensors)} identical."
    )


@pytest.mark.slow
def test_one_flipped_bit_is_found(tmp_path, release, tensors, helpers):
    to_orbax.convert(release, tmp_path / "orbax")
    name = "model.layers.1.mlp.down_proj.weight"
    tensors[name][3, 5] += 0.5
    # Negative zero equals zero, but its bits differ.
    zero = "model.sae.encoder.4.norm.bias"
    tensors[zero][:] = 0
    helpers.write_safetensors(release / "model.safetensors", tensors)
    to_orbax.convert(release, tmp_path / "second")
    tensors[zero][0] = -0.0
    helpers.write_safetensors(release / "model.safetensors", tensors)
    wrong = {row.name: row for row in compare(torch=release, orbax=tmp_path / "second").rows}
    assert (wrong[zero].status, wrong[zero].differing) == ("different", 1)
    assert wrong[zero].max_abs_difference == 0

    report = compare(torch=release, orbax=tmp_path / "orbax")
    assert not report.ok
    row = next(row for row in report.rows if row.name == name)
    assert (row.status, row.differing) == ("different", 1)
    assert 0.4 < row.max_abs_difference < 0.6
    first = to_markdown(report).splitlines()[4]
    assert "different" in first
    data = json.loads(json.dumps(to_json(report), allow_nan=False))
    assert data["ok"] is False
    assert sum(tensor["status"] == "different" for tensor in data["tensors"]) == 2


def test_cast_weights_are_equal_after_the_same_cast(tmp_path, release):
    to_orbax.convert(release, tmp_path / "orbax", dtype="float32")
    report = compare(torch=release, orbax=tmp_path / "orbax")
    assert report.ok
    assert {row.status for row in report.rows} == {"equal after cast"}
    assert {row.orbax_dtype for row in report.rows} == {"float32"}


def test_another_model(tmp_path, release, helpers, tensors):
    to_orbax.convert(release, tmp_path / "orbax")
    del tensors["model.norm.weight"]
    helpers.write_safetensors(release / "model.safetensors", tensors)
    with pytest.raises(InputError, match=r"missing: model.norm.weight\."):
        compare(torch=release, orbax=tmp_path / "orbax")

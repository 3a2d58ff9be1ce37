"""The released code's numbers, through conversion and `checkpoints_convert.golden`."""

import jax
import pytest

from checkpoints_convert import golden, torch_to_orbax

# Fields that are compared besides one gradient norm for each used parameter.
_STAGES = {
    "f8": 16,
    "f16": 12,
    "image3": 13,
}


@pytest.fixture(scope="module")
def model_folder(golden_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("converted") / "model"
    torch_to_orbax.convert(golden_folder, folder)
    return folder


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("f8", "float64"), ("f16", "float64"), ("image3", "float64"), ("f8", "float32")],
)
def test_every_stage_and_gradient(golden_folder, model_folder, name, dtype):
    case = golden.read_case(golden_folder / f"case_{name}.npz")
    with jax.enable_x64(dtype == "float64"):
        rows = golden.compare(model_folder, case, dtype=dtype, tolerance=golden.DEFAULTS[dtype])
    assert len(rows) == _STAGES[name] + len(case["grad_names"])
    assert [row for row in rows if not row.ok] == []

"""Compares converted weights with the released code's numbers by `checkpoints_convert.golden`."""

import jax
import pytest

from checkpoints_convert import golden, to_orbax, tolerances

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model_folder(golden_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("converted") / "model"
    to_orbax.convert(golden_folder, folder)
    return folder


def compare(golden_folder, model_folder, name, *, dtype, without=()):
    case = golden.read_case(golden_folder / f"case_{name}.npz")
    case = {field: value for field, value in case.items() if field not in without}
    with jax.enable_x64(dtype == "float64"):
        rows = golden.compare(model_folder, case, dtype=dtype, tolerance=tolerances.DEFAULTS[dtype])
    assert [row for row in rows if not row.ok] == []
    return {row.stage for row in rows}


def test_every_stage_and_gradient_equals_golden_numbers_in_float64(golden_folder, model_folder):
    stages = compare(golden_folder, model_folder, "f8", dtype="float64")
    case = golden.read_case(golden_folder / "case_f8.npz")
    numbers = set(case) - {"modality", "timestamps", "time_ids", "prompt_ids", "answer_ids"}
    numbers -= {"frames_u8_24", "keep_ratio", "grad_names", "grad_norms"}
    assert stages == numbers | {f"grad {name}" for name in case["grad_names"]}


@pytest.mark.parametrize(
    ("name", "dtype"), [("f16", "float64"), ("image3", "float64"), ("f8", "float32")]
)
def test_every_stage_equals_golden_numbers(golden_folder, model_folder, name, dtype):
    """Gradients are left out, because they take most of a minute to compile per shape and dtype."""
    without = ("grad_names", "grad_norms", "loss")
    stages = compare(golden_folder, model_folder, name, dtype=dtype, without=without)
    assert {"before_rotary", "scores", "kept", "last_logits_head", "generated"} <= stages

"""Tests curves: the smoothed line, and pictures of runs with and without evaluations."""

import json

import numpy as np
import pytest
from PIL import Image

from vxlpro_jax.training.curves import draw_curves, smooth


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def metrics(count):
    return [
        {"step": step, "loss": 3.0 / step, "grad_norm": 1.0, "lr": 0.1, "token_error": 1.0 / step}
        for step in range(1, count + 1)
    ]


def test_a_constant_stays_and_a_line_lags_by_the_window():
    np.testing.assert_allclose(smooth(np.full(50, 3.0), window=10), 3.0)
    line = np.arange(500.0)
    assert line[-1] - smooth(line, window=10)[-1] == pytest.approx(9.0, rel=1e-6)
    np.testing.assert_array_equal(smooth(line, window=0.5), line)


@pytest.mark.parametrize("count", [1, 2, 30])
def test_a_run_of_any_length_is_drawn(tmp_path, count):
    write(tmp_path / "metrics.jsonl", metrics(count))
    draw_curves(tmp_path)
    assert Image.open(tmp_path / "curves.png").size == (1440, 420)


def test_evaluations_have_a_panel_of_their_own(tmp_path):
    write(tmp_path / "metrics.jsonl", metrics(9))
    write(tmp_path / "evaluations.jsonl", [{"step": 4, "own_mask": 0.5}])
    draw_curves(tmp_path)
    assert Image.open(tmp_path / "curves.png").size == (1920, 420)

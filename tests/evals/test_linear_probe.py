"""Linear probes are exact on linear data in both forms of the equations and at chance on noise."""

import numpy as np
import pytest

from vxlpro_jax.evals import linear_probe

pytestmark = pytest.mark.slow

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(("samples", "width"), [(200, 5), (30, 400)])
def test_both_forms_solve_the_same_equations(samples, width):
    x, y = RNG.standard_normal((samples, width)) + 3, RNG.standard_normal((samples, 2)) - 1
    centred = x - x.mean(0)
    penalty = 1e-2 * np.square(centred).mean() * samples
    gram = centred.T @ centred + penalty * np.eye(width)
    weights = np.linalg.solve(gram, centred.T @ (y - y.mean(0)))
    np.testing.assert_allclose(linear_probe.fit(x, y).weights, weights, atol=1e-9)


def test_read_out_of_linear_data_is_nearly_exact():
    x = RNG.standard_normal((500, 6)) * 10 + 4
    y = x @ RNG.standard_normal((6, 3)) + 7
    np.testing.assert_allclose(
        linear_probe.fit(x[:400], y[:400])(x[400:]), y[400:], rtol=0.2, atol=1
    )


def test_accuracy_of_separable_classes_and_of_noise():
    labels = RNG.integers(4, size=600)
    noise = RNG.standard_normal((600, 20))
    told = noise + 5 * np.eye(4, 20)[labels]
    arguments = {"labels": labels, "num_train": 400, "num_classes": 4}
    assert linear_probe.accuracy(told, **arguments) > 0.95
    # Five standard deviations of a share of a quarter among 200.
    assert abs(linear_probe.accuracy(noise, **arguments) - 0.25) < 0.16

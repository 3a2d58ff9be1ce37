"""Tolerances of the stages of a golden comparison."""

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tolerance:
    """Largest error of a stage, multiplied by the larger of 1 and the largest reference value.

    Attributes:
        before: tolerance up to the visual sequence.
        after: tolerance from the selector's scores on, which min-max normalisation amplifies.
        grad: tolerance of gradient norms, relative to the reference.
        zero_grad: absolute tolerance of norms whose true value is zero (such as those of key
            biases), which in float32 are rounding errors of large terms that cancel.
    """

    before: float
    after: float
    grad: float
    zero_grad: float


DEFAULTS = {
    "float64": Tolerance(before=1e-5, after=1e-5, grad=1e-5, zero_grad=1e-9),
    "float32": Tolerance(before=1e-4, after=3e-3, grad=3e-3, zero_grad=1e-3),
}

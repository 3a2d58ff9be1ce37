"""How far a stage of a golden comparison may be off."""

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tolerance:
    """How far a stage may be off, times the larger of 1 and the largest reference value.

    Attributes:
        before: up to the visual sequence.
        after: from the selector's scores on, which min-max normalisation stretches.
        grad: gradient norms, relative to the reference.
        zero_grad: absolute, of norms whose true value is zero (that of key biases, say), which in
            float32 are the rounding of large terms that cancel.
    """

    before: float
    after: float
    grad: float
    zero_grad: float


DEFAULTS = {
    "float64": Tolerance(before=1e-5, after=1e-5, grad=1e-5, zero_grad=1e-9),
    "float32": Tolerance(before=1e-4, after=3e-3, grad=3e-3, zero_grad=1e-3),
}

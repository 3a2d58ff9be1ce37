"""What a layer keeps for the backward pass, and what it computes again."""

from typing import TypeVar

import flax.linen as nn
import jax

from vxlpro_jax.config.schema import Remat
from vxlpro_jax.ops.attention.interface import KEPT

Layer = TypeVar("Layer", bound=type[nn.Module])

_POLICIES = jax.checkpoint_policies
_ATTENTION = _POLICIES.save_only_these_names(KEPT)
# Norms and activations are cheap to compute again, and keep more than the products between them.
_PRODUCTS = _POLICIES.save_from_both_policies(
    _POLICIES.dots_with_no_batch_dims_saveable, _ATTENTION
)


def remat(layer: Layer, *, recomputed: Remat) -> Layer:
    """Returns the class of a scanned layer that keeps only what is not to be recomputed.

    Only attention backends that compute the weights again in their backward pass keep their output
    under `all_but_attention`; the others keep nothing, because their output would not help.
    """
    if recomputed == "none":
        return layer
    policies = {"elementwise": _PRODUCTS, "all_but_attention": _ATTENTION, "all": None}
    return nn.remat(layer, prevent_cse=False, policy=policies[recomputed])

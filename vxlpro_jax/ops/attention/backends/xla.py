"""Attention with all logits in memory at once: the reference, and the fastest for short inputs."""

import jax
import jax.numpy as jnp
from einops import rearrange

from vxlpro_jax.ops.attention.interface import Backend, Inputs, Part


def attend(x: Inputs) -> jax.Array:
    """Computes attention [B, T, N, H]."""
    return attend_part(x).out


def attend_part(x: Inputs) -> Part:
    """Computes attention and the log-sum-exp of the logits."""
    # Keys come before queries, because XLA's CPU backend vectorises sums over an axis that is not
    # the last. The axes are in the order of the products' own results, so that no logits are
    # transposed.
    groups, acc = x.q.shape[2] // x.k.shape[2], x.accumulator
    q = rearrange(x.q * x.q.shape[-1] ** -0.5, "b t (k g) h -> b k g t h", g=groups)
    logits = jnp.einsum("bskh,bkgth->bksgt", x.k, q, preferred_element_type=acc)
    mask = _mask(x)
    if mask is not None:
        logits = jnp.where(mask[:, None, :, None], logits, jnp.finfo(acc).min)
    largest = jax.lax.stop_gradient(logits.max(axis=2, keepdims=True))
    weights = jnp.exp(logits - largest)
    out = jnp.einsum("bskh,bksgt->bkhgt", x.v, weights.astype(x.v.dtype))
    total = weights.sum(axis=2)
    out = out / total[:, :, None].astype(out.dtype)
    log_sum = jnp.log(total) + largest[:, :, 0]
    return Part(
        out=rearrange(out, "b k h g t -> b t (k g) h"),
        log_sum=rearrange(log_sum, "b k g t -> b t (k g)"),
    )


def attend_rows(x: Inputs, *, rows: int) -> jax.Array:
    """Computes attention for `rows` rows at a time; the backward pass recomputes their logits."""

    def one(row):
        return attend(jax.tree.map(lambda part: part[None], row))[0]

    return jax.lax.map(jax.checkpoint(one), x, batch_size=rows)


def _mask(x: Inputs) -> jax.Array | None:
    """Returns the mask, bool [B, S, T]; None if every query sees every key."""
    x, mask = x.with_segments(), None
    if x.q_positions is not None:
        mask = jnp.arange(x.k.shape[1])[:, None] <= x.q_positions[:, None, :]
    if x.q_segments is not None and x.kv_segments is not None:
        same = x.kv_segments[:, :, None] == x.q_segments[:, None, :]
        mask = same if mask is None else mask & same
    return mask


BACKEND = Backend.of_functions(attend, attend_part)

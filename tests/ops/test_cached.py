"""Tests the kernel for long caches, interpreted on the CPU."""

import jax.numpy as jnp
import numpy as np
import pytest

from vxlpro_jax.config.schema import DecoderConfig
from vxlpro_jax.models.kv_cache import KVCache
from vxlpro_jax.ops.attention import cached
from vxlpro_jax.ops.attention.backends import xla
from vxlpro_jax.ops.attention.interface import Inputs

LAYERS, HEADS, KV_HEADS, WIDTH, SLOTS = 2, 4, 2, 128, 512
CONFIG = DecoderConfig(
    vocab_size=8, width=HEADS * WIDTH, depth=LAYERS, num_heads=HEADS, num_kv_heads=KV_HEADS
)


def filled(kind, *, rows):
    """Returns a cache whose slots are all written."""
    rng = np.random.default_rng(0)
    cache = KVCache.empty(CONFIG, batch=rows, slots=SLOTS, dtype="float32", kind=kind)
    for layer in range(LAYERS):
        new = (
            jnp.asarray(rng.normal(size=(rows, SLOTS, KV_HEADS, WIDTH)), jnp.float32)
            for _ in range(2)
        )
        cache = cache.write(*new, layer=layer)
    return cache


@pytest.mark.parametrize("kind", ["model", "int8"])
@pytest.mark.parametrize("queries", [1, 3])
def test_it_equals_the_definition(kind, queries):
    lengths = jnp.array([1, 256, 300, SLOTS])
    cache, rng = filled(kind, rows=4), np.random.default_rng(1)
    q = jnp.asarray(rng.normal(size=(4, queries, HEADS, WIDTH)), jnp.float32)
    found = cached.attend(
        q,
        *(cached.Cached(x.data, x.scales) for x in (cache.keys, cache.values)),
        lengths=lengths,
        layer=1,
        kv_heads=KV_HEADS,
        interpret=True,
    )
    like = jnp.zeros((4, 1, KV_HEADS, WIDTH))
    k, v = (x.read(layer=1, start=0, size=SLOTS, like=like) for x in (cache.keys, cache.values))
    expected = xla.attend_part(Inputs(q, k, v, kv_lengths=lengths))
    np.testing.assert_allclose(found.out, expected.out, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.log_sum, expected.log_sum, rtol=1e-5)


def test_a_row_without_slots_in_use_has_the_lowest_sum():
    cache = filled("model", rows=1)
    stored = (cached.Cached(x.data, x.scales) for x in (cache.keys, cache.values))
    found = cached.attend(
        jnp.ones((1, 1, HEADS, WIDTH)),
        *stored,
        lengths=jnp.array([0]),
        layer=0,
        kv_heads=KV_HEADS,
        interpret=True,
    )
    assert np.isfinite(found.out).all()
    assert (found.log_sum < -1e38).all()

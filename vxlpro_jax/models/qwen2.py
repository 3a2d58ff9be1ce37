"""Qwen2.5 decoder on embeddings, with or without a key/value cache.

Shapes: `B` rows, `T` positions, `A` queried positions, `D` width, `N` query heads, `K` key/value
heads, `H` head width, `V` vocabulary, `L` layers.
"""

import functools
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from einops import rearrange

from vxlpro_jax.config.schema import DecoderConfig
from vxlpro_jax.models import kv_cache
from vxlpro_jax.models.kv_cache import KVCache
from vxlpro_jax.models.layers import Dense, RMSNorm, zeros
from vxlpro_jax.models.remat import remat
from vxlpro_jax.ops.attention.dispatch import attention
from vxlpro_jax.ops.embedding import lookup
from vxlpro_jax.ops.full_rows import with_full_rows
from vxlpro_jax.ops.rope import rotate_heads
from vxlpro_jax.ops.swiglu import swiglu
from vxlpro_jax.sharding import activations

_normal = nn.initializers.normal(0.02)
_Linear = functools.partial(Dense, kernel_init=_normal, bias_init=zeros)
# `in_axes` of the scanned layers: each gets its own index, and all get the same positions.
_LAYER_AXES: Any = (0, nn.broadcast)


class _Positions(flax.struct.PyTreeNode):
    """The positions of the new tokens.

    Attributes:
        index: int32 [B, T], index of each position within its sample.
        segments: int32 [B, T], sample of each position; None when each row is one sample.
    """

    index: jax.Array
    segments: jax.Array | None = None


class _State(flax.struct.PyTreeNode):
    """The values that each layer hands to the next.

    Attributes:
        x: [B, T, D]. The last layer returns [B, A, D], only the queried positions, when the layers
            are not scanned.
        cache: keys and values, or None without a cache. Its lengths do not count the new tokens.
    """

    x: jax.Array
    cache: KVCache | None = None


class Qwen2(nn.Module):
    """The decoder. Its layers are one scanned `layers`, or `layers_0`, `layers_1` and so on."""

    config: DecoderConfig
    attention: str = "auto"

    def setup(self) -> None:
        """Creates the parameters `embed`, the layers, `norm` and, if it is untied, `lm_head`."""
        c = self.config
        self.embedding = self.param("embed", _normal, (c.vocab_size, c.width), jnp.float32)
        block = remat(_Block, recomputed=c.remat)
        if c.scan_layers:
            self.layers = nn.scan(
                block,
                variable_axes={"params": 0},
                split_rngs={"params": True},
                in_axes=_LAYER_AXES,
                length=c.depth,
            )(c, self.attention)
        else:
            self.layers = [block(c, self.attention) for _ in range(c.depth)]
        self.norm = RMSNorm(c.norm_eps)
        if not c.tied_head:
            self.lm_head = _Linear(c.vocab_size, use_bias=False)

    def embed(self, ids: jax.Array) -> jax.Array:
        """Embeds ids, int32 [...] -> [..., D]; negative ids get the embedding of id 0."""
        return lookup(self.embedding, jnp.maximum(ids, 0))

    def __call__(
        self, x: jax.Array, *, positions: jax.Array, segments: jax.Array | None = None
    ) -> jax.Array:
        """Computes hidden states with attention that is causal within each sample.

        Args:
            x: [B, T, D] embeddings, in the order of `activations.sequence_order`.
            positions: int32 [B, T], index of each position within its sample.
            segments: int32 [B, T], sample of each position; None when each row is one sample.

        Returns:
            Hidden states [B, T, D] after the final norm.
        """
        return self.norm(self._run(_State(x), _Positions(positions, segments)).x)

    def extend(
        self, x: jax.Array, cache: KVCache, *, query_index: jax.Array
    ) -> tuple[jax.Array, KVCache]:
        """Reads new positions that follow the cached ones. Each row is one sample.

        The `lengths` of the returned cache count all T positions. A caller whose rows end in
        padding sets them back, and the padding is overwritten by the next call.

        Args:
            x: [B, T, D] embeddings.
            cache: keys and values so far, with at least T free slots in each row.
            query_index: int32 [B, A], indices among the T positions of those to return.

        Returns:
            Hidden states [B, A, D] after the final norm, and the cache with the T positions.
        """
        positions = _Positions(cache.lengths[:, None] + jnp.arange(x.shape[1]))
        state = self._run(_State(x, cache), positions, query_index=query_index)
        assert state.cache is not None
        lengths = cache.lengths + x.shape[1]
        return self.norm(state.x), state.cache.replace(lengths=lengths)

    def _run(self, state: _State, positions: _Positions, *, query_index=None) -> _State:
        """Runs all layers. When they are not scanned, the last one has only the given queries."""
        layers: Any = self.layers
        if self.config.scan_layers:
            state, _ = layers(state, jnp.arange(self.config.depth), positions)
            return state.replace(x=_gather_positions(state.x, query_index))
        for index, layer in enumerate(layers):
            is_last = index == len(layers) - 1
            state, _ = layer(state, index, positions, query_index if is_last else None)
        return state

    def logits(self, hidden: jax.Array) -> jax.Array:
        """Computes logits in at least float32, [..., D] -> [..., V]."""
        acc = jnp.promote_types(hidden.dtype, jnp.float32)
        if not self.config.tied_head:
            return self.lm_head(hidden).astype(acc)
        to_logits = functools.partial(jnp.einsum, "...d,vd->...v", preferred_element_type=acc)
        return with_full_rows(lambda x: to_logits(x, self.embedding), hidden)


class _Block(nn.Module):
    config: DecoderConfig
    attention: str

    @nn.compact
    def __call__(self, state: _State, layer, positions: _Positions, query_index=None):
        c, x = self.config, state.x
        attn = _SelfAttention(c, self.attention, name="attn")
        out, cache = attn(
            RMSNorm(c.norm_eps, name="ln1")(x), layer, positions, state.cache, query_index
        )
        x = _gather_positions(x, query_index) + out
        x = x + _Mlp(c.mlp_width, name="mlp")(RMSNorm(c.norm_eps, name="ln2")(x))
        return _State(x, cache), None


class _SelfAttention(nn.Module):
    config: DecoderConfig
    backend: str

    @nn.compact
    def __call__(self, x, layer, positions, cache, query_index):
        c = self.config
        q = self._heads("q", _gather_positions(x, query_index), c.num_heads)
        k = self._heads("k", x, c.num_kv_heads)
        v = self._heads("v", x, c.num_kv_heads)
        rotate = functools.partial(rotate_heads, theta=c.rope_theta, yarn=c.yarn)
        q = rotate(q, positions=_gather_positions(positions.index, query_index))
        k = rotate(k, positions=positions.index)
        if cache is None:
            out = attention(
                q,
                k,
                v,
                causal=True,
                q_segments=positions.segments,
                kv_segments=positions.segments,
                partition=activations.SEQUENCES,
                backend=self.backend,
            )
        else:
            # Written first: XLA copies an array that is written after a loop has read it.
            cache = cache.write(k, v, layer=layer)
            out = kv_cache.attend(
                q, k, v, cache=cache, layer=layer, query_index=query_index, backend=self.backend
            )
        out = rearrange(out, "b t n h -> b t (n h)")
        out = _Linear(c.width, use_bias=False, name="out")(out)
        return out, cache

    def _heads(self, name, x, count):
        y = _Linear(count * self.config.head_dim, name=name)(x)
        return rearrange(y, "b t (n h) -> b t n h", n=count)


class _Mlp(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x):
        wide, narrow = (self.width, x.shape[-1]), (x.shape[-1], self.width)
        return swiglu(
            x,
            gate=self.param("gate", _normal, wide, jnp.float32),
            up=self.param("up", _normal, wide, jnp.float32),
            down=self.param("down", _normal, narrow, jnp.float32),
        )


def _gather_positions(x: jax.Array, index: jax.Array | None) -> jax.Array:
    """Takes some positions of each row, int32 [B, A], from [B, T, ...]; all of them if None."""
    return x if index is None else jax.vmap(lambda row, i: row[i])(x, index)

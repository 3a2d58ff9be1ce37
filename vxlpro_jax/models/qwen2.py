"""Qwen2.5 decoder on embeddings, with or without a key/value cache.

Shapes: `B` rows, `T` positions, `A` positions asked for, `D` width, `N` query heads, `K` key/value
heads, `H` head width, `V` vocabulary, `L` layers.
"""

import functools

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from einops import rearrange

from vxlpro_jax.config.schema import DecoderConfig
from vxlpro_jax.models import kv_cache
from vxlpro_jax.models.kv_cache import KVCache
from vxlpro_jax.models.layers import Dense, RMSNorm, zeros
from vxlpro_jax.ops.attention.dispatch import attention
from vxlpro_jax.ops.rope import rotate_heads
from vxlpro_jax.ops.swiglu import swiglu
from vxlpro_jax.sharding import activations

_normal = nn.initializers.normal(0.02)
_Linear = functools.partial(Dense, kernel_init=_normal, bias_init=zeros)


@flax.struct.dataclass
class _Where:
    """Positions of the new tokens.

    Attributes:
        positions: int32 [B, T], index within the sample.
        segments: int32 [B, T], or None when each row is one sample.
    """

    positions: jax.Array
    segments: jax.Array | None = None


@flax.struct.dataclass
class _State:
    """What goes from layer to layer.

    Attributes:
        x: [B, T, D]; after the last layer, layers apart, only the positions asked for, [B, A, D].
        cache: None without one; its lengths stay those before the new tokens.
    """

    x: jax.Array
    cache: KVCache | None = None


class Qwen2(nn.Module):
    """The decoder; its layers are one scanned `layers`, or `layers_0`, `layers_1` and so on."""

    config: DecoderConfig
    attention: str = "auto"

    def setup(self) -> None:
        """Parameters: `embed`, the layers, `norm` and, if untied, `lm_head`."""
        c = self.config
        self.embedding = self.param("embed", _normal, (c.vocab_size, c.width), jnp.float32)
        block = nn.remat(_Block, prevent_cse=False) if c.remat else _Block
        if c.scan_layers:
            self.layers = nn.scan(
                block,
                variable_axes={"params": 0},
                split_rngs={"params": True},
                in_axes=(0, nn.broadcast),
                length=c.depth,
            )(c, self.attention)
        else:
            self.layers = [block(c, self.attention) for _ in range(c.depth)]
        self.norm = RMSNorm(c.norm_eps)
        if not c.tied_head:
            self.lm_head = _Linear(c.vocab_size, use_bias=False)

    def embed(self, ids: jax.Array) -> jax.Array:
        """int32 [...] -> [..., D]; negative ids read row 0."""
        return self.embedding[jnp.maximum(ids, 0)]

    def __call__(
        self, x: jax.Array, *, positions: jax.Array, segments: jax.Array | None = None
    ) -> jax.Array:
        """Hidden states after the final norm, causal within each sample.

        Args:
            x: [B, T, D] embeddings, positions in the order of `mesh.sequence_order`.
            positions: int32 [B, T], index within the sample.
            segments: int32 [B, T], sample of each position; None when each row is one sample.

        Returns:
            [B, T, D].
        """
        return self.norm(self._run(_State(x), _Where(positions, segments)).x)

    def extend(self, x: jax.Array, cache: KVCache, *, at: jax.Array) -> tuple[jax.Array, KVCache]:
        """Reads new positions that follow the cached ones; each row is one sample.

        `lengths` of the returned cache counts all T positions; a caller whose rows end in padding
        sets it back, and the padding is overwritten.

        Args:
            x: [B, T, D] embeddings.
            cache: at least T free slots in each row.
            at: int32 [B, A], which of the T positions to return.

        Returns:
            Hidden states [B, A, D] after the final norm, and the cache with the T positions.
        """
        where = _Where(cache.lengths[:, None] + jnp.arange(x.shape[1]))
        state = self._run(_State(x, cache), where, at=at)
        lengths = cache.lengths + x.shape[1]
        return self.norm(state.x), state.cache.replace(lengths=lengths)

    def _run(self, state, where, *, at=None):
        """All layers; layers apart, the last one asks only at the positions `at`."""
        if self.config.scan_layers:
            state, _ = self.layers(state, jnp.arange(self.config.depth), where)
            return state.replace(x=_pick(state.x, at))
        for index, layer in enumerate(self.layers):
            is_last = index == len(self.layers) - 1
            state, _ = layer(state, index, where, at if is_last else None)
        return state

    def logits(self, hidden: jax.Array) -> jax.Array:
        """[..., D] -> [..., V] in at least float32."""
        acc = jnp.promote_types(hidden.dtype, jnp.float32)
        if not self.config.tied_head:
            return self.lm_head(hidden).astype(acc)
        return jnp.einsum("...d,vd->...v", hidden, self.embedding, preferred_element_type=acc)


class _Block(nn.Module):
    config: DecoderConfig
    attention: str

    @nn.compact
    def __call__(self, state, index, where, at=None):
        c, x = self.config, state.x
        attn = _SelfAttention(c, self.attention, name="attn")
        out, cache = attn(RMSNorm(c.norm_eps, name="ln1")(x), index, where, state.cache, at)
        x = _pick(x, at) + out
        x = x + _Mlp(c.mlp_width, name="mlp")(RMSNorm(c.norm_eps, name="ln2")(x))
        return _State(x, cache), None


class _SelfAttention(nn.Module):
    config: DecoderConfig
    backend: str

    @nn.compact
    def __call__(self, x, index, where, cache, at):
        c = self.config
        q = self._heads("q", _pick(x, at), c.num_heads)
        k = self._heads("k", x, c.num_kv_heads)
        v = self._heads("v", x, c.num_kv_heads)
        q = rotate_heads(q, positions=_pick(where.positions, at), theta=c.rope_theta)
        k = rotate_heads(k, positions=where.positions, theta=c.rope_theta)
        if cache is None:
            out = attention(
                q,
                k,
                v,
                causal=True,
                q_segments=where.segments,
                kv_segments=where.segments,
                partition=activations.SEQUENCES,
                backend=self.backend,
            )
        else:
            # Written first: XLA copies an array that is written after a loop has read it.
            cache = cache.write(k, v, layer=index)
            out = kv_cache.attend(q, k, v, cache=cache, layer=index, at=at, backend=self.backend)
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


def _pick(x: jax.Array, at: jax.Array | None) -> jax.Array:
    """[B, T, ...] at positions `at`, int32 [B, A]; all if None."""
    return x if at is None else jax.vmap(lambda row, index: row[index])(x, at)

"""The Dynamic Token Synthesizer (DTS), which compresses the features of four frames into one.

Shapes: `G` groups of four frames, `t` time slots (4, 2, 1), `h`, `w` grid, `C` width.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange

from vxlpro_jax.config.schema import FRAMES_PER_GROUP
from vxlpro_jax.models.layers import Dense, GroupNorm, torch_uniform, zeros
from vxlpro_jax.ops.attention.dispatch import attention
from vxlpro_jax.ops.conv3d import halve_time
from vxlpro_jax.ops.precision import at_least_float32

_MAX_DISTANCE = 64


class Dts(nn.Module):
    """The release's `sae.py::SiglipAE`.

    Each of two blocks applies spatial attention and temporal attention and halves the time axis.
    """

    attention: str = "auto"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Compresses each group of four frames into one: [G, 4, h, w, C] -> [G, h, w, C]."""
        init, shape = nn.initializers.normal(1.0), (FRAMES_PER_GROUP, x.shape[-1])
        x = x + self.param("temporal_encoding", init, shape, jnp.float32)[:, None, None]
        for index in range(2):
            x = _Block(self.attention, name=f"block{index}")(x)
        return x[:, 0]


class _Block(nn.Module):
    attention: str

    @nn.compact
    def __call__(self, x):
        x = x + _SpatialAttention(self.attention, name="spatial")(x)
        x = x + _TemporalAttention(name="temporal")(x)
        return _HalveTime(name="conv")(x)


class _SpatialAttention(nn.Module):
    """Attention with one head of width C over the positions of each time slot."""

    attention: str

    @nn.compact
    def __call__(self, x):
        width = x.shape[-1]
        y = rearrange(GroupNorm(axes=(1, 2, 3), name="norm")(x), "g t h w c -> (g t) (h w) 1 c")
        q, k, v = (Dense(width, name=name)(y) for name in "qkv")
        out = Dense(width, name="out")(attention(q, k, v, backend=self.attention))
        return out.reshape(x.shape)


class _TemporalAttention(nn.Module):
    """Attention with one head of width C over the time slots of each position.

    The released weights need two quirks of `attention_temporal_videoae.py`: q and k are each scaled
    by C^-0.25, and the relative term of the logits is transposed, so that logits[i, j] contains
    q_j . rel_k[distance from j to i].
    """

    @nn.compact
    def __call__(self, x):
        slots, width = x.shape[1], x.shape[-1]
        y = GroupNorm(axes=(1,), name="norm")(rearrange(x, "g t h w c -> g t (h w) c"))
        qkv = Dense(3 * width, kernel_init=zeros, bias_init=zeros, name="qkv")(y)
        q, k, v = jnp.split(qkv, 3, axis=-1)
        q, k = q * width**-0.25, k * width**-0.25
        rel_k, rel_v = (self._relative(name, slots, width) for name in ("rel_k", "rel_v"))
        # Sums instead of matrix products: four slots fill no matrix unit, and XLA compiles
        # thousands of such small products slowly for TPUs. Axes: groups, slots i, slots j, places,
        # channels.
        q, k, rel_k = (at_least_float32(part) for part in (q, k, rel_k))
        pairs = q[:, :, None] * k[:, None] + q[:, None] * rel_k.swapaxes(0, 1)[:, :, None]
        weights = jax.nn.softmax(pairs.sum(-1), axis=2).astype(v.dtype)[..., None]
        out = (weights * (v[:, None] + rel_v[:, :, None])).sum(2)
        out = Dense(width, kernel_init=zeros, bias_init=zeros, name="out")(out)
        return out.reshape(x.shape)

    def _relative(self, name, slots, width):
        """Looks up the table's row for each clipped distance to - from: [from, to, C]."""
        shape = (2 * _MAX_DISTANCE + 1, width)
        table = self.param(name, nn.initializers.xavier_uniform(), shape, jnp.float32)
        at = jnp.arange(slots)
        distance = jnp.clip(at[None, :] - at[:, None], -_MAX_DISTANCE, _MAX_DISTANCE)
        return table[distance + _MAX_DISTANCE]


class _HalveTime(nn.Module):
    @nn.compact
    def __call__(self, x):
        width = x.shape[-1]
        init = torch_uniform(27 * width)
        kernel = self.param("kernel", init, (3, 3, 3, width, width), jnp.float32)
        bias = self.param("bias", init, (width,), jnp.float32)
        return halve_time(x, kernel=kernel, bias=bias)

"""The pre-norm transformer layer of SigLIP, which ReCoT's decoder is made of too.

Shapes: `F` frames, `P` patches, `C` width, `N` heads, `H` head width.
"""

import functools

import flax.linen as nn
import jax
from einops import rearrange

from vxlpro_jax.config.schema import AttentionBackend
from vxlpro_jax.models.layers import Dense, LayerNorm, zeros
from vxlpro_jax.ops.attention.dispatch import attention

Linear = functools.partial(Dense, kernel_init=nn.initializers.xavier_uniform(), bias_init=zeros)


class EncoderBlock(nn.Module):
    """Attention and MLP (GELU, tanh form), each behind a LayerNorm, added to the stream."""

    num_heads: int
    mlp_width: int
    norm_eps: float
    attention: AttentionBackend = "auto"

    @nn.compact
    def __call__(self, x: jax.Array, _: None = None) -> tuple[jax.Array, None]:
        """[F, P, C] -> [F, P, C]; the second argument and result are for `nn.scan`."""
        x = x + _SelfAttention(self.num_heads, self.attention, name="attn")(
            LayerNorm(self.norm_eps, name="ln1")(x)
        )
        x = x + _Mlp(self.mlp_width, name="mlp")(LayerNorm(self.norm_eps, name="ln2")(x))
        return x, None


class _SelfAttention(nn.Module):
    num_heads: int
    backend: AttentionBackend

    @nn.compact
    def __call__(self, x):
        width = x.shape[-1]
        q, k, v = (
            rearrange(Linear(width, name=name)(x), "f p (n h) -> f p n h", n=self.num_heads)
            for name in "qkv"
        )
        out = attention(q, k, v, backend=self.backend)
        return Linear(width, name="out")(rearrange(out, "f p n h -> f p (n h)"))


class _Mlp(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x):
        hidden = nn.gelu(Linear(self.width, name="fc1")(x), approximate=True)
        return Linear(x.shape[-1], name="fc2")(hidden)

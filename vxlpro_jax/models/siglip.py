"""The SigLIP vision tower, up to the last layer that the release runs.

Shapes: `F` frames, `P` patches (grid x grid), `C` width.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange

from vxlpro_jax.config.schema import VisionConfig
from vxlpro_jax.models.layers import Dense, LayerNorm, zeros
from vxlpro_jax.models.remat import remat
from vxlpro_jax.ops.attention.dispatch import attention

Linear = functools.partial(Dense, kernel_init=nn.initializers.xavier_uniform(), bias_init=zeros)


class Siglip(nn.Module):
    """Computes the residual stream after the last layer that runs.

    Every checkpoint has `post_ln`, so its parameters exist, but its output is never used: the
    release reads `hidden_states[-1]`.
    """

    config: VisionConfig
    attention: str = "auto"

    @nn.compact
    def __call__(self, frames: jax.Array) -> jax.Array:
        """Encodes frames.

        Args:
            frames: uint8 [F, image_size, image_size, 3], RGB.

        Returns:
            Features [F, P, C] in the parameters' type.
        """
        c = self.config
        pixels = c.grid * c.patch_size
        patches = rearrange(
            frames[:, :pixels, :pixels],
            "f (h p) (w q) c -> f (h w) (p q c)",
            p=c.patch_size,
            q=c.patch_size,
        )
        position = self.param(
            "pos_embed", nn.initializers.normal(c.width**-0.5), (c.grid**2, c.width), jnp.float32
        )
        patches = (patches.astype(position.dtype) / 255 - 0.5) / 0.5
        x = Linear(c.width, name="patch_embed")(patches) + position
        layers = nn.scan(
            remat(EncoderBlock, recomputed=c.remat),
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=c.depth,
        )
        x, _ = layers(c.num_heads, c.mlp_width, c.norm_eps, self.attention, name="layers")(x, None)
        LayerNorm(c.norm_eps, name="post_ln")(x)
        return x


class EncoderBlock(nn.Module):
    """Adds attention and an MLP (GELU, tanh form) to the stream, each after a LayerNorm."""

    num_heads: int
    mlp_width: int
    norm_eps: float
    attention: str = "auto"

    @nn.compact
    def __call__(self, x: jax.Array, _: None = None) -> tuple[jax.Array, None]:
        """Maps [F, P, C] to [F, P, C]; `nn.scan` needs the second argument and result."""
        x = x + _SelfAttention(self.num_heads, self.attention, name="attn")(
            LayerNorm(self.norm_eps, name="ln1")(x)
        )
        x = x + _Mlp(self.mlp_width, name="mlp")(LayerNorm(self.norm_eps, name="ln2")(x))
        return x, None


class _SelfAttention(nn.Module):
    num_heads: int
    backend: str

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

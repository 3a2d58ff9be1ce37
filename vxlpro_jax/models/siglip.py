"""SigLIP vision tower, as far as the release runs it.

Shapes: `F` frames, `P` patches (grid x grid), `C` width.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange

from vxlpro_jax.config.schema import AttentionBackend, VisionConfig
from vxlpro_jax.models.encoder_block import EncoderBlock, Linear
from vxlpro_jax.models.layers import LayerNorm


class Siglip(nn.Module):
    """Frames to the residual stream of the last layer that runs.

    `post_ln` is in every checkpoint, so its parameters exist, but its output is never used
    (the release reads `hidden_states[-1]`).
    """

    config: VisionConfig
    attention: AttentionBackend = "auto"

    @nn.compact
    def __call__(self, frames: jax.Array) -> jax.Array:
        """Encodes frames.

        Args:
            frames: uint8 [F, image_size, image_size, 3], RGB.

        Returns:
            [F, P, C] in the parameters' type.
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
        block = nn.remat(EncoderBlock, prevent_cse=False) if c.remat else EncoderBlock
        layers = nn.scan(
            block, variable_axes={"params": 0}, split_rngs={"params": True}, length=c.depth
        )
        x, _ = layers(c.num_heads, c.mlp_width, c.norm_eps, self.attention, name="layers")(x, None)
        LayerNorm(c.norm_eps, name="post_ln")(x)
        return x

"""From the tower's width to the decoder's. Shapes: `...` any leading axes, `C`, `D` the widths."""

import flax.linen as nn
import jax

from vxlpro_jax.models.layers import Dense


class Projector(nn.Module):
    """The release's `mlp2x_gelu`: Linear, GELU (erf), Linear."""

    width: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., C] -> [..., D]."""
        hidden = nn.gelu(Dense(self.width, name="fc1")(x), approximate=False)
        return Dense(self.width, name="fc2")(hidden)

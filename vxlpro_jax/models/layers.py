"""Parameter-holding layers shared by the parts of the model.

Every layer computes in the type of its parameters, except where a function of `ops` promotes it.
Shapes: `...` any leading axes, `C` channels.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from vxlpro_jax.ops import norms
from vxlpro_jax.ops.bias import add_bias
from vxlpro_jax.ops.full_rows import with_full_rows

zeros = nn.initializers.zeros_init()


def torch_uniform(fan_in: int) -> nn.initializers.Initializer:
    """Returns PyTorch's default initialiser of linear layers: uniform in +- fan_in^-0.5."""
    bound = fan_in**-0.5
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(
        key, shape, dtype, minval=-bound, maxval=bound
    )


class Dense(nn.Module):
    """An affine map of the last axis with a kernel [in, out], by default initialised as PyTorch."""

    features: int
    use_bias: bool = True
    kernel_init: nn.initializers.Initializer | None = None
    bias_init: nn.initializers.Initializer | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [..., in] to [..., features]."""
        default = torch_uniform(x.shape[-1])
        shape = (x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init or default, shape, jnp.float32)
        y = with_full_rows(lambda x: x @ kernel, x.astype(kernel.dtype))
        if not self.use_bias:
            return y
        bias = self.param("bias", self.bias_init or default, (self.features,), jnp.float32)
        return add_bias(y, bias)


class LayerNorm(nn.Module):
    """LayerNorm over the last axis with a learned scale and bias."""

    eps: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalises [..., C]."""
        scale = self.param("scale", nn.initializers.ones_init(), x.shape[-1:], jnp.float32)
        bias = self.param("bias", zeros, x.shape[-1:], jnp.float32)
        return norms.layer_norm(x, scale=scale, bias=bias, eps=self.eps)


class RMSNorm(nn.Module):
    """RMSNorm over the last axis with a learned scale."""

    eps: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalises [..., C]."""
        scale = self.param("scale", nn.initializers.ones_init(), x.shape[-1:], jnp.float32)
        return norms.rms_norm(x, scale=scale, eps=self.eps)


class GroupNorm(nn.Module):
    """GroupNorm with 32 groups of channels, whose statistics are taken over `axes` too."""

    axes: tuple[int, ...]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalises [..., C]."""
        scale = self.param("scale", nn.initializers.ones_init(), x.shape[-1:], jnp.float32)
        bias = self.param("bias", zeros, x.shape[-1:], jnp.float32)
        return norms.group_norm(x, scale=scale, bias=bias, axes=self.axes)


class Projector(nn.Module):
    """The release's `mlp2x_gelu`: Linear, GELU (erf), Linear."""

    width: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Projects [..., C] to [..., D]."""
        hidden = nn.gelu(Dense(self.width, name="fc1")(x), approximate=False)
        return Dense(self.width, name="fc2")(hidden)

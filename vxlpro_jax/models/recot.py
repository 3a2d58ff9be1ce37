"""ReCoT, the self-supervised training of the compressor by masking and restoring tokens.

The paper publishes the scores of semantic-guided masking, and that masked tokens are compressed and
restored. The mask ratio, the decoder, the loss and the gradient of the queries are unpublished;
here they are ours. A clip is one group of four frames, which is all that the compressor sees.

Shapes: `G` groups, `f` frames of a group (4), `h`, `w` grid, `P = h w` places, `C` width of
the tower, `W` width of the decoder.
"""

from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from einops import rearrange

from vxlpro_jax.config.schema import FRAMES_PER_GROUP, ModelConfig, RecotConfig
from vxlpro_jax.models.dts import Dts
from vxlpro_jax.models.layers import Dense, LayerNorm
from vxlpro_jax.models.siglip import EncoderBlock, Siglip
from vxlpro_jax.ops import patches, token_masking
from vxlpro_jax.ops.norms import layer_norm
from vxlpro_jax.sharding import activations

_NORM_EPS = 1e-6


class Masked(flax.struct.PyTreeNode):
    """The masked input of the compressor.

    Attributes:
        features: [G, f, P, C], with the mask token in the place of hidden tokens.
        visible: [G, f, P], 1 for visible tokens, 0 for hidden ones.
    """

    features: jax.Array
    visible: jax.Array


class Restored(flax.struct.PyTreeNode):
    """The result of masking, compressing and restoring some groups.

    Attributes:
        targets: [G, f, P, C], the tower's features, each token normalised.
        predicted: [G, f, P, C], the restored tokens.
        visible: [G, f, P], 1 for visible tokens, 0 for hidden ones.
        compressed: [G, P, C], the compressor's output.
    """

    targets: jax.Array
    predicted: jax.Array
    visible: jax.Array
    compressed: jax.Array


class Recot(nn.Module):
    """The tower, the compressor, and the parts that only ReCoT needs."""

    config: ModelConfig
    options: RecotConfig

    def setup(self) -> None:
        """Creates `vision` and `dts`, as `VideoXLPro` has them, and `recot`."""
        self.vision = Siglip(self.config.vision, self.config.attention)
        self.dts = Dts(self.config.attention)
        self.recot = _Extras(self.options, self.config.vision.width, self.config.attention)

    def features(self, frames: jax.Array) -> jax.Array:
        """Runs the tower and resizes its grid: uint8 [G, f, H, W, 3] -> [G, f, P, C]."""
        flat = activations.shard_frames(rearrange(frames, "g f ... -> (g f) ..."))
        grid = patches.resize(self.vision(flat), side=self.config.dts.grid)
        return rearrange(grid, "(g f) h w c -> g f (h w) c", f=FRAMES_PER_GROUP)

    def compress(self, features: jax.Array) -> jax.Array:
        """Runs the compressor in the model's layout: [G, f, P, C] -> [G, P, C]."""
        grid = rearrange(features, "g f (h w) c -> (g f) h w c", h=self.config.dts.grid)
        groups = patches.group_frames(grid, layout=self.config.dts.layout)
        return rearrange(self.dts(activations.shard_frames(groups)), "g h w c -> g (h w) c")

    def mask(self, features: jax.Array, *, key: jax.Array) -> Masked:
        """Draws a mask with `key` and hides those tokens of [G, f, P, C]."""
        visible = self.recot.choose(features, key=key)
        return Masked(self.recot.hide(features, visible=visible), visible)

    def rebuild(self, masked: jax.Array) -> jax.Array:
        """Compresses and restores [G, f, P, C], each group independently."""
        return self.recot.restore(self.compress(masked))

    def __call__(self, features: jax.Array, *, key: jax.Array) -> Restored:
        """Masks, compresses and restores [G, f, P, C]; `key` draws the mask."""
        masked = self.mask(features, key=key)
        compressed = self.compress(masked.features)
        return Restored(
            targets=targets(features),
            predicted=self.recot.restore(compressed),
            visible=masked.visible,
            compressed=compressed,
        )


def targets(features: jax.Array) -> jax.Array:
    """Returns the targets for features [G, f, P, C]: each token normalised, without gradient."""
    return jax.lax.stop_gradient(normalize(features))


def normalize(features: jax.Array) -> jax.Array:
    """Normalises every token to mean 0 and variance 1 over its channels, as MAE's targets."""
    return layer_norm(features, scale=1.0, bias=0.0, eps=_NORM_EPS)


class _Extras(nn.Module):
    """The parameters that only ReCoT has: the policy's queries, the mask token and the decoder."""

    options: RecotConfig
    width: int
    attention: str

    def setup(self) -> None:
        for name in self.policy.queries:
            setattr(self, f"{name}_query", Dense(self.width, use_bias=False))
        init = nn.initializers.normal(0.02)
        self.mask_token = self.param("mask_token", init, (self.width,), jnp.float32)
        self.decoder = _Decoder(self.options, self.attention)

    @property
    def policy(self) -> token_masking.Policy:
        """The policy that the options name."""
        return token_masking.POLICIES.find(self.options.policy)

    def choose(self, features, *, key):
        """Draws the visible tokens: [G, f, P, C] -> [G, f, P], exactly 0 or 1."""
        low, high = self.options.mask_ratio
        ratio = token_masking.adaptive_ratio(features, low=low, high=high)
        queries = {name: getattr(self, f"{name}_query") for name in self.policy.queries}
        scores = self.policy.scores(features, queries)
        tube = self.policy.hides_tubes
        ranked = token_masking.noisy_scores(scores, key=key, tube=tube)
        return token_masking.choose_visible(ranked, ratio=ratio)

    def hide(self, features, *, visible):
        """Replaces hidden tokens by the mask token."""
        share = visible[..., None].astype(features.dtype)
        return share * features + (1 - share) * self.mask_token

    def restore(self, compressed):
        """Restores all tokens: [G, P, C] -> [G, f, P, C]."""
        return self.decoder(compressed)


class _Decoder(nn.Module):
    """Separates each place's four frames linearly, then applies attention within each frame."""

    options: RecotConfig
    attention: str

    @nn.compact
    def __call__(self, compressed):
        o, width = self.options, compressed.shape[-1]
        x = Dense(FRAMES_PER_GROUP * o.decoder_width, name="unmix")(compressed)
        x = rearrange(x, "g p (f w) -> g f p w", f=FRAMES_PER_GROUP)
        init = nn.initializers.normal(0.02)
        x = x + self.param("pos_embed", init, x.shape[2:], jnp.float32)
        x = rearrange(x, "g f p w -> (g f) p w")
        for layer in range(o.decoder_depth):
            x, _ = EncoderBlock(
                num_heads=o.decoder_heads,
                mlp_width=4 * o.decoder_width,
                norm_eps=_NORM_EPS,
                attention=self.attention,
                name=f"layer{layer}",
            )(x)
        x = Dense(width, name="out")(LayerNorm(_NORM_EPS, name="norm")(x))
        return rearrange(x, "(g f) p c -> g f p c", f=FRAMES_PER_GROUP)


def init_params(config: ModelConfig, *, options: RecotConfig, key: jax.Array) -> dict:
    """Initialises all parameters in float32; `vision` and `dts` as in `VideoXLPro`."""
    size = config.vision.image_size
    frames = jnp.zeros((1, FRAMES_PER_GROUP, size, size, 3), jnp.uint8)

    def touch_everything(model):
        return model(model.features(frames), key=jax.random.key(0))

    variables: Any = Recot(config, options).init(key, method=touch_everything)
    return variables["params"]

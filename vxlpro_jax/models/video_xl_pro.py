"""The whole model: from frames and text to hidden states, and the methods that generation uses.

Shapes: `B` rows, `G` groups of four frames a row, `N` visual tokens of a group (144 in the
release), `T` text slots, `S` samples of a row, `D` decoder width, `V` vocabulary, `L = T + (10 + N)
G` slots of the decoder.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from einops import rearrange

from vxlpro_jax.config.schema import FRAMES_PER_GROUP, IMAGE_TOKEN, STAMP_TOKENS, ModelConfig
from vxlpro_jax.models.dts import Dts
from vxlpro_jax.models.kv_cache import KVCache
from vxlpro_jax.models.layers import Projector
from vxlpro_jax.models.qwen2 import Qwen2
from vxlpro_jax.models.selector import Selected, Selector
from vxlpro_jax.models.siglip import Siglip
from vxlpro_jax.ops import patches, splice
from vxlpro_jax.ops import segments as seg
from vxlpro_jax.sharding import activations
from vxlpro_jax.utils.jit import jit


class Text(flax.struct.PyTreeNode):
    """Text and time stamps of a batch. A row holds one or several samples, numbered from 1.

    Attributes:
        tokens: int32 [B, T] ids, -200 at the image position, of which a sample has at most one.
        token_segments: int32 [B, T], sample of each id; 0 in padding.
        stamp_ids: int32 [B, G, 10], ids of the time stamp of each group.
        group_segments: int32 [B, G], sample of each group; 0 in padding.
        keep_counts: int32 [B, S], number of visual tokens to keep of each sample.
        skipped: int32 [B, G], number of groups of a longer video that are left out before each
            group, which never falls within a sample. Later positions are shifted as if the left-out
            groups were present. None if nothing is left out.
    """

    tokens: jax.Array
    token_segments: jax.Array
    stamp_ids: jax.Array
    group_segments: jax.Array
    keep_counts: jax.Array
    skipped: jax.Array | None = None


class Sequence(flax.struct.PyTreeNode):
    """The input of the decoder.

    Attributes:
        embeddings: [B, L, D], zeros in padding.
        layout: source, sample and index of each position.
        num_samples: largest number of samples in a row.
    """

    embeddings: jax.Array
    layout: splice.Layout
    num_samples: int = flax.struct.field(pytree_node=False)


class VideoXLPro(nn.Module):
    """The whole model. Each stage is a method, which `apply(..., method=...)` calls."""

    config: ModelConfig

    def setup(self) -> None:
        """Creates the parts `vision`, `dts`, `projector`, `selector` and `decoder`."""
        c = self.config
        self.vision = Siglip(c.vision, c.attention)
        self.dts = Dts(c.attention)
        self.projector = Projector(c.decoder.width)
        self.selector = Selector(c.decoder.width, c.selector_gradient)
        self.decoder = Qwen2(c.decoder, c.attention)

    def features(self, frames: jax.Array) -> jax.Array:
        """Runs the vision tower and resizes its grid: uint8 [F, H, W, 3] -> [F, h, w, C]."""
        return patches.resize(self.vision(frames), side=self.config.dts.grid)

    def compress(self, features: jax.Array) -> jax.Array:
        """Runs the DTS on groups of four frames: [4G, h, w, C] -> [G, h, w, C]."""
        return self.dts(patches.group_frames(features, layout=self.config.dts.layout))

    def project(self, compressed: jax.Array) -> jax.Array:
        """Projects to the decoder's width: [G, h, w, C] -> [G, h*w, D]."""
        return self.projector(rearrange(compressed, "g h w c -> g (h w) c"))

    def group_features(self, frames: jax.Array) -> jax.Array:
        """Computes `features` of groups: uint8 [G, 4, H, W, 3] -> [G, 4, h*w, C]."""
        grid = self.features(activations.shard_frames(rearrange(frames, "g f ... -> (g f) ...")))
        return rearrange(grid, "(g f) h w c -> g f (h w) c", f=FRAMES_PER_GROUP)

    def compress_and_project(self, features: jax.Array) -> jax.Array:
        """Runs the DTS and the projector and pools: [G, 4, h*w, C] -> [G, N, D]."""
        return self.project_and_pool(self.compress_groups(features))

    def compress_groups(self, features: jax.Array) -> jax.Array:
        """Runs the DTS on groups: [G, 4, h*w, C] -> [G, h*w, C]."""
        flat = rearrange(features, "g f (h w) c -> (g f) h w c", h=self.config.dts.grid)
        return rearrange(activations.shard_frames(self.compress(flat)), "g h w c -> g (h w) c")

    def project_and_pool(self, compressed: jax.Array) -> jax.Array:
        """Runs the projector and pools: [G, h*w, C] -> [G, N, D]."""
        return patches.pool(self.projector(compressed), size=self.config.pool)

    def encode(self, frames: jax.Array) -> jax.Array:
        """Encodes frames to visual tokens: uint8 [B, G, 4, H, W, 3] -> [B, G, N, D]."""
        features = self.group_features(rearrange(frames, "b g ... -> (b g) ..."))
        tokens = self.compress_and_project(features)
        return rearrange(tokens, "(b g) n d -> b g n d", b=len(frames))

    def windows(self, visual: jax.Array, text: Text) -> jax.Array:
        """Puts the stamps before each group's visual tokens: [B, G, N, D] -> [B, G, 10+N, D]."""
        return jnp.concatenate([self.decoder.embed(text.stamp_ids), visual], axis=2)

    def select(self, visual: jax.Array, text: Text) -> Selected:
        """Scores visual tokens [B, G, N, D] against the text and chooses those that are kept."""
        return self.selector(
            self.windows(visual, text),
            group_segments=text.group_segments,
            text=self.decoder.embed(text.tokens),
            text_segments=jnp.where(text.tokens == IMAGE_TOKEN, 0, text.token_segments),
            keep_counts=text.keep_counts,
            skipped=text.skipped,
        )

    def splice(self, selected: Selected, text: Text, *, slots: int | None = None) -> Sequence:
        """Replaces each sample's image position by its kept visual positions.

        Args:
            selected: windows of the visual tokens and the choice among them.
            text: text and stamps of the batch.
            slots: length L of the result, which must hold the longest row; None for the number of
                text and visual slots.
        """
        num_samples = text.keep_counts.shape[1]
        layout = splice.compute_layout(
            is_image=text.tokens == IMAGE_TOKEN,
            text_segments=text.token_segments,
            kept=rearrange(selected.kept, "b g n -> b (g n)"),
            visual_segments=jnp.repeat(text.group_segments, selected.kept.shape[2], axis=1),
            num_segments=num_samples,
            gaps=_gaps(text, tokens=selected.scores.shape[2]),
            slots=slots,
        )
        words = self.decoder.embed(text.tokens)
        visual = rearrange(selected.windows, "b g n d -> b (g n) d")
        take = jax.vmap(functools.partial(jnp.take, axis=0, mode="fill", fill_value=0))
        embeddings = take(jnp.concatenate([words, visual], axis=1), layout.sources)
        return Sequence(activations.shard_rows(embeddings), layout, num_samples)

    def assemble(self, visual: jax.Array, text: Text, *, slots: int | None = None) -> Sequence:
        """Builds the decoder's input of visual tokens [B, G, N, D]; `slots` as in `splice`."""
        return self.splice(self.select(visual, text), text, slots=slots)

    def decode(self, sequence: Sequence) -> jax.Array:
        """Computes hidden states [B, L, D] after the final norm."""
        x, layout = sequence.embeddings, sequence.layout
        # Padding comes after a row's only sample, and causal attention never looks ahead.
        segments = layout.segments if sequence.num_samples > 1 else None
        hidden = self.decoder(
            activations.scatter_sequence(x),
            positions=activations.scatter_sequence(layout.positions),
            segments=None if segments is None else activations.scatter_sequence(segments),
        )
        return activations.gather_sequence(hidden)[:, : x.shape[1]]

    def __call__(self, frames: jax.Array, text: Text) -> jax.Array:
        """Encodes frames, uint8 [B, G, 4, H, W, 3], and calls `read`."""
        return self.read(self.encode(frames), text)

    def read(self, visual: jax.Array, text: Text) -> jax.Array:
        """Computes the hidden states that predict each text id.

        Only text ids are targets, so only the states before them leave the decoder. The logits of
        the visual positions, which are most of the sequence, are never computed.

        Args:
            visual: visual tokens [B, G, N, D].
            text: text and stamps of the batch.

        Returns:
            Hidden states [B, T, D]. Entry t is the state one position before text id t; the first
            id of a sample and padding get an arbitrary state.
        """
        sequence = self.assemble(visual, text)
        hidden = self.decode(sequence)
        before = jnp.clip(sequence.layout.text_at - 1, 0, hidden.shape[1] - 1)
        return jnp.take_along_axis(hidden, before[..., None], axis=1)

    def logits(self, hidden: jax.Array) -> jax.Array:
        """Computes logits in at least float32, [..., D] -> [..., V]."""
        return self.decoder.logits(hidden)

    def prefill(
        self, embeddings: jax.Array, cache: KVCache, last: jax.Array
    ) -> tuple[jax.Array, KVCache]:
        """Reads the next chunk of each row's sequence. Each row is one sample.

        Args:
            embeddings: [B, T, D], a chunk of `Sequence.embeddings`.
            cache: keys and values of the chunks before, with room for T more positions.
            last: int32 [B], index of each row's last position in the chunk, which padding follows;
                -1 where the row ended in an earlier chunk.

        Returns:
            Logits [B, V] at the position `last`, and the cache without the padding.
        """
        queries = jnp.maximum(last, 0)[:, None]
        hidden, read = self.decoder.extend(embeddings, cache, query_index=queries)
        return self.decoder.logits(hidden[:, 0]), read.replace(lengths=cache.lengths + last + 1)

    def extend(self, ids: jax.Array, cache: KVCache) -> tuple[jax.Array, KVCache]:
        """Reads more ids, int32 [B, T], and returns the logits [B, T, V] after each of them."""
        every = jnp.broadcast_to(jnp.arange(ids.shape[1]), ids.shape)
        hidden, cache = self.decoder.extend(self.decoder.embed(ids), cache, query_index=every)
        return self.decoder.logits(hidden), cache

    def decode_step(self, ids: jax.Array, cache: KVCache) -> tuple[jax.Array, KVCache]:
        """Reads one more id in each row, int32 [B], and returns the logits [B, V] of the next."""
        logits, cache = self.extend(ids[:, None], cache)
        return logits[:, 0], cache


def _gaps(text: Text, *, tokens: int) -> jax.Array | None:
    """Counts the decoder positions that skipped groups would take: int32 [B, G*(10+N)].

    A skipped group counts as many positions as the sample's own groups keep on average.
    """
    if text.skipped is None:
        return None
    groups = seg.one_hot(text.group_segments, num_segments=text.keep_counts.shape[1]).sum(1)
    size = STAMP_TOKENS + text.keep_counts // jnp.maximum(groups, 1)
    gaps = text.skipped * seg.lookup(size, segments=text.group_segments)
    return jnp.repeat(gaps, STAMP_TOKENS + tokens, axis=1)


def init_params(config: ModelConfig, *, key: jax.Array) -> dict:
    """Initialises all parameters in float32 as the release and its backbones do; a nested dict."""
    size = config.vision.image_size
    frames = jnp.zeros((1, 1, FRAMES_PER_GROUP, size, size, 3), jnp.uint8)
    ints = functools.partial(jnp.ones, dtype=jnp.int32)
    text = Text(ints((1, 2)), ints((1, 2)), ints((1, 1, STAMP_TOKENS)), ints((1, 1)), ints((1, 1)))

    def touch_everything(model):
        return model.logits(model(frames, text))

    variables: Any = VideoXLPro(config).init(key, method=touch_everything)
    return variables["params"]


def abstract_params(config: ModelConfig) -> dict:
    """Describes the tree of `init_params` by `jax.ShapeDtypeStruct`, without computing anything."""
    return jax.eval_shape(functools.partial(init_params, config), key=jax.random.key(0))


def apply_method(config: ModelConfig, method: str | Callable, params: Any, *inputs: Any) -> Any:
    """Applies a method of the model; `params` may lack the parts that the method does not use.

    Args:
        config: sizes of the model.
        method: name of the method, or a function of the bound model and the inputs.
        params: nested dict of parameters.
        *inputs: arguments of the method.
    """
    return VideoXLPro(config).apply({"params": params}, *inputs, method=method)


@functools.cache
def jit_method(
    config: ModelConfig, method: str | Callable, donate: tuple[int, ...] = ()
) -> Callable:
    """Compiles `apply_method` of a method as a function of parameters and inputs, once.

    Args:
        config: sizes of the model.
        method: as in `apply_method`.
        donate: indices of the inputs, counted from 0, whose memory may be overwritten.
    """
    apply = functools.partial(apply_method, config, method)
    return jit(apply, donate_argnums=tuple(1 + index for index in donate))

"""The query-aware selector, which scores each visual token against the prompt.

Shapes: `B` rows, `G` groups (windows), `T` text slots, `S` samples of a row, `D` decoder width,
`N` visual positions of a window (144 in the release), after its 10 stamps.
"""

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from einops import rearrange

from vxlpro_jax.config.schema import STAMP_TOKENS, SelectorGradient
from vxlpro_jax.models.layers import Dense, torch_uniform
from vxlpro_jax.ops import segments as seg
from vxlpro_jax.ops import token_selection
from vxlpro_jax.ops.precision import at_least_float32
from vxlpro_jax.ops.rope import rotate_full_width

_NUM_HEADS = 4


class Selected(flax.struct.PyTreeNode):
    """The result of the selection.

    Attributes:
        windows: [B, G, 10+N, D], rotated, with the scores added to the visual positions.
        kept: bool [B, G, 10+N]; stamps of real groups are always kept.
        scores: [B, G, N] scores of the visual tokens in [0, 1].
    """

    windows: jax.Array
    kept: jax.Array
    scores: jax.Array


class Selector(nn.Module):
    """Scores visual tokens within each window and ranks them within each sample.

    The release builds one dense matrix over all windows and masks it, which takes 48 GB at 8,192
    frames; the numbers here are the same. `gradient` is `ModelConfig.selector_gradient`, which
    changes no result.
    """

    width: int
    gradient: SelectorGradient = "scores"

    def setup(self) -> None:
        """Creates the parameters `text` and `window`."""
        self.text = Dense(self.width)
        self.window = WindowAttention(self.width)

    def text_features(self, text: jax.Array) -> jax.Array:
        """Applies the release's `text_mlp`, Linear and GELU (erf): [B, T, D] -> [B, T, D]."""
        return nn.gelu(self.text(text), approximate=False)

    def __call__(
        self,
        windows: jax.Array,
        *,
        group_segments: jax.Array,
        text: jax.Array,
        text_segments: jax.Array,
        keep_counts: jax.Array,
        skipped: jax.Array | None = None,
    ) -> Selected:
        """Scores the visual tokens and marks the highest of each sample.

        Args:
            windows: [B, G, 10+N, D] stamp embeddings followed by visual tokens.
            group_segments: int32 [B, G], sample of each group; 0 in padding.
            text: [B, T, D] embeddings of the text ids.
            text_segments: int32 [B, T], sample of each id; 0 at padding and at the image position.
            keep_counts: int32 [B, S], number of visual tokens to keep of each sample.
            skipped: int32 [B, G], number of groups left out of the sample before each group; None
                if none is left out.
        """
        num_segments, tokens = keep_counts.shape[1], windows.shape[2] - STAMP_TOKENS
        features = self.text_features(text)
        query = mean_text(features, segments=text_segments, num_segments=num_segments)
        query = seg.lookup(query, segments=group_segments)
        scores = self.window.scores(windows, query=query)
        flat_segments = jnp.repeat(group_segments, tokens, axis=1)
        scores = token_selection.normalize(
            rearrange(scores, "b g n -> b (g n)"), segments=flat_segments, num_segments=num_segments
        )
        kept = token_selection.keep_highest(scores, segments=flat_segments, counts=keep_counts)
        kept, scores = (rearrange(x, "b (g n) -> b g n", n=tokens) for x in (kept, scores))
        stamps = jnp.broadcast_to(group_segments[..., None] > 0, (*kept.shape[:2], STAMP_TOKENS))
        rotated = _rotate(windows, group_segments, skipped)
        return Selected(
            windows=_add_scores(rotated, scores, self.gradient),
            kept=jnp.concatenate([stamps, kept], axis=-1),
            scores=scores,
        )


def drop_untouched(selected: Selected) -> Selected:
    """Drops the stamps of groups without any kept visual token.

    The release keeps all stamps; at low keep ratios they are most of what the decoder reads.
    """
    touched = selected.kept[..., STAMP_TOKENS:].any(-1, keepdims=True)
    return selected.replace(kept=selected.kept & touched)


def mean_text(text: jax.Array, *, segments: jax.Array, num_segments: int) -> jax.Array:
    """Averages each sample's text in at least float32: [B, T, D], int32 [B, T] -> [B, S, D].

    The score is linear in the text, so that the score of the mean is the release's mean of scores.
    """
    member = seg.one_hot(segments, num_segments=num_segments).astype(at_least_float32(text).dtype)
    total = jnp.einsum("bts,btd->bsd", member, at_least_float32(text))
    return total / jnp.maximum(member.sum(1), 1)[..., None]


class WindowAttention(nn.Module):
    """Attention of each visual position to the stamps of its own window, for scoring only.

    The release (`WindowTimeToTokenAttention`) has three quirks: visual positions use `k` and stamps
    `q`, the stamps' `q` is also their value, and the result replaces the visual token. Every
    checkpoint has `v`, so its parameters exist, but its output is never used.
    """

    width: int

    def setup(self) -> None:
        """Creates the parameters `q`, `k`, `v` and `out`."""
        self.q, self.k, self.v = (Dense(self.width) for _ in range(3))
        self.out = _Projection(self.width)

    def __call__(self, windows: jax.Array) -> jax.Array:
        """Maps unrotated windows [B, G, 10+N, D] to [B, G, N, D]."""
        weights, q = self._attend(windows)
        out = jnp.einsum("bgnvs,bgsnh->bgvnh", weights.astype(q.dtype), q)
        return self.out(rearrange(out, "b g v n h -> b g v (n h)"))

    def scores(self, windows: jax.Array, *, query: jax.Array) -> jax.Array:
        """Computes products of the attended positions and a query, up to a constant per query.

        The release projects every position and then multiplies. Here the query is multiplied with
        the transposed projection, whose bias would shift all scores alike. Scores differ from one
        another by a thousandth of their size and are stretched to [0, 1], so that in float32 the
        release's order loses three of seven digits. This order has about half that error and needs
        D fewer products per position.

        Args:
            windows: [B, G, 10+N, D] unrotated windows.
            query: [B, G, D], mean text of each group's sample.

        Returns:
            [B, G, N] in at least float32.
        """
        weights, q = self._attend(windows)
        query = rearrange(self.out.pull_back(query), "b g (n h) -> b g n h", n=_NUM_HEADS)
        values = jnp.einsum("bgsnh,bgnh->bgns", at_least_float32(q), query)
        return jnp.einsum("bgnvs,bgns->bgv", weights, values)

    def _attend(self, windows):
        """Computes weights [B, G, heads, N, 10] (float32 or more), values [B, G, 10, heads, H]."""
        stamps, visual = windows[:, :, :STAMP_TOKENS], windows[:, :, STAMP_TOKENS:]
        q = rearrange(self.q(stamps), "b g s (n h) -> b g s n h", n=_NUM_HEADS)
        k = rearrange(self.k(visual), "b g v (n h) -> b g v n h", n=_NUM_HEADS)
        self.v(stamps)
        logits = jnp.einsum("bgvnh,bgsnh->bgnvs", k, q) * (self.width // _NUM_HEADS) ** -0.5
        return jax.nn.softmax(at_least_float32(logits), axis=-1), q


class _Projection(nn.Module):
    """An affine map that can also be applied transposed, without its bias."""

    width: int

    def setup(self):
        uniform = torch_uniform(self.width)
        self.kernel = self.param("kernel", uniform, (self.width, self.width), jnp.float32)
        self.bias = self.param("bias", uniform, (self.width,), jnp.float32)

    def __call__(self, x):
        return x.astype(self.kernel.dtype) @ self.kernel + self.bias

    def pull_back(self, query):
        """Returns vectors y such that y . x = query . (kernel x) for every x."""
        return query @ at_least_float32(self.kernel).T


def _rotate(windows, group_segments, skipped):
    """Applies the full-width rotary embedding by the index in the sample's visual sequence."""
    size, index = windows.shape[2], seg.index_in_segment(group_segments)
    starts = (index if skipped is None else index + skipped) * size
    positions = starts[..., None] + jnp.arange(size)
    return rotate_full_width(windows, positions=positions)


def _add_scores(windows, scores, gradient):
    """Adds each visual token's score to all its channels, the release's only gradient path."""
    added = jnp.pad(scores, ((0, 0), (0, 0), (STAMP_TOKENS, 0)))[..., None].astype(windows.dtype)
    if gradient == "straight_through":
        windows = windows * (1 + (added - jax.lax.stop_gradient(added)))
    return windows + added

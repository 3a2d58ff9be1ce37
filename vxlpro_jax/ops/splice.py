"""The decoder's sequence: the index of each text id and each kept visual position.

A sample's sequence is its text with the single image position replaced by its kept visual
positions, in order. The samples of a row follow one another from index 0, and padding comes last.

Shapes: `B` rows, `T` text slots, `E` visual slots, `S` samples of a row, `L` decoder slots, which
are T + E by default.
"""

import flax.struct
import jax
import jax.numpy as jnp

from vxlpro_jax.ops import segments as seg


class Layout(flax.struct.PyTreeNode):
    """The decoder's sequence as indices.

    Attributes:
        sources: int32 [B, L], index into text slots followed by visual slots; T + E in padding.
        segments: int32 [B, L], number of the sample, from 1; 0 in padding.
        positions: int32 [B, L], index within the sample, gaps included.
        text_at: int32 [B, T], decoder index of each text id; L for image position and padding.
        lengths: int32 [B], number of decoder slots in use.
    """

    sources: jax.Array
    segments: jax.Array
    positions: jax.Array
    text_at: jax.Array
    lengths: jax.Array


def compute_layout(
    *,
    is_image: jax.Array,
    text_segments: jax.Array,
    kept: jax.Array,
    visual_segments: jax.Array,
    num_segments: int,
    gaps: jax.Array | None = None,
    slots: int | None = None,
) -> Layout:
    """Computes the sequence of each row.

    Args:
        is_image: bool [B, T], image position of each sample, of which it has at most one.
        text_segments: int32 [B, T], sample of each text slot.
        kept: bool [B, E], visual positions that stay in the sequence.
        visual_segments: int32 [B, E], sample of each visual slot.
        num_segments: largest number S of samples in a row.
        gaps: int32 [B, E], number of the sample's positions that are skipped before each visual
            position, non-decreasing; None if nothing is skipped.
        slots: length L of the sequence; entries of a row beyond it are dropped.
    """
    members = _Members.of(is_image, text_segments, kept, visual_segments, num_segments)
    elements = is_image.shape[1] + kept.shape[1]
    length = slots or elements
    text_at, visual_at = members.indices(length)
    targets = jnp.concatenate([text_at, visual_at], axis=1)

    def scatter(text: jax.Array, visual: jax.Array, *, fill: int) -> jax.Array:
        """Moves the values of text and visual slots to their decoder indices, int32 [B, L]."""
        values = jnp.concatenate([text, visual], axis=1).astype(jnp.int32)
        rows = jnp.full((len(values), length), fill, jnp.int32)
        put = jax.vmap(lambda row, at, value: row.at[at].set(value, mode="drop"))
        return put(rows, targets, values)

    slot = jnp.broadcast_to(jnp.arange(elements), targets.shape)
    text_slot, visual_slot = jnp.split(slot, [is_image.shape[1]], axis=1)
    segments = scatter(text_segments, visual_segments, fill=0)
    positions = seg.index_in_segment(segments)
    if gaps is not None:
        positions += scatter(members.gaps_before_text(gaps), gaps, fill=0)
    return Layout(
        sources=scatter(text_slot, visual_slot, fill=elements),
        segments=segments,
        positions=positions,
        text_at=text_at,
        lengths=members.sizes.sum(-1),
    )


class _Members(flax.struct.PyTreeNode):
    """The assignment of text ids and kept visual positions to samples.

    Attributes:
        text: bool [B, T, S], without image positions.
        after_image: bool [B, T, S], the part of `text` after the image position.
        visual: bool [B, E, S].
    """

    text: jax.Array
    after_image: jax.Array
    visual: jax.Array

    @classmethod
    def of(cls, is_image, text_segments, kept, visual_segments, num_segments) -> "_Members":
        """Computes the members from the arguments of `compute_layout`."""
        in_text = seg.one_hot(text_segments, num_segments=num_segments)
        image, text = in_text & is_image[..., None], in_text & ~is_image[..., None]
        visual = seg.one_hot(visual_segments, num_segments=num_segments) & kept[..., None]
        return cls(text, (jnp.cumsum(image, 1) > 0) & text, visual)

    @property
    def sizes(self) -> jax.Array:
        """Number of positions of each sample, int32 [B, S]."""
        return self.text.sum(1) + self.visual.sum(1)

    def indices(self, length: int) -> tuple[jax.Array, jax.Array]:
        """Computes the decoder index of each text and visual slot; `length` for unused slots."""
        starts = jnp.cumsum(self.sizes, -1) - self.sizes
        before_image = (self.text & ~self.after_image).sum(1)

        def place(member, offset):
            """Adds the sample's start, an offset, and the rank within the sample."""
            rank = jnp.cumsum(member, 1) - 1
            index = jnp.where(member, starts[:, None] + offset + rank, 0).sum(-1)
            return jnp.where(member.any(-1), index, length)

        num_visual = self.visual.sum(1)[:, None]
        text_at = place(self.text, self.after_image * num_visual)
        return text_at, place(self.visual, before_image[:, None])

    def gaps_before_text(self, gaps: jax.Array) -> jax.Array:
        """Sums a sample's gaps for text after the image, and gives 0 before it: int32 [B, T]."""
        whole = jnp.where(self.visual, gaps[..., None], 0).max(1)
        return (self.after_image * whole[:, None]).sum(-1)

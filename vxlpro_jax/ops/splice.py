"""Where each text id and each kept visual position lands in the decoder's sequence.

A sample's sequence is its text with the single image position replaced by its kept visual
positions, in order. The samples of a row stand one after another from index 0; padding follows.

Shapes: `B` rows, `T` text slots, `E` visual slots, `S` samples of a row, `L` decoder slots, T + E
unless asked otherwise.
"""

import flax.struct
import jax
import jax.numpy as jnp

from vxlpro_jax.ops import segments as seg


@flax.struct.dataclass
class Layout:
    """The decoder's sequence as indices.

    Attributes:
        sources: int32 [B, L], index into text slots followed by visual slots; T + E in padding.
        segments: int32 [B, L], the sample's number from 1; 0 in padding.
        positions: int32 [B, L], index within the sample, gaps counted.
        text_at: int32 [B, T], the decoder index of each text id; L for image position and padding.
        lengths: int32 [B], decoder slots in use.
    """

    sources: jax.Array
    segments: jax.Array
    positions: jax.Array
    text_at: jax.Array
    lengths: jax.Array


def lay_out(
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
        is_image: bool [B, T], the image position of each sample (at most one a sample).
        text_segments: int32 [B, T].
        kept: bool [B, E], visual positions that stay.
        visual_segments: int32 [B, E].
        num_segments: S.
        gaps: int32 [B, E], how many positions of its sample are left out before each visual one,
            not falling; none if None.
        slots: L; whatever of a row is beyond is lost.
    """
    batch, num_text = is_image.shape
    elements = num_text + kept.shape[1]
    length = slots or elements
    text = seg.one_hot(text_segments, num_segments=num_segments) & ~is_image[..., None]
    visual = seg.one_hot(visual_segments, num_segments=num_segments) & kept[..., None]
    num_kept = visual.sum(1)
    sizes = text.sum(1) + num_kept
    starts = jnp.cumsum(sizes, -1) - sizes
    image = seg.one_hot(text_segments, num_segments=num_segments) & is_image[..., None]
    after_image = (jnp.cumsum(image, 1) > 0) & text
    before_image = (text & ~after_image).sum(1)

    def place(member, offset):
        """Decoder index of each element: the sample's start, an offset, its rank in the sample."""
        rank = jnp.cumsum(member, 1) - 1
        return jnp.where(member, starts[:, None] + offset + rank, 0).sum(-1)

    text_at = place(text, after_image * num_kept[:, None])
    visual_at = place(visual, before_image[:, None])
    text_at = jnp.where(text.any(-1), text_at, length)
    visual_at = jnp.where(visual.any(-1), visual_at, length)
    targets = jnp.concatenate([text_at, visual_at], axis=1)

    def scatter(values, fill):
        rows = jnp.full((batch, length), fill, jnp.int32)
        put = jax.vmap(lambda row, at, value: row.at[at].set(value, mode="drop"))
        return put(rows, targets, values.astype(jnp.int32))

    element = jnp.broadcast_to(jnp.arange(elements), (batch, elements))
    segments = scatter(jnp.concatenate([text_segments, visual_segments], axis=1), 0)
    positions = seg.index_in_segment(segments)
    if gaps is not None:
        all_gaps = jnp.where(visual, gaps[..., None], 0).max(1)
        behind = (after_image * all_gaps[:, None]).sum(-1)
        positions += scatter(jnp.concatenate([behind, gaps], axis=1), 0)
    return Layout(
        sources=scatter(element, elements),
        segments=segments,
        positions=positions,
        text_at=text_at,
        lengths=sizes.sum(-1),
    )

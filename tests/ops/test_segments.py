"""Compares the segment helpers with loops."""

import jax.numpy as jnp
import numpy as np

from vxlpro_jax.ops.segments import index_in_segment, lookup, one_hot

SEGMENTS = np.array([[1, 1, 1, 2, 2, 3, 0, 0], [1, 0, 0, 0, 0, 0, 0, 0], [0] * 8])


def test_index_in_segment_counts_the_members_before():
    expected = [[sum(row[:at] == segment) for at, segment in enumerate(row)] for row in SEGMENTS]
    np.testing.assert_array_equal(index_in_segment(jnp.asarray(SEGMENTS)), expected)


def test_one_hot_leaves_padding_out():
    out = one_hot(jnp.asarray(SEGMENTS), num_segments=3)
    for row, at, segment in np.ndindex(3, 8, 3):
        assert out[row, at, segment] == (SEGMENTS[row, at] == segment + 1)


def test_lookup_reads_each_row_s_own_table():
    table = np.random.default_rng(0).standard_normal((3, 3, 2)).astype(np.float32)
    out = lookup(jnp.asarray(table), segments=jnp.asarray(SEGMENTS))
    for row, at in np.ndindex(3, 8):
        np.testing.assert_array_equal(out[row, at], table[row, max(SEGMENTS[row, at] - 1, 0)])

"""Packing loses no sample, never overflows, delays no sample forever, and fills rows."""

import itertools

import numpy as np
import pytest

from vxlpro_jax.data.loader.packing import Size, fill_row


class Item:
    def __init__(self, number, size):
        self.number, self.size = number, size


def stream(sizes):
    items = (Item(number, Size(*size)) for number, size in enumerate(sizes))
    return lambda: next(items)


def lengths(count, *, most, rng):
    """Returns numbers of groups of clips: most are short, some are as long as a row."""
    return np.clip(np.exp(rng.normal(2.5, 1.0, count)).astype(int), 0, most)


@pytest.mark.parametrize("samples", [1, 3, 64])
def test_every_sample_is_in_one_row_that_holds_it(samples):
    rng, budget, held = np.random.default_rng(samples), Size(64, 500, samples), []
    draw = stream(zip(lengths(5000, most=64, rng=rng), rng.integers(1, 500, 5000), strict=True))
    rows = [fill_row(held, draw, budget=budget) for _ in range(300)]
    for row in rows:
        assert 1 <= len(row) <= samples
        assert sum(item.size.groups for item in row) <= 64
        assert sum(item.size.text for item in row) <= 500
    seen = sorted(item.number for item in itertools.chain(*rows, held))
    assert seen == list(range(len(seen)))


def test_one_sample_a_row_keeps_the_order_and_reads_no_further():
    held, draw = [], stream([(3, 5)] * 9)
    rows = [fill_row(held, draw, budget=Size(64, 500, 1)) for _ in range(8)]
    assert [item.number for row in rows for item in row] == list(range(8))
    assert not held


def test_the_oldest_held_sample_begins_the_next_row():
    held, draw = [], stream([(40, 1), (50, 1), (10, 1), (14, 1), (64, 1), (1, 1), (1, 1)])
    first = fill_row(held, draw, budget=Size(64, 500, 8))
    assert [item.number for item in first] == [0, 2, 3]
    assert [item.number for item in held] == [1]
    second = fill_row(held, draw, budget=Size(64, 500, 3))
    assert [item.number for item in second] == [1, 5, 6]
    assert [item.number for item in held] == [4]


def test_text_alone_does_not_read_for_ever():
    held, draw = [], stream([(0, 100)] * 99)
    row = fill_row(held, draw, budget=Size(64, 450, 64))
    assert [item.number for item in row] == [0, 1, 2, 3]
    assert len(held) <= 16


def test_rows_of_a_realistic_mix_are_full():
    rng, budget, held = np.random.default_rng(0), Size(64, 10_000, 64), []
    draw = stream((groups, 100) for groups in lengths(100_000, most=64, rng=rng))
    rows = [fill_row(held, draw, budget=budget) for _ in range(1000)]
    used = sum(item.size.groups for row in rows for item in row)
    assert used / (64 * len(rows)) > 0.95

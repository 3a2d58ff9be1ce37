"""Compares the decoder's sequence with a reference that appends to Python lists."""

import jax
import numpy as np
import pytest

from vxlpro_jax.ops.splice import compute_layout

TEXT, VISUAL, SAMPLES = 30, 24, 3


def random_row(rng):
    """Makes up to three samples of unequal lengths, with or without an image, and padding."""
    is_image, text = np.zeros(TEXT, bool), np.zeros(TEXT, np.int32)
    visual, kept = np.zeros(VISUAL, np.int32), rng.random(VISUAL) < 0.6
    at, visual_at = 0, 0
    for sample in range(1, rng.integers(1, SAMPLES + 1) + 1):
        length = rng.integers(1, 10)
        text[at : at + length] = sample
        if rng.random() < 0.7:
            is_image[at + rng.integers(length)] = True
            count = rng.integers(1, 8)
            visual[visual_at : visual_at + count] = sample
            visual_at += count
        at += length
    return is_image, text, kept, visual


def random_gaps(rng, visual):
    """Returns gaps that increase within each sample."""
    gaps = np.zeros(VISUAL, np.int32)
    for sample in range(1, SAMPLES + 1):
        here = visual == sample
        gaps[here] = np.sort(rng.integers(0, 1000, here.sum()))
    return gaps


def oracle(is_image, text, kept, visual, gaps):
    sources, segments, positions, text_at = [], [], [], [TEXT + VISUAL] * TEXT
    for sample in range(1, SAMPLES + 1):
        start, gap = len(sources), 0
        for at in np.flatnonzero(text == sample):
            if is_image[at]:
                for v in np.flatnonzero((visual == sample) & kept):
                    gap = gaps[v]
                    positions.append(len(sources) - start + gap)
                    sources.append(TEXT + v)
            else:
                text_at[at] = len(sources)
                positions.append(len(sources) - start + gap)
                sources.append(at)
        size = len(sources) - start
        segments += [sample] * size
    fill = TEXT + VISUAL - len(sources)
    return {
        "sources": sources + [TEXT + VISUAL] * fill,
        "segments": segments + [0] * fill,
        "text_at": text_at,
        "lengths": len(sources),
        "positions": positions,
    }


@pytest.fixture(scope="module")
def compiled():
    def run(is_image, text, kept, visual, gaps=None):
        return compute_layout(
            is_image=is_image,
            text_segments=text,
            kept=kept,
            visual_segments=visual,
            num_segments=SAMPLES,
            gaps=gaps,
        )

    return jax.jit(run)


@pytest.mark.slow
@pytest.mark.parametrize("has_gaps", [False, True])
def test_random_rows_equal_a_loop_over_samples(compiled, has_gaps):
    rng = np.random.default_rng(0)
    for _ in range(40):
        rows = [random_row(rng) for _ in range(4)]
        gaps = [has_gaps * random_gaps(rng, visual) for *_, visual in rows]
        columns = [np.stack(column) for column in zip(*rows, strict=True)]
        layout = compiled(*columns, np.stack(gaps) if has_gaps else None)
        for index, row in enumerate(rows):
            expected = oracle(*row, gaps[index])
            used = expected.pop("lengths")
            assert layout.lengths[index] == used
            np.testing.assert_array_equal(layout.positions[index, :used], expected.pop("positions"))
            for name, values in expected.items():
                np.testing.assert_array_equal(getattr(layout, name)[index], values, err_msg=name)


def test_sequence_does_not_depend_on_padding(compiled):
    """A row's layout does not depend on the mask of padded visual slots."""
    rng = np.random.default_rng(1)
    is_image, text, kept, visual = (np.stack(c) for c in zip(random_row(rng), strict=True))
    flipped = np.where(visual == 0, ~kept, kept)
    one, two = (compiled(is_image, text, mask, visual) for mask in (kept, flipped))
    jax.tree.map(np.testing.assert_array_equal, one, two)

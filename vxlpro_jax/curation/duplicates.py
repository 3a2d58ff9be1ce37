"""Near-duplicates among embeddings.

Shapes: N clips, D width of an embedding.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

_BLOCK = 1024
_KEPT_AT_ONCE = 16_384
_LEAST = 1e-3  # Of a length; below it a vector is zeros.


class NearestClips(NamedTuple):
    """Of each clip.

    Attributes:
        place: int [N], the kept clip before it that is most like it; -1 if there is none.
        similarity: float32 [N], the cosine; 0 if there is none.
        is_duplicate: bool [N], whether that reaches the threshold.
    """

    place: np.ndarray
    similarity: np.ndarray
    is_duplicate: np.ndarray


def find_duplicates(
    embeddings: Sequence[np.ndarray],
    *,
    threshold: float,
    progress: Callable = lambda items, **_: items,
) -> NearestClips:
    """Compares each clip with those before it that are no duplicates themselves.

    So each duplicate has a kept clip that it is like, and the first of a set is kept. Exact, in
    matrix products of blocks: about NKD/2 multiplications for K kept clips. A million clips of 475
    numbers take 2.4e14, minutes on a server's cores, two hours on two, and 1.9 GB three times.

    Args:
        embeddings: N of float32 [D], brought to length 1 here; zeros are like nothing.
        threshold: cosine from which on two clips are the same.
        progress: `cli.progress`, or the like.
    """
    count = len(embeddings)
    if not count:
        return NearestClips(np.zeros(0, int), np.zeros(0, np.float32), np.zeros(0, bool))
    embeddings = np.array(embeddings, np.float32)
    embeddings /= np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), _LEAST)
    place, similarity = np.full(count, -1), np.zeros(count, np.float32)
    kept = _Kept(np.empty_like(embeddings), np.empty(count, int))
    for start in progress(range(0, count, _BLOCK), name="comparing", unit=f"{_BLOCK} clips"):
        block = slice(start, min(start + _BLOCK, count))
        place[block], similarity[block] = kept.nearest(embeddings[block])
        _within(embeddings, block, place, similarity, threshold=threshold)
        kept.add(start + np.flatnonzero(similarity[block] < threshold), embeddings)
    return NearestClips(place, similarity, similarity >= threshold)


def _within(embeddings, block, place, similarity, *, threshold) -> None:
    """Compares the clips of a block, one after another since each may be dropped."""
    start, own = block.start, embeddings[block]
    cosines = own @ own.T
    is_kept = np.zeros(len(own), bool)
    for row, cosine in enumerate(cosines):
        before = np.where(is_kept[:row], cosine[:row], 0)
        if row and (best := int(before.argmax())) >= 0 and before[best] > similarity[start + row]:
            place[start + row], similarity[start + row] = start + best, before[best]
        is_kept[row] = similarity[start + row] < threshold


class _Kept:
    """The kept clips so far: their embeddings, one behind another, and their places."""

    def __init__(self, rows: np.ndarray, places: np.ndarray):
        self._rows, self._places, self._count = rows, places, 0

    def add(self, places: np.ndarray, embeddings: np.ndarray) -> None:
        end = self._count + len(places)
        self._rows[self._count : end] = embeddings[places]
        self._places[self._count : end] = places
        self._count = end

    def nearest(self, block: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        place, similarity = np.full(len(block), -1), np.zeros(len(block), np.float32)
        for start in range(0, self._count, _KEPT_AT_ONCE):
            part = slice(start, min(start + _KEPT_AT_ONCE, self._count))
            cosines = block @ self._rows[part].T
            best = cosines.argmax(axis=1)
            found = np.take_along_axis(cosines, best[:, None], axis=1)[:, 0]
            better = found > similarity
            similarity[better] = found[better]
            place[better] = self._places[start + best[better]]
        return place, similarity

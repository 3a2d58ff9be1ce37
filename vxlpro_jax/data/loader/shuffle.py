"""The endless order of records; a run needs only its position in this order to resume."""

import sys
from collections.abc import Sequence
from typing import cast

import grain
import numpy as np

from vxlpro_jax.data.random_access import RandomAccess


def record_order(
    counts: Sequence[int], *, weights: Sequence[float], seed: int
) -> RandomAccess[int]:
    """Maps each position of an endless order to the index of a record.

    The order has random access and no state. Every epoch has a new shuffle, in which the weight of
    a data set is the number of times that its records appear: once for 1, twice for 2, in every
    second epoch for 0.5. A record is repeated only after all other records of its data set have
    appeared equally often.

    Args:
        counts: number of records of each data set; indices are consecutive.
        weights: weight of each data set, above 0.
        seed: seed of the shuffles.
    """
    if all(weight == 1 for weight in weights):
        return _shuffled(sum(counts), seed=seed)
    return _WeightedOrder(counts, weights, seed)


def epoch_length(counts: Sequence[int], *, weights: Sequence[float]) -> int:
    """Returns the number of positions in an epoch."""
    return sum(_places(counts, weights))


class _WeightedOrder(RandomAccess[int]):
    """Shuffles places in each epoch; a data set's places continue that set's own endless order."""

    def __init__(self, counts: Sequence[int], weights: Sequence[float], seed: int):
        self._first_record = np.cumsum([0, *counts])
        self._places = _places(counts, weights)
        self._first_place = np.cumsum([0, *self._places])
        self._epoch = _shuffled(int(self._first_place[-1]), seed=seed)
        self._within = [
            _shuffled(count, seed=int(np.random.SeedSequence((seed, i)).generate_state(1)[0]))
            for i, count in enumerate(counts)
        ]

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, position: int) -> int:
        epoch, place = position // int(self._first_place[-1]), int(self._epoch[position])
        dataset = int(np.searchsorted(self._first_place, place, side="right")) - 1
        place += epoch * self._places[dataset] - int(self._first_place[dataset])
        return int(self._first_record[dataset]) + int(self._within[dataset][place])


def _places(counts: Sequence[int], weights: Sequence[float]) -> list[int]:
    """Returns the number of places per epoch of each data set; at least one unless it is empty."""
    return [
        max(1, round(count * weight)) if count else 0
        for count, weight in zip(counts, weights, strict=True)
    ]


def _shuffled(count: int, *, seed: int) -> RandomAccess[int]:
    return cast(RandomAccess[int], grain.MapDataset.range(count).seed(seed).shuffle().repeat())

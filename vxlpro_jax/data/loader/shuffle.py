"""The endless order of records: a position in it is all that a run needs to continue."""

import sys
from collections.abc import Sequence
from typing import cast

import grain
import numpy as np

from vxlpro_jax.data.random_access import RandomAccess


def record_order(
    counts: Sequence[int], *, weights: Sequence[float], seed: int
) -> RandomAccess[int]:
    """Maps each position of an endless order to a record's index; random access, no state.

    Every epoch is shuffled anew. In each a record of a dataset comes as often as its `weight` says:
    with 1 once, with 2 twice, with 0.5 in every second one. None comes again before all others of
    its dataset have come as often.

    Args:
        counts: how many records each dataset has; their indices follow one another.
        weights: one for each dataset, above 0.
        seed: of the shuffles.
    """
    if all(weight == 1 for weight in weights):
        return _shuffled(sum(counts), seed=seed)
    return _WeightedOrder(counts, weights, seed)


def epoch_length(counts: Sequence[int], *, weights: Sequence[float]) -> int:
    """Positions in an epoch."""
    return sum(_places(counts, weights))


class _WeightedOrder(RandomAccess[int]):
    """An epoch shuffles places; the places of a dataset take its own endless order on."""

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
    """How many positions of an epoch each dataset has; one that has records has at least one."""
    return [
        max(1, round(count * weight)) if count else 0
        for count, weight in zip(counts, weights, strict=True)
    ]


def _shuffled(count: int, *, seed: int) -> RandomAccess[int]:
    return cast(RandomAccess[int], grain.MapDataset.range(count).seed(seed).shuffle().repeat())

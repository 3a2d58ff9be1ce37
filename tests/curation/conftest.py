"""Fixture: the planted data set, which is pruned once."""

from pathlib import Path
from typing import NamedTuple

import planted
import pytest


class Pruned(NamedTuple):
    """Attributes: the `planted` set, and the output folder `out`."""

    planted: planted.Planted
    out: Path

    @property
    def kept(self) -> bytes:
        return (self.out / "kept.jsonl").read_bytes()

    @property
    def decisions(self) -> bytes:
        return (self.out / "decisions.jsonl").read_bytes()


@pytest.fixture(scope="session")
def planted_set(tmp_path_factory) -> planted.Planted:
    return planted.plant(tmp_path_factory.mktemp("planted"))


@pytest.fixture(scope="session")
def pruned(planted_set, tmp_path_factory) -> Pruned:
    out = tmp_path_factory.mktemp("pruned")
    planted.prune(planted_set, out, scorer=planted.Counting(planted_set.manifest))
    return Pruned(planted_set, out)

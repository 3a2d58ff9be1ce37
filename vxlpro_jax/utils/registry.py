"""Implementations found by name: the modules of a package, and entry points of other packages.

Adding an implementation means adding one file. Names are known without importing anything.
"""

import difflib
import importlib
import pkgutil
from collections.abc import Iterable
from importlib import metadata
from typing import Generic, TypeVar

from vxlpro_jax.utils.errors import InputError

T = TypeVar("T")


class Registry(Generic[T]):
    """The implementations of one kind.

    Each is the value of `attribute` in a module of `package`, named after the module, or the object
    of an entry point in the group `package`, declared in another package's `pyproject.toml`:

        [project.entry-points."vxlpro_jax.ops.attention.backends"]
        mine = "my_package.my_module:BACKEND"
    """

    def __init__(self, package: str, *, attribute: str, kind: str):
        """Stores where implementations are found.

        Args:
            package: dotted name of the package, which is also the group of the entry points.
            attribute: name of the value in each module.
            kind: words for an implementation in error messages, such as `attention backend`.
        """
        self._package, self._attribute, self._kind = package, attribute, kind

    def names(self) -> list[str]:
        """Returns all names, sorted."""
        return sorted({*self._modules(), *self._entry_points()})

    def find(self, name: str) -> T:
        """Returns the implementation with that name.

        Raises:
            InputError: there is none; the message suggests the nearest name.
        """
        if name in self._modules():
            return getattr(importlib.import_module(f"{self._package}.{name}"), self._attribute)
        points = self._entry_points()
        if name in points:
            return points[name].load()
        raise InputError(f"Unknown {self._kind} {name!r}{nearest(name, self.names())}")

    def _modules(self) -> set[str]:
        package = importlib.import_module(self._package)
        return {module.name for module in pkgutil.iter_modules(package.__path__)}

    def _entry_points(self) -> dict[str, metadata.EntryPoint]:
        return {point.name: point for point in metadata.entry_points(group=self._package)}


def nearest(name: str, known: Iterable[str]) -> str:
    """Returns the end of a message about an unknown name: the nearest known one, or all of them."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f": did you mean {close[0]!r}?" if close else f": known are {', '.join(sorted(known))}."

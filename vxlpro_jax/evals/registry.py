"""Finds benchmarks by name in `vxlpro_jax/evals/benchmarks/`, installed packages and files.

A package offers benchmarks through the entry point group `vxlpro_jax.benchmarks`; each entry point
is a module with a `BENCHMARKS` variable, or one `Benchmark`. This module imports no JAX.
"""

import hashlib
import importlib
import importlib.util
import logging
import pkgutil
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

from vxlpro_jax.evals import benchmarks
from vxlpro_jax.evals.benchmark import Benchmark
from vxlpro_jax.utils.errors import InputError

ENTRY_POINT_GROUP = "vxlpro_jax.benchmarks"

log = logging.getLogger(__name__)


def find_all() -> dict[str, Benchmark]:
    """Returns the benchmarks of this package and of installed ones, by name.

    Raises:
        InputError: two of them have the same name.
    """
    found: dict[str, Benchmark] = {}
    for benchmark in (*_of_this_package(), *_of_entry_points()):
        if benchmark.name in found:
            raise InputError(
                f"Benchmark {benchmark.name} is defined twice: rename one of them, or uninstall the"
                " package that brings it."
            )
        found[benchmark.name] = benchmark
    return found


def find(name: str, *, chain: int | None = None) -> Benchmark:
    """Returns a benchmark by its name, or the one defined in a Python file.

    Args:
        name: name of a benchmark, or path of a file that ends in `.py`.
        chain: number of the chain of questions, for benchmarks with several chains; None for the
            first.

    Raises:
        InputError: the name is unknown, the file cannot be used, or there is no such chain.
    """
    benchmark = _of_file(Path(name)) if is_file(name) else _of_name(name)
    if chain is None:
        return benchmark
    if not benchmark.other_chains:
        raise InputError(f"Benchmark {benchmark.name} has no chains: leave out --chain.")
    chains = {1: benchmark, **benchmark.other_chains}
    if chain not in chains:
        known = ", ".join(map(str, chains))
        raise InputError(f"--chain is {chain}, but {benchmark.name} has chains {known}.")
    return chains[chain]


def is_file(name: str) -> bool:
    """Returns whether a name is the path of a Python file."""
    return name.endswith(".py")


def source_digest(name: str) -> str | None:
    """Returns a hash of the file that a path names; None for the name of a benchmark."""
    return hashlib.sha256(Path(name).read_bytes()).hexdigest() if is_file(name) else None


def _of_name(name: str) -> Benchmark:
    known = find_all()
    if name not in known:
        raise InputError(
            f"Benchmark {name!r} is unknown: choose one of {', '.join(known)}, or give the path of"
            " a Python file."
        )
    return known[name]


def _of_this_package() -> Iterator[Benchmark]:
    for module in pkgutil.iter_modules(benchmarks.__path__, f"{benchmarks.__name__}."):
        yield from getattr(importlib.import_module(module.name), "BENCHMARKS", ())


def _of_entry_points() -> Iterator[Benchmark]:
    for entry in metadata.entry_points(group=ENTRY_POINT_GROUP):
        try:
            loaded = entry.load()
        except Exception as error:  # From another package; the other benchmarks stay usable.
            log.warning("Entry point %s (%s) cannot be loaded: %r", entry.name, entry.value, error)
            continue
        yield from _listed(loaded, where=f"Entry point {entry.name} ({entry.value})")


def _of_file(path: Path) -> Benchmark:
    if not path.is_file():
        raise InputError(f"--benchmark {path} does not exist: check the path.")
    found = _listed(_imported(path), where=f"--benchmark {path}")
    if len(found) != 1:
        names = ", ".join(benchmark.name for benchmark in found)
        raise InputError(f"--benchmark {path} defines {names}: list a single one in BENCHMARKS.")
    return found[0]


def _imported(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"_benchmark_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # The user's code may raise anything.
        raise InputError(
            f"--benchmark {path} cannot be imported ({error!r}): correct it."
        ) from error
    return module


def _listed(loaded: Any, *, where: str) -> tuple[Benchmark, ...]:
    """Returns the benchmarks of a module, or a single benchmark as a list."""
    found = (loaded,) if isinstance(loaded, Benchmark) else getattr(loaded, "BENCHMARKS", None)
    if not isinstance(found, list | tuple) or not found:
        raise InputError(f"{where} has no BENCHMARKS, a tuple of `Benchmark`: define it.")
    if not all(isinstance(benchmark, Benchmark) for benchmark in found):
        raise InputError(f"{where} has BENCHMARKS that are not all of type `Benchmark`.")
    return tuple(found)

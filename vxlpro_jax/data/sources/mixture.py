"""YAML mixtures: lists of data sets with the records used from each, and how often.

The format is the release's: `datasets`, a list of `json_path` and `sampling_strategy`. The fields
`weight`, `video_root` and `image_root` are our additions.
"""

import logging
import math
import re
from collections import Counter
from typing import Any, Literal, NamedTuple, cast, get_args

import numpy as np
import yaml

from vxlpro_jax.data.random_access import RandomAccess
from vxlpro_jax.data.sources import paths, storage
from vxlpro_jax.data.sources.paths import redact_url
from vxlpro_jax.utils.errors import InputError, short_repr
from vxlpro_jax.utils.registry import nearest

log = logging.getLogger(__name__)

StrategyKind = Literal["all", "first", "end", "random"]

_MOST_BYTES = 2 << 20
_MOST_NODES = 200_000
_MOST_RECORDS = 2.0**53
_MOST_REPEATS = 1_000_000

_KEYS = ("json_path", "sampling_strategy", "weight", "video_root", "image_root")
_STRATEGY = re.compile(rf"({'|'.join(get_args(StrategyKind)[1:])}):(\d+(?:\.\d+)?)(%?)")


class Strategy(NamedTuple):
    """The selection of a data set's records: a number of them, or a percentage, rounded up."""

    kind: StrategyKind = "all"
    amount: float = 0.0
    percent: bool = False

    def choose(self, count: int, *, seed: int) -> RandomAccess[int]:
        """Returns the chosen indices among `count` records, in order.

        `random` chooses the same records for the same seed, and a larger selection contains every
        smaller one.
        """
        wanted = math.ceil(self.amount * count / 100) if self.percent else int(self.amount)
        wanted = min(wanted, count)
        if self.kind == "first":
            return range(wanted)
        if self.kind == "end":
            return range(count - wanted, count)
        if self.kind == "random":
            # Raw words are the only random output of numpy that is stable between versions.
            words = np.random.PCG64(np.random.SeedSequence(seed)).random_raw(count)
            return np.sort(np.argsort(words, kind="stable")[:wanted])
        return range(count)


class Dataset(NamedTuple):
    """One data set of a mixture.

    Attributes:
        path: data file as in data.path, except a mixture.
        strategy: selection of records.
        weight: number of times that an epoch repeats each record.
        video_root: root of this data set's videos, or "".
        image_root: root of this data set's pictures, or "".
    """

    path: str
    strategy: Strategy = Strategy()
    weight: float = 1.0
    video_root: str = ""
    image_root: str = ""


def is_mixture(path: str) -> bool:
    """Returns whether a data file's name is that of a mixture."""
    return path.partition("?")[0].lower().endswith((".yaml", ".yml"))


def read_mixture(path: str) -> list[Dataset]:
    """Reads the data sets of a mixture; relative paths start at the folder of the mixture.

    In the release, relative paths start at the working directory.

    Raises:
        InputError: The file is missing or not YAML, or an entry cannot be used; the message names
            file, entry and field.
    """
    with storage.open_binary(path) as stream:
        data = stream.read(_MOST_BYTES + 1)
    if len(data) > _MOST_BYTES:
        raise InputError(
            f"Mixture {redact_url(path)} is larger than {_MOST_BYTES >> 20} MiB: list fewer data"
            " sets, and name several files of one data set with braces."
        )
    mixture = _parsed(data, path)
    entries = mixture.get("datasets") if isinstance(mixture, dict) else None
    if not isinstance(entries, list) or not entries:
        raise InputError(
            f"Mixture {redact_url(path)}: field 'datasets' is {short_repr(entries)}: expected a"
            " non-empty list."
        )
    if others := ", ".join(short_repr(key) for key in mixture if key != "datasets"):
        log.warning("Mixture %s has fields that are not used: %s.", redact_url(path), others[:200])
    return [_dataset(entry, i, path) for i, entry in enumerate(entries)]


def _parsed(data: bytes, path: str) -> Any:
    """Parses a YAML text; aliases may not make the value much larger than the text."""
    try:
        loader = yaml.SafeLoader(data)
        node = loader.get_single_node()
        if node is not None and _expanded_size(node) > _MOST_NODES:
            raise yaml.YAMLError("its aliases expand to too much")
        return None if node is None else loader.construct_document(node)
    # Besides its own errors, YAML raises these for values that do not fit their tag.
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError, OverflowError) as e:
        raise _not_yaml(path, str(e)) from e
    except RecursionError as error:
        raise _not_yaml(path, "it is nested too deeply") from error


def _not_yaml(path: str, reason: str) -> InputError:
    words = "".join(c if c.isprintable() else " " for c in reason).split()
    text = " ".join(words)[:200]
    return InputError(f"Mixture {redact_url(path)} is not YAML ({text}): correct it.")


def _expanded_size(node: yaml.Node) -> int:
    """Returns the number of nodes below a node, counting each alias as everything it repeats.

    Raises:
        yaml.YAMLError: A node contains itself, or has a duplicate field.
    """
    sizes: dict[int, int] = {}
    inside: set[int] = set()

    def size(node: yaml.Node) -> int:
        if isinstance(node, yaml.ScalarNode):
            return 1
        if id(node) in inside:
            raise yaml.YAMLError("an alias contains itself")
        if id(node) not in sizes:
            inside.add(id(node))
            if isinstance(node, yaml.MappingNode):
                _check_unique(node)
            pairs = node.value if isinstance(node, yaml.MappingNode) else zip(node.value)
            sizes[id(node)] = 1 + sum(size(part) for pair in pairs for part in pair)
            inside.discard(id(node))
        return sizes[id(node)]

    return size(node)


def _check_unique(node: yaml.MappingNode) -> None:
    """Raises yaml.YAMLError for a duplicate field, of which only the last would take effect."""
    keys = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
    for key, count in keys.items():
        if count > 1:
            raise yaml.YAMLError(f"field {short_repr(key)} is given twice")


def _dataset(entry: Any, index: int, path: str) -> Dataset:
    where = f"Mixture {redact_url(path)}, dataset {index}"
    if not isinstance(entry, dict):
        raise InputError(f"{where} is {short_repr(entry)}: expected a mapping with 'json_path'.")
    entry = {key: value for key, value in entry.items() if value is not None}
    for key in entry:
        if key not in _KEYS:
            raise InputError(
                f"{where}: unknown field {short_repr(key)}{nearest(short_repr(key), _KEYS)}"
            )
    name = _place(entry, "json_path", where, path)
    if not name:
        raise InputError(f"{where}: field 'json_path' is missing: name a data file.")
    if is_mixture(name):
        raise InputError(f"{where}: field 'json_path' names a mixture: list its datasets here.")
    return Dataset(
        name,
        _strategy(entry.get("sampling_strategy", "all"), where),
        _weight(entry.get("weight", 1.0), where),
        _place(entry, "video_root", where, path),
        _place(entry, "image_root", where, path),
    )


def _place(entry: dict, key: str, where: str, path: str) -> str:
    value = entry.get(key, "")
    if not isinstance(value, str) or "\0" in value:
        raise InputError(f"{where}: field {key!r} is {short_repr(value)}: expected a path or URL.")
    return paths.resolve_relative(path, value) if value else ""


def _strategy(value: Any, where: str) -> Strategy:
    if value == "all":
        return Strategy()
    match = _STRATEGY.fullmatch(value) if isinstance(value, str) else None
    kind, amount, percent = match.groups() if match else ("", "0", "")
    whole = amount.isdecimal() or percent
    most = 100.0 if percent else _MOST_RECORDS
    if not 0 < float(amount) <= most or not whole:
        raise InputError(
            f"{where}: field 'sampling_strategy' is {short_repr(value)}: expected all, or first:N,"
            " end:N or random:N with a number of records or, as in random:5%, percent."
        )
    return Strategy(cast(StrategyKind, kind), float(amount), bool(percent))


def _weight(value: Any, where: str) -> float:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 < value <= _MOST_REPEATS:
        raise InputError(
            f"{where}: field 'weight' is {short_repr(value)}: expected a number above 0 and at most"
            f" {_MOST_REPEATS:,}, the number of times that an epoch repeats each record."
        )
    return float(value)

"""Lists which parts of a model are trained, and checks the parameter groups."""

import collections
import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from vxlpro_jax.config.parsing import nearest
from vxlpro_jax.config.schema import OptimConfig, ParamGroup
from vxlpro_jax.training import optimizer
from vxlpro_jax.utils import tree
from vxlpro_jax.utils.errors import InputError


class TrainedPart(NamedTuple):
    """Parameters of one top-level branch that the optimizer treats alike.

    Attributes:
        name: branch of the parameter tree.
        parameters: number of parameters.
        lr_scale: factor of the learning rate; 0 for frozen ones.
        rule: update rule, `adamw` or `muon`.
    """

    name: str
    parameters: int
    lr_scale: float
    rule: str


def trained_parts(params: Mapping[str, Any], *, config: OptimConfig) -> list[TrainedPart]:
    """Counts the parameters of every branch, grouped by how the optimizer treats them.

    Args:
        params: parameter tree, or its shapes.
        config: options of the optimizer.
    """
    counts: collections.Counter[tuple[str, float, str]] = collections.Counter()
    for path, leaf in tree.flatten(params).items():
        scale = optimizer.lr_scale(path, config=config)
        rule = optimizer.update_rule(path, config=config) if scale else ""
        counts[path.split("/")[0], scale, rule] += math.prod(leaf.shape)
    return [TrainedPart(name, count, scale, rule) for (name, scale, rule), count in counts.items()]


def parts_table(parts: list[TrainedPart]) -> str:
    """Formats aligned lines: part, number of parameters, and learning rate or `frozen`."""
    rows = [("part", "parameters", "learning rate")]
    for part in parts:
        rate = f"{part.lr_scale:g} x, {part.rule}" if part.lr_scale else "frozen"
        rows.append((part.name, f"{part.parameters:,}", rate))
    learned = sum(part.parameters for part in parts if part.lr_scale)
    total = sum(part.parameters for part in parts)
    rows.append(("total", f"{total:,}", f"{learned:,} trained"))
    first, second = (max(len(row[column]) for row in rows) for column in (0, 1))
    return "\n".join(f"{name:<{first}}  {count:>{second}}  {rate}" for name, count, rate in rows)


def check_groups(params: Mapping[str, Any], *, config: OptimConfig) -> None:
    """Checks that every pattern of `optim.groups` matches some parameter.

    Raises:
        InputError: a pattern matches none, or is not a regular expression.
    """
    paths = list(tree.flatten(params))
    for group in config.groups:
        try:
            is_used = matches_any(group, paths)
        except re.error as error:
            raise InputError(
                f"optim.groups: pattern {group.pattern!r} is not a regular expression: {error}."
            ) from error
        if not is_used:
            branches = {"/".join(path.split("/")[:depth]) for path in paths for depth in (1, 2, 3)}
            plain = group.pattern.strip("^$").rstrip("/")
            known = nearest(plain, branches if "/" in plain else params)
            raise InputError(f"optim.groups: pattern {group.pattern!r} matches no parameter{known}")


def matches_any(group: ParamGroup, paths: list[str]) -> bool:
    """Returns whether the group's pattern is found in any of the paths."""
    return any(re.search(group.pattern, path) for path in paths)

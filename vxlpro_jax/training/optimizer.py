"""AdamW, or Muon for matrices, with parameter groups chosen by path."""

import re
from collections.abc import Hashable
from typing import Any

import jax
import optax
from optax.contrib import MuonDimensionNumbers, scale_by_muon

from vxlpro_jax.config.schema import OptimConfig, ParamGroup
from vxlpro_jax.ops.precision import at_least_float32
from vxlpro_jax.training import rounding

# These are in every checkpoint but never used, so they get no gradient and must not decay either.
_UNUSED = r"vision/post_ln/|selector/window/v/"
_NO_DECAY = r"(scale|bias|pos_embed|temporal_encoding|rel_k|rel_v|mask_token)$"
_TABLE = r"decoder/embed$"

# Leading axes are layers, or positions of a convolution's kernel.
_MATRIX = MuonDimensionNumbers(reduction_axis=-2, output_axis=-1)
# RMS of an update, so that AdamW's learning rates can be reused (https://arxiv.org/abs/2502.16982).
_MUON_RMS = 0.2


def schedule(config: OptimConfig, *, total_steps: int) -> optax.Schedule:
    """Returns the learning rate of each step: linear warm-up, then cosine decay to zero."""
    warmup = round(config.warmup * total_steps)
    return optax.warmup_cosine_decay_schedule(
        init_value=config.lr / max(warmup, 1),
        peak_value=config.lr,
        warmup_steps=warmup,
        decay_steps=max(total_steps, warmup + 1),
    )


def optimizer(config: OptimConfig, *, total_steps: int) -> optax.GradientTransformation:
    """Builds the optimizer of a parameter tree; frozen leaves hold no state and never change."""

    def rule_of(params):
        return _map_paths(lambda path, _: update_rule(path, config=config), params)

    trained = optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.partition(_rules(config), rule_of),
        optax.add_decayed_weights(config.weight_decay, mask=_decays),
        optax.scale_by_learning_rate(schedule(config, total_steps=total_steps)),
        optax.stateless(lambda updates, params: _scale_groups(updates, config)),
    )

    if config.rounding == "master":
        trained = rounding.with_master(trained)

    def labels(params):
        return _map_paths(
            lambda path, _: "trained" if lr_scale(path, config=config) else "frozen", params
        )

    return optax.partition({"trained": trained, "frozen": optax.set_to_zero()}, labels)


def apply_updates(params: Any, updates: Any, *, config: OptimConfig, key: jax.Array) -> Any:
    """Adds updates to parameters, rounded as `config.rounding` says; `key` is a PRNG key."""
    if config.rounding == "stochastic":
        return rounding.apply_updates(params, updates, key=key)
    return optax.apply_updates(params, updates)


def updates_done(state: optax.OptState) -> jax.Array:
    """Returns the number of updates made by a state of `optimizer`, int32 scalar."""

    def is_schedule(node):
        return isinstance(node, optax.ScaleByScheduleState)

    nodes = jax.tree.leaves(state, is_leaf=is_schedule)
    return next(node.count for node in nodes if is_schedule(node))


def stop_frozen(params: Any, *, config: OptimConfig) -> Any:
    """Stops gradients of the parameters that the optimizer leaves alone; values are unchanged."""

    def stop(path, x):
        return x if lr_scale(path, config=config) else jax.lax.stop_gradient(x)

    return _map_paths(stop, params)


def frozen_branches(params: Any, *, config: OptimConfig) -> list[str]:
    """Returns the top-level branches in which every parameter is frozen."""
    scales = _map_paths(lambda path, _: lr_scale(path, config=config), params)
    return [name for name, branch in scales.items() if not any(jax.tree.leaves(branch))]


def trained_only(grads: Any, *, config: OptimConfig) -> list[jax.Array]:
    """Returns the gradients that the optimizer applies, to compute their norm."""
    flat = jax.tree_util.tree_leaves_with_path(grads)
    return [grad for path, grad in flat if lr_scale(_name(path), config=config)]


def lr_scale(path: str, *, config: OptimConfig) -> float:
    """Returns the learning-rate factor of the parameter at a path; 0 if it is frozen."""
    if re.search(_UNUSED, path):
        return 0.0
    return _group(path, config).lr_scale


def update_rule(path: str, *, config: OptimConfig) -> str:
    """Returns the update rule of the parameter at a path: its group's for matrices, else AdamW."""
    multiplies = not re.search(f"{_NO_DECAY}|{_TABLE}", path)
    return _group(path, config).rule if multiplies else "adamw"


def _group(path: str, config: OptimConfig) -> ParamGroup:
    matches = (group for group in config.groups if re.search(group.pattern, path))
    return next(matches, ParamGroup())


def _rules(config: OptimConfig) -> dict[Hashable, optax.GradientTransformation]:
    """Returns the rules that some group uses, and AdamW; any other would keep state in vain."""
    known = {
        "adamw": optax.scale_by_adam(
            b1=config.b1, b2=config.b2, eps=config.eps, mu_dtype=config.momentum_dtype or None
        ),
        "muon": _muon(config.momentum_dtype or None),
    }
    used = {"adamw", *(group.rule for group in config.groups)}
    return {rule: _at_least_float32(known[rule]) for rule in used}


def _at_least_float32(inner):
    """Wraps a transformation so that it computes in float32 or more."""

    def promote(x):
        return None if x is None else jax.tree.map(at_least_float32, x)

    return optax.GradientTransformation(
        init=lambda params: inner.init(promote(params)),
        update=lambda updates, state, params=None: inner.update(
            promote(updates), state, promote(params)
        ),
    )


def _muon(momentum_dtype):
    """Returns Muon, with orthogonal updates of RMS `_MUON_RMS` whatever the matrix's shape."""

    def axes(updates):
        return jax.tree.map(lambda _: _MATRIX, updates)

    def scale(update):
        return update * _MUON_RMS * max(update.shape[-2:]) ** 0.5

    return optax.chain(
        scale_by_muon(weight_dimension_numbers=axes, mu_dtype=momentum_dtype),
        optax.stateless(lambda updates, _: jax.tree.map(scale, updates)),
    )


def _scale_groups(updates, config):
    return _map_paths(lambda path, update: update * lr_scale(path, config=config), updates)


def _decays(params):
    return _map_paths(lambda path, _: not re.search(_NO_DECAY, path), params)


def _map_paths(function, params):
    return jax.tree_util.tree_map_with_path(lambda path, x: function(_name(path), x), params)


def _name(path) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")

"""Prepares a run before it starts: its plan, its announcement and its data."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from vxlpro_jax.checkpoints import init_from
from vxlpro_jax.config.schema import PRESETS, ModelConfig, TrainConfig
from vxlpro_jax.data.loader.build import build_pipeline, evaluation_data
from vxlpro_jax.data.text.tiny_tokenizer import TINY_TOKENIZER
from vxlpro_jax.data.text.tokenizer import Tokenizer
from vxlpro_jax.ops.attention.interface import BACKENDS
from vxlpro_jax.ops.token_masking import POLICIES
from vxlpro_jax.sharding.batch import row_blocks
from vxlpro_jax.training.checkpointer import RunData
from vxlpro_jax.training.objective import objective_of
from vxlpro_jax.training.plan import RunPlan
from vxlpro_jax.training.trained_parts import check_groups, parts_table, trained_parts
from vxlpro_jax.utils.errors import InputError

# By part, the fields that determine the shapes of its weights or their meaning.
_SIZES = {
    "vision": ("width", "depth", "num_heads", "mlp_width", "image_size", "patch_size"),
    "dts": ("grid",),
    "decoder": ("width", "depth", "num_heads", "num_kv_heads", "mlp_width"),
}
_NUMBERS = ("rope_theta", "yarn", "norm_eps", "max_positions")


def resolve(config: TrainConfig) -> RunPlan:
    """Plans a run: takes tokenizer and vocabulary from `init_from`, and checks the config.

    Raises:
        InputError: a full-size run has no data or tokenizer, the DTS layout differs from that of
            `init_from`, the objective, attention backend or mask policy does not exist, or options
            contradict each other.
    """
    if config.model.attention != "auto":
        BACKENDS.find(config.model.attention)
    POLICIES.find(config.recot.policy)
    _check_types(config)
    sources = init_from.open_sources(config.init_from)
    _check_layout(config, compressor=init_from.holder(sources, "dts"))
    _check_sizes(config, sources=sources)
    if objective_of(config).reads_text:
        config = _with_language(config, source=init_from.holder(sources, "decoder"))
    if not config.data.path and not is_tiny(config):
        raise InputError(
            "A full-size run needs data: set --config.data.path to a LLaVA-format JSON file and"
            " --config.data.video_root to the folder of its videos."
        )
    plan = RunPlan(config, _release(sources))
    if config.eval_every:
        _check_evaluation(plan)
    if config.data.feature_cache:
        _check_frozen_tower(plan)
    check_groups(plan.param_shapes, config=config.optim)
    return plan


def announce(plan: RunPlan, *, workdir: Path) -> None:
    """Prints what will run and what is trained; for the tiny preset also the full-size command."""
    config = plan.config
    if is_tiny(config):
        print(
            "This is the tiny preset: a few million parameters on embedded synthetic clips, for a"
            f" quick trial.\nThe released size: {plan.objective.full_size_flags}"
        )
    count = sum(x.size for x in jax.tree.leaves(plan.param_shapes))
    devices = f"{jax.device_count()} {jax.devices()[0].platform} device(s)"
    print(f"{count:,} parameters on {devices}; {config.total_steps} steps; writes to {workdir}.")
    print(parts_table(trained_parts(plan.param_shapes, config=config.optim)))


def is_tiny(config: TrainConfig) -> bool:
    """Returns whether the embedded tokenizer and clips may be used in place of the user's own."""
    return config.model.decoder.vocab_size == PRESETS["tiny"].decoder.vocab_size


def open_data(
    plan: RunPlan, *, mesh: jax.sharding.Mesh, bad_samples_path: Path | None = None
) -> RunData:
    """Opens the data: the rows of every batch that this process reads.

    Raises:
        InputError: as in `build_pipeline`.
    """
    config, reader = plan.config, row_blocks(mesh)[jax.process_index()]
    return build_pipeline(
        config.data,
        image_size=config.model.vision.image_size,
        with_text=plan.objective.reads_text,
        seed=config.seed,
        process_index=reader.index,
        process_count=reader.count,
        bad_samples_path=bad_samples_path,
        pinpoints=plan.pinpoints,
    )


def _check_types(config: TrainConfig) -> None:
    """Refuses types that JAX would silently replace by narrower ones."""
    for name in ("param_dtype", "compute_dtype"):
        dtype = getattr(config, name)
        if jax.dtypes.canonicalize_dtype(dtype) != dtype:
            raise InputError(
                f"config.{name} is {dtype}, which JAX computes only if JAX_ENABLE_X64=1 is set in"
                " the environment: set that, or choose float32."
            )


def _check_layout(config: TrainConfig, *, compressor: init_from.Source | None) -> None:
    layout = compressor.config.dts.layout if compressor else config.model.dts.layout
    if compressor and layout != config.model.dts.layout:
        raise InputError(
            f"{compressor.root} was trained with DTS layout {layout!r}: set"
            f" --config.model.dts.layout={layout}."
        )


def _check_sizes(config: TrainConfig, *, sources: Sequence[init_from.Source]) -> None:
    """Refuses a checkpoint of another size, naming both sizes, before any array is read."""
    parts = ("vision", "dts", *(["decoder"] if objective_of(config).reads_text else []))
    for part in parts:
        source = init_from.holder(sources, part)
        if source is None:
            continue
        theirs, ours = (getattr(model, part) for model in (source.config, config.model))
        differ = [
            f"{part}.{name} {getattr(theirs, name)} (here {getattr(ours, name)})"
            for name in _SIZES[part]
            if getattr(theirs, name) != getattr(ours, name)
        ]
        if differ:
            known = (name for name, model in PRESETS.items() if _has_sizes(model, theirs, part))
            preset = next(known, None)
            advice = (
                f"use the preset of its size, --config=FILE.py:{preset}"
                if preset
                else "set these fields under --config.model, or start from another checkpoint"
            )
            raise InputError(
                f"init_from: {source.root} has other sizes than this run: {', '.join(differ)};"
                f" {advice}."
            )


def _has_sizes(model: ModelConfig, sizes: Any, part: str) -> bool:
    ours = getattr(model, part)
    return all(getattr(ours, name) == getattr(sizes, name) for name in _SIZES[part])


def _release(sources: Sequence[init_from.Source]) -> Mapping[str, Any]:
    """Returns the config.json that the run's own starts from: that of the decoder's source."""
    source = init_from.holder(sources, "decoder") or next(iter(sources), None)
    return source.release if source else {}


def _with_language(config: TrainConfig, *, source: init_from.Source | None) -> TrainConfig:
    """Fills in values that the config leaves open from `source`.

    These are the vocabulary and the tokenizer, unless the config names another tokenizer, and the
    numbers that the weights were trained with but that no shape shows, unless the config sets them.
    """
    model, tokenizer = config.model, config.data.tokenizer
    if source:
        head = {name: getattr(source.config.decoder, name) for name in ("vocab_size", "tied_head")}
        numbers = {
            name: getattr(source.config.decoder, name)
            for name in _NUMBERS
            if getattr(model.decoder, name) in _preset_values(name)
        }
        decoder = dataclasses.replace(model.decoder, **head, **numbers)
        model = dataclasses.replace(model, decoder=decoder)
        tokenizer = tokenizer or str(source.root)
    if not tokenizer and not is_tiny(config):
        raise InputError(
            "A full-size run needs a tokenizer: set --config.init_from to a converted checkpoint"
            " (see checkpoints_convert), or --config.data.tokenizer to a folder with"
            " tokenizer.json."
        )
    tokenizer = tokenizer or str(TINY_TOKENIZER)
    Tokenizer.from_folder(tokenizer).check_fits(model.decoder.vocab_size)
    data = dataclasses.replace(config.data, tokenizer=tokenizer)
    return dataclasses.replace(config, model=model, data=data)


def _preset_values(name: str) -> list[Any]:
    return [getattr(model.decoder, name) for model in PRESETS.values()]


def _check_evaluation(plan: RunPlan) -> None:
    """Finds mistakes in the evaluation's settings before training instead of after it."""
    if not plan.objective.is_evaluated:
        raise InputError(
            f"eval_every is {plan.config.eval_every}: only stage 1 is evaluated while it trains;"
            " set it to 0."
        )
    evaluation_data(plan.config.data)


def _check_frozen_tower(plan: RunPlan) -> None:
    if "vision" not in plan.frozen:
        raise InputError(
            "data.feature_cache is set: only features of a frozen tower can be cached; leave"
            " it empty, or freeze the tower in optim.groups."
        )

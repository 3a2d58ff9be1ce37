"""What a run is before it starts: its plan, its announcement and its data."""

import dataclasses
from pathlib import Path

import jax

from vxlpro_jax.checkpoints import init_from
from vxlpro_jax.config.schema import PRESETS, TrainConfig
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


def resolve(config: TrainConfig) -> RunPlan:
    """Plans a run: fills in the tokenizer and the vocabulary of `init_from`, and checks the config.

    Raises:
        InputError: a full-size run has no data or tokenizer, the DTS layout differs from that of
            `init_from`, there is no such objective, attention backend or mask policy, or options
            do not go together.
    """
    if config.model.attention != "auto":
        BACKENDS.find(config.model.attention)
    POLICIES.find(config.recot.policy)
    sources = init_from.open_sources(config.init_from)
    _check_layout(config, compressor=init_from.holder(sources, "dts"))
    if objective_of(config).reads_text:
        config = _with_language(config, source=init_from.holder(sources, "decoder"))
    if not config.data.path and not is_tiny(config):
        raise InputError(
            "A full-size run needs data: set --config.data.path to a LLaVA-format JSON file and"
            " --config.data.video_root to the folder of its videos."
        )
    plan = RunPlan(config)
    if config.eval_every:
        _check_evaluation(plan)
    if config.data.feature_cache:
        _check_frozen_tower(plan)
    check_groups(plan.param_shapes, config=config.optim)
    return plan


def announce(plan: RunPlan, *, workdir: Path) -> None:
    """Prints what is about to run and what is trained, and for the tiny preset the real command."""
    config = plan.config
    if is_tiny(config):
        print(
            "This is the tiny preset: a few million parameters on embedded synthetic clips, to see"
            f" everything run.\nThe released size: {plan.objective.full_size_flags}"
        )
    count = sum(x.size for x in jax.tree.leaves(plan.param_shapes))
    devices = f"{jax.device_count()} {jax.devices()[0].platform} device(s)"
    print(f"{count:,} parameters on {devices}; {config.total_steps} steps; writes to {workdir}.")
    print(parts_table(trained_parts(plan.param_shapes, config=config.optim)))


def is_tiny(config: TrainConfig) -> bool:
    """Whether the embedded tokenizer and clips may stand in for the user's own."""
    return config.model.decoder.vocab_size == PRESETS["tiny"].decoder.vocab_size


def open_data(
    plan: RunPlan, *, mesh: jax.sharding.Mesh, bad_samples_path: Path | None = None
) -> RunData:
    """Opens the rows of every batch that this process reads.

    Raises:
        InputError: as `build_pipeline`.
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
    )


def _check_layout(config: TrainConfig, *, compressor: init_from.Source | None) -> None:
    if compressor and compressor.config.dts != config.model.dts:
        layout = compressor.config.dts.layout
        raise InputError(
            f"{compressor.root} was trained with DTS layout {layout!r}: set"
            f" --config.model.dts.layout={layout}."
        )


def _with_language(config: TrainConfig, *, source: init_from.Source | None) -> TrainConfig:
    """Vocabulary and tokenizer of `source`, unless the config names another tokenizer."""
    model, tokenizer = config.model, config.data.tokenizer
    if source:
        head = {name: getattr(source.config.decoder, name) for name in ("vocab_size", "tied_head")}
        model = dataclasses.replace(model, decoder=dataclasses.replace(model.decoder, **head))
        tokenizer = tokenizer or str(source.root)
    if not tokenizer and not is_tiny(config):
        raise InputError(
            "A full-size run needs a tokenizer: set --config.init_from to a converted checkpoint"
            " (see checkpoints_convert), or --config.data.tokenizer to a folder with"
            " tokenizer.json."
        )
    tokenizer = tokenizer or str(TINY_TOKENIZER)
    size = Tokenizer.from_folder(tokenizer).vocab_size
    if size > model.decoder.vocab_size:
        raise InputError(
            f"Tokenizer {tokenizer} has {size} ids, the model only {model.decoder.vocab_size}: use"
            " the tokenizer that belongs to the model."
        )
    data = dataclasses.replace(config.data, tokenizer=tokenizer)
    return dataclasses.replace(config, model=model, data=data)


def _check_evaluation(plan: RunPlan) -> None:
    """Finds mistakes before the training rather than after it."""
    if not plan.objective.is_evaluated:
        raise InputError(
            f"eval_every is {plan.config.eval_every}: only stage 1 is evaluated while it trains;"
            " set it to 0."
        )
    evaluation_data(plan.config.data)


def _check_frozen_tower(plan: RunPlan) -> None:
    if "vision" not in plan.frozen:
        raise InputError(
            "data.feature_cache is set: features can only be kept of a frozen tower; leave it"
            " empty, or freeze the tower in optim.groups."
        )

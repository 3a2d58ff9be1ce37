"""What a run is: its config with everything filled in that follows from other fields."""

import dataclasses
import json
from pathlib import Path

import jax

from vxlpro_jax.checkpoints import init_from, params
from vxlpro_jax.checkpoints.inference_config import write_inference_config
from vxlpro_jax.config.parsing import from_mapping
from vxlpro_jax.config.schema import PRESETS, TrainConfig
from vxlpro_jax.data.loader.batches import BatchIterator
from vxlpro_jax.data.loader.build import build_pipeline, evaluation_data
from vxlpro_jax.data.text.tiny_tokenizer import TINY_TOKENIZER
from vxlpro_jax.data.text.tokenizer import Tokenizer
from vxlpro_jax.ops.attention.interface import BACKENDS
from vxlpro_jax.ops.token_masking import POLICIES
from vxlpro_jax.sharding.batch import row_blocks
from vxlpro_jax.training import optimizer
from vxlpro_jax.training.objectives import param_shapes
from vxlpro_jax.utils.errors import InputError
from vxlpro_jax.utils.files import write_atomically

_OWN_DATA = (
    "--config.init_from=CHECKPOINT --config.data.path=FILE.json --config.data.video_root=DIR"
)
_FULL_SIZE = {
    "sft": f"--config=configs/stage2.py:3b {_OWN_DATA}",
    "recot": f"--config=configs/stage1.py:3b {_OWN_DATA} --config.data.eval_path=OTHERS.json",
}


def resolve(config: TrainConfig) -> TrainConfig:
    """Fills in what follows from other fields: the tokenizer, and the vocabulary of `init_from`.

    Raises:
        InputError: a full-size run has no data or tokenizer, the DTS layout differs from that of
            `init_from`, or there is no such attention backend or mask policy.
    """
    if config.model.attention != "auto":
        BACKENDS.find(config.model.attention)
    POLICIES.find(config.recot.policy)
    sources = init_from.open_sources(config.init_from)
    compressor = init_from.holder(sources, "dts")
    if compressor and compressor.config.dts != config.model.dts:
        layout = compressor.config.dts.layout
        raise InputError(
            f"{compressor.root} was trained with DTS layout {layout!r}: set"
            f" --config.model.dts.layout={layout}."
        )
    if config.objective == "sft":
        config = _with_language(config, source=init_from.holder(sources, "decoder"))
    if not config.data.path and not is_tiny(config):
        raise InputError(
            "A full-size run needs data: set --config.data.path to a LLaVA-format JSON file and"
            " --config.data.video_root to the folder of its videos."
        )
    if config.eval_every:
        _check_evaluation(config)
    if config.data.feature_cache:
        _check_frozen_tower(config)
    return config


def announce(config: TrainConfig, *, workdir: Path) -> None:
    """Says what is about to run, and for the tiny preset how to run the real one."""
    if is_tiny(config):
        print(
            "This is the tiny preset: a few million parameters on embedded synthetic clips, to see"
            f" everything run.\nThe released size: {_FULL_SIZE[config.objective]}"
        )
    shapes = param_shapes(config)
    count = sum(x.size for x in jax.tree.leaves(shapes))
    devices = f"{jax.device_count()} {jax.devices()[0].platform} device(s)"
    print(f"{count:,} parameters on {devices}; {config.total_steps} steps; writes to {workdir}.")


def is_tiny(config: TrainConfig) -> bool:
    """Whether the embedded tokenizer and clips may stand in for the user's own."""
    return config.model.decoder.vocab_size == PRESETS["tiny"].decoder.vocab_size


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


def _check_evaluation(config: TrainConfig) -> None:
    """Told now rather than when the training is over."""
    if config.objective != "recot":
        raise InputError(
            f"eval_every is {config.eval_every}: only stage 1 is evaluated while it trains; set it"
            " to 0."
        )
    evaluation_data(config.data)


def _check_frozen_tower(config: TrainConfig) -> None:
    shapes = param_shapes(config)
    is_frozen = "vision" in optimizer.frozen_branches(shapes, config=config.optim)
    if not is_frozen:
        raise InputError(
            "data.feature_cache is set: features can only be kept of a frozen tower; leave it"
            " empty, or freeze the tower in optim.groups."
        )


def open_data(
    config: TrainConfig, *, mesh: jax.sharding.Mesh, bad_samples_path: Path | None = None
) -> BatchIterator:
    """The rows of every batch that this process reads.

    Raises:
        InputError: as `build_pipeline`.
    """
    reader = row_blocks(mesh)[jax.process_index()]
    return build_pipeline(
        config.data,
        image_size=config.model.vision.image_size,
        with_text=config.objective == "sft",
        seed=config.seed,
        process_index=reader.index,
        process_count=reader.count,
        bad_samples_path=bad_samples_path,
    )


_RUN_CONFIG = "train_config.json"


def check_workdir(config: TrainConfig, *, workdir: Path) -> None:
    """Refuses to continue a run of another kind.

    Raises:
        InputError: the folder holds a run with another config.
    """
    written = workdir / _RUN_CONFIG
    if not written.exists():
        return
    old, new = (
        dataclasses.replace(run, data=dataclasses.replace(run.data, eval_path="", feature_cache=""))
        for run in (from_mapping(TrainConfig, params.read_json(written)), config)
    )
    own = {"sft": ("keep_ratio", "pose_max_frames"), "recot": ("recot",)}[config.objective]
    fixed = ("objective", "model", "data", "optim", "seed", *own)
    changed = [key for key in fixed if getattr(old, key) != getattr(new, key)]
    if changed:
        raise InputError(
            f"{workdir} holds a run with another {', '.join(changed)}: choose another --workdir,"
            " delete that folder, or start the command that made it."
        )


def write_workdir(config: TrainConfig, *, workdir: Path) -> None:
    """Writes the run's config, and what makes the folder a model: sizes, tokenizer, defaults."""
    workdir.mkdir(parents=True, exist_ok=True)
    if config.data.tokenizer:
        params.copy_tokenizer(config.data.tokenizer, workdir)
    write_atomically(workdir / "config.json", json.dumps(config.model.to_release(), indent=2))
    write_atomically(workdir / _RUN_CONFIG, json.dumps(dataclasses.asdict(config), indent=2))
    write_inference_config(workdir, config.inference)

"""Every key of a release-format config.json: whether it is used, irrelevant or refused.

A key that affects the computation is either used, or refused unless its value is the one that the
model implements. A key that is not listed here is unknown: it is kept, and the report of a
conversion names it.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from vxlpro_jax.config import limits, release_rope
from vxlpro_jax.utils import nested
from vxlpro_jax.utils.errors import InputError

LAYOUTS = ("released", "temporal")
# Every tiling from 1x1 to 6x6 crops, as in the release's training scripts.
DEFAULT_PINPOINTS = "(1x1),...,(6x6)"


@dataclasses.dataclass(frozen=True)
class Used:
    """Sets the field at a dotted path of `ModelConfig`; if not required, it has a default."""

    field: str
    required: bool = False


@dataclasses.dataclass(frozen=True)
class Only:
    """Affects the computation, and is refused unless it has one of these values (or is null)."""

    values: tuple[Any, ...]


@dataclasses.dataclass(frozen=True)
class Rule:
    """Is handled by the function of this name, which looks at several keys."""

    function: str


@dataclasses.dataclass(frozen=True)
class Irrelevant:
    """Does not affect what the model computes here; it is kept."""


Meaning = Used | Only | Rule | Irrelevant

# Keys that transformers writes into the config of any model, by kind: identity, types, generation
# (flags here), heads for classification, training.
_OF_ANY_MODEL = (
    *("_name_or_path", "_attn_implementation_autoset", "architectures", "auto_map", "model_type"),
    *("transformers_version", "transformers.js_config", "dtype", "torch_dtype", "torchscript"),
    *("attn_implementation", "_attn_implementation", "use_bfloat16", "tf_legacy_loss"),
    *("return_dict", "return_dict_in_generate", "output_attentions", "output_hidden_states"),
    *("output_scores", "use_cache", "use_return_dict", "chunk_size_feed_forward"),
    *("bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "decoder_start_token_id"),
    *("forced_bos_token_id", "forced_eos_token_id", "tokenizer_class", "prefix"),
    *("bad_words_ids", "begin_suppress_tokens", "suppress_tokens", "do_sample", "temperature"),
    *("top_k", "top_p", "typical_p", "num_beams", "num_beam_groups", "diversity_penalty"),
    *("early_stopping", "length_penalty", "max_length", "min_length", "no_repeat_ngram_size"),
    *("encoder_no_repeat_ngram_size", "num_return_sequences", "remove_invalid_values"),
    *("repetition_penalty", "exponential_decay_length_penalty", "finetuning_task"),
    *("id2label", "label2id", "num_labels", "problem_type", "task_specific_params"),
    *("initializer_range", "initializer_factor", "layerdrop", "pretraining_tp"),
    *("tie_encoder_decoder", "is_decoder"),
)
_OF_ANY_MODEL_REFUSED = {
    "add_cross_attention": Only((False,)),
    "cross_attention_hidden_size": Only(()),
    "is_encoder_decoder": Only((False,)),
    "pruned_heads": Only(({},)),
    "quantization_config": Only(()),
    "attention_dropout": Only((0,)),
}

# Keys of the release and related models about training, files and unsupported kinds of pictures.
_OF_THE_RELEASE = (
    *("mm_vision_tower", "mm_tower", "vision_tower_pretrained", "delay_load", "use_mm_proj"),
    *("mm_vision_select_layer", "mm_vision_select_feature", "unfreeze_mm_vision_tower"),
    *("mm_vision_tower_lr", "mm_projector_lr", "tune_mm_mlp_adapter", "tune_mm_vision_resampler"),
    *("freeze_mm_mlp_adapter", "mm_tunable_parts", "mm_resampler_type", "mm_spatial_pool_ratio"),
    *("mm_spatial_pool_out_channels", "mm_perceiver_depth", "mm_perceiver_latents"),
    *("mm_perceiver_ff_mult", "mm_perceiver_pretrained", "mm_qformer_depth", "mm_qformer_latents"),
    *("mm_qformer_pretrained", "mm_use_im_patch_token", "mm_newline_position", "add_faster_video"),
    *("add_time_instruction", "faster_token_stride", "force_sample", "mm_pooling_position"),
    *("image_crop_resolution", "image_split_resolution", "image_grid_pinpoints", "video_fps"),
    *("max_num_pixels", "max_image_size", "max_pixels", "pos_skipping_range"),
    *("tokenizer_model_max_length", "tokenizer_padding_side", "frames_upbound"),
    *("use_pos_skipping", "vocab_padding", "language_model"),
)

# Written if the original config.json lacks them. The released code tiles pictures by
# `image_grid_pinpoints`, and adds rows to the embedding unless a key says not to.
_DEFAULTS = {
    "architectures": ["LlavaQwenForCausalLM"],
    "model_type": "llava_qwen",
    "hidden_act": "silu",
    "mm_vision_tower": "google/siglip-so400m-patch14-384",
    "mm_projector_type": "mlp2x_gelu",
    "mm_spatial_pool_mode": "average",
    "mm_patch_merge_type": "unires",
    "mm_use_im_start_end": False,
    "mm_use_im_patch_token": False,
    "image_aspect_ratio": "anyres",
    "image_grid_pinpoints": DEFAULT_PINPOINTS,
}

VISION_KEYS: dict[str, Meaning] = {
    **dict.fromkeys(_OF_ANY_MODEL, Irrelevant()),
    **_OF_ANY_MODEL_REFUSED,
    "hidden_size": Used("vision.width", required=True),
    "num_hidden_layers": Used("vision.depth", required=True),
    "num_attention_heads": Used("vision.num_heads", required=True),
    "intermediate_size": Used("vision.mlp_width", required=True),
    "image_size": Used("vision.image_size"),
    "patch_size": Used("vision.patch_size"),
    "layer_norm_eps": Used("vision.norm_eps"),
    "hidden_act": Only(("gelu_pytorch_tanh", "gelu_new")),
    "num_channels": Only((3,)),
    "vision_use_head": Irrelevant(),
    "projection_dim": Irrelevant(),
    "tie_word_embeddings": Irrelevant(),
}

KEYS: dict[str, Meaning] = {
    **dict.fromkeys((*_OF_ANY_MODEL, *_OF_THE_RELEASE), Irrelevant()),
    **_OF_ANY_MODEL_REFUSED,
    "vocab_size": Used("decoder.vocab_size", required=True),
    "hidden_size": Used("decoder.width", required=True),
    "num_hidden_layers": Used("decoder.depth", required=True),
    "num_attention_heads": Used("decoder.num_heads", required=True),
    "num_key_value_heads": Used("decoder.num_kv_heads", required=True),
    "intermediate_size": Used("decoder.mlp_width", required=True),
    "rms_norm_eps": Used("decoder.norm_eps", required=True),
    "tie_word_embeddings": Used("decoder.tied_head"),
    "max_position_embeddings": Used("decoder.max_positions"),
    "rope_theta": Used("decoder.rope_theta"),
    **dict.fromkeys(release_rope.KEYS, Rule("release_rope.read")),
    "head_dim": Rule("_check_heads"),
    "partial_rotary_factor": Only((1,)),
    "hidden_act": Only(("silu", "swish")),
    **dict.fromkeys(
        ("use_sliding_window", "sliding_window", "max_window_layers", "layer_types"),
        Rule("_check_window"),
    ),
    "attention_bias": Only((True,)),
    "qkv_bias": Only((True,)),
    "mlp_bias": Only((False,)),
    "use_mrope": Only((False,)),
    "text_config": Only(()),
    "vision_config": Rule("read"),
    "dts_layout": Rule("read"),
    "dts_grid": Used("dts.grid"),
    "visual_pool": Used("pool"),
    "mm_hidden_size": Rule("_check_connectors"),
    "mm_spatial_pool_stride": Rule("_check_connectors"),
    "mm_spatial_pool_mode": Only(("average",)),
    "mm_projector_type": Only(("mlp2x_gelu",)),
    "mm_patch_merge_type": Only(("unires",)),
    "mm_use_im_start_end": Only((False,)),
    "image_aspect_ratio": Only(("anyres",)),
}


def read(config: Mapping[str, Any], *, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the fields of `ModelConfig` that a config.json sets, as a nested dict.

    A key that is null counts as absent if it has a default. Without `vision_config` the tower has
    its default sizes.

    Args:
        config: content of the file.
        defaults: values of the fields that the file does not set, by dotted path.

    Raises:
        InputError: a size is missing, has another type or is out of its range, or a key asks for
            something that the model does not compute. The message names the key.
    """
    if missing := _missing(config, KEYS):
        raise InputError(f"config.json lacks {', '.join(missing)}: not a Video-XL-Pro checkpoint.")
    fields = _fields(config, KEYS, where="")
    fields |= {f"decoder.{name}": value for name, value in release_rope.read(config).items()}
    if config.get("dts_layout") is not None:
        fields["dts.layout"] = _layout(config["dts_layout"])
    if config.get("vision_config") is not None:
        fields |= _vision(config["vision_config"])
    _check_heads(config)
    _check_window(config)
    _check_connectors(config, {**defaults, **fields})
    return nested.unflatten(fields, separator=".")


def write(values: Mapping[str, Any], *, carried: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the config.json that `read` reads back.

    Args:
        values: every field of a `ModelConfig`, as a nested dict.
        carried: content of the config.json that the model comes from, whose other keys are kept.
    """
    fields = nested.flatten(values, separator=".")
    vision = {**(carried.get("vision_config") or {}), **_written(fields, VISION_KEYS)}
    vision["num_hidden_layers"] += 1
    vision.setdefault("hidden_act", "gelu_pytorch_tanh")
    absent = {key: value for key, value in _DEFAULTS.items() if carried.get(key) is None}
    rope = release_rope.write(
        rope_theta=values["decoder"]["rope_theta"], yarn=values["decoder"]["yarn"]
    )
    return {
        **absent,
        **carried,
        **absent,
        **_written(fields, KEYS),
        **({} if carried.keys() & release_rope.KEYS else rope),
        "dts_layout": values["dts"]["layout"],
        "mm_hidden_size": values["vision"]["width"],
        "mm_spatial_pool_stride": values["pool"],
        "vision_config": vision,
    }


def unknown(config: Mapping[str, Any]) -> list[str]:
    """Returns the unknown keys; those of the vision tower are named `vision_config.KEY`."""
    vision = config.get("vision_config")
    vision = vision if isinstance(vision, Mapping) else {}
    return [
        *(key for key in config if key not in KEYS),
        *(f"vision_config.{key}" for key in vision if key not in VISION_KEYS),
    ]


def _missing(config: Mapping[str, Any], keys: Mapping[str, Meaning]) -> list[str]:
    needed = [key for key, use in keys.items() if isinstance(use, Used) and use.required]
    missing = [key for key in needed if key not in config]
    has_theta = any(
        isinstance(place, Mapping) and place.get("rope_theta") is not None
        for place in (config, *(config.get(key) for key in ("rope_parameters", "rope_scaling")))
    )
    return missing if has_theta or keys is VISION_KEYS else [*missing, "rope_theta"]


def _fields(
    config: Mapping[str, Any], keys: Mapping[str, Meaning], *, where: str
) -> dict[str, Any]:
    """Returns the fields by dotted path; refuses values that the model does not implement."""
    fields = {}
    for key, value in config.items():
        use, name = keys.get(key), f"config.json: {where}{key}"
        if isinstance(use, Used) and (use.required or value is not None):
            limits.check(f"model.{use.field}", value, name=name)
            fields[use.field] = value
        if isinstance(use, Only) and value is not None and value not in use.values:
            known = " or ".join(map(limits.shown, use.values))
            fixed = f"the model is computed with {known}" if known else "no such setting is known"
            raise InputError(
                f"{name} is {limits.shown(value)}, but {fixed}: this checkpoint would be computed"
                " wrongly."
            )
    return fields


def _layout(value: Any) -> str:
    if value not in LAYOUTS:
        raise InputError(
            f"config.json: dts_layout is {limits.shown(value)}: expected"
            f" {' or '.join(map(repr, LAYOUTS))}."
        )
    return value


def _vision(config: Any) -> dict[str, Any]:
    if not isinstance(config, Mapping):
        raise InputError(
            f"config.json: vision_config is {limits.shown(config)}: expected an object."
        )
    if missing := _missing(config, VISION_KEYS):
        raise InputError(f"config.json: vision_config lacks {', '.join(missing)}.")
    fields = _fields(config, VISION_KEYS, where="vision_config.")
    if fields["vision.depth"] < 2:
        raise InputError(
            "config.json: vision_config.num_hidden_layers counts the last layer, which the model"
            f" leaves out; {fields['vision.depth']} is too few."
        )
    return fields | {"vision.depth": fields["vision.depth"] - 1}


def _check_heads(config: Mapping[str, Any]) -> None:
    if (head_dim := config.get("head_dim")) is None:
        return
    width = config["hidden_size"] / config["num_attention_heads"]
    if head_dim != width or isinstance(head_dim, bool):
        raise InputError(
            f"config.json: head_dim is {limits.shown(head_dim)}, but heads are computed with"
            f" hidden_size / num_attention_heads = {width:g} channels."
        )


def _check_window(config: Mapping[str, Any]) -> None:
    """Refuses sliding-window attention, in each form that a Qwen2 config can ask for it."""
    kinds = config.get("layer_types")
    if kinds is not None and (
        not isinstance(kinds, list) or any(kind != "full_attention" for kind in kinds)
    ):
        raise InputError(
            "config.json: layer_types has other layers than 'full_attention', but every layer is"
            " computed with full attention."
        )
    uses = config.get("use_sliding_window")
    if uses is not None and not isinstance(uses, bool):
        raise InputError(
            f"config.json: use_sliding_window is {limits.shown(uses)}: expected true or false."
        )
    first = config.get("max_window_layers")
    whole = isinstance(first, int) and first >= config["num_hidden_layers"]
    if uses and config.get("sliding_window") is not None and kinds is None and not whole:
        raise InputError(
            "config.json: use_sliding_window is true, but every layer is computed with full"
            " attention: set it to false if the weights were trained so."
        )


def _check_connectors(config: Mapping[str, Any], fields: Mapping[str, Any]) -> None:
    width, stride = config.get("mm_hidden_size"), config.get("mm_spatial_pool_stride")
    tower, pool = fields["vision.width"], fields["pool"]
    if width is not None and (width != tower or isinstance(width, bool)):
        raise InputError(
            f"config.json: mm_hidden_size is {limits.shown(width)}, but the vision tower is"
            f" {tower} wide."
        )
    if stride is not None and (stride != pool or isinstance(stride, bool)):
        raise InputError(
            f"config.json: mm_spatial_pool_stride is {limits.shown(stride)}, but the model is"
            f" computed with {pool} (visual_pool)."
        )


def _written(fields: Mapping[str, Any], keys: Mapping[str, Meaning]) -> dict[str, Any]:
    return {key: fields[use.field] for key, use in keys.items() if isinstance(use, Used)}

"""Code that the stages share. It imports only ml_collections, so that launchers can read it."""

from typing import Any

import ml_collections

# A ConfigDict: assignment creates its fields, so their types are not known statically.
Config = Any

PRESETS = ("tiny", "3b")


def parse_arg(arg, **defaults) -> tuple[str, Config]:
    """Parses `"3b,frames=256"` to a preset and integer options; absent options keep defaults."""
    preset, *pairs = (arg or "tiny").split(",")
    if preset not in PRESETS:
        raise ValueError(f"Unknown preset {preset!r}: known are {', '.join(PRESETS)}.")
    options = dict(defaults)
    for pair in pairs:
        name, _, value = pair.partition("=")
        if name not in defaults:
            raise ValueError(f"Unknown option {name!r}: known are {', '.join(defaults)}.")
        if not value.isdigit():
            raise ValueError(f"Option {name!r} is {value!r}: give a whole number.")
        options[name] = int(value)
    return preset, ml_collections.ConfigDict(options)


# Parameter groups of the tiny preset. The tower is frozen. The compressor's weights are small
# compared with the other parts' learning rate, at which it would outgrow the text's embeddings.
TINY_ENCODER_GROUPS = (
    {"pattern": "^vision/", "lr_scale": 0.0},
    {"pattern": "^(dts|projector)/", "lr_scale": 0.2},
)
# From scratch, AdamW hardly teaches attention to distinguish positions; Muon does so within a few
# hundred steps.
TINY_GROUPS = (
    *TINY_ENCODER_GROUPS,
    {"pattern": "^decoder/layers/attn/.*kernel", "lr_scale": 9.0, "rule": "muon"},
)


def base(preset, *, frames, batch, text=None) -> Config:
    """Sets the values that all stages share; all others default to `vxlpro_jax.config.schema`."""
    c: Config = ml_collections.ConfigDict(
        {
            "model": {"preset": preset},
            "data": {"max_frames": frames, "batch_size": batch},
            "optim": {},
        }
    )
    if text is not None:
        c.data.max_text_tokens = text
    if preset == "tiny":
        # A tiny clip has 32 visual tokens; rounded down to a multiple of 16, as in the release,
        # lower ratios would always drop half of them.
        c.keep_ratio = (1.0, 1.0)
        c.recot = {"decoder_width": 64, "decoder_depth": 1, "decoder_heads": 1}
        # The tower stays as initialised, so its features are computed only once.
        c.data.feature_cache = "{cache_dir}/features"
    else:
        c.model.update(vision={"remat": "all"}, decoder={"remat": "all_but_attention"})
        c.compute_dtype = "bfloat16"
        c.encode_microbatch = 2
        c.data.num_workers = 8
    return c

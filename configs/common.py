"""What the stages share. Imports nothing but ml_collections, so launchers can read it."""

import ml_collections

PRESETS = ("tiny", "3b")


def parse_arg(arg, **defaults):
    """`"3b,frames=256"` to a preset and integer options; absent options keep their defaults."""
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


# Of the tiny preset. The tower is frozen; the compressor, whose weights are small for the rate of
# the rest, would outgrow the text's embeddings. AdamW hardly teaches attention, from scratch, to
# tell one place from another; Muon does within a few hundred steps.
TINY_GROUPS = (
    {"pattern": "^vision/", "lr_scale": 0.0},
    {"pattern": "^(dts|projector)/", "lr_scale": 0.2},
    {"pattern": "^decoder/layers/attn/.*kernel", "lr_scale": 9.0, "rule": "muon"},
)


def base(preset, *, frames, text, batch):
    """Every field a stage can set, with the values that all stages share."""
    c = ml_collections.ConfigDict()
    c.task = "answer"
    c.seed = 0
    c.total_steps = 80
    c.checkpoint_every = 40
    c.eval_every = 0
    c.log_every = 10
    c.init_from = ""
    # A tiny clip has 32 visual tokens; rounded down to 16, as the release does, lower ratios would
    # always drop half of them.
    c.keep_ratio = (1.0, 1.0) if preset == "tiny" else (0.7, 0.99)
    c.pose_max_frames = 0
    c.param_dtype = "float32"
    c.compute_dtype = "float32" if preset == "tiny" else "bfloat16"

    c.encode_microbatch = 0 if preset == "tiny" else 2
    c.grad_accum_steps = 1

    remat = preset != "tiny"
    c.model = ml_collections.ConfigDict()
    c.model.preset = preset
    c.model.attention = "auto"
    c.model.selector_gradient = "scores"
    c.model.pool = 2
    c.model.vision = {"remat": remat}
    c.model.dts = {"layout": "released"}
    c.model.decoder = {"remat": remat}

    # All but the policy `sgm` itself is ours; the original is unpublished.
    c.recot = ml_collections.ConfigDict()
    c.recot.policy = "sgm"
    c.recot.mask_ratio = (0.75, 0.75)
    c.recot.difference_weight = 1.0
    c.recot.decoder_width = 64 if preset == "tiny" else 512
    c.recot.decoder_depth = 1 if preset == "tiny" else 2
    c.recot.decoder_heads = 1 if preset == "tiny" else 8

    c.data = ml_collections.ConfigDict()
    c.data.path = ""
    c.data.eval_path = ""
    c.data.video_root = ""
    c.data.image_root = ""
    c.data.workdir_cache = "~/.cache/vxlpro_jax"
    # The tiny preset's tower stays as it is drawn, so its features are made only once.
    own = c.data.get_oneway_ref("workdir_cache") + "/features"
    c.data.feature_cache = own if preset == "tiny" else ""
    c.data.tokenizer = ""
    c.data.batch_size = batch
    c.data.max_frames = frames
    c.data.max_text_tokens = text
    c.data.samples_per_row = 1
    c.data.fps = 0.0
    c.data.frames_per_sample = 0
    c.data.frame_buckets = ()
    c.data.num_workers = 0 if preset == "tiny" else 8
    c.data.seconds_per_file = 120.0
    c.data.bad_sample_quota = 0.05

    c.optim = ml_collections.ConfigDict()
    c.optim.lr = 1e-3
    c.optim.warmup = 0.03
    c.optim.b1 = 0.9
    c.optim.b2 = 0.999
    c.optim.eps = 1e-8
    c.optim.weight_decay = 0.0
    c.optim.clip_norm = 1.0
    c.optim.momentum_dtype = ""
    c.optim.groups = ()

    c.mesh = ml_collections.ConfigDict()
    c.mesh.data = 1
    c.mesh.fsdp = -1
    c.mesh.tensor = 1
    c.mesh.context = 1
    c.mesh.num_slices = 1
    return c

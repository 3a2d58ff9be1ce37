"""Ablations of the tiny preset at a reduced budget, for `vxlpro_jax.sweep`.

`configs/ablations.py` varies the compressor and its training; docs/ablations.md shows its table.
`configs/ablations.py:more` varies the tokens that the decoder reads. A variant is a function that
changes a run: fields of stages 1 and 2, whether there is a stage 1 or stage 2 starts from scratch,
and the keep ratios at which questions (besides the sweep's own) and needles are asked.
"""

import ml_collections

_STAGE1_STEPS = 80
_STAGE2_STEPS = 200
_KEEP_RATIO = 1.0

# ---- The compressor and its training -------------------------------------------------------------


def base(run):
    """Uses SGM masks, 75 % hidden, the released layout, stage 1 first and all visual tokens."""
    run.needle_keep_ratios = (0.3, 0.6, 1.0)


def mask_random(run):
    run.stage1["recot.policy"] = "random"


def mask_tube(run):
    run.stage1["recot.policy"] = "tube"


def mask_motion(run):
    run.stage1["recot.policy"] = "motion"


def mask_ratio_50(run):
    run.stage1["recot.mask_ratio"] = (0.5, 0.5)


def mask_ratio_90(run):
    run.stage1["recot.mask_ratio"] = (0.9, 0.9)


def layout_temporal(run):
    run.stage1["model.dts.layout"] = "temporal"
    run.stage2["model.dts.layout"] = "temporal"


def no_stage1(run):
    run.has_stage1 = False


# ---- The tokens that the decoder reads -----------------------------------------------------------
#
# A clip has 8 frames, two groups of 16 tokens. The selector keeps a multiple of 16 of them, so any
# ratio from 0.5 to below 1 keeps half.


def keep_all(run):
    """Drops nothing in training, as in `base`, but is also evaluated with half of the tokens."""
    base(run)
    run.keep_ratios = (0.5,)


def keep_half(run):
    """Drops half of the tokens in training."""
    run.stage2["keep_ratio"] = (0.5, 0.5)
    run.keep_ratios = (0.5,)
    run.needle_keep_ratios = (0.3, 0.6, 1.0)


def pool_1(run):
    """Uses 64 tokens per group."""
    run.stage2["model.pool"] = 1
    run.needle_keep_ratios = (1.0,)


def pool_1_keep_25(run):
    """Reads as many tokens as `keep_all`: a quarter, chosen by question, not means of four."""
    run.stage2["model.pool"] = 1
    run.stage2["keep_ratio"] = (0.25, 0.25)
    run.keep_ratios = (0.25,)
    run.needle_keep_ratios = (0.25,)


def pool_1_keep_drawn(run):
    """Draws a keep ratio for each sample, as in the release, but from a wider range."""
    run.stage2["model.pool"] = 1
    run.stage2["keep_ratio"] = (0.25, 1.0)
    run.keep_ratios = (0.25,)
    run.needle_keep_ratios = (0.25, 1.0)


def pool_4(run):
    """Uses 4 tokens per group."""
    run.stage2["model.pool"] = 4
    run.needle_keep_ratios = (1.0,)


def frames_4(run):
    """Trains on every other frame of a clip, one group; is evaluated on all of them."""
    run.stage1["data.max_frames"] = 4
    run.stage2["data.max_frames"] = 4
    run.needle_keep_ratios = (1.0,)


def stage1_long(run):
    """Trains stage 1 for three times as many steps."""
    run.stage1["total_steps"] = run.stage1["checkpoint_every"] = 3 * _STAGE1_STEPS


GROUPS = {
    "": (
        base,
        mask_random,
        mask_tube,
        mask_motion,
        mask_ratio_50,
        mask_ratio_90,
        layout_temporal,
        no_stage1,
    ),
    "more": (
        keep_all,
        keep_half,
        pool_1,
        pool_1_keep_25,
        pool_1_keep_drawn,
        pool_4,
        frames_4,
        stage1_long,
    ),
}

# ---- From functions to settings ------------------------------------------------------------------


def get_config(group=""):
    if group not in GROUPS:
        known = ", ".join(filter(None, GROUPS))
        raise ValueError(f"Unknown group {group!r}: known are {known}, or none for the first.")
    c = ml_collections.ConfigDict()
    c.seeds = (0, 1, 2)
    c.stage1 = _settings(_steps(_STAGE1_STEPS))
    # So few steps need no decay, which is for the 1,400 of stage 2 alone.
    c.stage2 = _settings({**_steps(_STAGE2_STEPS), "optim.weight_decay": 0.0})
    c.keep_ratio = _KEEP_RATIO
    c.variants = {}
    for change in GROUPS[group]:
        run = _Run()
        change(run)
        c.variants[change.__name__] = {
            "has_stage1": run.has_stage1,
            "stage1": _settings(run.stage1),
            "stage2": _settings(run.stage2),
            "keep_ratios": run.keep_ratios,
            "needle_keep_ratios": run.needle_keep_ratios,
        }
    return c


class _Run:
    """The changes of a variant: values of each stage by dotted path of the field, and the rest."""

    def __init__(self):
        self.stage1, self.stage2, self.has_stage1 = {}, {}, True
        self.keep_ratios, self.needle_keep_ratios = (), ()


def _steps(count):
    return {"total_steps": count, "checkpoint_every": count}


def _settings(values):
    return tuple(f"{path}={value}".replace(" ", "") for path, value in values.items())

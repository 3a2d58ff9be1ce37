"""Ablations of the compressor and of its training, for `vxlpro_jax.sweep`.

`configs/ablations.py` runs the tiny preset at a reduced budget. A variant changes settings of the
stages that a seed's run goes through; one without `stage1` starts stage 2 from scratch.
"""

import ml_collections

_STAGE1_STEPS = 80
_STAGE2_STEPS = 200


def get_config():
    c = ml_collections.ConfigDict()
    c.seeds = (0, 1, 2)
    c.stage1 = (f"total_steps={_STAGE1_STEPS}", f"checkpoint_every={_STAGE1_STEPS}")
    c.stage2 = (f"total_steps={_STAGE2_STEPS}", f"checkpoint_every={_STAGE2_STEPS}")
    c.keep_ratio = 1.0
    c.variants = ml_collections.ConfigDict()
    c.variants.base = _variant(needle_keep_ratios=(0.3, 0.6, 1.0))
    for policy in ("random", "tube", "motion"):
        c.variants[f"mask_{policy}"] = _variant(stage1=(f"recot.policy={policy}",))
    for percent in (50, 90):
        ratio = percent / 100
        settings = (f"recot.mask_ratio=({ratio},{ratio})",)
        c.variants[f"mask_ratio_{percent}"] = _variant(stage1=settings)
    temporal = ("model.dts.layout=temporal",)
    c.variants.layout_temporal = _variant(stage1=temporal, stage2=temporal)
    c.variants.no_stage1 = _variant(has_stage1=False)
    return c


def _variant(*, stage1=(), stage2=(), needle_keep_ratios=(), has_stage1=True):
    """Settings `path=value` of the stages, and keep ratios at which needles are asked for."""
    c = ml_collections.ConfigDict()
    c.has_stage1 = has_stage1
    c.stage1, c.stage2, c.needle_keep_ratios = stage1, stage2, needle_keep_ratios
    return c

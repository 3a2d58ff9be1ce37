"""Stage 1: ReCoT, the compressor's self-supervised training on videos and images without text.

`configs/stage1.py` is the tiny preset on embedded clips; `configs/stage1.py:3b,frames=64` is the
released size, starting from a model folder of `checkpoints_convert.assemble`. The original recipe
is unpublished: learning rates and schedule are ours.
"""

from configs import common


def get_config(arg=None):
    preset, options = common.parse_arg(arg, frames=0, batch=0)
    if preset == "tiny":
        c = common.base(preset, frames=options.frames or 8, text=0, batch=options.batch or 8)
        c.optim.lr = 2e-3
        c.optim.groups = common.TINY_ENCODER_GROUPS
        c.total_steps = 240
        c.checkpoint_every = 40
    else:
        c = common.base(preset, frames=options.frames or 64, text=0, batch=options.batch or 64)
        c.optim.lr = 2e-4
        c.optim.weight_decay = 0.05
        c.total_steps = 50_000
        c.checkpoint_every = 500
        c.optim.groups = ({"pattern": "^vision/", "lr_scale": 0.0},)
    c.objective = "recot"
    c.eval_every = 2_000
    return c

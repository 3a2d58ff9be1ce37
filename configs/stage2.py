"""Stage 2: vision-language training on captions and questions.

`configs/stage2.py` is the tiny preset on embedded clips; `configs/stage2.py:3b,frames=256` is the
released size. The original recipe is unpublished: learning rates and schedule are ours.
"""

from configs import common


def get_config(arg=None):
    preset, options = common.parse_arg(arg, frames=0, batch=0, text=0)
    if preset == "tiny":
        c = common.base(
            preset, frames=options.frames or 8, text=options.text or 80, batch=options.batch or 8
        )
        c.optim.b2 = 0.95
        # With little decay, some held-out directions and counts are wrong with some seeds.
        c.optim.weight_decay = 1.0
        c.optim.groups = common.TINY_GROUPS
        c.total_steps = 1400
        c.checkpoint_every = 100
        return c
    c = common.base(
        preset, frames=options.frames or 128, text=options.text or 1024, batch=options.batch or 64
    )
    c.total_steps = 30_000
    c.checkpoint_every = 500
    # Projector, DTS and selector train at the full rate, the decoder slowly, the tower not at all.
    c.optim.groups = (
        {"pattern": "^vision/", "lr_scale": 0.0},
        {"pattern": "^decoder/", "lr_scale": 0.01},
    )
    return c

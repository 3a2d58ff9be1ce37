"""Stage 3: instruction tuning of the whole model; the tower has its own rate (frozen in tiny).

`configs/stage3.py` is the tiny preset on embedded clips; `configs/stage3.py:3b,frames=256` is the
released size. Set `init_from` to the run of stage 2. The original recipe is unpublished: learning
rates and schedule are ours.
"""

from configs import common


def get_config(arg=None):
    preset, options = common.parse_arg(arg, frames=0, batch=0, text=0)
    if preset == "tiny":
        c = common.base(
            preset, frames=options.frames or 8, text=options.text or 80, batch=options.batch or 8
        )
        c.optim.lr = 5e-4
        c.optim.b2 = 0.95
        c.optim.groups = common.TINY_GROUPS
        c.total_steps = 900
        c.checkpoint_every = 100
        return c
    c = common.base(
        preset, frames=options.frames or 128, text=options.text or 1024, batch=options.batch or 64
    )
    c.optim.lr = 1e-5
    c.total_steps = 12_000
    c.checkpoint_every = 500
    c.optim.groups = ({"pattern": "^vision/", "lr_scale": 0.2},)
    return c

"""Longer videos: resumes from stage 3 with longer videos, position skipping and dropped tokens.

`configs/stage3_long.py` is the tiny preset on embedded clips and haystacks of up to 64 frames;
`configs/stage3_long.py:3b,frames=512` is the released size. Set `init_from` to the run of stage 3.
The original describes no such stage: all values are ours.
"""

from configs import common


def get_config(arg=None):
    preset, options = common.parse_arg(arg, frames=0, batch=0, text=0)
    if preset == "tiny":
        c = common.base(
            preset, frames=options.frames or 64, text=options.text or 80, batch=options.batch or 8
        )
        c.data.fps = 2.0  # The frame rate of the clips, so that all their frames are seen.
        c.data.frame_buckets = (8,) if c.data.max_frames > 8 else ()
        c.keep_ratio = (0.4, 1.7)  # Draws above 1 keep all tokens.
        c.optim.lr = 5e-4
        c.optim.b2 = 0.95
        c.optim.groups = common.TINY_GROUPS
        c.total_steps = 1000
        c.checkpoint_every = 100
    else:
        c = common.base(
            preset,
            frames=options.frames or 512,
            text=options.text or 1024,
            batch=options.batch or 64,
        )
        c.data.fps = 1.0
        c.keep_ratio = (0.3, 1.0)
        c.optim.lr = 1e-5
        c.optim.groups = ({"pattern": "^vision/", "lr_scale": 0.0},)
        c.total_steps = 3_000
        c.checkpoint_every = 250
    c.model.selector_gradient = "straight_through"
    c.pose_max_frames = 10_240
    return c

"""Names of the rules and their limits; light enough to import for a command line."""

import dataclasses
from typing import Literal, get_args

from vxlpro_jax.utils.errors import InputError

Rule = Literal["text", "undecodable", "short", "static", "slides", "duplicate", "blind"]
RULES: tuple[Rule, ...] = get_args(Rule)  # In the order of application.
CLIP_RULES: tuple[Rule, ...] = RULES[1:6]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """Thresholds of the rules.

    Attributes:
        min_seconds: shortest video that is kept. Two seconds are a group of four frames at 2 fps,
            the shortest in which the compressor sees motion.
        static: share of still frames from which on a video of a single picture is dropped. It is
            below 1 because the first and last frames of an encoding often flicker.
        slides: the same share for a video of several pictures. At 0.8 each picture stays for at
            least 2.5 s; films with such frequent cuts have motion between the cuts.
        similarity: cosine from which on two clips are duplicates. Drawn films that were re-encoded,
            scaled, brightened, slowed down or trimmed by a tenth of a second reach 0.91 or more;
            clips of one scene with different motion reach 0.65 at most.
        margin: nats per reply token by which the video must lower the loss. At 0.05 the video makes
            the right tokens five percent likelier, which we count as no help.
    """

    min_seconds: float = 2.0
    static: float = 0.95
    slides: float = 0.8
    similarity: float = 0.9
    margin: float = 0.05

    def __post_init__(self):
        for name in ("static", "slides", "similarity"):
            if not 0 < getattr(self, name) <= 1:
                raise InputError(
                    f"--{name} is {getattr(self, name)}: give a share above 0, at most 1."
                )
        if not 0 <= self.min_seconds < float("inf"):
            raise InputError(f"--min_seconds is {self.min_seconds}: give 0 or more seconds.")
        if not abs(self.margin) < float("inf"):
            raise InputError(f"--margin is {self.margin}: give a number of nats.")

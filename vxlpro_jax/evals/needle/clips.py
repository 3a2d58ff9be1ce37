"""The needle test on short synthetic clips: one clip per needle, and a free-form reply.

Unlike the other tests it has no shared haystack: each clip has its own 8 to 128 grey frames, one
group of which shows a coloured card. A reply is right if it is exactly the card's colour.
docs/ablations.md compares models by this test.
"""

import dataclasses
import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vxlpro_jax.data.synthetic.drawing import COLOURS
from vxlpro_jax.data.synthetic.haystacks import needle_set
from vxlpro_jax.evals import synthetic
from vxlpro_jax.evals.needle.replies import Cell, NeedleReply
from vxlpro_jax.inference.engine import Engine
from vxlpro_jax.inference.options import Options
from vxlpro_jax.utils import cli
from vxlpro_jax.utils.errors import InputError

CHANCE = 1 / len(COLOURS)


@dataclasses.dataclass(frozen=True)
class ClipTest:
    """The clips of a data file, by the name used in their cells."""

    folder: Path
    samples: Mapping[str, Mapping[str, Any]]
    digest: str

    @classmethod
    def load(cls, cache_dir: Path) -> "ClipTest":
        """Reads the clips, after writing them to `cache_dir` if they are missing."""
        file = needle_set(cache_dir)
        samples = synthetic.read_samples(file).samples
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        return cls(file.parent, {sample["video"]: sample for sample in samples}, digest)

    def cells(
        self,
        *,
        frames: Sequence[int] | None,
        depths: Sequence[float] | None,
        keep_ratios: Sequence[float],
    ) -> list[Cell]:
        """Returns the questions about clips of given lengths and depths; None means all.

        Raises:
            InputError: there are no clips of a given length or depth.
        """
        self._check("frames", frames)
        self._check("depths", depths)
        return [
            Cell(sample["frames"], sample["depth"], name, ratio)
            for name, sample in self.samples.items()
            if frames is None or sample["frames"] in frames
            if depths is None or sample["depth"] in depths
            for ratio in keep_ratios
        ]

    def _check(self, flag: str, values: Sequence[float] | None) -> None:
        field = {"frames": "frames", "depths": "depth"}[flag]
        known = sorted({sample[field] for sample in self.samples.values()})
        for value in values or ():
            if value not in known:
                listed = ", ".join(f"{each:g}" for each in known)
                raise InputError(f"--{flag} has {value:g}, but --mode clips has only {listed}.")

    def ask(
        self, engine: Engine, cells: Sequence[Cell], *, options: Options
    ) -> Iterator[NeedleReply]:
        """Yields the model's replies; each clip is encoded once.

        Args:
            engine: model to ask.
            cells: questions.
            options: options of the decoder; keep ratio and reply length are set here.

        Raises:
            InputError: a clip cannot be read, or a prompt does not fit the context.
        """
        by_clip = defaultdict(list)
        for cell in cells:
            by_clip[cell.needle].append(cell)
        for name, several in cli.progress(by_clip.items(), name="needles", unit="clip"):
            frames, times = synthetic.read_groups(engine, self.folder / name)
            encoded = engine.encode_groups(frames, times=times)
            question, answer = synthetic.question_of(self.samples[name])
            for cell in several:
                asked = dataclasses.replace(
                    options,
                    keep_ratio=cell.keep_ratio,
                    max_new_tokens=synthetic.MAX_NEW_TOKENS,
                )
                reply, kept = synthetic.reply_to_question(engine, encoded, question, options=asked)
                yield NeedleReply(cell, kept, answer, reply, reply == answer)

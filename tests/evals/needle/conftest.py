"""Fixtures: a micro model and a haystack on disk, and a stand-in model that sees colours."""

import json
import re
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
from helpers import write_model
from PIL import Image

from vxlpro_jax.config.schema import InferenceConfig
from vxlpro_jax.data.synthetic.drawing import COLOURS, write_mp4
from vxlpro_jax.data.text import chat
from vxlpro_jax.data.text.tiny_tokenizer import TINY_TOKENIZER
from vxlpro_jax.data.text.tokenizer import Tokenizer
from vxlpro_jax.data.video import reader
from vxlpro_jax.evals.needle import synthetic
from vxlpro_jax.inference.engine import Encoded, Plan
from vxlpro_jax.utils.errors import InputError


@pytest.fixture(scope="session")
def micro_folder(tmp_path_factory):
    """A model folder with random weights."""
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def film(tmp_path_factory):
    """A real mp4 of 40 grey frames, one per second."""
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    write_mp4(path, synthetic.scenes(40), fps=1)
    return path


@pytest.fixture
def write_needles(tmp_path):
    """Writes a list of records, and a picture for every colour that they name."""

    def write(records: list[dict]):
        for colour, rgb in COLOURS.items():
            Image.new("RGB", (20, 30), rgb).save(tmp_path / f"{colour}.png")
        (tmp_path / "needles.json").write_text(json.dumps(records))
        return tmp_path / "needles.json"

    return write


@pytest.fixture
def colour_needles(write_needles):
    """A list with one needle of each colour, with options."""
    return write_needles(
        [
            {
                "media": f"{colour}.png",
                "question": "Which colour?",
                "answer": colour,
                "options": list(COLOURS),
            }
            for colour in COLOURS
        ]
    )


class Predicted(NamedTuple):
    expected: np.ndarray
    predicted: np.ndarray


class Seer:
    """Stand-in model that answers with a colour, from the means of the first `reach` frames.

    It claims to keep at most `most_kept` visual tokens, but sees all frames.
    """

    inference_config = InferenceConfig()
    config = SimpleNamespace(vision=SimpleNamespace(image_size=14), tokens_per_group=4)

    def __init__(self, *, reach: int = 1000, dies_after: int = 1000, most_kept: int = 1000):
        self.tokenizer = Tokenizer.from_folder(str(TINY_TOKENIZER))
        self.encoded_groups = self.replies = 0
        self._reach, self._dies_after, self._most_kept = reach, dies_after, most_kept

    def encode_groups(self, frames, *, times):
        self.encoded_groups += len(frames)
        means = frames.mean((2, 3))
        return Encoded(means, chat.encode_stamps(times, tokenizer=self.tokenizer), times)

    def encode_stream(self, stream):
        parts = [
            self.encode_groups(groups.frames, times=groups.times)
            for groups in reader.stream_groups(stream, groups=3)
        ]
        return Encoded(
            *map(
                np.concatenate, zip(*((p.visual, p.stamp_ids, p.times) for p in parts), strict=True)
            )
        )

    def plan_groups(self, groups, prompt, *, options):
        ids = chat.encode_prompt(chat.visual_question(prompt), tokenizer=self.tokenizer)
        return self.plan_ids(ids, groups=groups, options=options)

    def plan_ids(self, ids, *, groups, options):
        if groups > (options.max_context or np.inf):
            raise InputError("The context is too short.")
        kept = min(groups * 4, self._most_kept)
        return Plan(ids, kept, len(ids) + kept, memory=None)

    def answer(self, encoded, plan, *, options):
        if options.choices:
            yield self._colour(encoded)
            return
        prompt, colour = self.tokenizer.decode(plan.ids[plan.ids >= 0]), self._colour(encoded)
        listed = re.search(rf"\((.)\) {colour}", prompt)
        yield from (listed[1] if listed else "A", f") {colour}, not (A)")

    def predict(self, encoded, plan, reply, *, options):
        says, end = self._colour(encoded), self.tokenizer.im_end
        expected = [*self.tokenizer.encode(reply), end]
        said = self.tokenizer.encode(says)
        said = (said + [0] * len(expected))[: len(expected) - 1]
        return Predicted(np.array(expected), np.array([*said, 0]))  # It predicts no end.

    def _colour(self, encoded) -> str:
        self.replies += 1
        if self.replies > self._dies_after:
            raise KeyboardInterrupt
        seen = np.asarray(encoded.visual).reshape(-1, 3)[: self._reach]
        brightest = seen[np.ptp(seen, axis=1).argmax()]
        if np.ptp(brightest) < 20:
            return "none"
        return min(COLOURS, key=lambda name: np.abs(brightest - COLOURS[name]).sum())


@pytest.fixture
def seer():
    """The class `Seer`; it sees `reach` frames and is interrupted after `dies_after` replies."""
    return Seer

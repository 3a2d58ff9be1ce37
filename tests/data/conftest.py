"""Fixtures: Qwen2.5's tokenizer, and videos whose frames show their own index."""

import base64
import importlib.util
import itertools
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import tokenizers
from encoded import CODE_BITS, coded_frame
from tokenizers import models

from vxlpro_jax.data.synthetic.clips import synthetic_set
from vxlpro_jax.data.text.tokenizer import _BYTE_OF, Tokenizer, byte_level

_CHAR_OF = {byte: char for char, byte in _BYTE_OF.items()}


def read_codes(frames: np.ndarray) -> list[int]:
    """Returns the indices that `frames` (uint8 [F,S,S,3]) show."""
    row = frames[:, frames.shape[1] // 2].mean(-1)
    bars = row.reshape(len(frames), CODE_BITS, -1).mean(-1) > 127
    return (bars @ (1 << np.arange(CODE_BITS)[::-1])).tolist()


@pytest.fixture
def codes():
    return read_codes


@pytest.fixture
def write_video(tmp_path):
    """Writes a video of coded frames shown at `times` (milliseconds) and returns its path."""

    def write(
        times,
        *,
        name="clip.mp4",
        codec="libx264",
        height=64,
        width=128,
        rotation=0,
        title="",
        options=None,
    ) -> Path:
        path = tmp_path / name
        with av.open(str(path), "w", options=options or {}) as container:
            if title:
                container.metadata["title"] = title
            stream = container.add_stream(codec, rate=25)
            stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
            stream.codec_context.time_base = Fraction(1, 1000)
            if rotation:
                stream.set_display_rotation(rotation)
            for index, time in enumerate(times):
                picture = coded_frame(index, height=height, width=width)
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                frame.pts, frame.time_base = int(time), Fraction(1, 1000)
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        return path

    return write


@pytest.fixture(scope="session")
def qwen() -> Tokenizer:
    """Qwen2.5's tokenizer, from the rank file that the package `dashscope` ships."""
    return Tokenizer(byte_level(qwen_bpe()))


def qwen_bpe() -> models.BPE:
    package = importlib.util.find_spec("dashscope")  # The package is located but not imported.
    path = Path(package.submodule_search_locations[0], "resources", "qwen.tiktoken")
    lines = [line.split() for line in path.read_bytes().splitlines()]
    ranks = {base64.b64decode(token): int(rank) for token, rank in lines}
    vocab = {_text(token): rank for token, rank in ranks.items()}
    merges = [tuple(map(_text, _halves(token, ranks))) for token in ranks if len(token) > 1]
    return models.BPE(vocab, merges)


def _text(token: bytes) -> str:
    return "".join(_CHAR_OF[byte] for byte in token)


def _halves(token: bytes, ranks: dict[bytes, int]) -> list[bytes]:
    """Returns the two tokens that merge into `token`: its bytes after all merges of lower rank."""
    splits = [[token[:i], token[i:]] for i in range(1, len(token))]
    known = [split for split in splits if split[0] in ranks and split[1] in ranks]
    if len(known) == 1:
        return known[0]
    parts = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 2:
        pairs = [ranks.get(a + b, len(ranks)) for a, b in itertools.pairwise(parts)]
        best = pairs.index(min(pairs))
        parts[best : best + 2] = [parts[best] + parts[best + 1]]
    return parts


@pytest.fixture(scope="session")
def qwen_folder(qwen, tmp_path_factory) -> Path:
    """A folder with only `vocab.json` and `merges.txt`."""
    folder = tmp_path_factory.mktemp("qwen")
    model: tokenizers.models.BPE = qwen.backend.model
    model.save(str(folder))
    return folder


@pytest.fixture(scope="session")
def cache(tmp_path_factory) -> Path:
    """A cache folder that holds the embedded set."""
    folder = tmp_path_factory.mktemp("cache")
    synthetic_set(folder)
    return folder

"""Helpers of several tests: a micro model, a small data set, and subprocesses of commands."""

import importlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import av
import jax
import numpy as np
from PIL import Image

from vxlpro_jax.checkpoints.params import copy_tokenizer, write_params
from vxlpro_jax.config.schema import DecoderConfig, DtsConfig, ModelConfig, VisionConfig
from vxlpro_jax.data.synthetic.drawing import write_mp4
from vxlpro_jax.data.text.tiny_tokenizer import TINY_TOKENIZER
from vxlpro_jax.models.video_xl_pro import abstract_params

ROOT = Path(__file__).parents[2]

# The vocabulary has the tiny tokenizer's 382 ids; the grid is a third of the released one.
MICRO = ModelConfig(
    vision=VisionConfig(width=32, depth=1, num_heads=2, mlp_width=64, image_size=56),
    dts=DtsConfig(grid=8),
    decoder=DecoderConfig(
        vocab_size=440,
        width=32,
        depth=1,
        num_heads=2,
        num_kv_heads=2,
        mlp_width=64,
        max_positions=1024,
    ),
)


def write_model(folder: Path, *, model: ModelConfig = MICRO, scale: float = 0.3) -> Path:
    """Writes a model folder with normal random weights of standard deviation `scale`."""
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda x: rng.normal(0, scale, x.shape).astype(np.float32), abstract_params(model)
    )
    write_params(folder / "params", leaves=params)
    (folder / "config.json").write_text(json.dumps(model.to_release()))
    copy_tokenizer(TINY_TOKENIZER, folder)
    return folder


def write_clip(path: Path, *, frames: int, seed: int = 0) -> Path:
    """Writes an mp4 of slowly changing noise at two frames per second."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (frames, 4, 4, 3), np.uint8)
    write_mp4(path, [np.kron(frame, np.ones((16, 16, 1), np.uint8)) for frame in coarse], fps=2)
    return path


def write_sound(path: Path) -> Path:
    """Writes an mp4 with only sound."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16_000)
        samples = np.zeros((1, 1024), np.float32)
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 16_000, 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def write_dataset(folder: Path) -> Path:
    """Writes two clips of 3 and 8 frames, a picture and a text: exactly one batch of four."""
    write_clip(folder / "short.mp4", frames=3, seed=1)
    write_clip(folder / "long.mp4", frames=8, seed=2)
    pixels = np.random.default_rng(3).integers(0, 256, (56, 56, 3), np.uint8)
    Image.fromarray(pixels).save(folder / "picture.png")
    records = [
        {"video": "short.mp4", "conversations": chat("<image>\nWhich way?", "left")},
        {"video": "long.mp4", "conversations": chat("<image>\nWhat colour?", "red")},
        {"image": "picture.png", "conversations": chat("<image>\nWhat shape?", "circle")},
        {"conversations": chat("How many?", "four")},
    ]
    (folder / "data.json").write_text(json.dumps(records))
    return folder / "data.json"


def chat(question: str, answer: str) -> list[dict]:
    return [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]


def python(*arguments, cwd=ROOT, **environment) -> subprocess.Popen:
    """Starts Python on `arguments` with this checkout importable; output is piped as text."""
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "JAX_PLATFORMS": "cpu",
        **environment,
    }
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def free_port() -> int:
    """Returns a port on which nothing on this host listens."""
    with socket.create_server(("", 0)) as server:
        return server.getsockname()[1]


def add_module(monkeypatch, folder: Path, *, package: str, name: str, source: str) -> None:
    """Adds a file to a package until the test ends, without touching the package's folder."""
    (folder / f"{name}.py").write_text(source)
    parent = importlib.import_module(package)
    monkeypatch.setattr(parent, "__path__", [*parent.__path__, str(folder)])
    # Both the first entry and the attribute of the package are removed when the test ends.
    monkeypatch.setitem(sys.modules, f"{package}.{name}", None)
    del sys.modules[f"{package}.{name}"]
    monkeypatch.setattr(parent, name, None, raising=False)


def last_of_each(flags: Iterable[str]) -> list[str]:
    """Returns flags `--name=value`; of several with the same name, only the last."""
    return list({flag.partition("=")[0]: flag for flag in flags}.values())

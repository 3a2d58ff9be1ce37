"""Compares the time to encode a video and to read a prompt with equivalent torch modules.

    python benchmarks/encode_and_prefill.py [--workload encode|prefill|all] [--rounds 5]

`encode` is tower, DTS, projector and pooling of 8 frames; `prefill` is 512 positions through the
decoder into a key/value cache and the logits of the last; both in float32 on the CPU at the widths
of the 3B preset. Weights are made up, the same for all implementations, and the outputs are
compared. The implementations alternate within one process, in changing order, so that a drifting
machine is fair to all: a ratio is the median over the rounds of our time relative to the other's in
the same round. `prefill` needs 16 GiB.
"""

import argparse
import dataclasses
import functools
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

_ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(_ROOT), str(_ROOT / "tests/support")]

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch_reference
from tqdm import trange

from checkpoints_convert import mapping
from vxlpro_jax.checkpoints.array_store import LazyLeaf
from vxlpro_jax.config.schema import PRESETS, ModelConfig
from vxlpro_jax.models.kv_cache import KVCache
from vxlpro_jax.models.qwen2 import Qwen2
from vxlpro_jax.models.video_xl_pro import jit_method
from vxlpro_jax.utils.jit import jit

FRAMES, POSITIONS = 8, 512
TORCH_KINDS = ("eager", "sdpa")


class Measured(NamedTuple):
    """Attributes: `first`, seconds of the warm-up; `seconds` of each round; `output`."""

    first: float
    seconds: list[float]
    output: np.ndarray


def main() -> None:
    """Runs the workloads and prints a table of each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--workload", choices=(*WORKLOADS, "all"), default="all")
    parser.add_argument("--rounds", type=int, default=5, help="timed runs of each implementation")
    parser.add_argument("--layers", type=int, help="maximum number of layers, for a quick trial")
    args = parser.parse_args()
    config = cut(PRESETS["3b"], layers=args.layers)
    for name in WORKLOADS if args.workload == "all" else (args.workload,):
        title, prepare = WORKLOADS[name]
        measured = take_turns(prepare(config), rounds=args.rounds)
        layers = f"{args.layers} layers" if args.layers else "all layers"
        print(f"\n{title}, full width, {layers}, float32, CPU, {args.rounds} rounds:\n")
        print(table(measured), flush=True)


def cut(config: ModelConfig, *, layers: int | None) -> ModelConfig:
    """Returns the config with at most `layers` layers; None keeps all."""
    if layers is None:
        return config

    def shallow(part):
        return dataclasses.replace(part, depth=min(part.depth, layers))

    return dataclasses.replace(
        config, vision=shallow(config.vision), decoder=shallow(config.decoder)
    )


Contestants = dict[str, Callable[[], np.ndarray]]


def take_turns(contestants: Contestants, *, rounds: int) -> dict[str, Measured]:
    """Times every implementation once per round; its first run, which may compile, separately."""
    measured = {}
    for who, run in contestants.items():
        first, output = timed(run)
        measured[who] = Measured(first, [], output)
    for index in trange(rounds, desc="rounds", disable=None):
        for who in list(contestants)[:: -1 if index % 2 else 1]:
            measured[who].seconds.append(timed(contestants[who])[0])
    return measured


def timed(run: Callable[[], np.ndarray]) -> tuple[float, np.ndarray]:
    """Returns the seconds of a run, and its output."""
    start = time.perf_counter()
    output = run()
    return time.perf_counter() - start, output


def table(measured: dict[str, Measured]) -> str:
    """Formats Markdown: our time relative to each implementation, and all rounds of all."""
    ours, reference = measured["ours"].seconds, measured["torch eager"].output
    lines = [
        "| | ours / this | fastest s | median s | first run s | output differs by | rounds |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for who, (first, seconds, output) in measured.items():
        ratio = statistics.median(a / b for a, b in zip(ours, seconds, strict=True))
        off = np.abs(output - reference).max() / np.abs(reference).max()
        each = " ".join(f"{s:.1f}" for s in seconds)
        lines.append(
            f"| {who} | {ratio:.2f} | {min(seconds):.2f} | {statistics.median(seconds):.2f} "
            f"| {first:.2f} | {off:.1e} | {each} |"
        )
    return "\n".join(lines)


def made_up(name: str, *, shape: tuple[int, ...]) -> np.ndarray:
    """Makes a torch tensor's float32 weights: a fixed block of noise, repeated from an offset that
    depends on its name; around 1 for norm scales."""
    noise = _noise() * (0.02 if len(shape) > 1 else 0.1)
    weights = np.resize(np.roll(noise, sum(name.encode()) * 7919), shape)
    return weights + 1 if "norm" in name and name.endswith("weight") else weights


@functools.cache
def _noise():
    return np.random.default_rng(0).standard_normal(1_000_003, np.float32)


def _our_leaves(config):
    """Returns the weights in our tree, not yet in memory."""
    tensors = {}
    for name, struct in mapping.torch_structs(mapping.param_shapes(config)).items():
        read = functools.partial(_rows, name, struct.shape)
        tensors[name] = LazyLeaf(
            shape=struct.shape, dtype=np.dtype(np.float32), rows=struct.shape[0], read=read
        )
    return mapping.to_params(tensors, config=config)


def _rows(name, shape, start, stop):
    return made_up(name, shape=shape)[start:stop]


def _load(leaves):
    return jax.tree.map(lambda leaf: jax.device_put(leaf.whole()), leaves)


def _load_row(leaves, row):
    return jax.tree.map(lambda leaf: jax.device_put(leaf.read(row, row + 1)[0]), leaves)


def _torch_models(config, *, parts, shared):
    """Makes one model per kind of attention, sharing weights in some parts, with the rest empty.

    `shared` are tensors by name that need not be created again.
    """
    models, weights = {}, dict(shared)
    for kind in TORCH_KINDS:
        with torch.device("meta"):
            models[kind] = torch_reference.VideoXLPro(config, kind=kind).eval()
        for name, tensor in models[kind].state_dict().items():
            if name.startswith(parts) and name not in weights:
                weights[name] = torch.from_numpy(made_up(name, shape=tuple(tensor.shape)))
        models[kind].load_state_dict(weights, assign=True, strict=False)
    return models


def encode(config: ModelConfig) -> Contestants:
    """Compares encoding of frames to visual tokens."""
    size = config.vision.image_size
    pixels = np.random.default_rng(1).integers(0, 256, (FRAMES, size, size, 3), np.uint8)
    leaves = _our_leaves(config)
    params = _load({part: leaves[part] for part in ("vision", "dts", "projector")})
    frames = jax.device_put(pixels.reshape(1, -1, 4, size, size, 3))
    ours = jit_method(config, "encode")
    parts = ("model.vision_tower.", "model.sae.", "model.mm_projector.")
    sample = torch_reference.Sample(ids=[], frames=torch.from_numpy(pixels))

    @torch.inference_mode()
    def theirs(model):
        projected = model.encode(sample)["projected"]
        grid = projected.transpose(1, 2).unflatten(-1, (24, 24))
        pooled = torch.nn.functional.avg_pool2d(grid, 2)
        return pooled.flatten(2).transpose(1, 2).contiguous().numpy()

    return {
        f"torch {kind}": functools.partial(theirs, model)
        for kind, model in _torch_models(config, parts=parts, shared={}).items()
    } | {"ours": lambda: np.asarray(ours(params, frames))[0]}


def prefill(config: ModelConfig) -> Contestants:
    """Compares reading embeddings to the logits of the last position."""
    # Like the decoder that `vxlpro_jax.generate` uses on a CPU.
    decoder = dataclasses.replace(config.decoder, scan_layers=False)
    leaves = _our_leaves(config)["decoder"]
    stacked = leaves.pop("layers")
    params = _load(leaves)
    params |= {f"layers_{row}": _load_row(stacked, row) for row in range(decoder.depth)}
    shape = (1, POSITIONS, decoder.width)
    embeddings = np.random.default_rng(2).standard_normal(shape, np.float32)
    x = jax.device_put(embeddings)

    @jit
    def ours(params, x):
        def run(model, x):
            cache = KVCache.empty(decoder, batch=1, slots=POSITIONS, dtype=x.dtype)
            hidden, cache = model.extend(x, cache, query_index=jnp.full((1, 1), POSITIONS - 1))
            return model.logits(hidden[:, 0]), cache

        return Qwen2(decoder).apply({"params": params}, x, method=run)

    @torch.inference_mode()
    def theirs(model):
        x = torch.from_numpy(embeddings)
        for layer in model.layers:
            x = layer(x)
        last = model.norm(x[:, -1])
        return torch.nn.functional.linear(last, model.embed_tokens.weight).numpy()

    # The matrices that both store in the same order are most of the weights; two copies would not
    # fit into 24 GiB.
    shared = {"model.embed_tokens.weight": torch.from_dlpack(params["embed"])}
    for row in range(decoder.depth):
        for part, weight in params[f"layers_{row}"]["mlp"].items():
            name = f"model.layers.{row}.mlp.{part}_proj.weight"
            shared[name] = torch.from_dlpack(weight)
    models = _torch_models(config, parts=("model.layers.", "model.norm."), shared=shared)
    return {
        f"torch {kind}": functools.partial(theirs, model.model) for kind, model in models.items()
    } | {"ours": lambda: np.asarray(jax.block_until_ready(ours(params, x))[0])}


WORKLOADS = {
    "encode": (f"Tower, DTS, projector, {FRAMES} frames", encode),
    "prefill": (f"Decoder prefill, {POSITIONS} positions", prefill),
}


if __name__ == "__main__":
    main()

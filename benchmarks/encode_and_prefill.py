"""Seconds of encoding a video and of reading a prompt, ours beside the equivalent torch modules.

    python benchmarks/encode_and_prefill.py [--workload encode|prefill|product|all] [--rounds 3]

`encode` is tower, DTS, projector and pooling of 8 frames; `prefill` is 512 positions through the
decoder into a key/value cache and the logits of the last; `product` is the up projection of one
layer alone, the bare matrix product of either library; all in float32 on the CPU at the widths of
the 3B preset. Weights are made up, the same for everyone, and the outputs are compared. Each
measurement is a fresh process, so that one set of weights is in memory at a time (`prefill` needs
13 GiB), and the contestants take turns, so that a drifting machine is fair to all.
"""

import argparse
import dataclasses
import functools
import importlib
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

_ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(_ROOT), str(_ROOT / "tests")]

from vxlpro_jax.config import PRESETS, ModelConfig  # noqa: E402

WORKLOADS = ("encode", "prefill", "product")
CONTESTANTS = ("torch eager", "torch sdpa", "ours")
FRAMES, POSITIONS = 8, 512


class Measured(NamedTuple):
    """Attributes: `seconds` of each repeat; `first`, the warm-up; `output`, a few values."""

    seconds: list[float]
    first: float
    output: list[float]


def main() -> None:
    """Runs every contestant in turn and prints the table, or measures one (`--contestant`)."""
    args = parse_arguments()
    config = cut(PRESETS["3b"], layers=args.layers)
    if args.contestant:
        run = prepare(args.contestant, workload=args.workload, config=config)
        print(json.dumps(measure(run, repeats=args.repeats)._asdict()))
        return
    for workload in WORKLOADS if args.workload == "all" else (args.workload,):
        measured = take_turns(workload, args=args)
        print(table(workload, measured=measured, layers=args.layers), flush=True)


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--workload", choices=(*WORKLOADS, "all"), default="all")
    add("--rounds", type=int, default=3, help="processes of each contestant")
    add("--repeats", type=int, default=2, help="timed runs in a process, after a warm-up")
    add("--layers", type=int, help="at most this many layers of tower and decoder: a quick look")
    add("--contestant", choices=CONTESTANTS, help="measure this one here and print JSON")
    return parser.parse_args()


def cut(config: ModelConfig, *, layers: int | None) -> ModelConfig:
    """The model with at most `layers` layers; None keeps all."""
    if layers is None:
        return config

    def shallow(part):
        return dataclasses.replace(part, depth=min(part.depth, layers))

    return dataclasses.replace(
        config, vision=shallow(config.vision), decoder=shallow(config.decoder)
    )


def take_turns(workload: str, *, args: argparse.Namespace) -> dict[str, list[Measured]]:
    """`rounds` fresh processes of each contestant, in alternation."""
    measured = {contestant: [] for contestant in CONTESTANTS}
    for _ in range(args.rounds):
        for contestant, results in measured.items():
            command = [sys.executable, __file__, "--workload", workload]
            command += ["--contestant", contestant, "--repeats", str(args.repeats)]
            command += ["--layers", str(args.layers)] if args.layers else []
            done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
            results.append(Measured(**json.loads(done.stdout.splitlines()[-1])))
    return measured


def table(workload: str, *, measured: dict[str, list[Measured]], layers: int | None) -> str:
    """Markdown: the fastest and the median run of each contestant, and ours as a multiple of it."""
    seconds = {who: [s for m in results for s in m.seconds] for who, results in measured.items()}
    ours = min(seconds["ours"])
    reference = np.array(measured["torch eager"][0].output)
    title = {
        "encode": f"Tower, DTS, projector, {FRAMES} frames",
        "prefill": f"Decoder prefill, {POSITIONS} positions",
        "product": f"One up projection, {POSITIONS} positions",
    }[workload]
    lines = [
        f"\n{title}, full width, {f'{layers} layers' if layers else 'all layers'}, float32, CPU:\n",
        "| | fastest s | median s | first run s | ours / this | output differs by |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for who, runs in seconds.items():
        output = np.array(measured[who][0].output)
        off = np.abs(output - reference).max() / np.abs(reference).max()
        first = min(m.first for m in measured[who])
        lines.append(
            f"| {who} | {min(runs):.2f} | {statistics.median(runs):.2f} | {first:.2f} "
            f"| {ours / min(runs):.2f} | {off:.1e} |"
        )
    return "\n".join(lines)


def measure(run: Callable[[], np.ndarray], *, repeats: int) -> Measured:
    """Times `run`; its first call, which may compile, apart."""
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        output = run()
        times.append(time.perf_counter() - start)
    first, *seconds = times
    return Measured(seconds, first, output.ravel()[:64].tolist())


def prepare(contestant: str, *, workload: str, config: ModelConfig) -> Callable[[], np.ndarray]:
    """Weights in memory and everything else ready: what is returned is what is timed."""
    if contestant == "ours":
        ours = {"encode": _our_encode, "prefill": _our_prefill, "product": _our_product}
        return ours[workload](config)
    torch = {"encode": _torch_encode, "prefill": _torch_prefill, "product": _torch_product}
    return torch[workload](config, kind=contestant.split()[1])


def made_up(name: str, *, shape: tuple[int, ...]) -> np.ndarray:
    """float32 weights of a torch tensor: a fixed block of noise, repeated from a place that its
    name picks; around 1 for norm scales."""
    noise = _noise() * (0.02 if len(shape) > 1 else 0.1)
    weights = np.resize(np.roll(noise, sum(name.encode()) * 7919), shape)
    return weights + 1 if "norm" in name and name.endswith("weight") else weights


@functools.cache
def _noise():
    return np.random.default_rng(0).standard_normal(1_000_003, np.float32)


def _frames(config):
    size = config.vision.image_size
    return np.random.default_rng(1).integers(0, 256, (FRAMES, size, size, 3), np.uint8)


def _up(config):
    """[hidden width, width], torch's order."""
    return made_up("up_proj.weight", shape=(config.decoder.mlp_width, config.decoder.width))


def _embeddings(config):
    shape = (1, POSITIONS, config.decoder.width)
    return np.random.default_rng(2).standard_normal(shape, np.float32)


# ---- torch ---------------------------------------------------------------------------------------


def _torch_model(config, kind):
    """Nothing in memory yet."""
    torch = importlib.import_module("torch")
    reference = importlib.import_module("torch_reference")
    with torch.device("meta"):
        return reference.VideoXLPro(config, kind=kind)


def _fill(module, *, prefix):
    torch = importlib.import_module("torch")
    state = {
        name: torch.from_numpy(made_up(prefix + name, shape=tuple(tensor.shape)))
        for name, tensor in module.state_dict().items()
    }
    module.load_state_dict(state, assign=True)
    return module.eval()


def _torch_encode(config, *, kind):
    torch = importlib.import_module("torch")
    reference = importlib.import_module("torch_reference")
    model = _torch_model(config, kind)
    for part in ("vision_tower", "sae", "mm_projector"):
        _fill(getattr(model.model, part), prefix=f"model.{part}.")
    sample = reference.Sample(ids=[], frames=torch.from_numpy(_frames(config)))

    def run():
        with torch.inference_mode():
            projected = model.encode(sample)["projected"]
            grid = projected.transpose(1, 2).unflatten(-1, (24, 24))
            pooled = torch.nn.functional.avg_pool2d(grid, 2)
            return pooled.flatten(2).transpose(1, 2).contiguous().numpy()

    return run


def _torch_prefill(config, *, kind):
    torch = importlib.import_module("torch")
    model = _torch_model(config, kind)
    _fill(model.model.layers, prefix="model.layers.")
    _fill(model.model.norm, prefix="model.norm.")
    _fill(model.model.embed_tokens, prefix="model.embed_tokens.")
    embeddings = torch.from_numpy(_embeddings(config))

    def run():
        with torch.inference_mode():
            x = embeddings
            for layer in model.model.layers:
                x = layer(x)
            last = model.model.norm(x[:, -1])
            return torch.nn.functional.linear(last, model.model.embed_tokens.weight).numpy()

    return run


def _torch_product(config, *, kind):
    """The same for every kind of attention."""
    torch = importlib.import_module("torch")
    x, weight = torch.from_numpy(_embeddings(config)[0]), torch.from_numpy(_up(config))

    def run():
        with torch.inference_mode():
            return torch.nn.functional.linear(x, weight).numpy()

    return run


# ---- ours ----------------------------------------------------------------------------------------


def _our_leaves(config):
    """The same weights in our tree, not in memory yet."""
    mapping = importlib.import_module("checkpoints_convert.mapping")
    store = importlib.import_module("vxlpro_jax.param_store")
    tensors = {}
    for name, struct in mapping.torch_structs(mapping.param_shapes(config)).items():
        read = functools.partial(_rows, name, struct.shape)
        tensors[name] = store.LazyLeaf(
            shape=struct.shape, dtype=np.dtype(np.float32), rows=struct.shape[0], read=read
        )
    return mapping.to_params(tensors, config=config)


def _load(leaves):
    jax = importlib.import_module("jax")
    return jax.tree.map(lambda leaf: jax.device_put(leaf.whole()), leaves)


def _load_row(leaves, row):
    jax = importlib.import_module("jax")
    return jax.tree.map(lambda leaf: jax.device_put(leaf.read(row, row + 1)[0]), leaves)


def _rows(name, shape, start, stop):
    return made_up(name, shape=shape)[start:stop]


def _our_encode(config):
    jax = importlib.import_module("jax")
    jit = importlib.import_module("vxlpro_jax.jit").jit
    model = importlib.import_module("vxlpro_jax.models.video_xl_pro").VideoXLPro(config)
    leaves = _our_leaves(config)
    params = _load({part: leaves[part] for part in ("vision", "dts", "projector")})
    frames = jax.device_put(_frames(config).reshape(1, -1, 4, *_frames(config).shape[1:]))
    encode = jit(lambda params, frames: model.apply({"params": params}, frames, method="encode"))
    return lambda: np.asarray(encode(params, frames))[0]


def _our_prefill(config):
    jax = importlib.import_module("jax")
    jit = importlib.import_module("vxlpro_jax.jit").jit
    models = importlib.import_module("vxlpro_jax.models.qwen2")
    caches = importlib.import_module("vxlpro_jax.models.kv_cache")
    # As `vxlpro_jax.generate` holds them on a CPU.
    model = models.Qwen2(dataclasses.replace(config.decoder, scan_layers=False))
    leaves = _our_leaves(config)["decoder"]
    stacked = leaves.pop("layers")
    params = _load(leaves)
    params |= {f"layers_{row}": _load_row(stacked, row) for row in range(config.decoder.depth)}
    x = jax.device_put(_embeddings(config))

    @jit
    def prefill(params, x):
        def run(model, x):
            cache = caches.KVCache.empty(config.decoder, batch=1, slots=POSITIONS, dtype=x.dtype)
            hidden, cache = model.extend(x, cache)
            return model.logits(hidden[:, -1]), cache

        return model.apply({"params": params}, x, method=run)

    return lambda: np.asarray(jax.block_until_ready(prefill(params, x))[0])


def _our_product(config):
    """The result has features first, the faster order here and the one that `ops.swiglu` uses."""
    jax = importlib.import_module("jax")
    jit = importlib.import_module("vxlpro_jax.jit").jit
    x = jax.device_put(_embeddings(config)[0])
    kernel = jax.device_put(np.ascontiguousarray(_up(config).T))
    product = jit(lambda x, kernel: jax.numpy.einsum("md,df->fm", x, kernel))
    return lambda: np.asarray(jax.block_until_ready(product(x, kernel))).T


if __name__ == "__main__":
    main()

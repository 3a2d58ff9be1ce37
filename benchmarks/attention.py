"""Measures time and memory of the attention backends by length.

    python benchmarks/attention.py [--lengths 1024 4096 16384 131072] [--heads 2] [--width 64]
        [--topology v5e:2x2]

Measures causal attention of one row, the forward pass alone and with the backward pass. Every
backend that runs on this machine's devices is measured: memory is that of the compiled program
besides arguments and results, seconds are those of the fastest of several runs, and `differs by` is
the largest difference from `chunked` in float32, of the results or gradients, relative to their
largest value. `xla` is omitted where the logits would take more than 4 GiB. With `--topology` the
TPU kernel is compiled for TPUs that need not be present, and only its memory is measured.
"""

import argparse
import functools
import sys
import time
from pathlib import Path
from typing import NamedTuple

_ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(_ROOT))

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from vxlpro_jax.aot.topology import topology_devices
from vxlpro_jax.config.schema import MeshConfig
from vxlpro_jax.ops.attention.dispatch import attention
from vxlpro_jax.sharding.mesh import make_mesh

_MOST_LOGITS = 4 * 2**30
_BACKENDS = {"cpu": ("xla", "chunked"), "gpu": ("xla", "chunked", "cudnn"), "tpu": ("splash",)}


class Row(NamedTuple):
    """One line of the table; `seconds` is None if the backend was only compiled.

    `differs` is None in that case too, and for the backend that is the reference.
    """

    length: int
    backend: str
    what: str
    mib: float
    seconds: float | None
    differs: float | None


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--lengths", type=int, nargs="+", default=[1024, 4096, 16384, 131072])
    parser.add_argument("--heads", type=int, default=2, help="query heads; half as many key heads")
    parser.add_argument("--width", type=int, default=64, help="width of a head")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--topology", default="", help="TPUs to compile for, such as v5e:2x2")
    args = parser.parse_args()
    sizes = {"heads": args.heads, "width": args.width}
    print("| length | backend | what | memory MiB | seconds | differs by |\n" + "| --- " * 6 + "|")
    platform = "tpu" if args.topology else jax.default_backend()
    if args.topology:
        use_topology(args.topology)
    for length in args.lengths:
        for backend in _BACKENDS[platform]:
            if backend == "xla" and 4 * args.heads * length**2 > _MOST_LOGITS:
                continue
            for what in ("forward", "with backward"):
                rounds = 0 if args.topology else args.rounds
                row = measured(length, backend=backend, what=what, rounds=rounds, **sizes)
                cells = [row.length, row.backend, row.what, f"{row.mib:.0f}"]
                cells.append("" if row.seconds is None else f"{row.seconds:.3f}")
                cells.append("" if row.differs is None else f"{row.differs:.1e}")
                print(f"| {' | '.join(map(str, cells))} |", flush=True)


def use_topology(name: str) -> None:
    """Makes one device of the topology the mesh to compile for."""
    jax.set_mesh(make_mesh(MeshConfig(), devices=topology_devices(name)[:1]))


def measured(length: int, *, backend: str, what: str, rounds: int, heads: int, width: int) -> Row:
    """Compiles and, unless `rounds` is 0, runs one backend."""
    dtype = jnp.float32 if jax.default_backend() == "cpu" and rounds else jnp.bfloat16
    function = _function(what, backend=backend)
    shapes = [(1, length, n, width) for n in (heads, heads // 2, heads // 2)]
    compiled = jax.jit(function).lower(*(_struct(s, dtype, rounds) for s in shapes)).compile()
    memory = compiled.memory_analysis()
    assert memory is not None, "every backend reports its memory"
    mib = memory.temp_size_in_bytes / 2**20
    seconds = differs = None
    if rounds:
        keys = jax.random.split(jax.random.key(0), 3)
        arrays = [jax.random.normal(k, s, dtype) for k, s in zip(keys, shapes, strict=True)]
        seconds = min(_timed(compiled, arrays) for _ in range(rounds))
        if backend != "chunked" or dtype != jnp.float32:
            differs = _difference(compiled(*arrays), arrays, what=what)
    return Row(length, backend, what, mib, seconds, differs)


def _function(what, *, backend):
    attend = functools.partial(attention, causal=True, backend=backend)
    if what == "forward":
        return attend
    # The gradients of a plain sum would cancel.
    return jax.grad(lambda *x: (attend(*x).astype(jnp.float32) ** 2).sum(), argnums=(0, 1, 2))


def _difference(found, arrays, *, what):
    reference = jax.jit(_function(what, backend="chunked"))
    with jax.default_matmul_precision("highest"):
        expected = reference(*(x.astype(jnp.float32) for x in arrays))
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
    return max(float(abs(a.astype(b.dtype) - b).max() / abs(b).max()) for a, b in pairs)


def _struct(shape, dtype, rounds):
    mesh = jax.sharding.get_mesh()
    where = None if rounds else NamedSharding(mesh, PartitionSpec())
    return jax.ShapeDtypeStruct(shape, dtype, sharding=where)


def _timed(compiled, arrays):
    started = time.perf_counter()
    jax.block_until_ready(compiled(*arrays))
    return time.perf_counter() - started


if __name__ == "__main__":
    main()

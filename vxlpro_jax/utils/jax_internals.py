"""The one file that knows what JAX keeps private.

Where its store is, how it ends a process, and the sums that cuDNN's attention divides by.
"""

import contextlib
import ctypes
import signal
from collections.abc import Callable, Iterator
from typing import Protocol

import jax
import jax.numpy as jnp

from vxlpro_jax.utils.errors import InputError

try:
    from jax._src.distributed import global_state
except ImportError:
    global_state = None


class KeyValueStore(Protocol):
    """What the processes of a run tell each other; the coordination service in process 0 keeps it.

    Keys are paths. Every method raises `jax.errors.JaxRuntimeError` when it cannot be reached.
    """

    def key_value_set(self, key: str, value: str, allow_overwrite: bool = False) -> None:
        """Writes a value."""

    def key_value_dir_get(self, key: str) -> list[tuple[str, str]]:
        """Keys that begin with `key`, and their values."""

    def key_value_delete(self, key: str) -> None:
        """Removes a key."""

    def wait_at_barrier(self, barrier_id: str, timeout_in_ms: int) -> None:
        """Returns when every process has called this; raises after the timeout."""


def key_value_store() -> KeyValueStore:
    """The store of a process that `jax.distributed.initialize` has connected.

    Raises:
        InputError: this version of JAX has none, or elsewhere.
    """
    client = getattr(global_state, "client", None)
    methods = [name for name in vars(KeyValueStore) if not name.startswith("_")]
    if any(not hasattr(client, name) for name in methods):
        raise InputError(
            f"JAX {jax.__version__} keeps its coordination service where this version of"
            " vxlpro_jax does not look: run several processes with JAX 0.10."
        )
    return client


@contextlib.contextmanager
def before_abort(call: Callable[[], None]) -> Iterator[None]:
    """Within, calls `call` when JAX aborts this process, as it does when the service is gone.

    JAX aborts from a thread of its own, so that no exception and no Python signal handler comes to
    it: hence a handler of the C library, which may run in any thread. If `call` returns, the
    process is aborted as it would have been.
    """

    @ctypes.CFUNCTYPE(None, ctypes.c_int)
    def handler(number: int) -> None:
        call()

    set_handler = ctypes.CDLL(None).signal
    set_handler.restype, set_handler.argtypes = ctypes.c_void_p, (ctypes.c_int, ctypes.c_void_p)
    before = set_handler(signal.SIGABRT, handler)
    try:
        yield
    finally:
        set_handler(signal.SIGABRT, before)


def cudnn_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    is_causal: bool,
    kv_lengths: jax.Array | None,
) -> tuple[jax.Array, jax.Array]:
    """cuDNN's attention with the logarithm of its sums in float32.

    `jax.nn.dot_product_attention` rounds them to the type of q.

    Args:
        q: [B, T, N, H], bfloat16 or float16.
        k: [B, S, K, H].
        v: [B, S, K, H].
        is_causal: whether query t sees the keys 0 to t.
        kv_lengths: int32 [B], how many keys of a row count; None for all. Not with `is_causal`.

    Returns:
        [B, T, N, H] and float32 [B, T, N].
    """
    from jax._src.cudnn import fused_attention_stablehlo as cudnn

    mask, q_lengths = cudnn.MaskType.CAUSAL if is_causal else cudnn.MaskType.NO_MASK, None
    if kv_lengths is not None:
        mask = cudnn.MaskType.PADDING
        q_lengths = jnp.full(len(q), q.shape[1], jnp.int32)
    out, log_sum = cudnn.dot_product_attention(
        q,
        k,
        v,
        q_seqlen=q_lengths,
        kv_seqlen=kv_lengths,
        scale=q.shape[-1] ** -0.5,
        mask_type=mask,
        return_residual=True,
    )
    return out, log_sum.swapaxes(1, 2)

"""The only file that uses private names of JAX.

They give access to JAX's key-value store, to the moment before it aborts a process, and to the
log-sum-exp of cuDNN's attention.
"""

import contextlib
import ctypes
import signal
from collections.abc import Callable, Iterator
from typing import Any, Protocol, cast

import jax
import jax.numpy as jnp

from vxlpro_jax.utils.errors import InputError

try:
    from jax._src.distributed import global_state
except ImportError:
    global_state = None


class KeyValueStore(Protocol):
    """Values that the processes of a run share, stored by the coordination service in process 0.

    Keys are paths. Every method raises `jax.errors.JaxRuntimeError` if the service does not answer.
    """

    def key_value_set(self, key: str, value: str, allow_overwrite: bool = False) -> None:
        """Stores a value."""

    def key_value_dir_get(self, key: str) -> list[tuple[str, str]]:
        """Returns the keys that start with `key`, and their values."""
        ...

    def key_value_delete(self, key: str) -> None:
        """Removes a key."""

    def wait_at_barrier(self, barrier_id: str, timeout_in_ms: int) -> None:
        """Waits until every process has called this, or raises after the timeout."""


def key_value_store() -> KeyValueStore:
    """Returns the store of a process that `jax.distributed.initialize` has connected.

    Raises:
        InputError: this version of JAX has no such store, or has it elsewhere.
    """
    client = getattr(global_state, "client", None)
    methods = [name for name in vars(KeyValueStore) if not name.startswith("_")]
    if any(not hasattr(client, name) for name in methods):
        raise InputError(
            "This version of vxlpro_jax does not find the coordination service of JAX"
            f" {jax.__version__}: run several processes with JAX 0.10 to 0.12."
        )
    return cast(KeyValueStore, client)


@contextlib.contextmanager
def before_abort(call: Callable[[], None]) -> Iterator[None]:
    """Calls `call` if JAX aborts this process within the block because the service is gone.

    JAX aborts from its own thread, which neither raises an exception nor runs Python's signal
    handlers. Therefore a handler of the C library is installed, which runs in any thread. If `call`
    returns, the process is aborted.
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
    """Computes cuDNN's attention and the log-sum-exp of its logits in float32.

    `jax.nn.dot_product_attention` would round the log-sum-exp to q's dtype.

    Args:
        q: [B, T, N, H] queries, bfloat16 or float16.
        k: [B, S, K, H] keys.
        v: [B, S, K, H] values.
        is_causal: whether query t sees the keys 0 to t.
        kv_lengths: int32 [B], number of valid keys of each row; None for all. It cannot be combined
            with `is_causal`.

    Returns:
        Attention [B, T, N, H], and the log-sum-exp, float32 [B, T, N].
    """
    from jax._src.cudnn import fused_attention_stablehlo as cudnn

    mask, q_lengths = cudnn.MaskType.CAUSAL if is_causal else cudnn.MaskType.NO_MASK, None
    if kv_lengths is not None:
        mask = cudnn.MaskType.PADDING
        q_lengths = jnp.full(len(q), q.shape[1], jnp.int32)
    result: Any = cudnn.dot_product_attention(
        q,
        k,
        v,
        q_seqlen=q_lengths,
        kv_seqlen=kv_lengths,
        scale=q.shape[-1] ** -0.5,
        mask_type=mask,
        return_residual=True,
    )
    out, log_sum = result
    return out, log_sum.swapaxes(1, 2)

"""The one file that knows what JAX keeps private: where its store is, and how it ends a process."""

import contextlib
import ctypes
import signal
from collections.abc import Callable, Iterator
from typing import Protocol

import jax

from vxlpro_jax.config import InputError

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

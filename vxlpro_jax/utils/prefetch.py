"""Prepares items in a thread before they are used."""

import contextlib
import queue
import threading
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")
_POLL_SECONDS = 0.1


@contextlib.contextmanager
def prefetch(items: Iterable[T], *, count: int) -> Iterator[Iterator[T]]:
    """Yields an iterator over the items; a thread prepares up to `count` of them in advance.

    An error in the thread is raised in place of the item. Leaving the block early stops the thread
    at its next item.
    """
    ready: queue.Queue = queue.Queue(count)
    stopped = threading.Event()

    def put(entry) -> None:
        while not stopped.is_set():
            with contextlib.suppress(queue.Full):
                return ready.put(entry, timeout=_POLL_SECONDS)

    def work() -> None:
        try:
            for item in items:
                put((item, None))
                if stopped.is_set():
                    return
        except BaseException as error:
            put((None, error))
        else:
            put(None)

    def taken() -> Iterator[T]:
        while (entry := ready.get()) is not None:
            item, error = entry
            if error is not None:
                raise error
            yield item

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield taken()
    finally:
        stopped.set()
        thread.join()

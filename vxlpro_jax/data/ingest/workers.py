"""Processes that ingest works with: each is replaced when it dies or has too many open files.

A process that has used tensorflow-io's S3 client aborts when it ends in the normal way, and its
HTTP client never closes a socket. So workers are spawned, leave without clearing up, and retire.
"""

import collections
import contextlib
import multiprocessing
import multiprocessing.connection
import os
import queue
import signal
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple

from vxlpro_jax.data.sources.paths import redact_url
from vxlpro_jax.utils.errors import InputError

_MOST_OPEN_FILES = 400
_TRIES = 2

Tell = Callable[[int], None]
Work = Callable[[Any, Tell], Any]


class IngestError(Exception):
    """Ends the command with a sentence and code 1: started again, it continues."""


class Finished(NamedTuple):
    """Attributes: `index`, an item's position; `result`, what the work on it returned."""

    index: int
    result: Any


class BytesRead(NamedTuple):
    """Attributes: `bytes`, that a worker has read since it last told."""

    bytes: int


class Workers:
    """At most `size` processes; a context that ends them, whatever they are at."""

    def __init__(self, size: int):
        self._size = size
        self._processes: dict[Connection, BaseProcess] = {}
        self._idle: list[Connection] = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self._processes.values():
            process.kill()
        for process in self._processes.values():
            process.join()

    def run(self, work: Work, items: Iterable[Any]) -> Iterator[Finished | BytesRead]:
        """Calls `work(item, tell)` for each item, in no particular order.

        Raises:
            IngestError: an item ended two processes.
            Exception: an InputError or IngestError of `work`.
        """
        todo = collections.deque((index, item, 1) for index, item in enumerate(items))
        running = {}
        while todo or running:
            while todo and len(running) < self._size:
                pipe, task = self._ready(), todo.popleft()
                with contextlib.suppress(ConnectionError):  # It is gone, which is seen below.
                    pipe.send((work, task[1]))
                running[pipe] = task
            for pipe in multiprocessing.connection.wait(list(running)):
                index, item, tries = running[pipe]
                try:
                    message = pipe.recv()
                except (EOFError, ConnectionError):
                    del running[pipe]
                    self._bury(pipe, item=item, tries=tries)
                    todo.appendleft((index, item, tries + 1))
                    continue
                if isinstance(message, BytesRead):
                    yield message
                    continue
                del running[pipe]
                self._set_free(pipe, stays=message.stays)
                if message.error is not None:
                    raise message.error
                yield Finished(index, message.result)

    def results(self, work: Work, items: Iterable[Any]) -> list[Any]:
        """What `run` gives, in the order of the items."""
        done = [message for message in self.run(work, items) if isinstance(message, Finished)]
        return [message.result for message in sorted(done, key=lambda message: message.index)]

    def _ready(self) -> Connection:
        if self._idle:
            return self._idle.pop()
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs,), daemon=True)
        process.start()
        theirs.close()
        self._processes[ours] = process
        return ours

    def _set_free(self, pipe: Connection, *, stays: bool) -> None:
        if stays:
            self._idle.append(pipe)
        else:
            self._processes.pop(pipe).join()
            pipe.close()

    def _bury(self, pipe: Connection, *, item: Any, tries: int) -> None:
        process = self._processes.pop(pipe)
        process.join()
        pipe.close()
        if tries == _TRIES:
            raise IngestError(
                f"{redact_url(str(item))} ended {tries} processes, the last with code"
                f" {process.exitcode} (-9: out of memory?): take fewer --workers, or leave it out."
            )


class _Answer(NamedTuple):
    result: Any
    error: Exception | None
    stays: bool


def _serve(pipe: Connection) -> None:
    """Works on what comes through `pipe`; ends at once when the other side is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _allow_open_files()
    tasks = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(pipe, tasks), daemon=True).start()
    stays = True
    while stays:
        work, item = tasks.get()
        result, error = None, None
        try:
            result = work(item, lambda bytes: pipe.send(BytesRead(bytes)))
        except (InputError, IngestError) as failure:
            error = failure
        except Exception:
            error = IngestError(f"{redact_url(str(item))} failed:\n{traceback.format_exc()}")
        stays = len(os.listdir("/dev/fd")) < _MOST_OPEN_FILES
        pipe.send(_Answer(result, error, stays))
    os._exit(0)


def _receive(pipe: Connection, tasks: queue.SimpleQueue) -> None:
    with contextlib.suppress(EOFError, OSError):
        while True:
            tasks.put(pipe.recv())
    os._exit(1)


def _allow_open_files() -> None:
    import resource

    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # Some systems name a limit that they refuse.
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))

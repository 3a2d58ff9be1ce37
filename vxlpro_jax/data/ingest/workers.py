"""Worker processes of an ingest; each is replaced when it dies or has too many open files.

A process that has used tensorflow-io's S3 client aborts when it exits normally, and its HTTP client
never closes a socket. Therefore workers are spawned, exit without cleaning up, and are replaced
after a while.
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

from vxlpro_jax.data.errors import ProgramError
from vxlpro_jax.data.sources.paths import redact_url
from vxlpro_jax.utils.errors import Failure, InputError

_MOST_OPEN_FILES = 400
_MOST_ATTEMPTS = 2

ReportBytes = Callable[[int], None]
Work = Callable[[Any, ReportBytes], Any]


class IngestError(Failure):
    """An error that ends the command with exit code 1; the same command continues the ingest."""


class Finished(NamedTuple):
    """A message that an item is done: its `position`, and the `result` that `work` returned."""

    position: int
    result: Any


class BytesRead(NamedTuple):
    """A message that a worker has read this many `bytes` since its last message."""

    bytes: int


class Workers:
    """A pool of at most `size` processes, as a context manager that kills them when it ends."""

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
        """Calls `work(item, report_bytes)` for each item, in no particular order.

        Raises:
            IngestError: An item killed the process that worked on it, twice.
            InputError, OSError: `work` raised it.
            ProgramError: `work` raised anything else.
        """
        todo = collections.deque((index, item, 1) for index, item in enumerate(items))
        running = {}
        while todo or running:
            while todo and len(running) < self._size:
                pipe, task = self._idle_worker(), todo.popleft()
                with contextlib.suppress(ConnectionError):  # A dead worker is detected below.
                    pipe.send((work, task[1]))
                running[pipe] = task
            for pipe in _wait(list(running)):
                index, item, attempts = running[pipe]
                try:
                    message = pipe.recv()
                except (EOFError, ConnectionError):
                    del running[pipe]
                    self._discard(pipe, item=item, attempts=attempts)
                    todo.appendleft((index, item, attempts + 1))
                    continue
                if isinstance(message, BytesRead):
                    yield message
                    continue
                del running[pipe]
                self._release(pipe, stays=message.stays)
                if message.error is not None:
                    raise message.error
                yield Finished(index, message.result)

    def results(self, work: Work, items: Iterable[Any]) -> list[Any]:
        """Returns the results of `run`, in the order of the items."""
        done = [message for message in self.run(work, items) if isinstance(message, Finished)]
        return [message.result for message in sorted(done, key=lambda message: message.position)]

    def _idle_worker(self) -> Connection:
        if self._idle:
            return self._idle.pop()
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs,), daemon=True)
        process.start()
        theirs.close()
        self._processes[ours] = process
        return ours

    def _release(self, pipe: Connection, *, stays: bool) -> None:
        if stays:
            self._idle.append(pipe)
        else:
            self._processes.pop(pipe).join()
            pipe.close()

    def _discard(self, pipe: Connection, *, item: Any, attempts: int) -> None:
        process = self._processes.pop(pipe)
        process.join()
        pipe.close()
        if attempts == _MOST_ATTEMPTS:
            raise IngestError(
                f"{redact_url(str(item))} killed {attempts} processes, the last with exit code"
                f" {process.exitcode} (-9 may mean out of memory): use fewer --workers, or leave"
                " the shard out."
            )


def _wait(pipes: list[Connection]) -> list[Connection]:
    """Waits for messages and returns the pipes that have one."""
    ready = multiprocessing.connection.wait(pipes)
    return [pipe for pipe in pipes if pipe in ready]


class _Reply(NamedTuple):
    result: Any
    error: Exception | None
    stays: bool


def _serve(pipe: Connection) -> None:
    """Runs the tasks that arrive through `pipe`; exits at once when the parent is gone."""
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
        except (InputError, IngestError, OSError) as failure:
            error = failure
        except Exception:
            error = ProgramError(f"{redact_url(str(item))} failed:\n\n{traceback.format_exc()}")
        stays = len(os.listdir("/dev/fd")) < _MOST_OPEN_FILES
        pipe.send(_Reply(result, error, stays))
    os._exit(0)


def _receive(pipe: Connection, tasks: queue.SimpleQueue) -> None:
    with contextlib.suppress(EOFError, OSError):
        while True:
            tasks.put(pipe.recv())
    os._exit(1)


def _allow_open_files() -> None:
    import resource

    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # Some systems refuse the limit they report.
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))

"""Reads videos in separate processes, so that a hang or crash costs one file and not the run.

Shapes: F sampled frames, S side of a frame.
"""

import contextlib
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path
from typing import Any, Self

import numpy as np

from vxlpro_jax.data.errors import BadFile, ProgramError
from vxlpro_jax.data.video import worker
from vxlpro_jax.data.video.reader import DECODER_THREADS, Video
from vxlpro_jax.utils.errors import InputError

_START_LIMIT = 120.0  # Seconds; imports from a shared disk can be slow.
_END_LIMIT = 10.0
_TRIES = 2  # A process may also be killed because others use too much memory.


class DecoderPool:
    """Processes that read videos, one file at a time each.

    Several threads may read at once; each waits for a free process. Processes start on first use,
    and end with `close`, with the pool, or with this process, however it ends. A pickled pool
    starts its own processes where it is unpickled.
    """

    def __init__(self, count: int, *, time_limit: float, memory_limit: int | None = None):
        """Prepares a pool; no process starts yet.

        Args:
            count: largest number of processes, at least one; they share the CPU cores.
            time_limit: time limit per file in seconds.
            memory_limit: address space of a process in bytes; None for no limit.
        """
        if count < 1 or not time_limit > 0:
            raise InputError(
                f"A pool of {count} decoders with a time limit of {time_limit} s cannot read: give"
                " at least one decoder and a positive time limit."
            )
        self._settings = {"time_limit": time_limit, "memory_limit": memory_limit}
        self._count = count
        self._threads = max(1, min(DECODER_THREADS, (os.cpu_count() or 1) // count))
        self._free: queue.LifoQueue[_Process | None] = queue.LifoQueue()
        for _ in range(count):
            self._free.put(None)
        self._processes = _Processes()
        self._finalizer = weakref.finalize(self, _close, self._processes, self._free)

    def __reduce__(self):
        return _rebuilt, (self._count, self._settings)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def read(
        self, file: str | Path | bytes, *, max_frames: int, size: int, fps: float | None = None
    ) -> Video:
        """Reads a video as `video.read_video` does, from a path or from the bytes of a file.

        Raises:
            BadFile: as in `read_video`; `timeout` if reading exceeds the limit; `crashed` if the
                process that reads the file dies twice.
            InputError: as in `read_video`.
            ProgramError: the program is at fault, not the file.
            RuntimeError: the pool is closed, or processes cannot start.
        """
        content = file if isinstance(file, bytes) else b""
        path = None if isinstance(file, bytes) else os.path.abspath(file)
        name = path or "given as bytes"
        request = {
            "path": path,
            "max_frames": max_frames,
            "size": size,
            "fps": fps,
            "threads": self._threads,
        }
        death = ""
        for _ in range(_TRIES):
            try:
                return self._ask(request, content)
            except TimeoutError as error:
                raise BadFile(
                    f"Video {name} took longer than {self._settings['time_limit']:g} s, so its"
                    " decoder was killed: remove the file or raise data.seconds_per_file.",
                    kind="timeout",
                ) from error
            except _Died as error:
                death = str(error)
        raise BadFile(
            f"Video {name} crashed its decoder {_TRIES} times ({death}): remove the file.",
            kind="crashed",
        )

    def close(self) -> None:
        """Ends all processes; videos being read are abandoned."""
        self._finalizer()

    def _ask(self, request: dict[str, Any], content: bytes) -> Video:
        process = self._free.get()
        try:
            if process is None or not process.is_alive:
                self._processes.end(process)
                process = self._processes.start(memory_limit=self._settings["memory_limit"])
            return process.ask(request, content, time_limit=self._settings["time_limit"])
        except (_Died, RuntimeError):
            self._processes.check()
            raise
        finally:
            if process is not None and not process.is_at_rest:
                self._processes.end(process)
                process = None
            self._free.put(process)


def _rebuilt(count: int, settings: dict[str, Any]) -> DecoderPool:
    return DecoderPool(count, **settings)


def _close(processes: "_Processes", free: queue.LifoQueue) -> None:
    processes.kill_all()  # Threads waiting for one close its socket; idle ones are closed here.
    idle = []
    with contextlib.suppress(queue.Empty):
        while True:
            idle.append(free.get_nowait())
    for process in idle:
        processes.end(process)
        free.put(None)  # Tells a thread that waits for a process that the pool is closed.


class _Died(Exception):
    """A process ended before it answered."""


class _Processes:
    """The running processes; any thread may end them."""

    def __init__(self):
        self._running: set[_Process] = set()
        self._lock = threading.Lock()
        self._closed = False

    def check(self) -> None:
        if self._closed:
            raise RuntimeError("This DecoderPool is closed.")

    def start(self, *, memory_limit: int | None) -> "_Process":
        with self._lock:
            self.check()
            process = _Process(memory_limit=memory_limit)
            self._running.add(process)
            return process

    def end(self, process: "_Process | None") -> None:
        if process is not None:
            with self._lock:
                self._running.discard(process)
            process.end()

    def kill_all(self) -> None:
        """Kills all processes and prevents new ones."""
        with self._lock:
            self._closed = True
            running, self._running = self._running, set()
        for process in running:
            process.kill()


class _Process:
    """One process and the socket to it.

    Attributes:
        is_at_rest: whether it is waiting for a request.
    """

    def __init__(self, *, memory_limit: int | None):
        self._socket, theirs = socket.socketpair()
        arguments = f"{theirs.fileno()}, parent={os.getpid()}, memory_limit={memory_limit}"
        code = (
            f"import sys; sys.path[:] = {sys.path!r};"
            f"from vxlpro_jax.data.video.worker import serve; serve({arguments})"
        )
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", code],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},  # Decoding uses no BLAS.
            )
        self._is_ready = False
        self.is_at_rest = False

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, request: dict[str, Any], content: bytes, *, time_limit: float) -> Video:
        """Sends a request and returns the answer.

        Raises:
            BadFile: The file cannot be used.
            InputError: The request is not valid.
            ProgramError: The process failed for a reason other than the file.
            TimeoutError: There was no answer within the limit.
            _Died: The process ended before it answered.
        """
        self.is_at_rest = False
        try:
            if not self._is_ready:
                worker.receive(self._receiver(time.monotonic() + _START_LIMIT))
                self._is_ready = True
        except TimeoutError as error:
            raise RuntimeError(
                f"A decoder process did not start within {_START_LIMIT:g} s."
            ) from error
        except (EOFError, OSError) as error:
            raise RuntimeError(
                f"A decoder process did not start ({self._last_word()}): see its own message, if"
                " any, above."
            ) from error
        try:
            answer, frames = self._exchange(request, content, time.monotonic() + time_limit)
        except TimeoutError:
            raise
        except (EOFError, OSError, ValueError) as error:
            last_word = self._last_word()
            if (self._process.poll() or 0) > 0:  # It ended by an exception, not by a signal.
                raise ProgramError(
                    f"A decoder process failed ({last_word}): see its own message above."
                ) from error
            raise _Died(last_word) from error
        self.is_at_rest = True
        if "fault" in answer:
            raise ProgramError(
                f"A decoder process failed, but not because of its file:\n\n{answer['fault']}"
            )
        if "error" in answer:
            message, kind = answer["error"], answer["kind"]
            raise InputError(message) if kind is None else BadFile(message, kind=kind)
        assert frames is not None
        return Video(frames, np.array(answer["times"]))

    def kill(self) -> None:
        """Kills the process, even if it hangs."""
        self._process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_LIMIT)

    def end(self) -> None:
        """Kills the process and closes its socket, which no thread may be using then."""
        self.kill()
        self._socket.close()

    def _exchange(
        self, request: dict[str, Any], content: bytes, deadline: float
    ) -> tuple[dict[str, Any], np.ndarray | None]:
        self._socket.settimeout(_left(deadline))
        self._socket.sendall(worker.pack(request | {"bytes": len(content)}))
        self._socket.sendall(content)
        answer = worker.receive(self._receiver(deadline))
        if "shape" not in answer:
            return answer, None
        self._socket.settimeout(_left(deadline))
        return answer, worker.receive_frames(self._socket, answer["shape"])

    def _receiver(self, deadline: float) -> worker.ReceiveInto:
        def receive_into(view: memoryview) -> int:
            self._socket.settimeout(_left(deadline))
            return self._socket.recv_into(view)

        return receive_into

    def _last_word(self) -> str:
        try:
            code = self._process.wait(_END_LIMIT)
        except subprocess.TimeoutExpired:
            return "it closed its connection"
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def _left(deadline: float) -> float:
    """Returns the seconds until the deadline.

    Raises:
        TimeoutError: The deadline has passed.
    """
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left

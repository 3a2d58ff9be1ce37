"""The process that reads videos for `pool.DecoderPool`, and the protocol between the two.

A message is a JSON object preceded by its length; binary content that it announces follows. JSON
ensures that nothing from a process that a file may have corrupted is executed. This module does not
import JAX.
"""

import contextlib
import io
import json
import os
import signal
import socket
import struct
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from vxlpro_jax.data.errors import BadFile
from vxlpro_jax.data.video.reader import Video, read_video
from vxlpro_jax.utils.errors import InputError

_LENGTH = struct.Struct(">Q")
_POLL = 0.5  # Seconds.

ReceiveInto = Callable[[memoryview], int]


def pack(message: dict[str, Any]) -> bytes:
    """Serializes a message."""
    text = json.dumps(message).encode()
    return _LENGTH.pack(len(text)) + text


def receive(receive_into: ReceiveInto) -> dict[str, Any]:
    """Receives the next message.

    Args:
        receive_into: function that fills part of a buffer and returns the number of bytes.

    Raises:
        EOFError: The other side has closed the connection.
    """
    (length,) = _LENGTH.unpack(receive_bytes(receive_into, _LENGTH.size))
    return json.loads(receive_bytes(receive_into, length))


def receive_bytes(receive_into: ReceiveInto, count: int) -> bytearray:
    """Receives `count` bytes; raises as `receive` does."""
    buffer = bytearray(count)
    fill(memoryview(buffer), receive_into)
    return buffer


def fill(view: memoryview, receive_into: ReceiveInto) -> None:
    """Fills `view` with received bytes; raises as `receive` does."""
    while len(view):
        count = receive_into(view)
        if count == 0:
            raise EOFError
        view = view[count:]


def serve(descriptor: int, *, parent: int, memory_limit: int | None) -> None:
    """Answers requests on a socket until the process `parent` closes it or ends."""
    for interruption in (signal.SIGINT, signal.SIGTERM):
        signal.signal(interruption, signal.SIG_IGN)  # The parent gets it too, and decides.
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    if memory_limit is not None:
        _limit_memory(memory_limit)
    with socket.socket(fileno=descriptor) as connection, contextlib.suppress(EOFError, OSError):
        connection.sendall(pack({"ready": True}))
        while True:
            try:
                _serve_one(connection)
            except MemoryError:
                os.abort()  # The file is too large; the parent treats this as a crash.


def _serve_one(connection: socket.socket) -> None:
    request = receive(connection.recv_into)
    content = receive_bytes(connection.recv_into, request.pop("bytes"))
    answer, frames = _answer(content, **request)
    connection.sendall(pack(answer))
    if frames is not None:
        _send_frames(connection, frames)


def _send_frames(connection: socket.socket, frames: np.ndarray) -> None:
    """Sends frames in an unnamed file, because a socket would take ten times as long."""
    descriptor = os.memfd_create("frames") if hasattr(os, "memfd_create") else None
    with tempfile.TemporaryFile() if descriptor is None else open(descriptor, "wb") as file:
        file.write(frames.data.cast("B"))
        file.flush()
        socket.send_fds(connection, [b"."], [file.fileno()])


def receive_frames(connection: socket.socket, shape: Sequence[int]) -> np.ndarray:
    """Receives what `_send_frames` sends; raises as `receive` does."""
    _, descriptors, _, _ = socket.recv_fds(connection, 1, 1)
    if not descriptors:
        raise EOFError
    with open(descriptors[0], "rb", buffering=0) as file:
        frames = np.empty(shape, np.uint8)
        file.seek(0)
        fill(frames.data.cast("B"), file.readinto)
    return frames


def _answer(
    content: bytearray, *, path: str | None, **options: Any
) -> tuple[dict[str, Any], np.ndarray | None]:
    """Reads one file; returns the reply and, if any, the frames.

    Errors that are not about the file are faults of the program; the reply has their traceback.
    """
    try:
        video: Video = read_video(io.BytesIO(content) if path is None else path, **options)
    except BadFile as error:
        return {"error": str(error), "kind": error.kind}, None
    except InputError as error:
        return {"error": str(error), "kind": None}, None
    except Exception:
        return {"fault": traceback.format_exc()}, None
    return {"shape": video.frames.shape, "times": video.times.tolist()}, video.frames


def _end_with(parent: int) -> None:
    """Ends this process soon after its parent ends, whatever it is doing."""
    while os.getppid() == parent:
        time.sleep(_POLL)
    os._exit(1)


def _limit_memory(limit: int) -> None:
    import resource  # Not available on every system.

    _, most = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (limit, most))

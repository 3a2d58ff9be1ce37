"""Writes scalars in TensorBoard's file format, without TensorFlow, tensorboardX or torch.

A file is a sequence of TFRecords, each of which holds an `Event` protocol buffer:
https://github.com/tensorflow/tensorboard/blob/master/tensorboard/compat/proto/event.proto
"""

import os
import socket
import struct
import time
from collections.abc import Mapping
from pathlib import Path

_VERSION = "brain.Event:2"
_SESSION_START = 1
_CRC32C = 0x82F63B78  # Castagnoli's polynomial, bits reversed.
_MASK_DELTA = 0xA282EAD8


class EventFile:
    """A new file in `folder`; TensorBoard ignores events of earlier files from `purge_step` on."""

    def __init__(self, folder: Path, *, purge_step: int):
        """Creates the file, and the folder if need be."""
        folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}"
        self._file = (folder / name).open("xb")
        self._write(_bytes_field(3, _VERSION.encode()))
        if purge_step:
            self._write(
                _integer_field(2, purge_step), _bytes_field(7, _integer_field(1, _SESSION_START))
            )
        self.flush()

    def add_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Appends the scalars of a step, by name."""
        values = (_scalar(name, value) for name, value in scalars.items())
        summary = b"".join(_bytes_field(1, value) for value in values)
        self._write(_integer_field(2, step), _bytes_field(5, summary))

    def flush(self) -> None:
        """Flushes appended events to the operating system."""
        self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def _write(self, *fields: bytes) -> None:
        event = _key(1, wire_type=1) + struct.pack("<d", time.time()) + b"".join(fields)
        length = struct.pack("<Q", len(event))
        self._file.write(length + _masked_crc(length) + event + _masked_crc(event))


def _scalar(name: str, value: float) -> bytes:
    """Returns a `Summary.Value`: tag and float32."""
    return _bytes_field(1, name.encode()) + _key(2, wire_type=5) + struct.pack("<f", value)


def _integer_field(number: int, value: int) -> bytes:
    return _key(number, wire_type=0) + _varint(value)


def _bytes_field(number: int, content: bytes) -> bytes:
    return _key(number, wire_type=2) + _varint(len(content)) + content


def _key(number: int, *, wire_type: int) -> bytes:
    return _varint(number << 3 | wire_type)


def _varint(value: int) -> bytes:
    """Encodes seven bits per byte, the lowest first; the top bit means that more follow."""
    digits = bytearray()
    while value > 0x7F:
        digits.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*digits, value])


def _crc_table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (_CRC32C if byte & 1 else 0)
        table.append(byte)
    return tuple(table)


_CRC_TABLE = _crc_table()


def _masked_crc(content: bytes) -> bytes:
    crc = 0xFFFFFFFF
    for byte in content:
        crc = crc >> 8 ^ _CRC_TABLE[(crc ^ byte) & 0xFF]
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", ((crc >> 15 | crc << 17) + _MASK_DELTA) & 0xFFFFFFFF)

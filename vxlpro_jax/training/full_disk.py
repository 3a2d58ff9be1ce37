"""Recognises a disk that fills up while Orbax writes, which raises errors of several types."""

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from vxlpro_jax.utils.cli import full_disk
from vxlpro_jax.utils.files import FULL_DISK

_REASONS = tuple(map(os.strerror, FULL_DISK))


@contextlib.contextmanager
def full_disk_is_said(folder: Path) -> Iterator[None]:
    """Converts errors of a full disk in the enclosed Orbax calls, which write to `folder`.

    Raises:
        InputError: the disk was full.
    """
    logging.getLogger("absl").addFilter(_is_news)
    try:
        yield
    except (OSError, RuntimeError, ValueError) as error:
        if _is_full(error):
            raise full_disk(folder) from error
        raise


def _is_full(error: BaseException) -> bool:
    return any(reason in str(error) for reason in _REASONS)


def _is_news(record: logging.LogRecord) -> bool:
    """Drops the tracebacks of Orbax's threads, whose errors it raises again in the next call."""
    error = record.exc_info[1] if record.exc_info else None
    return error is None or not _is_full(error)

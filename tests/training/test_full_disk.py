"""Tests a disk that is full while a checkpoint is written."""

import errno
import logging
import os

import pytest

from vxlpro_jax.training.full_disk import full_disk_is_said
from vxlpro_jax.utils.errors import InputError

REASON = f"RESOURCE_EXHAUSTED: Error writing: {os.strerror(errno.ENOSPC)} [os_error_code='28']"


@pytest.mark.parametrize(
    "error", [OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)), ValueError(REASON)]
)
def test_a_full_disk_is_a_sentence_of_whatever_type_the_error_is(error, tmp_path):
    said = f"while writing {tmp_path}: free space"
    with pytest.raises(InputError, match=said), full_disk_is_said(tmp_path):
        raise error


@pytest.mark.parametrize("error", [ValueError("a bug"), PermissionError(1, "no"), KeyError("x")])
def test_other_errors_stay_what_they_are(error, tmp_path):
    with pytest.raises(type(error)), full_disk_is_said(tmp_path):
        raise error


def test_threads_do_not_print_a_traceback_of_it_as_well(tmp_path, caplog):
    log = logging.getLogger("absl")
    with full_disk_is_said(tmp_path):
        pass
    with caplog.at_level(logging.ERROR, logger="absl"):
        for message in (REASON, "a bug"):
            try:
                raise ValueError(message)
            except ValueError:
                log.exception("thread failed")
    assert [str(record.exc_info[1]) for record in caplog.records] == ["a bug"]

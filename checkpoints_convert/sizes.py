"""Parses numbers of bytes as written on a command line."""

import re

from vxlpro_jax.utils.errors import InputError

_UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def parse_size(text: str) -> int:
    """Returns the bytes in `5GB`, `200MB`, `1.5GiB` or a plain number.

    Raises:
        InputError: the text has another form.
    """
    match = re.fullmatch(r"([\d.]+)\s*([KMG]i?B)?", text.strip(), re.IGNORECASE)
    try:
        size = int(float(match[1]) * _UNITS.get((match[2] or "").upper(), 1)) if match else 0
    except ValueError:
        size = 0
    if size <= 0:
        raise InputError(f"--max_shard_size is {text!r}: write it like 5GB or 500MB.")
    return size

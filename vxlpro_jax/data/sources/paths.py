"""Paths and URLs of files and folders."""

import os
import re
from pathlib import Path, PurePosixPath, PureWindowsPath
from urllib.parse import urlsplit

from vxlpro_jax.utils.errors import InputError, short_repr

_BRACES = re.compile(r"\{([^{}]*)\}")
_MOST_CHARACTERS = 16_000_000  # Total length of all names that braces expand to.

SCHEMES = ("http", "https", "s3", "gs")


def is_remote(place: str) -> bool:
    """Returns whether a path is a URL.

    Raises:
        InputError: The URL's scheme is not supported.
    """
    scheme, mark, _ = place.partition("://")
    if mark and scheme not in SCHEMES:
        raise InputError(
            f"{redact_url(place)} cannot be opened: give a local path or a URL of"
            f" {', '.join(SCHEMES)}."
        )
    return bool(mark)


def escapes_root(name: str) -> bool:
    """Returns whether a relative path leaves its root folder or URL, not considering links."""
    posix = PurePosixPath(name)
    if posix.is_absolute() or ".." in posix.parts or "://" in name:
        return True
    if "\\" not in name and ":" not in name:
        return False
    windows = PureWindowsPath(name)
    return bool(windows.anchor) or ".." in windows.parts


def resolve_relative(file: str, name: str) -> str:
    """Resolves `name` against the folder of `file`; an absolute path or URL is unchanged."""
    if is_remote(name):
        return name
    if is_remote(file):
        return f"{folder_of(file)}/{name}"
    return str(Path(file).parent / os.path.expanduser(name))


def folder_of(file: str) -> str:
    """Returns the folder of a file."""
    if is_remote(file):
        return file.partition("?")[0].rpartition("/")[0]
    return str(Path(file).parent)


def has_wildcard(pattern: str) -> bool:
    """Returns whether a name contains `*`, `[` or (except in a web address) `?`."""
    return bool(re.search(r"[*[]" if is_web(pattern) else r"[*?[]", pattern))


def is_web(place: str) -> bool:
    """Returns whether a path is on a web server."""
    return place.startswith(("http://", "https://"))


INGEST_SCHEMES = ("http", "https", "s3", "gs", "az")


def redact_url(url: str) -> str:
    """Returns the URL without user and query, which may contain credentials."""
    scheme, mark, _ = url.partition("://")
    if not mark or scheme.lower() not in INGEST_SCHEMES:
        return url
    try:
        parts = urlsplit(url)
    except ValueError:  # An invalid address in brackets.
        return f"{scheme}://..."
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def expand_braces(pattern: str) -> list[str]:
    """Expands `{a,b}` and `{008..120}` in a pattern.

    Raises:
        InputError: Braces contain neither a list nor a range, or expand to too many names.
    """
    open_names, names, left = [pattern], [], _MOST_CHARACTERS
    while open_names:
        name = open_names.pop()
        match = _BRACES.search(name)
        if match is None:
            names.append(name)
            continue
        options = _options(match[1], pattern)
        left -= len(options) * len(name)
        if left < 0:
            raise _too_many(pattern)
        before, after = name[: match.start()], name[match.end() :]
        open_names += [f"{before}{option}{after}" for option in reversed(options)]
    return names


def _options(inside: str, pattern: str) -> list[str]:
    if ends := re.fullmatch(r"(\d{1,9})\.\.(\d{1,9})", inside, re.ASCII):
        width = len(ends[1]) if ends[1].startswith("0") else 0
        numbers = range(int(ends[1]), int(ends[2]) + 1)
        if len(numbers) * len(pattern) > _MOST_CHARACTERS:
            raise _too_many(pattern)
        if numbers:
            return [f"{i:0{width}d}" for i in numbers]
    elif "," in inside:
        return inside.split(",")
    raise InputError(
        f"Shards {short_repr(redact_url(pattern))}: braces hold a list {{a,b}} or a range"
        " {000..099}."
    )


def _too_many(pattern: str) -> InputError:
    return InputError(
        f"Data files {short_repr(redact_url(pattern))}: the braces make too many names: give fewer"
        " files."
    )

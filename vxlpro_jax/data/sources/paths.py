"""Paths and URLs of files and folders."""

import re
from pathlib import Path, PurePosixPath, PureWindowsPath
from urllib.parse import urlsplit

from vxlpro_jax.utils.errors import InputError

SCHEMES = ("http", "https", "s3", "gs")


def is_remote(place: str) -> bool:
    """Whether a place is a URL.

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
    """Whether a relative path leads out of its root folder or URL, not considering links."""
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
    return str(Path(file).parent / Path(name).expanduser())


def folder_of(file: str) -> str:
    """Returns the folder of a file."""
    if is_remote(file):
        return file.partition("?")[0].rpartition("/")[0]
    return str(Path(file).parent)


def has_wildcard(pattern: str) -> bool:
    """Whether a name contains `*`, `[` or (except in a web address) `?`."""
    return bool(re.search(r"[*[]" if is_web(pattern) else r"[*?[]", pattern))


def is_web(place: str) -> bool:
    """Whether a place is on a web server."""
    return place.startswith(("http://", "https://"))


INGEST_SCHEMES = ("http", "https", "s3", "gs", "az")


def redact_url(url: str) -> str:
    """Returns the URL without user and query, which may contain credentials."""
    parts = urlsplit(url)
    if parts.scheme not in INGEST_SCHEMES:
        return url
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def expand_braces(pattern: str) -> list[str]:
    """Expands `{a,b}` and `{008..120}` in a pattern.

    Raises:
        InputError: Braces contain neither a list nor a range.
    """
    match = re.search(r"\{([^{}]*)\}", pattern)
    if match is None:
        return [pattern]
    before, after = pattern[: match.start()], pattern[match.end() :]
    return [
        name for x in _options(match[1], pattern) for name in expand_braces(f"{before}{x}{after}")
    ]


def _options(inside: str, pattern: str) -> list[str]:
    if ends := re.fullmatch(r"(\d+)\.\.(\d+)", inside):
        width = len(ends[1]) if ends[1].startswith("0") else 0
        return [f"{i:0{width}d}" for i in range(int(ends[1]), int(ends[2]) + 1)]
    if "," not in inside:
        raise InputError(f"Shards {pattern}: braces hold a list {{a,b}} or a range {{000..099}}.")
    return inside.split(",")

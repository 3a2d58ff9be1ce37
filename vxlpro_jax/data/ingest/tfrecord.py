"""Reads TFRecord shards of tf.train.Example, local or remote, through tensorflow-io's filesystems.

tensorflow-io serves http, https, s3 and az; TensorFlow itself serves gs and local files. This is
the only module of the package that imports TensorFlow, and it does so only when something is read.
It runs in the environment of launch/ingest.sh, where JAX is not installed.
"""

import contextlib
import functools
import os
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from types import ModuleType
from typing import Any, NamedTuple

from vxlpro_jax.data.sources.arrayrecord_format import BadRecord
from vxlpro_jax.data.sources.paths import INGEST_SCHEMES, redact_url
from vxlpro_jax.utils.errors import InputError

FIELDS = ("id", "conversations", "video")

_FRAME_BYTES = 16  # Length and two checksums around each record of a TFRecord.
_HTTP_SECONDS = 60


class UnreachableShard(Exception):
    """A shard could not be read now; another attempt may succeed."""


class DamagedShard(Exception):
    """The rest of a shard cannot be read: a checksum does not match, or the end is missing."""


class SourceShard(NamedTuple):
    """A TFRecord file: `url` (or local path), and its size in `bytes`."""

    url: str
    bytes: int


class Example(NamedTuple):
    """One record of a shard.

    Attributes:
        fields: values of `FIELDS`, None where missing; or the reason why the record is invalid.
        bytes: size of the record in its shard.
    """

    fields: dict[str, Any] | BadRecord
    bytes: int


def find_shards(pattern: str) -> list[str]:
    """Returns the shards that a pattern without braces matches, in order.

    `*` works in every filesystem except HTTP.

    Raises:
        InputError: No shard matches, or the filesystem is not supported.
        UnreachableShard: The filesystem did not answer.
    """
    scheme = _scheme(pattern)
    if not re.search(r"[*?[]", pattern) or (scheme in ("http", "https") and "*" not in pattern):
        return [pattern]
    if scheme in ("http", "https"):
        raise InputError(
            f"Shards {redact_url(pattern)}: an HTTP server does not list its files, so name them by"
            " a brace pattern or in a file @LIST."
        )
    with _translated_errors(pattern):
        names = sorted(_tensorflow().io.gfile.glob(pattern))
    if not names:
        raise InputError(f"Shards {redact_url(pattern)}: no file matches.")
    return names


def shard_size(url: str) -> int:
    """Returns the size of a shard in bytes.

    Raises:
        InputError: The shard does not exist or access is denied, or its server does not support
            range requests.
        UnreachableShard: The filesystem did not answer.
    """
    if _scheme(url) in ("http", "https"):
        return _request_size(url).bytes
    with _translated_errors(url):
        return _tensorflow().io.gfile.stat(url).length


def read_examples(shard: SourceShard) -> Iterator[Example]:
    """Streams the examples of a shard.

    Raises:
        DamagedShard: The rest of the shard cannot be read.
        InputError: The shard does not exist or access is denied.
        UnreachableShard: The filesystem did not answer, or ended before the last byte.
    """
    url, size = shard
    place = _request_size(url).url if _scheme(url) in ("http", "https") else url
    # Every request of the HTTP filesystem leaves a socket open, so requests are few and large.
    buffer = min(max(size // 64, 8 << 20), 256 << 20)
    data = _tensorflow().data.TFRecordDataset(place, buffer_size=buffer)
    done = 0
    with _translated_errors(url):
        for raw in data.as_numpy_iterator():
            done += len(raw) + _FRAME_BYTES
            yield Example(_fields(raw), len(raw) + _FRAME_BYTES)
    if done != size:
        raise UnreachableShard(f"{redact_url(url)} ended after {done} of {size} bytes")


def _fields(raw: bytes) -> dict[str, Any] | BadRecord:
    from google.protobuf import message  # Comes with TensorFlow.

    try:
        features = _tensorflow().train.Example.FromString(raw).features.feature
    except message.DecodeError as error:
        return BadRecord("example", f"is no tf.train.Example ({error})")
    return {name: _value(features[name]) if name in features else None for name in FIELDS}


def _value(feature: Any) -> Any:
    """Returns the value of a feature; a list unless there is exactly one value."""
    kind = feature.WhichOneof("kind")
    values = list(getattr(feature, kind).value) if kind else []
    return values[0] if len(values) == 1 else values


class _Located(NamedTuple):
    url: str
    bytes: int


def _request_size(url: str) -> _Located:
    """Returns the final URL of a file after redirections, and its size.

    tensorflow-io follows no redirection, determines a size by reading the whole file, and reads a
    file's beginning repeatedly from a server that ignores ranges. Therefore this function handles
    all three cases.
    """
    request = urllib.request.Request(url, headers={"Range": "bytes=0-0"})
    try:
        with urllib.request.urlopen(request, timeout=_HTTP_SECONDS) as answer:
            range_header, place, code = (
                answer.headers.get("Content-Range", ""),
                answer.url,
                answer.status,
            )
    except urllib.error.HTTPError as error:
        range_header, place, code = error.headers.get("Content-Range", ""), error.url, error.code
        if code in (401, 403):
            raise InputError(
                f"{redact_url(url)} may not be read (HTTP {code}): check the URL."
            ) from None
        if code in (404, 410):
            raise InputError(
                f"{redact_url(url)} does not exist (HTTP {code}): check the URL."
            ) from None
        if code != 416:  # An empty file has no first byte.
            raise UnreachableShard(f"{redact_url(url)} answers HTTP {code}") from None
    except (OSError, ValueError) as error:
        raise UnreachableShard(f"{redact_url(url)}: {error}") from error
    size = re.fullmatch(r"bytes (?:0-0|\*)/(\d+)", range_header)
    if code not in (206, 416) or size is None:
        raise InputError(
            f"{redact_url(url)}: its server does not support HTTP range requests, which streaming"
            " needs: use another server, or copy the shards."
        )
    return _Located(place, int(size[1]))


def _scheme(url: str) -> str:
    scheme = url.partition("://")[0] if "://" in url else ""
    if scheme and scheme not in INGEST_SCHEMES:
        raise InputError(
            f"Shards {url}: {scheme} is not supported, use one of {', '.join(INGEST_SCHEMES)}."
        )
    return scheme


@contextlib.contextmanager
def _translated_errors(url: str) -> Iterator[None]:
    """Translates TensorFlow's errors."""
    errors = _tensorflow().errors
    try:
        yield
    except errors.DataLossError as error:
        where = re.search(r"(corrupted|truncated) record at \d+", str(error))
        raise DamagedShard(where[0] if where else _reason(error, url)) from error
    except errors.NotFoundError as error:
        raise InputError(f"{redact_url(url)} does not exist: check the name.") from error
    except (errors.PermissionDeniedError, errors.UnauthenticatedError) as error:
        raise InputError(
            f"{redact_url(url)} may not be read ({_reason(error, url)}): check the credentials."
        ) from error
    except errors.OpError as error:
        raise UnreachableShard(f"{redact_url(url)}: {_reason(error, url)}") from error


def _reason(error: Any, url: str) -> str:
    text = re.sub(r"\{\{.*?\}\}|\[Op:.*", "", str(error.message).replace(url, redact_url(url)))
    return (" ".join(text.split()) or type(error).__name__)[:200]


@functools.cache
def _tensorflow() -> ModuleType:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # Other S3 clients read the endpoint from these variables, tensorflow-io from S3_ENDPOINT.
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"):
        if name in os.environ:
            os.environ.setdefault("S3_ENDPOINT", os.environ[name])
    try:
        import tensorflow  # pyright: ignore[reportMissingModuleSource]
        import tensorflow_io  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise InputError(
            f"tensorflow-io cannot be loaded here ({error}): run `bash launch/ingest.sh` instead."
        ) from error
    return tensorflow

"""TFRecord shards of tf.train.Example, near or far, through tensorflow-io's filesystems.

tensorflow-io serves http, https, s3 and az, TensorFlow itself gs and local files. This is the only
file of the package that imports TensorFlow, and it does so when something is read: it works in the
environment of launch/ingest.sh, where JAX is not installed.
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


class Unreachable(Exception):
    """A shard could not be read now; trying again may help."""


class Damage(Exception):
    """A shard cannot be read any further: its checksums do not fit, or its end is missing."""


class SourceShard(NamedTuple):
    """A file of records: `url`, or a local path, and its size in `bytes`."""

    url: str
    bytes: int


class Example(NamedTuple):
    """Attributes.

    fields: the values of `FIELDS`, None where missing, or why the record is no example.
    bytes: that it takes in its shard.
    """

    fields: dict[str, Any] | BadRecord
    bytes: int


def find_shards(pattern: str) -> list[str]:
    """The shards that a pattern without braces names, in order; `*` matches in all but http.

    Raises:
        InputError: none, or a filesystem that is not served.
        Unreachable: the filesystem did not answer.
    """
    scheme = _scheme(pattern)
    if not re.search(r"[*?[]", pattern) or (scheme in ("http", "https") and "*" not in pattern):
        return [pattern]
    if scheme in ("http", "https"):
        raise InputError(
            f"Shards {redact_url(pattern)}: an HTTP server does not list its files, so name them by"
            " a brace pattern or in a file @LIST."
        )
    with _told(pattern):
        names = sorted(_tensorflow().io.gfile.glob(pattern))
    if not names:
        raise InputError(f"Shards {redact_url(pattern)}: no file matches.")
    return names


def shard_size(url: str) -> int:
    """The bytes that a shard has.

    Raises:
        InputError: there is no such shard, it may not be read, or its server serves no ranges.
        Unreachable: it did not answer.
    """
    if _scheme(url) in ("http", "https"):
        return _ask(url).bytes
    with _told(url):
        return _tensorflow().io.gfile.stat(url).length


def read_examples(shard: SourceShard) -> Iterator[Example]:
    """The examples of a shard, streamed.

    Raises:
        Damage: what follows cannot be read.
        InputError: there is no such shard, or it may not be read.
        Unreachable: it did not answer, or not with all of its bytes.
    """
    url, size = shard
    place = _ask(url).url if _scheme(url) in ("http", "https") else url
    # Every request of the HTTP filesystem leaves sockets open, so there are not many of them.
    buffer = min(max(size // 64, 8 << 20), 256 << 20)
    data = _tensorflow().data.TFRecordDataset(place, buffer_size=buffer)
    done = 0
    with _told(url):
        for raw in data.as_numpy_iterator():
            done += len(raw) + _FRAME_BYTES
            yield Example(_fields(raw), len(raw) + _FRAME_BYTES)
    if done != size:
        raise Unreachable(f"{redact_url(url)} ended after {done} of {size} bytes")


def _fields(raw: bytes) -> dict[str, Any] | BadRecord:
    from google.protobuf import message  # Comes with TensorFlow.

    try:
        features = _tensorflow().train.Example.FromString(raw).features.feature
    except message.DecodeError as error:
        return BadRecord("example", f"is no tf.train.Example ({error})")
    return {name: _value(features[name]) if name in features else None for name in FIELDS}


def _value(feature: Any) -> Any:
    """The one value of a feature; all of them if there are several, or none."""
    kind = feature.WhichOneof("kind")
    values = list(getattr(feature, kind).value) if kind else []
    return values[0] if len(values) == 1 else values


class _Answer(NamedTuple):
    url: str
    bytes: int


def _ask(url: str) -> _Answer:
    """Where a server keeps a file in the end, and its size.

    tensorflow-io follows no redirection, learns a size by reading the whole file, and reads the
    file's beginning again and again from a server that ignores ranges. So they are asked for here.
    """
    request = urllib.request.Request(url, headers={"Range": "bytes=0-0"})
    try:
        with urllib.request.urlopen(request, timeout=_HTTP_SECONDS) as answer:
            told, place, code = answer.headers.get("Content-Range", ""), answer.url, answer.status
    except urllib.error.HTTPError as error:
        told, place, code = error.headers.get("Content-Range", ""), error.url, error.code
        if code in (401, 403):
            raise InputError(
                f"{redact_url(url)} may not be read (HTTP {code}): check the URL."
            ) from None
        if code in (404, 410):
            raise InputError(
                f"{redact_url(url)} does not exist (HTTP {code}): check the URL."
            ) from None
        if code != 416:  # An empty file has no first byte.
            raise Unreachable(f"{redact_url(url)} answers HTTP {code}") from None
    except (OSError, ValueError) as error:
        raise Unreachable(f"{redact_url(url)}: {error}") from error
    size = re.fullmatch(r"bytes (?:0-0|\*)/(\d+)", told)
    if code not in (206, 416) or size is None:
        raise InputError(
            f"{redact_url(url)}: its server does not serve parts of a file (HTTP range requests),"
            " which streaming needs: take another server, or copy the shards."
        )
    return _Answer(place, int(size[1]))


def _scheme(url: str) -> str:
    scheme = url.partition("://")[0] if "://" in url else ""
    if scheme and scheme not in INGEST_SCHEMES:
        raise InputError(f"Shards {url}: {scheme} is not served, only {', '.join(INGEST_SCHEMES)}.")
    return scheme


@contextlib.contextmanager
def _told(url: str) -> Iterator[None]:
    """Turns TensorFlow's errors into ours."""
    errors = _tensorflow().errors
    try:
        yield
    except errors.DataLossError as error:
        where = re.search(r"(corrupted|truncated) record at \d+", str(error))
        raise Damage(where[0] if where else _reason(error, url)) from error
    except errors.NotFoundError as error:
        raise InputError(f"{redact_url(url)} does not exist: check the name.") from error
    except (errors.PermissionDeniedError, errors.UnauthenticatedError) as error:
        raise InputError(
            f"{redact_url(url)} may not be read ({_reason(error, url)}): check the credentials."
        ) from error
    except errors.OpError as error:
        raise Unreachable(f"{redact_url(url)}: {_reason(error, url)}") from error


def _reason(error: Any, url: str) -> str:
    text = re.sub(r"\{\{.*?\}\}|\[Op:.*", "", str(error.message).replace(url, redact_url(url)))
    return (" ".join(text.split()) or type(error).__name__)[:200]


@functools.cache
def _tensorflow() -> ModuleType:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # tensorflow-io has a name of its own for what other S3 clients call so.
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"):
        if name in os.environ:
            os.environ.setdefault("S3_ENDPOINT", os.environ[name])
    try:
        import tensorflow
        import tensorflow_io  # noqa: F401  It registers the filesystems.
    except ImportError as error:
        raise InputError(
            f"tensorflow-io cannot be loaded here ({error}): start `bash launch/ingest.sh`."
        ) from error
    return tensorflow

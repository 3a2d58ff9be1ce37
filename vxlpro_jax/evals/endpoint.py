"""Exchanges one request and reply with an HTTP server that may misbehave.

The request goes only to the address that the user named: redirects are not followed, and of the
proxies named in the environment only a tunnel for https is used, where nobody else can read the
request. Time and size of the whole exchange are limited.
"""

import contextlib
import http.client
import io
import json
import socket
import ssl
import threading
import urllib.request
from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit

from vxlpro_jax.utils.errors import InputError

_MOST_BYTES = 4 << 20  # Largest size of a reply.
_PATH_CHARACTERS = "/%:@!$&'()*+,;=~?"


class ExchangeError(Exception):
    """The reason why an exchange failed; it contains no text from the server."""


class Reply(NamedTuple):
    """A reply of a server: HTTP status code and body."""

    status: int
    body: bytes


class _BoundedStream(io.RawIOBase):
    """The bytes of a connection; raises ExchangeError after `_MOST_BYTES` bytes."""

    def __init__(self, stream: io.BufferedIOBase):
        super().__init__()
        self._stream, self._left = stream, _MOST_BYTES

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._stream.read1(len(buffer))
        self._left -= len(data)
        if self._left < 0:
            raise ExchangeError(f"its reply has more than {_MOST_BYTES >> 20} MiB")
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._stream.close()
        super().close()


class _BoundedResponse(http.client.HTTPResponse):
    """A response that limits all bytes from the server, whatever sizes its headers and chunks give.

    Python's own class reads without end for a chunk of -1 bytes.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.fp = io.BufferedReader(_BoundedStream(self.fp))


class Endpoint(NamedTuple):
    """An address to which requests are sent.

    Attributes:
        is_https: whether exchanges are encrypted.
        host: name or address of the server.
        port: port number.
        target: path and query.
    """

    is_https: bool
    host: str
    port: int
    target: str

    @classmethod
    def parse(cls, url: str, *, path: str, flag: str) -> "Endpoint":
        """Parses an address.

        Args:
            url: address of a service.
            path: path below the address to which requests go, unless the address ends with it.
            flag: name of the option that gives the address, for messages.

        Raises:
            InputError: The address is not an HTTP address, or has a user name or password.
        """
        wrong = InputError(f"{flag} is not an HTTP address: give one such as http://host:80/v1.")
        try:
            parts = urlsplit(url)
            host, port = parts.hostname or "", parts.port
            host.encode("idna")
        except ValueError as error:
            raise wrong from error
        if parts.username is not None or parts.password is not None:
            raise InputError(f"{flag} holds a user name or password: give the key apart from it.")
        if parts.scheme not in ("http", "https") or not host:
            raise wrong
        if " " in url or not url.isprintable():  # `urlsplit` removes some of these.
            raise wrong
        base = parts.path.rstrip("/").removesuffix(f"/{path}")
        target = quote(f"{base}/{path}", safe=_PATH_CHARACTERS)
        if parts.query:
            target += f"?{quote(parts.query, safe=_PATH_CHARACTERS)}"
        is_https = parts.scheme == "https"
        return cls(is_https, host, port or (443 if is_https else 80), target)

    def __str__(self):
        """Returns the address without its query, which may contain a key."""
        shown = f"http{'s' if self.is_https else ''}://{self.host}:{self.port}{self.target}"
        return shown.partition("?")[0][:200]

    def connection(self, *, seconds: float) -> http.client.HTTPConnection:
        """Returns an unopened connection with a time limit for each step."""
        connection = self._connection(seconds=seconds)
        connection.response_class = _BoundedResponse
        return connection

    def _connection(self, *, seconds: float) -> http.client.HTTPConnection:
        if not self.is_https:
            return http.client.HTTPConnection(self.host, self.port, timeout=seconds)
        context = ssl.create_default_context()
        proxy = _https_proxy(self.host)
        server = (self.host, self.port)
        tunnel = http.client.HTTPSConnection(*(proxy or server), timeout=seconds, context=context)
        if proxy:
            tunnel.set_tunnel(*server)
        return tunnel


def _https_proxy(host: str) -> tuple[str, int] | None:
    """Returns host and port of the environment's https proxy for a host, if any."""
    named = urllib.request.getproxies().get("https", "")
    if not named or urllib.request.proxy_bypass(host):
        return None
    try:
        parts = urlsplit(named if "://" in named else f"http://{named}")
        found = (parts.hostname or "", parts.port or 80)
    except ValueError as error:
        raise InputError("https_proxy is not an address: correct or unset it.") from error
    return found


def post_json(
    endpoint: Endpoint, content: Any, *, headers: Mapping[str, str], seconds: float
) -> Reply:
    """Sends JSON and returns the reply, whatever its status.

    Args:
        endpoint: address of the server.
        content: JSON value to send.
        headers: further headers by name.
        seconds: time limit of the whole exchange, from name resolution to the end of the reply.

    Raises:
        ExchangeError: The reply is not complete within the limits, or is not HTTP.
    """
    connection = endpoint.connection(seconds=seconds)
    reply: Future[Reply] = Future()
    sent = {"Content-Type": "application/json", "User-Agent": "vxlpro_jax", **headers}
    body = json.dumps(content).encode()

    def exchange() -> None:
        try:
            with contextlib.closing(connection):
                connection.request("POST", endpoint.target, body, sent)
                response = connection.getresponse()
                reply.set_result(Reply(response.status, response.read(_MOST_BYTES + 1)))
        except BaseException as error:  # It is raised again below.
            reply.set_exception(error)

    # A server can delay each step, even one without a time limit, so this thread does not wait.
    threading.Thread(target=exchange, daemon=True).start()
    try:
        return reply.result(timeout=seconds)
    except TimeoutError as error:
        raise ExchangeError(f"no complete reply within {seconds:g} s") from error
    # Python's client lets a ValueError pass for invalid chunk sizes.
    except (http.client.HTTPException, ValueError) as error:
        raise ExchangeError(f"its reply is not complete HTTP, {type(error).__name__}") from error
    except OSError as error:
        raise ExchangeError(_reason(error)) from error
    finally:
        _cut(connection)


def _reason(error: OSError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not valid: {error.verify_message}"
    return error.strerror or type(error).__name__


def _cut(connection: http.client.HTTPConnection) -> None:
    """Ends an exchange that is still running in its thread."""
    open_socket: socket.socket | None = connection.sock
    if open_socket is not None:
        with contextlib.suppress(OSError):
            open_socket.shutdown(socket.SHUT_RDWR)

"""Runs real servers on loopback: files over HTTP, and S3."""

import contextlib
import http.server
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from helpers import free_port


class _Files(http.server.SimpleHTTPRequestHandler):
    """Serves a folder, with range requests if `ranges` is set; `asked` lists the requests.

    Paths under `/moved` are redirected, and paths with `secret` are refused.
    """

    protocol_version = "HTTP/1.1"
    ranges = True
    delay = 0.0
    failing = 0
    asked: list[str]

    def do_HEAD(self):
        self._answer()

    def do_GET(self):
        self._answer()

    def _answer(self):
        time.sleep(self.delay)
        asked = self.headers["Range"] or ""
        self.asked.append(f"{self.command} {self.path} {asked}".strip())
        if type(self).failing > 0:
            type(self).failing -= 1
            return self.send_error(503)
        if self.path.startswith("/moved/"):
            return self._reply(302, {"Location": self.path.removeprefix("/moved")})
        file = Path(self.translate_path(self.path))
        if "secret" in self.path or not file.is_file():
            return self.send_error(403 if "secret" in self.path else 404)
        data, part = file.read_bytes(), re.fullmatch(r"bytes=(\d+)-(\d*)", asked)
        headers = {"Accept-Ranges": "bytes" if self.ranges else "none"}
        if not part or not self.ranges:
            return self._reply(200, headers, data)
        first, last = int(part[1]), min(int(part[2] or len(data)), len(data) - 1)
        if first > last:
            return self._reply(416, {"Content-Range": f"bytes */{len(data)}"})
        headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
        return self._reply(206, headers, data[first : last + 1])

    def _reply(self, code: int, headers: dict[str, str], body: bytes = b""):
        self.send_response(code)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def http_files(
    folder: Path, *, ranges: bool = True, delay: float = 0.0, failing: int = 0
) -> Iterator[tuple[str, list[str]]]:
    """Yields the URL of a server of `folder`, and the list of its requests.

    Each answer is delayed by `delay` seconds, and the first `failing` answers are HTTP 503.
    """
    asked: list[str] = []
    attributes = {"ranges": ranges, "delay": delay, "failing": failing, "asked": asked}
    handler = type("Handler", (_Files,), attributes)
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), lambda *arguments: handler(*arguments, directory=str(folder))
    )
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextlib.contextmanager
def s3_server() -> Iterator[str]:
    """Yields the address of an S3 server without buckets."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(600):
            assert server.poll() is None, "moto's server does not start: pip install -e '.[test]'"
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port), timeout=5).close()
                break
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.kill()
        server.wait()


def put(url: str, data: bytes) -> None:
    """Stores an object, or creates the bucket that `url` names."""
    headers = {"Content-Type": "application/octet-stream"}  # urllib would declare a form.
    request = urllib.request.Request(url, data, headers, method="PUT")
    urllib.request.urlopen(request, timeout=30).close()

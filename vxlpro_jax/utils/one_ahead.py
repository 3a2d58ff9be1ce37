"""Work in a second thread that is at most one call ahead."""

from collections.abc import Callable
from concurrent import futures
from typing import Any, Self


class OneAhead:
    """Runs calls one after another in a second thread, at most one of them unfinished.

    At the end of the `with` block all calls have ended. An exception of a call is raised by the
    next `run`, or at the end.
    """

    def __enter__(self) -> Self:
        """Starts the thread."""
        self._thread = futures.ThreadPoolExecutor(max_workers=1)
        self._last: futures.Future | None = None
        return self

    def run(self, function: Callable[..., Any], *args: Any) -> None:
        """Waits for the last call, and starts `function(*args)`."""
        self._wait()
        self._last = self._thread.submit(function, *args)

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        """Waits for the last call."""
        self._thread.shutdown()
        if kind is None:
            self._wait()

    def _wait(self) -> None:
        if self._last:
            self._last.result()

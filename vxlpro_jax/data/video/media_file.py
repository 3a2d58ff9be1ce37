"""One video or picture: a path, or a seekable binary file object."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple

from av.error import ExitError, FFmpegError
from PIL import Image

from vxlpro_jax.data.errors import BadFile, FaultKind
from vxlpro_jax.utils.errors import InputError

MOST_FRAMES = 20_000_000  # A week at 30 frames per second.

_LONGEST = 300  # Characters of a message, without the name of the file.

_TOO_MANY = "too many pixels to decode safely: make it smaller or remove it"


class MediaFile(NamedTuple):
    """A file to read; errors about it are `BadFile`s that name it."""

    what: Literal["Video", "Picture"]
    file: str | Path | BinaryIO

    @property
    def path(self) -> Path | None:
        """Path of the file; None for a file object."""
        return Path(self.file) if isinstance(self.file, str | os.PathLike) else None

    @property
    def stream(self) -> BinaryIO:
        """The file object; only valid if the file is not given by path."""
        assert not isinstance(self.file, str | os.PathLike)
        return self.file

    @property
    def name(self) -> str:
        """Path, or the name of a file object if it has one."""
        name = self.path or getattr(self.file, "name", "")
        return str(name) if isinstance(name, str | Path) and str(name) else "given as bytes"

    def check(self) -> None:
        """Checks the file without reading it.

        Raises:
            BadFile: The file is missing, not a regular file, or empty.
        """
        if self.path is None:
            size = self.stream.seek(0, os.SEEK_END)
        elif os.path.isfile(self.path):  # False, not an error, for a name of any length.
            size = os.path.getsize(self.path)
        else:
            raise self.bad("does not exist: check the path", kind="missing")
        if size == 0:
            raise self.bad("is empty: replace or remove the file", kind="empty")

    @contextlib.contextmanager
    def opened(self) -> Iterator[BinaryIO]:
        """Opens the file at its first byte; a file object stays open afterwards."""
        if self.path is None:
            self.stream.seek(0)
            yield self.stream
        else:
            with self.path.open("rb") as file:
                yield file

    @contextlib.contextmanager
    def reading(self, *faults: type[Exception]) -> Iterator[None]:
        """Converts errors that libraries raise about a file to a `BadFile`.

        Mistakes of this program, or calls that a library no longer accepts, raise other errors
        (TypeError, AttributeError, ...), which pass through.

        Args:
            faults: errors that a parser raises for a malformed file, besides those of FFmpeg and
                the system and those for lack of memory. General errors such as ValueError should
                only enclose the call of a library.
        """
        try:
            yield
        except InputError:
            raise
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise self.bad(f"has {_TOO_MANY}", kind="too_large") from error
        except MemoryError as error:
            raise self.bad(
                "needs more memory than is available: remove it", kind="too_large"
            ) from error
        except ExitError as error:  # From an interrupt that `containers` asks for.
            raise self.bad(
                "makes FFmpeg search endlessly: remove it, or copy it to a faster disk",
                kind="timeout",
            ) from error
        except (OSError, FFmpegError, *faults) as error:
            if isinstance(error, OSError) and error.errno:
                raise self.bad(
                    f"cannot be read ({error.strerror}): check rights, disk and network",
                    kind="unreadable",
                ) from error
            reason = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
            raise self.bad(
                f"cannot be read: it is damaged, cut off or not a {self.what.lower()} ({reason}):"
                " replace or remove the file",
                kind="damaged",
            ) from error

    def check_pixels(self, width: int, height: int, *, most: int) -> None:
        """Refuses a picture that is too large.

        Raises:
            BadFile: The picture has more than `most` pixels.
        """
        if width * height > most:
            raise self.bad(
                f"is {width} x {height} pixels, more than {most // 1_000_000} million, {_TOO_MANY}",
                kind="too_large",
            )

    def check_frames(self, count: int) -> None:
        """Refuses a file with so many frames that their times alone would fill the memory.

        Raises:
            BadFile: There are more than `MOST_FRAMES`.
        """
        if count > MOST_FRAMES:
            raise self.bad(
                f"has more than {MOST_FRAMES // 1_000_000} million frames: split it",
                kind="too_large",
            )

    def bad(self, message: str, *, kind: FaultKind) -> BadFile:
        """Makes the error to raise; shortens a long message, which quotes the file itself."""
        if len(message) > _LONGEST:
            half = _LONGEST // 2
            message = f"{message[:half]} ... {message[-half:]}"
        return BadFile(f"{self.what} {self.name} {message}.", kind=kind)

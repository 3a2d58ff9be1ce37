"""The zip archive that `torch.save` writes: a pickle, and a member for every storage."""

import contextlib
import struct
import sys
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from vxlpro_jax.utils.errors import InputError

_PICKLE = "data.pkl"
# A pickle of 8 MiB names about 50,000 tensors.
_LONGEST_PICKLE = 8 * 2**20
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ENCRYPTED = 1
_READ_AT_ONCE = 2**20
# Errors that `zipfile` documents, and errors that it passes on for numbers out of range.
_ZIP_ERRORS = (
    *(zipfile.BadZipFile, NotImplementedError, zlib.error, EOFError),
    *(ValueError, OverflowError, struct.error, OSError),
)


@contextlib.contextmanager
def _reading(file: Path) -> Iterator[None]:
    """Converts errors of `zipfile` on a damaged archive to an `InputError`."""
    try:
        yield
    except _ZIP_ERRORS as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise _damaged(file, reason) from error


def _damaged(file: Path, reason: str) -> InputError:
    return InputError(
        f"{file} is damaged, or was written without checksums ({reason}): download it again, or"
        " load it and `torch.save` it again."
    )


class Archive:
    """An open archive; only its list of members and its pickle are read.

    Attributes:
        file: path of the archive.
        pickle: content of `data.pkl`.
        is_swapped: whether the byte order of its numbers differs from this machine's.
    """

    def __init__(self, file: Path):
        """Opens a file.

        Raises:
            InputError: the file is damaged or in the format before torch 1.6.
        """
        self.file = file
        self._zip = _open(file)
        self._members = _by_name(file, self._zip)
        self._opened: dict[str, Member] = {}
        self._root = self._find_root()
        self.pickle = self._read_small(_PICKLE, longest=_LONGEST_PICKLE)
        self.is_swapped = self._byteorder() != sys.byteorder

    def member(self, key: str) -> "Member | None":
        """Returns the member that holds a storage; None if there is none."""
        info = self._members.get(f"{self._root}data/{key}")
        if info is None:
            return None
        if key not in self._opened:
            self._opened[key] = Member(self.file, self._zip, info)
        return self._opened[key]

    def _find_root(self) -> str:
        """Returns the folder of the pickle in the archive, including its slash."""
        found = [name for name in self._members if name.split("/")[1:] == [_PICKLE]]
        if len(found) != 1:
            raise InputError(f"{self.file} is not a file of torch.save: it has no data.pkl.")
        return found[0].removesuffix(_PICKLE)

    def _byteorder(self) -> str:
        """Returns the byte order; little-endian if the archive does not state it."""
        if f"{self._root}byteorder" not in self._members:
            return "little"
        order = self._read_small("byteorder", longest=10)
        if order not in (b"little", b"big"):
            raise InputError(f"{self.file} names no byteorder, little or big: download it again.")
        return order.decode()

    def _read_small(self, name: str, *, longest: int) -> bytes:
        info = self._members[self._root + name]
        if info.file_size > longest:
            raise _damaged(self.file, f"its {name} has {info.file_size:,} bytes")
        return Member(self.file, self._zip, info).read(0, info.file_size)


def _open(file: Path) -> zipfile.ZipFile:
    with _reading(file):
        is_archive = zipfile.is_zipfile(file)
    if not is_archive:
        raise InputError(
            f"{file} is truncated, or in the format of torch before 1.6: download it again, or load"
            " it and `torch.save` it again."
        )
    with _reading(file):
        return zipfile.ZipFile(file)


def _by_name(file: Path, archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    members = {info.filename: info for info in archive.infolist()}
    if len(members) != len(archive.infolist()):
        raise _damaged(file, "two of its members have the same name")
    return members


class Member:
    """A member of an archive, whose CRC-32 is checked before any of it is used.

    Attributes:
        size: uncompressed size in bytes.
    """

    def __init__(self, file: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo):
        self._file, self._archive, self._info = file, archive, info
        self._stream = None
        self.size = info.file_size
        if info.flag_bits & _ENCRYPTED or info.compress_type not in _METHODS:
            raise _damaged(file, "it is encrypted, or compressed by a method other than deflate")

    def read(self, start: int, count: int) -> bytes:
        """Reads bytes of the member.

        Raises:
            InputError: the member is damaged or shorter.
        """
        with _reading(self._file):
            if self._stream is None:
                self._check()
                self._stream = self._archive.open(self._info)
            # Consecutive blocks need no seeking, which in a compressed member means reading.
            self._stream.seek(start)
            content = self._stream.read(count)
        if len(content) != count:
            raise _damaged(self._file, f"{self._info.filename} is shorter than it says")
        return content

    def _check(self) -> None:
        """Reads the whole member, which makes `zipfile` check the CRC-32."""
        with self._archive.open(self._info) as stream:
            while stream.read(_READ_AT_ONCE):
                pass

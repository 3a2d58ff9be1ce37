"""Finds the videos, pictures and subtitles of annotations in a folder given by the user."""

import enum
import functools
import os
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from vxlpro_jax.data.sources import paths
from vxlpro_jax.data.sources.storage import resolve_inside
from vxlpro_jax.data.video.formats import PICTURE_SUFFIXES, VIDEO_SUFFIXES
from vxlpro_jax.utils.errors import InputError


class MediaKind(enum.Enum):
    """The kind of file to find; the value holds the suffixes that a name may lack."""

    VIDEO = VIDEO_SUFFIXES
    PICTURE = PICTURE_SUFFIXES
    SUBTITLES = (".srt", ".vtt")


_SUFFIXES = tuple(suffix for kind in MediaKind for suffix in kind.value)


def stem_of(name: str) -> str:
    """Returns the last part of a path without a known suffix; other dots belong to the name."""
    path = PurePosixPath(name)
    return path.stem if path.suffix.lower() in _SUFFIXES else path.name


class MediaFolder:
    """A folder with files as they were published, or in any subfolder."""

    def __init__(self, root: Path):
        """Stores the folder.

        Raises:
            InputError: the folder does not exist.
        """
        if not root.is_dir():
            raise InputError(
                f"{root} is not a folder: give the one that holds the benchmark's files."
            )
        self._root = root

    def find(self, name: str, *, kind: MediaKind, hints: Iterable[str] = ()) -> Path:
        """Finds the file that a record names; a video may be a folder of frames.

        This is the file at this path, or else the one with this name in any subfolder, or else the
        one with this stem and another suffix of its kind. Different Unicode encodings of a name are
        the same name.

        Args:
            name: path, name or stem, as written in the annotations.
            kind: kind of file that it must be.
            hints: words, one of which is in the name of the file's folder; they are used only if
                several files match.

        Raises:
            InputError: there is no such file, several match, or it is outside the folder.
        """
        direct, wanted = self._at(name), _normalized(name).replace("\\", "/")
        last = PurePosixPath(wanted).name
        found = (
            _usable([direct], kind)
            or _usable(self._by_path[wanted], kind)
            or _usable(self._by_name[last], kind)
            or _usable(self._by_stem[kind][stem_of(last)], kind)
        )
        if len(found) > 1:
            named = [file for file in found if any(hint in file.parent.name for hint in hints)]
            found = named if len(named) == 1 else found
        if not found:
            raise self._missing(name)
        if len(found) > 1:
            listed = ", ".join(str(file.relative_to(self._root)) for file in found[:3])
            raise InputError(f"{name!r} matches {listed} in {self._root}: keep one of them.")
        return self._inside(found[0])

    def find_exact(self, name: str) -> Path:
        """Returns the file at a path relative to the folder.

        Raises:
            InputError: there is no such file, or it is outside the folder.
        """
        direct = self._at(name)
        found = [direct] if os.path.exists(direct) else self._by_path[_normalized(name)]
        if len(found) != 1:
            raise self._missing(name)
        return self._inside(found[0])

    def _at(self, name: str) -> Path:
        if paths.escapes_root(name):
            raise InputError(f"{name!r} leads out of {self._root}: correct the annotations.")
        return self._root / name

    def _inside(self, file: Path) -> Path:
        """Returns the file unless it is, or contains, a link that leaves the folder."""
        resolve_inside(self._root, str(file.relative_to(self._root)))
        return file

    def _missing(self, name: str) -> InputError:
        return InputError(f"{name!r} is not in {self._root}: fetch it, or give another folder.")

    @functools.cached_property
    def _entries(self) -> list[Path]:
        """All files and folders below the root."""
        return [
            Path(folder, name)
            for folder, folders, files in sorted(os.walk(self._root))
            for name in sorted((*folders, *files))
        ]

    @functools.cached_property
    def _by_path(self) -> defaultdict[str, list[Path]]:
        return _index((_normalized(e.relative_to(self._root).as_posix()), e) for e in self._entries)

    @functools.cached_property
    def _by_name(self) -> defaultdict[str, list[Path]]:
        return _index((_normalized(entry.name), entry) for entry in self._entries)

    @functools.cached_property
    def _by_stem(self) -> dict[MediaKind, defaultdict[str, list[Path]]]:
        return {
            kind: _index(
                (_normalized(entry.stem), entry)
                for entry in self._entries
                if entry.suffix.lower() in kind.value
            )
            for kind in MediaKind
        }


def _normalized(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _index(entries: Iterable[tuple[str, Path]]) -> defaultdict[str, list[Path]]:
    index = defaultdict(list)
    for key, entry in entries:
        index[key].append(entry)
    return index


def _usable(found: Sequence[Path], kind: MediaKind) -> list[Path]:
    """Keeps files and, for videos, folders that contain frames."""
    return [
        entry
        for entry in found
        if os.path.isfile(entry) or (kind is MediaKind.VIDEO and _holds_frames(entry))
    ]


def _holds_frames(folder: Path) -> bool:
    return os.path.isdir(folder) and any(
        name.lower().endswith(PICTURE_SUFFIXES) and not name.startswith(".")
        for name in os.listdir(folder)
    )

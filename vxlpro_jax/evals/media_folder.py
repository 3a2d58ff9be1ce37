"""The videos, pictures and subtitles that annotations name, in a folder given by the user."""

import functools
import os
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from vxlpro_jax.data.sources import paths
from vxlpro_jax.utils.errors import InputError


class MediaFolder:
    """A folder in which files lie as they were published, or in any folder below."""

    def __init__(self, root: Path):
        """Takes the folder.

        Raises:
            InputError: it does not exist.
        """
        if not root.is_dir():
            raise InputError(
                f"{root} is not a folder: give the one that holds the benchmark's files."
            )
        self._root = root

    def find(self, name: str, *, hints: Iterable[str] = ()) -> Path:
        """The file that a record names, wherever it lies.

        It is the file at this path, else the one with this name in any folder below, else the one
        with this stem and another suffix.

        Args:
            name: path, name or stem, as the annotations write it.
            hints: words, one of which is in the name of the file's folder; they are used only if
                several files match.

        Raises:
            InputError: there is no such file, several match, or the name leads out of the folder.
        """
        if (direct := self._at(name)).exists():
            return direct
        path = PurePosixPath(name)
        found = self._files[path.name] or self._stems[path.stem]
        if len(found) > 1:
            named = [file for file in found if any(hint in file.parent.name for hint in hints)]
            found = named if len(named) == 1 else found
        if not found:
            raise self._missing(name)
        if len(found) > 1:
            listed = ", ".join(str(file.relative_to(self._root)) for file in found[:3])
            raise InputError(f"{name!r} may be any of {listed} in {self._root}: keep one of them.")
        return found[0]

    def find_exact(self, name: str) -> Path:
        """The file at a path relative to the folder.

        Raises:
            InputError: there is no such file, or the path leads out of the folder.
        """
        direct = self._at(name)
        if not direct.exists():
            raise self._missing(name)
        return direct

    def _at(self, name: str) -> Path:
        if paths.escapes_root(name):
            raise InputError(f"{name!r} leads out of {self._root}: mend the annotations.")
        return self._root / name

    def _missing(self, name: str) -> InputError:
        return InputError(f"{name!r} is not in {self._root}: fetch it, or give another folder.")

    @functools.cached_property
    def _files(self) -> defaultdict[str, list[Path]]:
        files = defaultdict(list)
        for folder, _, names in sorted(os.walk(self._root)):
            for name in sorted(names):
                files[name].append(Path(folder, name))
        return files

    @functools.cached_property
    def _stems(self) -> defaultdict[str, list[Path]]:
        stems = defaultdict(list)
        for name, files in list(self._files.items()):
            stems[PurePosixPath(name).stem] += files
        return stems

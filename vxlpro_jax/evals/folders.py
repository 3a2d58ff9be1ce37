"""The files that annotations name, found below a folder of the user's."""

import functools
import os
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from vxlpro_jax.data.sources import paths
from vxlpro_jax.utils.errors import InputError


class Folder:
    """A folder in which files lie as they were published, or in any folder below."""

    def __init__(self, root: Path):
        """Of a folder.

        Raises:
            InputError: there is none.
        """
        if not root.is_dir():
            raise InputError(
                f"{root} is no folder: give the one that the benchmark's files are in."
            )
        self._root = root

    def find(self, name: str, *, hints: Iterable[str] = ()) -> Path:
        """The file that a record names.

        That is the one at this path, else the one of this name in any folder below, else the one
        of this name but another ending.

        Args:
            name: as the annotations write it.
            hints: of several that fit, one is taken if its folder's name holds one of these.

        Raises:
            InputError: there is none, it cannot be told which, or the name leads elsewhere.
        """
        if paths.escapes_root(name):
            raise InputError(f"{name!r} leads out of {self._root}: mend the annotations.")
        if (self._root / name).exists():
            return self._root / name
        path = PurePosixPath(name)
        found = self._files[path.name] or self._stems[path.stem]
        if len(found) > 1:
            named = [file for file in found if any(hint in file.parent.name for hint in hints)]
            found = named if len(named) == 1 else found
        if not found:
            raise InputError(f"{name!r} is not in {self._root}: fetch it, or give another folder.")
        if len(found) > 1:
            listed = ", ".join(str(file.relative_to(self._root)) for file in found[:3])
            raise InputError(f"{name!r} may be any of {listed} in {self._root}: keep one of them.")
        return found[0]

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

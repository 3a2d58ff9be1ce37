"""Visual tokens of videos on disk, so that the next question about one starts at once.

Shapes: `g` groups of a block, `N` visual tokens of a group, `D` decoder width.
"""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

import jax

from vxlpro_jax import tree
from vxlpro_jax.config import InputError, ModelConfig
from vxlpro_jax.data.contents import Contents, visual_key
from vxlpro_jax.data.feature_blocks import GroupType, Visual
from vxlpro_jax.data.features import FeatureStore, FeatureWriter
from vxlpro_jax.data.storage import StoredFile
from vxlpro_jax.jit import jit

_PARTS = ("vision", "dts", "projector")


class TokenStore:
    """A folder of visual tokens; those of other weights or another type are not found."""

    def __init__(self, root: str | Path, *, params: dict, config: ModelConfig):
        """Creates the folder.

        Args:
            root: may be shared by models and with the feature cache of training.
            params: of the model.
            config: likewise.

        Raises:
            InputError: the folder cannot be made.
        """
        dtype = params["projector"]["fc1"]["kernel"].dtype.name
        self._kind = GroupType((config.tokens_per_group, config.decoder.width), dtype)
        self._folder = Path(root).expanduser() / f"tokens-{_name(params, config)}"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._contents = Contents(self._folder.parent / "contents")
        except OSError as error:
            raise _unusable(self._folder, error) from error
        self._store = FeatureStore(self._folder, kind=self._kind)

    def key(self, path: str | Path, *, max_frames: int, fps: float | None = None) -> str:
        """Names what is seen of a video file, whose bytes are read once for that.

        Raises:
            InputError: it cannot be read.
        """
        path = Path(path).absolute()
        content = self._contents(StoredFile(str(path.parent), path.name))
        rate = "uniformly" if fps is None else f"{fps} a second"
        return visual_key([content], reading=f"at most {max_frames} frames, {rate}")

    def read(self, key: str) -> Visual | None:
        """Tokens [G, N, D] with the times of their groups, or None if there are none.

        Raises:
            InputError: they are damaged.
        """
        return self._store.read(key) if key in self._store else None

    def write(self, key: str, blocks: Iterable[Visual]) -> None:
        """Adds tokens, [g, N, D] a block, as they come.

        Raises:
            InputError: they cannot be written.
        """
        try:
            with FeatureWriter(self._folder, kind=self._kind) as writer:
                writer.write(key, blocks)
        except OSError as error:
            raise _unusable(self._folder, error) from error
        self._store = FeatureStore(self._folder, kind=self._kind)


def _name(params: dict, config: ModelConfig) -> str:
    """Of the weights, and of all that tokens of given frames depend on besides."""
    used = {name: params[name] for name in _PARTS}
    sums = [int(total) for total in jax.tree.leaves(jit(tree.checksums)(used))]
    sizes = [config.vision.image_size, config.dts.layout, config.dts.grid, config.pool]
    return hashlib.sha256(json.dumps([sums, sizes]).encode()).hexdigest()[:16]


def _unusable(folder: Path, error: OSError) -> InputError:
    return InputError(
        f"Visual tokens cannot be written to {folder} ({error}): set --feature_cache to a folder"
        " that can, or make space."
    )

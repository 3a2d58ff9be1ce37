"""Caches visual tokens of videos on disk, so that the next question about one starts at once.

Shapes: `G` groups of a video, `N` visual tokens of a group, `D` decoder width.
"""

import contextlib
import hashlib
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import jax

from vxlpro_jax.config.schema import ModelConfig
from vxlpro_jax.data.features.blocks import GroupType, Visual
from vxlpro_jax.data.features.shards import remove_unused
from vxlpro_jax.data.features.store import FeatureStore, FeatureWriter
from vxlpro_jax.data.sources.content_hash import ContentHashes, visual_key
from vxlpro_jax.data.sources.storage import StoredFile
from vxlpro_jax.inference.loading import LoadedModel
from vxlpro_jax.utils import tree
from vxlpro_jax.utils.errors import Failure, InputError
from vxlpro_jax.utils.jit import jit

log = logging.getLogger(__name__)

_PARTS = ("vision", "dts", "projector")


class TokenCache:
    """A folder of visual tokens, which are found only with the same weights and dtype."""

    def __init__(self, root: str | Path, *, model: LoadedModel):
        """Creates the folder.

        Args:
            root: folder, which may be shared by models and with the feature cache of training.
            model: model that encodes the videos.

        Raises:
            InputError: the folder cannot be made.
        """
        params, config = model.params, model.config
        dtype = params["projector"]["fc1"]["kernel"].dtype.name
        self._kind = GroupType((config.tokens_per_group, config.decoder.width), dtype)
        self._folder = Path(root).expanduser() / f"tokens-{_name(params, config)}"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._contents = ContentHashes(self._folder.parent / "contents")
        except OSError as error:
            raise InputError(_unusable(self._folder, error)) from error
        remove_unused(self._folder, kind=self._kind)
        self._store = FeatureStore(self._folder, kind=self._kind)

    def key(self, path: str | Path, *, max_frames: int, fps: float | None = None) -> str:
        """Returns the key of a video file as it is sampled; hashes its bytes once.

        Raises:
            InputError: it cannot be read.
            Failure: the hash cannot be written.
        """
        path = Path(path).resolve()
        with self._writing():
            content = self._contents(StoredFile(str(path.parent), path.name))
        rate = "uniformly" if fps is None else f"{fps} a second"
        return visual_key([content], reading=f"at most {max_frames} frames, {rate}")

    def read(self, key: str) -> Visual | None:
        """Returns tokens [G, N, D] with their groups' times; None if missing or unreadable."""
        try:
            return self._store.read(key) if key in self._store else None
        except InputError as error:
            log.warning("A video is encoded again. %s", error)
            return None

    def write(self, key: str, tokens: Visual) -> None:
        """Adds all tokens of a video, [G, N, D].

        Raises:
            Failure: they cannot be written.
        """
        with self._writing(), FeatureWriter(self._folder, kind=self._kind) as writer:
            writer.write(key, [tokens])
        self._store.refresh()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Turns a disk error into `Failure`, which ends the command: the video is not at fault."""
        try:
            yield
        except OSError as error:
            raise Failure(_unusable(self._folder, error)) from error


def _name(params: dict, config: ModelConfig) -> str:
    """Returns a hash of the weights and settings that determine the tokens of given frames."""
    used = {name: params[name] for name in _PARTS}
    sums = [int(total) for total in jax.tree.leaves(jit(tree.checksums)(used))]
    sizes = [config.vision.image_size, config.dts.layout, config.dts.grid, config.pool]
    return hashlib.sha256(json.dumps([sums, sizes]).encode()).hexdigest()[:16]


def _unusable(folder: Path, error: OSError) -> str:
    return (
        f"Visual tokens cannot be written to {folder} ({error}): set --token_cache to a"
        " writable folder, or free space."
    )

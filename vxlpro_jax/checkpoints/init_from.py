"""Initial parameters of a run: `init_from`, one folder or several separated by commas.

Each part of the model (`vision`, `dts`, `decoder` and so on) comes from the first folder that holds
it, so a stage can start from the previous stage's compressor and a stock decoder.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from etils import epath

from vxlpro_jax.checkpoints.params import locate, open_leaves, read_json, read_params
from vxlpro_jax.config.schema import ModelConfig
from vxlpro_jax.utils.errors import InputError


class Source(NamedTuple):
    """A folder that provides parameters.

    Attributes:
        params: path of the Orbax folder.
        root: folder of config.json and tokenizer.
        parts: top-level keys of its parameter tree.
        config: sizes of its model.
        release: content of its config.json.
    """

    params: epath.Path
    root: epath.Path
    parts: frozenset[str]
    config: ModelConfig
    release: Mapping[str, Any]


def open_sources(init_from: str) -> tuple[Source, ...]:
    """Opens the folders in `init_from` without reading their arrays.

    Raises:
        InputError: a folder is not a checkpoint.
    """
    return tuple(_open(folder.strip()) for folder in init_from.split(",") if folder.strip())


def _open(folder: str) -> Source:
    located = locate(folder)
    parts = frozenset(open_leaves(located.params))
    release = read_json(located.root / "config.json")
    return Source(located.params, located.root, parts, ModelConfig.from_release(release), release)


def holder(sources: Sequence[Source], part: str) -> Source | None:
    """Returns the source from which `part` is taken."""
    return next((source for source in sources if part in source.parts), None)


def read_parts(sources: Sequence[Source], *, like: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """Reads the parts of `like` (see `checkpoint.read_params`) that some source holds.

    Raises:
        InputError: nothing is taken from a source, or the sizes of a part differ.
    """
    params = {}
    for source in sources:
        if not source.parts & like.keys():
            raise InputError(
                f"init_from: {source.root} holds only {', '.join(sorted(source.parts))}, but"
                f" this run needs {', '.join(like)}: name a checkpoint that has some of these."
            )
        mine = {part for part in like if holder(sources, part) is source}
        if not mine:
            raise InputError(
                f"init_from: every part in {source.root} is already taken from the folders before"
                " it: name it before them, or leave it out."
            )
        print(f"From {source.root}: {', '.join(sorted(mine))}.")
        params |= read_params(
            source.params,
            like=like,
            dtype=dtype,
            only=lambda path, mine=mine: path.split("/")[0] in mine,
        )
    return params

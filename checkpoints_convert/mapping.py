"""The single table of torch names and parameter paths, and both directions of conversion.

`{layer}` in a torch name stands for the layer numbers, which are stacked along axis 0 of the
parameter. Sizes come from `abstract_params`, so this module contains none.
"""

import dataclasses
import functools
from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from checkpoints_convert.transforms import (
    CONV_3D,
    IDENTITY,
    LINEAR,
    PATCH_CONV,
    POINTWISE_CONV_1D,
    POINTWISE_CONV_3D,
    Transform,
    contiguous,
    copy_bits,
    torch_shape,
)
from vxlpro_jax.checkpoints.array_store import LazyLeaf, rows_per_block
from vxlpro_jax.config.schema import ModelConfig
from vxlpro_jax.models.video_xl_pro import abstract_params
from vxlpro_jax.utils import tree
from vxlpro_jax.utils.errors import InputError

HEAD = "lm_head.weight"
EMBEDDING = "model.embed_tokens.weight"
DTS = "model.sae."
TOWER = "model.vision_tower.vision_tower."


@dataclasses.dataclass(frozen=True)
class Entry:
    """One row of the table: a parameter, and the torch tensor or tensors that make it up."""

    torch: str
    path: str
    transform: Transform = IDENTITY

    @property
    def is_stacked(self) -> bool:
        """Whether the parameter stacks one tensor per layer."""
        return "{layer}" in self.torch

    @property
    def part(self) -> str:
        """The part of the model: `vision`, `dts`, `projector`, `selector` or `decoder`."""
        return self.path.split("/")[0]

    def name(self, row: int) -> str:
        """Returns the torch name of row `row` of a stacked parameter, or of an unstacked one."""
        return self.torch.format(layer=row)

    def names(self, shape: tuple[int, ...]) -> list[str]:
        """Returns the torch names that make up a parameter of `shape`."""
        return [self.name(row) for row in range(shape[0])] if self.is_stacked else [self.torch]

    def torch_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Returns the shape of each torch tensor that makes up a parameter of `shape`."""
        return torch_shape(self.transform, shape[1:] if self.is_stacked else shape)


def _dense(torch: str, path: str, kernel: Transform = LINEAR) -> tuple[Entry, ...]:
    weight = Entry(f"{torch}.weight", f"{path}/kernel", kernel)
    return weight, Entry(f"{torch}.bias", f"{path}/bias")


def _norm(torch: str, path: str) -> tuple[Entry, ...]:
    return Entry(f"{torch}.weight", f"{path}/scale"), Entry(f"{torch}.bias", f"{path}/bias")


def _tower() -> Iterator[Entry]:
    model = TOWER + "vision_model."
    layer = model + "encoder.layers.{layer}."
    yield from _dense(model + "embeddings.patch_embedding", "vision/patch_embed", kernel=PATCH_CONV)
    yield Entry(model + "embeddings.position_embedding.weight", "vision/pos_embed")
    yield from _norm(layer + "layer_norm1", "vision/layers/ln1")
    yield from _norm(layer + "layer_norm2", "vision/layers/ln2")
    for part in ("q", "k", "v"):
        yield from _dense(f"{layer}self_attn.{part}_proj", f"vision/layers/attn/{part}")
    yield from _dense(layer + "self_attn.out_proj", "vision/layers/attn/out")
    for part in ("fc1", "fc2"):
        yield from _dense(f"{layer}mlp.{part}", f"vision/layers/mlp/{part}")
    yield from _norm(model + "post_layernorm", "vision/post_ln")


def _dts() -> Iterator[Entry]:
    yield Entry(DTS + "temporal_encoding", "dts/temporal_encoding")
    for block in (0, 1):
        # The release numbers the three parts of both blocks consecutively.
        spatial, temporal, conv = (f"{DTS}encoder.{3 * block + part}." for part in range(3))
        path = f"dts/block{block}"
        yield from _norm(spatial + "norm", f"{path}/spatial/norm")
        for part in ("q", "k", "v"):
            yield from _dense(spatial + part, f"{path}/spatial/{part}", POINTWISE_CONV_3D)
        yield from _dense(spatial + "proj_out", f"{path}/spatial/out", POINTWISE_CONV_3D)
        yield from _norm(temporal + "norm", f"{path}/temporal/norm")
        yield from _dense(temporal + "qkv", f"{path}/temporal/qkv", POINTWISE_CONV_1D)
        yield from _dense(temporal + "proj_out", f"{path}/temporal/out", POINTWISE_CONV_1D)
        for part in ("k", "v"):
            table = f"{temporal}relative_position_{part}.embeddings_table"
            yield Entry(table, f"{path}/temporal/rel_{part}")
        yield from _dense(conv + "conv", f"{path}/conv", CONV_3D)


def _connector() -> Iterator[Entry]:
    yield from _dense("model.mm_projector.0", "projector/fc1")
    yield from _dense("model.mm_projector.2", "projector/fc2")
    yield from _dense("model.text_mlp.0", "selector/text")
    for part in ("q", "k", "v", "out"):
        window = f"model.WindowTimeToTokenAttention.{part}_proj"
        yield from _dense(window, f"selector/window/{part}")


def _decoder() -> Iterator[Entry]:
    layer = "model.layers.{layer}."
    yield Entry(EMBEDDING, "decoder/embed")
    yield Entry(layer + "input_layernorm.weight", "decoder/layers/ln1/scale")
    yield Entry(layer + "post_attention_layernorm.weight", "decoder/layers/ln2/scale")
    for part in ("q", "k", "v"):
        yield from _dense(f"{layer}self_attn.{part}_proj", f"decoder/layers/attn/{part}")
    yield Entry(layer + "self_attn.o_proj.weight", "decoder/layers/attn/out/kernel", LINEAR)
    for part in ("gate", "up", "down"):
        yield Entry(f"{layer}mlp.{part}_proj.weight", f"decoder/layers/mlp/{part}")
    yield Entry("model.norm.weight", "decoder/norm/scale")
    yield Entry(HEAD, "decoder/lm_head/kernel", LINEAR)


TABLE: tuple[Entry, ...] = (*_tower(), *_dts(), *_connector(), *_decoder())


@functools.cache
def param_shapes(config: ModelConfig) -> dict[str, Any]:
    """Returns `abstract_params`, traced only once."""
    return abstract_params(config)


class TorchArray(NamedTuple):
    """Attributes: `name` in torch; `path` of its parameter; `array` in torch's axes."""

    name: str
    path: str
    array: np.ndarray


def torch_structs(leaves: Mapping[str, Any]) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns name, shape and dtype of every torch tensor of a parameter tree, in table order.

    Args:
        leaves: nested dict of objects with a shape and a dtype.
    """
    flat = tree.flatten(leaves)
    return {
        name: jax.ShapeDtypeStruct(
            entry.torch_shape(flat[entry.path].shape), flat[entry.path].dtype
        )
        for entry in _entries(flat)
        for name in entry.names(flat[entry.path].shape)
    }


def to_torch(
    leaves: Mapping[str, Any], *, parts: Collection[str] | None = None
) -> Iterator[TorchArray]:
    """Yields the torch tensors of a parameter tree, in the order of `torch_structs`.

    Args:
        leaves: nested dict of `LazyLeaf`; each is read once, in blocks if it is stacked.
        parts: keys of `leaves`; others are not read and need only shapes. None means all.
    """
    flat = tree.flatten(leaves)
    for entry in _entries(flat):
        if parts is not None and entry.part not in parts:
            continue
        leaf = flat[entry.path]
        if not entry.is_stacked:
            yield TorchArray(entry.torch, entry.path, entry.transform.to_torch(leaf.whole()))
            continue
        for start, block in leaf.blocks():
            for row, array in enumerate(block, start):
                yield TorchArray(entry.name(row), entry.path, entry.transform.to_torch(array))


def to_params(tensors: Mapping[str, LazyLeaf], *, config: ModelConfig) -> dict[str, Any]:
    """Makes the parameter tree from torch tensors, as nested dict of `LazyLeaf`; reads nothing.

    Raises:
        InputError: names are missing, unexpected or misshapen (the first are listed), or the
            layers of one parameter differ in dtype.
    """
    shapes = param_shapes(config)
    tree.check_match(
        tensors,
        expected=torch_structs(shapes),
        trouble="The weights do not fit config.json",
    )
    params = tree.flatten(shapes)
    return tree.unflatten(
        {entry.path: _leaf(entry, params[entry.path].shape, tensors) for entry in _entries(params)}
    )


def _entries(flat: Mapping[str, Any]) -> list[Entry]:
    """Returns the rows of the table that a tree has; only a tied decoder's head may be absent."""
    entries = [entry for entry in TABLE if entry.path in flat or entry.torch != HEAD]
    paths = {entry.path for entry in entries}
    if paths != flat.keys():
        raise InputError(
            "The parameters are not those of Video-XL-Pro; missing or unexpected:"
            f" {', '.join(sorted(paths ^ flat.keys()))}."
        )
    return entries


def _leaf(entry: Entry, shape: tuple[int, ...], tensors: Mapping[str, LazyLeaf]) -> LazyLeaf:
    parts = [tensors[name] for name in entry.names(shape)]
    dtypes = {part.dtype for part in parts}
    if len(dtypes) > 1:
        raise InputError(
            f"The layers of {entry.torch} have different dtypes"
            f" ({', '.join(sorted(map(str, dtypes)))}), which one stacked parameter cannot hold:"
            " choose one with --dtype."
        )
    if entry.is_stacked:
        return _stack(parts, entry.transform, shape)
    if entry.transform is IDENTITY:
        return parts[0]
    return _whole(parts[0], entry.transform, shape)


def _stack(parts: list[LazyLeaf], transform: Transform, shape: tuple[int, ...]) -> LazyLeaf:
    dtype = parts[0].dtype

    def read(start, stop):
        block = np.empty((stop - start, *shape[1:]), dtype)
        for row, part in enumerate(parts[start:stop]):
            copy_bits(block[row], transform.to_param(part.whole()))
        return block

    return LazyLeaf(shape=shape, dtype=dtype, rows=rows_per_block(shape, dtype), read=read)


def _whole(part: LazyLeaf, transform: Transform, shape: tuple[int, ...]) -> LazyLeaf:
    def read(start, stop):
        return contiguous(transform.to_param(part.whole()))[start:stop]

    return LazyLeaf(shape=shape, dtype=part.dtype, rows=shape[0], read=read)

"""Converts parameters, gradients and batches between the reference and the package.

Shapes: `B` rows, `G` groups per row, `T` text slots, `S` samples per row.
"""

from typing import NamedTuple

import jax
import numpy as np
import torch

from checkpoints_convert import mapping
from torch_reference.model import IGNORE, IMAGE, Sample, VideoXLPro
from vxlpro_jax.checkpoints.array_store import LazyLeaf
from vxlpro_jax.config.schema import ModelConfig
from vxlpro_jax.models.video_xl_pro import Text
from vxlpro_jax.ops.token_selection import num_kept


def randomized(config: ModelConfig, *, seed: int = 0, kind: str = "eager") -> VideoXLPro:
    """Returns a float64 reference model whose parameters are all different from zero and one."""
    torch.manual_seed(seed)
    oracle = VideoXLPro(config, kind=kind).double()
    for param in oracle.parameters():
        param.data += 0.05 * torch.randn(param.shape, dtype=param.dtype)
    return oracle


def to_params(tensors: dict[str, np.ndarray], *, config: ModelConfig) -> dict:
    """Converts torch arrays by name -> nested dict of NumPy arrays."""
    leaves = mapping.to_params({name: _lazy(a) for name, a in tensors.items()}, config=config)
    return jax.tree.map(lambda leaf: leaf.whole(), leaves)


def params_of(oracle: VideoXLPro) -> dict:
    """Returns the reference's parameters as the package's tree."""
    state = {name: tensor.numpy() for name, tensor in oracle.state_dict().items()}
    return to_params(state, config=oracle.config)


def by_torch_name(tree: dict) -> dict[str, np.ndarray]:
    """Converts a tree of parameters or gradients to torch arrays by name."""
    leaves = jax.tree.map(lambda x: _lazy(np.asarray(x)), tree)
    return {row.name: row.array for row in mapping.to_torch(leaves)}


def _lazy(array):
    return LazyLeaf(
        shape=array.shape, dtype=array.dtype, rows=array.shape[0], read=lambda a, b: array[a:b]
    )


class Batch(NamedTuple):
    """Attributes: `frames` uint8 [B, G, 4, H, W, 3]; `text`; `labels` int32 [B, T]."""

    frames: np.ndarray
    text: Text
    labels: np.ndarray


def pack(rows: list[list[Sample]], *, size: int, groups: int, slots: int) -> Batch:
    """Packs samples into one padded batch.

    Args:
        rows: the samples of each row.
        size: height and width of a frame.
        groups: G; the padding is noise instead of zeros, because nothing may depend on it.
        slots: T.
    """
    noise = np.random.default_rng(99)
    shape = (len(rows), groups, 4, size, size, 3)
    frames = noise.integers(0, 256, shape, np.uint8)
    group_segments = np.zeros(shape[:2], np.int32)
    stamp_ids = np.zeros((*shape[:2], 10), np.int32)
    tokens, token_segments = np.zeros((2, len(rows), slots), np.int32)
    labels = np.full((len(rows), slots), IGNORE, np.int32)
    keep_counts = np.zeros((len(rows), max(map(len, rows))), np.int32)
    for row, samples in enumerate(rows):
        group = slot = 0
        for index, sample in enumerate(samples):
            here = slice(slot, slot := slot + len(sample.ids))
            tokens[row, here], token_segments[row, here] = sample.ids, index + 1
            if sample.labels is not None:
                labels[row, here] = sample.labels
            if sample.frames is None:
                continue
            grouped = _group(sample)
            here = slice(group, group := group + len(grouped))
            frames[row, here], group_segments[row, here] = grouped, index + 1
            stamp_ids[row, here] = sample.stamp_ids
            keep_counts[row, index] = num_kept(144 * len(grouped), ratio=sample.keep_ratio)
    text = Text(tokens, token_segments, stamp_ids, group_segments, keep_counts)
    return Batch(frames, text, labels)


def _group(sample):
    """Returns uint8 [G, 4, H, W, 3]."""
    frames = sample.frames.numpy()
    if sample.is_picture:
        kept = frames[1:] if len(frames) > 1 else frames
        return np.repeat(kept[:, None], 4, axis=1)
    padded = np.concatenate([frames, *[frames[-1:]] * (-len(frames) % 4)])
    return padded.reshape(-1, 4, *frames.shape[1:])


def random_sample(
    rng: np.random.Generator,
    *,
    config: ModelConfig,
    frames: int = 0,
    words: int = 12,
    keep_ratio: float = 0.8,
    is_picture: bool = False,
) -> Sample:
    """Makes a sample of random frames (or crops) and words; the image follows the second word."""
    size, vocab = config.vision.image_size, config.decoder.vocab_size
    ids = rng.integers(0, vocab, words).tolist()
    labels = [IGNORE] * (words // 2) + ids[words // 2 :]
    if not frames:
        return Sample(ids=ids, labels=labels)
    groups = max(1, frames - 1) if is_picture else -(-frames // 4)
    return Sample(
        ids=[*ids[:2], IMAGE, *ids[2:]],
        labels=[*labels[:2], IGNORE, *labels[2:]],
        frames=torch.from_numpy(rng.integers(0, 256, (frames, size, size, 3), np.uint8)),
        stamp_ids=torch.from_numpy(rng.integers(0, vocab, (groups, 10))),
        keep_ratio=keep_ratio,
        is_picture=is_picture,
    )

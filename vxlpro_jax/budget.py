"""What an answer takes of a device's memory, told before it starts.

Shapes: `G` groups, `N` visual tokens of a group, `L` positions of the decoder, `D` decoder width.
"""

from typing import NamedTuple

from vxlpro_jax.config.schema import STAMP_TOKENS, ModelConfig
from vxlpro_jax.models.kv_cache import BLOCK, CHUNK, CacheType

_GIB = 2**30
# The selector at its peak, in arrays [G, 10 + N, D]: between 5 and 6 as compiled for H100 and v6e.
WINDOW_COPIES = 6
# A layer of one chunk, in arrays [CHUNK, mlp_width]: below 2 as compiled for H100 and v6e.
_CHUNK_COPIES = 3


class Memory(NamedTuple):
    """Bytes on the device.

    Attributes:
        params: weights.
        visual: the selector's windows and what it makes of them, before the decoder reads.
        embeddings: the decoder's input.
        cache: keys and values.
        workspace: of a chunk in a layer.
    """

    params: int
    visual: int
    embeddings: int
    cache: int
    workspace: int

    @property
    def peak(self) -> int:
        """At most at once: the selector ends before the cache is made."""
        reading = self.cache + self.workspace
        return self.params + self.embeddings + max(self.visual, reading)


def memory(
    config: ModelConfig,
    *,
    params: int,
    groups: int,
    positions: int,
    new_tokens: int,
    itemsize: int,
    kv_cache: CacheType,
) -> Memory:
    """Of one question.

    Args:
        config: of the model.
        params: bytes of the weights.
        groups: G.
        positions: L that the decoder reads before it answers.
        new_tokens: at most, of the answer.
        itemsize: bytes of a number of the model.
        kv_cache: how keys and values are kept.
    """
    decoder = config.decoder
    windows = groups * (STAMP_TOKENS + config.tokens_per_group) * decoder.width * itemsize
    chunk = min(positions, CHUNK)
    return Memory(
        params=params,
        visual=WINDOW_COPIES * windows,
        embeddings=_slots(positions, unit=CHUNK) * decoder.width * itemsize,
        cache=_slots(positions + new_tokens, unit=BLOCK)
        * slot_bytes(config, itemsize=itemsize, kv_cache=kv_cache),
        workspace=_CHUNK_COPIES * chunk * decoder.mlp_width * itemsize,
    )


def slot_bytes(config: ModelConfig, *, itemsize: int, kv_cache: CacheType) -> int:
    """Of one position in the cache."""
    decoder = config.decoder
    head = decoder.head_dim + 4 if kv_cache == "int8" else decoder.head_dim * itemsize
    return 2 * decoder.depth * decoder.num_kv_heads * head


def gib(size: float) -> str:
    """In words."""
    return f"{size / _GIB:.2f} GiB"


def _slots(positions, *, unit):
    return -(-positions // unit) * unit if positions > unit else positions

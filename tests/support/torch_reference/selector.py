"""Query-aware selection, window by window. Shapes: `D` width, `N` visual tokens, `T` text ids."""

import math

import torch
from torch import nn

STAMPS, SLOTS, HEADS = 10, 144, 4
WINDOW = STAMPS + SLOTS


class WindowAttention(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        # v_proj is in every checkpoint but is never used.
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            self.add_module(part, nn.Linear(width, width))

    def forward(self, visual):
        """[154 G, D] -> [154 G, D]; stamps pass through."""
        return torch.cat([self._window(window) for window in visual.split(WINDOW)])

    def _window(self, window):
        stamps, tokens = window[:STAMPS], window[STAMPS:]
        q = self.q_proj(stamps).unflatten(-1, (HEADS, -1)).transpose(0, 1)
        k = self.k_proj(tokens).unflatten(-1, (HEADS, -1)).transpose(0, 1)
        weights = (k @ q.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1)
        out = (weights @ q).transpose(0, 1).flatten(1)
        return torch.cat([stamps, self.out_proj(out)])


def is_slot(length: int) -> torch.Tensor:
    """Returns bool [154 G]: True for visual tokens, False for stamps."""
    return torch.arange(length) % WINDOW >= STAMPS


def normalized_scores(attended, text) -> torch.Tensor:
    """Returns mean dot products with the text, min-max normalised (zeros if all are equal): [N]."""
    scores = (attended[is_slot(len(attended))] @ text.T).mean(-1)
    span = scores.max() - scores.min()
    return (scores - scores.min()) / span if span > 0 else torch.zeros_like(scores)


def highest(scores, *, ratio: float) -> torch.Tensor:
    """Returns the sorted indices of the kept tokens; ties go to the lower index."""
    count = int(len(scores) * ratio) // 16 * 16
    count = max(count, min(16, len(scores)))
    order = torch.sort(scores, descending=True, stable=True).indices
    return order[:count].sort().values

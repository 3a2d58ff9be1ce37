"""Dynamic Token Synthesizer. Shapes: `G` groups, `C` width, `t` time slots, `h`, `w` grid."""

import torch
import torch.nn.functional as F
from torch import nn

_MAX_DISTANCE = 64


class Dts(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.temporal_encoding = nn.Parameter(torch.randn(4, width))
        parts = (_SpatialAttention, _TemporalAttention, _HalveTime)
        self.encoder = nn.ModuleList(part(width) for _ in range(2) for part in parts)

    def forward(self, x):
        """[G, C, 4, h, w] -> [G, C, 1, h, w]."""
        x = x + self.temporal_encoding.T[:, :, None, None]
        for part in self.encoder:
            x = part(x)
        return x


def to_groups(grid, *, layout: str) -> torch.Tensor:
    """[4G, C, h, w] -> [G, C, 4, h, w]: the release's reshape, or the transpose it looks like."""
    frames, width, height, _ = grid.shape
    if layout == "temporal":
        return grid.unflatten(0, (-1, 4)).transpose(1, 2)
    return grid.reshape(frames // 4, width, 4, height, -1)


class _SpatialAttention(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm = nn.GroupNorm(32, width, eps=1e-6)
        self.q, self.k, self.v, self.proj_out = (nn.Conv3d(width, width, 1) for _ in range(4))

    def forward(self, x):
        y = self.norm(x)
        # [G, t, C, h w]: the slots of a group do not attend to each other.
        q, k, v = (conv(y).transpose(1, 2).flatten(3) for conv in (self.q, self.k, self.v))
        weights = (q.transpose(-1, -2) @ k * x.shape[1] ** -0.5).softmax(-1)
        out = v @ weights.transpose(-1, -2)
        return x + self.proj_out(out.transpose(1, 2).reshape(x.shape))


class _TemporalAttention(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm = nn.GroupNorm(32, width, eps=1e-6)
        self.qkv = nn.Conv1d(width, 3 * width, 1)
        self.proj_out = nn.Conv1d(width, width, 1)
        self.relative_position_k = _RelativeTable(width)
        self.relative_position_v = _RelativeTable(width)

    def forward(self, x):
        groups, width, slots, height, _ = x.shape
        sequences = x.permute(0, 3, 4, 1, 2).reshape(-1, width, slots)
        q, k, v = self.qkv(self.norm(sequences)).transpose(1, 2).chunk(3, -1)
        q, k = q * width**-0.25, k * width**-0.25
        logits = q @ k.transpose(-1, -2)
        # A quirk of the release: entry (i, j) gets the relative term of query j and key i.
        relative = torch.einsum("ntc,tsc->nts", q, self.relative_position_k(slots))
        weights = (logits + relative.transpose(-1, -2)).softmax(-1)
        out = weights @ v
        out = out + torch.einsum("nts,tsc->ntc", weights, self.relative_position_v(slots))
        out = self.proj_out(out.transpose(1, 2))
        out = out.reshape(groups, height, -1, width, slots)
        return x + out.permute(0, 3, 4, 1, 2)


class _RelativeTable(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.embeddings_table = nn.Parameter(torch.randn(2 * _MAX_DISTANCE + 1, width) * 0.1)

    def forward(self, slots):
        at = torch.arange(slots)
        distance = (at[None] - at[:, None]).clamp(-_MAX_DISTANCE, _MAX_DISTANCE)
        return self.embeddings_table[distance + _MAX_DISTANCE]


class _HalveTime(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv = nn.Conv3d(width, width, 3, stride=(2, 1, 1))

    def forward(self, x):
        return self.conv(F.pad(x, (1, 1, 1, 1, 1, 0), mode="replicate"))

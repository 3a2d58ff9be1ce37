"""SigLIP tower up to the residual stream of its last kept layer.

Shapes: `F` frames, `P` patches, `C` width.
"""

import torch
import torch.nn.functional as F
from torch import nn

from torch_reference.attention import attend
from vxlpro_jax.config.schema import VisionConfig


class SiglipTower(nn.Module):
    def __init__(self, config: VisionConfig, *, kind: str = "eager"):
        super().__init__()
        self.vision_model = _VisionModel(config, kind)

    def forward(self, frames):
        """uint8 [F, H, W, 3] -> [F, P, C]. `post_layernorm` exists but is unused."""
        parts = self.vision_model
        patch = parts.embeddings.patch_embedding
        pixels = (frames.permute(0, 3, 1, 2).to(patch.weight.dtype) / 255 - 0.5) / 0.5
        x = patch(pixels).flatten(2).transpose(1, 2) + parts.embeddings.position_embedding.weight
        for layer in parts.encoder.layers:
            x = layer(x)
        return x


class _VisionModel(nn.Module):
    def __init__(self, config, kind):
        super().__init__()
        width, patch = config.width, config.patch_size
        self.embeddings = nn.Module()
        self.embeddings.patch_embedding = nn.Conv2d(3, width, patch, stride=patch)
        self.embeddings.position_embedding = nn.Embedding(config.grid**2, width)
        self.encoder = nn.Module()
        self.encoder.layers = nn.ModuleList(_Layer(config, kind) for _ in range(config.depth))
        self.post_layernorm = nn.LayerNorm(width, eps=config.norm_eps)


class _Layer(nn.Module):
    def __init__(self, config, kind):
        super().__init__()
        width = config.width
        self.heads, self.kind = config.num_heads, kind
        self.layer_norm1 = nn.LayerNorm(width, eps=config.norm_eps)
        self.layer_norm2 = nn.LayerNorm(width, eps=config.norm_eps)
        self.self_attn = nn.ModuleDict(
            {f"{part}_proj": nn.Linear(width, width) for part in ("q", "k", "v", "out")}
        )
        self.mlp = nn.ModuleDict(
            {
                "fc1": nn.Linear(width, config.mlp_width),
                "fc2": nn.Linear(config.mlp_width, width),
            }
        )

    def forward(self, x):
        y = self.layer_norm1(x)
        q, k, v = (
            self.self_attn[f"{part}_proj"](y).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in ("q", "k", "v")
        )
        out = attend(q, k, v, kind=self.kind).transpose(1, 2).flatten(2)
        x = x + self.self_attn["out_proj"](out)
        hidden = F.gelu(self.mlp["fc1"](self.layer_norm2(x)), approximate="tanh")
        return x + self.mlp["fc2"](hidden)


def to_dts_grid(features) -> torch.Tensor:
    """[F, P, C] -> [F, C, 24, 24]."""
    side = round(features.shape[1] ** 0.5)
    grid = features.transpose(1, 2).unflatten(-1, (side, side))
    return F.interpolate(grid, size=(24, 24), mode="bilinear", align_corners=False)

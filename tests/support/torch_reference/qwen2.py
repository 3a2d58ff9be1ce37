"""Qwen2.5 decoder layers. Shapes: `B` rows, `T` positions, `D` width, `H` head width."""

import torch
import torch.nn.functional as F
from torch import nn

from torch_reference.attention import attend
from vxlpro_jax.config.schema import DecoderConfig


class RMSNorm(nn.Module):
    def __init__(self, width: int, *, eps: float):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(width)), eps

    def forward(self, x):
        return self.weight * (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps))


class DecoderLayer(nn.Module):
    def __init__(self, config: DecoderConfig, *, kind: str = "eager"):
        super().__init__()
        width, head = config.width, config.head_dim
        self.config, self.kind = config, kind
        self.input_layernorm = RMSNorm(width, eps=config.norm_eps)
        self.post_attention_layernorm = RMSNorm(width, eps=config.norm_eps)
        kv_width = config.num_kv_heads * head
        self.self_attn = nn.ModuleDict(
            {
                "q_proj": nn.Linear(width, width),
                "k_proj": nn.Linear(width, kv_width),
                "v_proj": nn.Linear(width, kv_width),
                "o_proj": nn.Linear(width, width, bias=False),
            }
        )
        self.mlp = nn.ModuleDict(
            {
                "gate_proj": nn.Linear(width, config.mlp_width, bias=False),
                "up_proj": nn.Linear(width, config.mlp_width, bias=False),
                "down_proj": nn.Linear(config.mlp_width, width, bias=False),
            }
        )

    def forward(self, x):
        """[B, T, D] -> [B, T, D]; positions are 0 .. T-1."""
        y = self.input_layernorm(x)
        q, k, v = (
            self.self_attn[f"{part}_proj"](y)
            .unflatten(-1, (-1, self.config.head_dim))
            .transpose(1, 2)
            for part in ("q", "k", "v")
        )
        q, k = (rotate_halves(part, theta=self.config.rope_theta) for part in (q, k))
        copies = self.config.num_heads // self.config.num_kv_heads
        k, v = (part.repeat_interleave(copies, dim=1) for part in (k, v))
        out = attend(q, k, v, kind=self.kind, causal=True).transpose(1, 2).flatten(2)
        x = x + self.self_attn["o_proj"](out)
        y = self.post_attention_layernorm(x)
        gated = F.silu(self.mlp["gate_proj"](y)) * self.mlp["up_proj"](y)
        return x + self.mlp["down_proj"](gated)


def rotate_halves(x, *, theta: float) -> torch.Tensor:
    """Rotary embedding of [..., T, H], channel i paired with i + H/2."""
    angles = _angles(x, theta=theta)
    cos, sin = (torch.cat([part, part], -1) for part in (angles.cos(), angles.sin()))
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat([-second, first], -1) * sin


def rotate_pairs(x, *, theta: float) -> torch.Tensor:
    """Rotary embedding of [..., T, D], channel 2i paired with 2i + 1."""
    turns = torch.polar(torch.ones((), dtype=x.dtype), _angles(x, theta=theta))
    return torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (-1, 2))) * turns).flatten(-2)


def _angles(x, *, theta):
    length, width = x.shape[-2:]
    frequencies = theta ** (-torch.arange(0, width, 2, dtype=x.dtype) / width)
    return torch.arange(length, dtype=x.dtype)[:, None] * frequencies

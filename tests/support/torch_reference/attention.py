"""The two usual softmax attentions of torch. Shapes: q, k, v [B, heads, T, width]."""

import torch
import torch.nn.functional as F

# `eager` computes all logits; `sdpa` is torch's best kernel.
KINDS = ("eager", "sdpa")


def attend(q, k, v, *, kind: str, causal: bool = False) -> torch.Tensor:
    if kind == "sdpa":
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal)
    logits = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    if causal:
        future = torch.ones(logits.shape[-2:], dtype=torch.bool).triu(1)
        logits = logits.masked_fill(future, float("-inf"))
    return logits.softmax(-1) @ v

"""The whole model on one sample. Shapes: `F` frames, `G` groups, `L` decoder positions."""

import dataclasses

import torch
import torch.nn.functional as F
from torch import nn

from torch_reference import selector
from torch_reference.dts import Dts, to_groups
from torch_reference.qwen2 import DecoderLayer, RMSNorm, rotate_pairs
from torch_reference.siglip import SiglipTower, to_dts_grid
from vxlpro_jax.config.schema import ModelConfig

IMAGE, IGNORE = -200, -100


@dataclasses.dataclass(kw_only=True)
class Sample:
    """One conversation, which is text-only if it has no frames.

    Attributes:
        ids: prompt and answer, -200 at the image.
        frames: uint8 [F, H, W, 3], a video's frames or a picture's crops, the whole picture first.
        stamp_ids: [G, 10], for a picture one row for each crop that is kept.
        keep_ratio: share of the visual tokens that stay.
        labels: target of each id, -100 where there is none.
        is_picture: whether `frames` are crops.
    """

    ids: list[int]
    frames: torch.Tensor | None = None
    stamp_ids: torch.Tensor | None = None
    keep_ratio: float = 1.0
    labels: list[int] | None = None
    is_picture: bool = False


@dataclasses.dataclass(kw_only=True)
class Stages:
    """All intermediate values of one sample; the visual ones are None for text only."""

    vision_features: torch.Tensor | None = None
    interpolated: torch.Tensor | None = None
    dts_out: torch.Tensor | None = None
    projected: torch.Tensor | None = None
    text_mlp: torch.Tensor | None = None
    before_rotary: torch.Tensor | None = None
    window_attention: torch.Tensor | None = None
    scores: torch.Tensor | None = None
    kept: torch.Tensor | None = None
    after_rotary: torch.Tensor | None = None
    inputs_embeds: torch.Tensor
    logits: torch.Tensor
    loss: torch.Tensor | None = None


class VideoXLPro(nn.Module):
    def __init__(self, config: ModelConfig, *, kind: str = "eager"):
        super().__init__()
        vision, decoder = config.vision.width, config.decoder.width
        self.config = config
        self.model = nn.Module()
        self.model.embed_tokens = nn.Embedding(config.decoder.vocab_size, decoder)
        self.model.layers = nn.ModuleList(
            DecoderLayer(config.decoder, kind=kind) for _ in range(config.decoder.depth)
        )
        self.model.norm = RMSNorm(decoder, eps=config.decoder.norm_eps)
        self.model.vision_tower = nn.Module()
        self.model.vision_tower.vision_tower = SiglipTower(config.vision, kind=kind)
        self.model.sae = Dts(vision)
        self.model.mm_projector = nn.Sequential(
            nn.Linear(vision, decoder), nn.GELU(), nn.Linear(decoder, decoder)
        )
        self.model.text_mlp = nn.Sequential(nn.Linear(decoder, decoder), nn.GELU())
        self.model.WindowTimeToTokenAttention = selector.WindowAttention(decoder)
        if not config.decoder.tied_head:
            self.lm_head = nn.Linear(decoder, config.decoder.vocab_size, bias=False)

    def forward(self, sample: Sample) -> Stages:
        ids = torch.tensor(sample.ids)
        words = self.model.embed_tokens(ids.clamp(min=0))
        stages = {}
        if sample.frames is not None:
            is_word, image = ids != IMAGE, sample.ids.index(IMAGE)
            stages = self.select(self.encode(sample), words[is_word], sample)
            visual = stages.pop("visual")
            words = torch.cat([words[:image], visual, words[image + 1 :]])
        logits = self.decode(words)
        loss = None
        if sample.labels is not None:
            labels = sample.labels
            if sample.frames is not None:
                labels = labels[:image] + [IGNORE] * len(visual) + labels[image + 1 :]
            loss = F.cross_entropy(logits[:-1], torch.tensor(labels[1:]), ignore_index=IGNORE)
        return Stages(**stages, inputs_embeds=words, logits=logits, loss=loss)

    def encode(self, sample: Sample) -> dict[str, torch.Tensor]:
        """Applies tower, resize, DTS and projector."""
        frames = sample.frames
        features = self.model.vision_tower.vision_tower(frames)
        grid = to_dts_grid(features)
        if sample.is_picture:
            grouped = grid.repeat_interleave(4, dim=0)
        else:
            grouped = torch.cat([grid, grid[-1:].expand(-len(grid) % 4, -1, -1, -1)])
        compressed = self.model.sae(to_groups(grouped, layout=self.config.dts.layout))
        projected = self.model.mm_projector(compressed.flatten(2).transpose(1, 2))
        return {
            "vision_features": features,
            "interpolated": grid,
            "dts_out": compressed,
            "projected": projected,
        }

    def select(self, stages, words, sample: Sample) -> dict[str, torch.Tensor]:
        """Returns stamps, scores, rotation and the kept tokens (`visual`)."""
        grid = stages["projected"].transpose(1, 2).unflatten(-1, (24, 24))
        if sample.is_picture and len(grid) > 1:
            grid = grid[1:]
        pooled = F.avg_pool2d(grid, 2).flatten(2).transpose(1, 2)
        stamps = self.model.embed_tokens(sample.stamp_ids)
        before = torch.cat([stamps, pooled], 1).flatten(0, 1)
        text = self.model.text_mlp(words)
        attended = self.model.WindowTimeToTokenAttention(before)
        scores = selector.normalized_scores(attended, text)
        is_slot = selector.is_slot(len(before))
        added = torch.zeros(len(before), dtype=scores.dtype).masked_scatter(is_slot, scores)
        after = rotate_pairs(before, theta=1e6) + added[:, None]
        kept = selector.highest(scores.detach(), ratio=sample.keep_ratio)
        stays = ~is_slot
        stays[is_slot.nonzero()[kept, 0]] = True
        return {
            **stages,
            "text_mlp": text,
            "before_rotary": before,
            "window_attention": attended,
            "scores": scores,
            "kept": kept,
            "after_rotary": after,
            "visual": after[stays],
        }

    def decode(self, embeddings) -> torch.Tensor:
        """[L, D] -> logits [L, V]."""
        x = embeddings[None]
        for layer in self.model.layers:
            x = layer(x)
        head = self.model.embed_tokens if self.config.decoder.tied_head else self.lm_head
        return F.linear(self.model.norm(x)[0], head.weight)

    def greedy(self, embeddings, *, steps: int) -> list[int]:
        """Decodes greedily after [L, D], without a cache."""
        ids = []
        for _ in range(steps):
            ids.append(int(self.decode(embeddings)[-1].argmax()))
            word = self.model.embed_tokens(torch.tensor(ids[-1:]))
            embeddings = torch.cat([embeddings, word])
        return ids

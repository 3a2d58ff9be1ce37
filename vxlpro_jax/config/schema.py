"""Frozen configuration of a model and of a run: every size and option is declared here, once.

A run's config file (`configs/*.py`) returns an `ml_collections.ConfigDict`; `from_mapping` turns it
into these dataclasses and answers an unknown key with the nearest known one. On disk a model's
sizes live in the release's own `config.json` (`ModelConfig.from_release`, `.to_release`).
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, Self, TypeVar

from vxlpro_jax.utils.errors import InputError

T = TypeVar("T")

FRAMES_PER_GROUP = 4
STAMP_TOKENS = 10
IMAGE_TOKEN = -200
IGNORE_LABEL = -100

Layout = Literal["released", "temporal"]
AttentionBackend = Literal["auto", "xla", "chunked", "splash", "cudnn"]
SelectorGradient = Literal["scores", "straight_through"]
MaskPolicy = Literal["sgm", "random", "tube", "motion"]
Task = Literal["answer", "recot"]


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise InputError(f"The config does not fit together: {message}.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class VisionConfig:
    """SigLIP tower. Defaults: so400m-patch14-384 less its last layer, which the release deletes."""

    width: int = 1152
    depth: int = 26
    num_heads: int = 16
    mlp_width: int = 4304
    image_size: int = 384
    patch_size: int = 14
    norm_eps: float = 1e-6
    remat: bool = False

    @property
    def grid(self) -> int:
        """Patches along one side; pixels that do not fill a patch are unused."""
        return self.image_size // self.patch_size


@dataclasses.dataclass(frozen=True, kw_only=True)
class DtsConfig:
    """Dynamic Token Synthesizer. Its width is the tower's.

    `released` is the channel/time order that the released weights were trained through (a reshape
    of frame-major channels, no transpose); `temporal` puts channel c of frame f at (c, f). `grid`
    is the side, 24 in the release, to which each frame's features are resized.
    """

    layout: Layout = "released"
    grid: int = 24


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """Qwen2.5 decoder. Defaults: Qwen2.5-3B-Instruct as released.

    With `scan_layers` the layers' parameters are stacked and compile time does not grow with depth;
    without, each layer has its own, which saves the copy that a scan on a CPU makes of them.
    """

    vocab_size: int = 151_936
    width: int = 2048
    depth: int = 36
    num_heads: int = 16
    num_kv_heads: int = 2
    mlp_width: int = 11_008
    rope_theta: float = 1e6
    norm_eps: float = 1e-6
    tied_head: bool = True
    max_positions: int = 32_768
    remat: bool = False
    scan_layers: bool = True

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.width // self.num_heads


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The whole model: tower, DTS, projector and selector (sized by the two widths), decoder.

    Behind the projector the mean of `pool` x `pool` places is one visual token; differs from the
    release unless 2. The choice of tokens has no gradient: with `selector_gradient="scores"` the
    selector learns as in the release, through its scores alone, which are added to the tokens that
    are kept; with `"straight_through"` also as if each of these were multiplied by its score, so
    that tokens which help to answer rise.
    """

    vision: VisionConfig = VisionConfig()
    dts: DtsConfig = DtsConfig()
    decoder: DecoderConfig = DecoderConfig()
    pool: int = 2
    attention: AttentionBackend = "auto"
    selector_gradient: SelectorGradient = "scores"

    def __post_init__(self):
        _require(self.vision.width % 32 == 0, "vision.width must be a multiple of 32 (GroupNorm)")
        for part, value in (("vision", self.vision), ("decoder", self.decoder)):
            fits = value.width % value.num_heads == 0
            _require(fits, f"{part}.width must be a multiple of {part}.num_heads")
        groups = self.decoder.num_heads % self.decoder.num_kv_heads == 0
        _require(groups, "decoder.num_heads must be a multiple of decoder.num_kv_heads")
        _require(
            self.decoder.width % 8 == 0, "decoder.width must be a multiple of 8 (selector heads)"
        )
        pools = self.pool > 0 and self.dts.grid % self.pool == 0
        _require(pools, "dts.grid must be a multiple of pool")

    @property
    def tokens_per_group(self) -> int:
        """Visual tokens that four frames become."""
        return (self.dts.grid // self.pool) ** 2

    @classmethod
    def from_release(cls, config: Mapping[str, Any]) -> Self:
        """Sizes from a release-format `config.json`.

        Raises:
            InputError: a size is missing, or the vision tower's `num_hidden_layers` (which counts
                the deleted last layer) is below 2.
        """
        vision = config.get("vision_config") or {}
        missing = [key for key in _RELEASE_DECODER.values() if key not in config]
        if missing:
            raise InputError(
                f"config.json lacks {', '.join(missing)}: not a Video-XL-Pro checkpoint"
            )
        sizes = {ours: vision[key] for ours, key in _RELEASE_VISION.items() if key in vision}
        if "num_hidden_layers" in vision:
            sizes["depth"] = vision["num_hidden_layers"] - 1
        return cls(
            vision=VisionConfig(**sizes),
            dts=DtsConfig(
                layout=config.get("dts_layout", DtsConfig.layout),
                grid=config.get("dts_grid", DtsConfig.grid),
            ),
            decoder=DecoderConfig(
                **{ours: config[key] for ours, key in _RELEASE_DECODER.items()},
                tied_head=config.get("tie_word_embeddings", False),
                max_positions=config.get("max_position_embeddings", DecoderConfig.max_positions),
            ),
            pool=config.get("visual_pool", cls.pool),
        )

    def to_release(self) -> dict[str, Any]:
        """The `config.json` that `from_release` reads back, in the release's names."""
        vision = {key: getattr(self.vision, ours) for ours, key in _RELEASE_VISION.items()}
        return {
            "architectures": ["LlavaQwenForCausalLM"],
            "model_type": "llava_qwen",
            **{key: getattr(self.decoder, ours) for ours, key in _RELEASE_DECODER.items()},
            "tie_word_embeddings": self.decoder.tied_head,
            "max_position_embeddings": self.decoder.max_positions,
            "hidden_act": "silu",
            "mm_vision_tower": "google/siglip-so400m-patch14-384",
            "mm_hidden_size": self.vision.width,
            "mm_projector_type": "mlp2x_gelu",
            "mm_spatial_pool_mode": "average",
            "mm_spatial_pool_stride": self.pool,
            "mm_patch_merge_type": "unires",
            "image_aspect_ratio": "anyres",
            "dts_layout": self.dts.layout,
            "dts_grid": self.dts.grid,
            "visual_pool": self.pool,
            "vision_config": {
                **vision,
                "num_hidden_layers": self.vision.depth + 1,
                "hidden_act": "gelu_pytorch_tanh",
            },
        }


_RELEASE_VISION = {
    "width": "hidden_size",
    "num_heads": "num_attention_heads",
    "mlp_width": "intermediate_size",
    "image_size": "image_size",
    "patch_size": "patch_size",
    "norm_eps": "layer_norm_eps",
}
_RELEASE_DECODER = {
    "vocab_size": "vocab_size",
    "width": "hidden_size",
    "depth": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "num_kv_heads": "num_key_value_heads",
    "mlp_width": "intermediate_size",
    "rope_theta": "rope_theta",
    "norm_eps": "rms_norm_eps",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecotConfig:
    """ReCoT: what is hidden from the compressor, the decoder that restores it, and the loss.

    Only the scores of `sgm` are published; all else is ours. `random` ignores the content, `tube`
    hides places throughout the four frames, `motion` keeps what changes. `mask_ratio` is the share
    hidden of a clip whose frames have nothing in common, and of a still one. `difference_weight`
    weighs the error of the changes between frames against that of the tokens.
    """

    policy: MaskPolicy = "sgm"
    mask_ratio: tuple[float, float] = (0.75, 0.75)
    difference_weight: float = 1.0
    decoder_width: int = 512
    decoder_depth: int = 2
    decoder_heads: int = 8

    def __post_init__(self):
        low, high = self.mask_ratio
        shares = 0.05 <= low <= high <= 0.95
        _require(shares, "recot.mask_ratio must be two of 0.05 to 0.95, the lower one first")
        fits = self.decoder_heads > 0 and self.decoder_width % self.decoder_heads == 0
        _require(fits, "recot.decoder_width must be a multiple of recot.decoder_heads")


@dataclasses.dataclass(frozen=True, kw_only=True)
class InferenceConfig:
    """How a model is asked unless the question says otherwise: what it was trained to see.

    A model folder carries these values as `inference_config.json`; training writes them there.

    Attributes:
        max_frames: number of frames that are sampled from a video at most.
        fps: frames sampled per second of a video; 0 samples uniformly.
        keep_ratio: share of the visual tokens that the selector keeps, in (0, 1].
    """

    max_frames: int = 128
    fps: float = 0.0
    keep_ratio: float = 0.9

    def __post_init__(self):
        _require(self.max_frames > 0, "max_frames must be at least 1")
        _require(self.fps >= 0, "fps must be 0 (uniform sampling) or more")
        _require(0 < self.keep_ratio <= 1, "keep_ratio must be above 0 and at most 1")


PRESETS: dict[str, ModelConfig] = {
    "3b": ModelConfig(),
    "tiny": ModelConfig(
        vision=VisionConfig(width=64, depth=3, num_heads=4, mlp_width=256, image_size=112),
        dts=DtsConfig(grid=8),
        decoder=DecoderConfig(
            vocab_size=512,
            width=128,
            depth=4,
            num_heads=4,
            num_kv_heads=2,
            mlp_width=384,
            max_positions=4096,
        ),
    ),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where samples come from and the static shapes that they are padded to.

    `path` names data files: a LLaVA-format JSON list, a JSONL file (`*.jsonl`), ArrayRecord shards
    (`*.arrayrecord`) or the folder of their ingest, several of these by braces or stars
    (`a/{x,y}.json`, `shards/*.arrayrecord`), or a mixture (`*.yaml`). Empty means the embedded
    synthetic clips, written once to `workdir_cache`. `eval_path` is another, of samples that are
    only evaluated. Videos and pictures are under `video_root` and `image_root`; one that is empty
    means each data file's own folder. Each of these may be a URL (`http`, `https`, `s3`, `gs`) with
    the extra `remote` installed; copies of remote shards go to `workdir_cache`. `feature_cache` is
    a folder where the features of a frozen tower, or of tower and DTS if both are frozen, are kept.

    A row of the batch has `max_frames` frames, a multiple of four, and `max_text_tokens` text ids,
    template and answers included. Up to `samples_per_row` samples share it. A video gives `fps`
    frames a second or, with 0, uniformly spaced ones: at most `frames_per_sample`, or with 0 as
    many as a row has. With `frame_buckets`, multiples of four, a batch has just so many frames a
    row, and samples that need so many but not fewer; a step is compiled for each. How many a video
    needs is known at a fixed `fps` from its record's `duration`; else it may be all. `num_workers`
    processes read videos, each for at most `seconds_per_file`;
    with 0 workers threads do, without a limit. More unreadable records than the share
    `bad_sample_quota` stop the run.
    """

    path: str = ""
    eval_path: str = ""
    video_root: str = ""
    image_root: str = ""
    workdir_cache: str = "~/.cache/vxlpro_jax"
    feature_cache: str = ""
    tokenizer: str = ""
    batch_size: int = 8
    max_frames: int = 8
    max_text_tokens: int = 96
    samples_per_row: int = 1
    fps: float = 0.0
    frames_per_sample: int = 0
    frame_buckets: tuple[int, ...] = ()
    num_workers: int = 0
    seconds_per_file: float = 120.0
    bad_sample_quota: float = 0.05


@dataclasses.dataclass(frozen=True, kw_only=True)
class ParamGroup:
    """Parameters whose path matches `pattern` (regular expression, searched); first match wins.

    With the rule `muon` matrices that multiply get orthogonal updates; the rest stays with AdamW.
    """

    pattern: str = ""
    lr_scale: float = 1.0
    rule: Literal["adamw", "muon"] = "adamw"


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """AdamW or Muon, with linear warm-up and cosine decay to zero; `lr_scale=0` freezes a group.

    The first moments, or Muon's momentum, are kept in `momentum_dtype`, or float32 if it is empty.
    Second moments change by a thousandth a step, too little for bfloat16, and are always float32.
    """

    lr: float = 1e-3
    warmup: float = 0.03
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    momentum_dtype: str = ""
    groups: tuple[ParamGroup, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """Devices along each mesh axis; one axis may be -1, meaning all that are left.

    `num_slices` groups of devices, each of which has its own fast network, share the axis `data`.
    """

    data: int = 1
    fsdp: int = -1
    tensor: int = 1
    context: int = 1
    num_slices: int = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One training run.

    `task` is what it learns: `answer` questions with the whole model, or `recot`, restoring hidden
    tokens with the compressor alone. `keep_ratio` bounds the uniform draw of the selector's keep
    ratio; what is above 1 keeps all. With `pose_max_frames` samples take the places of pieces of
    videos of up to so many frames, so that positions of longer videos than are shown are learned.
    Held-out samples are evaluated every `eval_every` steps and at the end; with 0 never.
    `encode_microbatch` is how many groups of four frames a device encodes at a time, which bounds
    the memory of the tower and the compressor; with 0 all that it has. The rows of a batch go
    through the model in `grad_accum_steps` parts, whose gradients are averaged.
    """

    task: Task = "answer"
    model: ModelConfig = PRESETS["tiny"]
    recot: RecotConfig = RecotConfig()
    data: DataConfig = DataConfig()
    optim: OptimConfig = OptimConfig()
    mesh: MeshConfig = MeshConfig()
    seed: int = 0
    total_steps: int = 100
    checkpoint_every: int = 50
    eval_every: int = 0
    log_every: int = 10
    init_from: str = ""
    keep_ratio: tuple[float, float] = (0.7, 0.99)
    pose_max_frames: int = 0
    param_dtype: str = "float32"
    compute_dtype: str = "float32"
    encode_microbatch: int = 0
    grad_accum_steps: int = 1

    def __post_init__(self):
        low, high = self.keep_ratio
        _require(0 < low <= high, "keep_ratio must be two numbers above 0, the lower one first")
        _require(self.pose_max_frames >= 0, "pose_max_frames must be 0 or more")

    @property
    def mean_keep_ratio(self) -> float:
        """Of the draws, of which those above 1 count as 1."""
        low, high = self.keep_ratio
        if high <= 1 or low >= 1:
            return min((low + high) / 2, 1.0)
        return 1 - (1 - low) ** 2 / (2 * (high - low))

    @property
    def inference(self) -> InferenceConfig:
        """How the trained model is asked: with the frames and the mean keep ratio of training."""
        return InferenceConfig(
            max_frames=self.data.frames_per_sample or self.data.max_frames,
            fps=self.data.fps,
            keep_ratio=self.mean_keep_ratio,
        )

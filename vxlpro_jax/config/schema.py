"""Frozen configuration of a model and of a run: every size and option is declared here, once.

A run's config file (`configs/*.py`) sets what differs from these defaults; `parsing.from_mapping`
turns it into these dataclasses. The string below a field is its meaning: `--help` and the table of
config fields show the first sentence (see `schema_table`). On disk a model's sizes are in the
release's own `config.json` (`ModelConfig.from_release`, `.to_release`).
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal, Self, TypeVar

from vxlpro_jax.config import limits, release_keys, release_rope
from vxlpro_jax.utils import nested
from vxlpro_jax.utils.errors import InputError

T = TypeVar("T")

FRAMES_PER_GROUP = 4
STAMP_TOKENS = 10
IMAGE_TOKEN = -200
IGNORE_LABEL = -100

# Above the grid side of any known tower; the number of positions grows with its square.
_MOST_PATCHES = 256

Layout = Literal["released", "temporal"]
SelectorGradient = Literal["scores", "straight_through"]
Rounding = Literal["stochastic", "master", "nearest"]
CacheType = Literal["model", "int8"]
Remat = Literal["none", "elementwise", "all_but_attention", "all"]


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise InputError(f"The config does not fit together: {message}.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class VisionConfig:
    """SigLIP tower. Defaults: so400m-patch14-384 without its last layer, as in the release."""

    width: int = 1152
    """Hidden size (channels per patch)."""
    depth: int = 26
    """Transformer layers."""
    num_heads: int = 16
    """Attention heads."""
    mlp_width: int = 4304
    """Hidden units of the MLP."""
    image_size: int = 384
    """Side of the input in pixels."""
    patch_size: int = 14
    """Side of a patch in pixels."""
    norm_eps: float = 1e-6
    """Epsilon of the layer norms."""
    remat: Remat = "none"
    """What each layer computes again in the backward pass instead of keeping it. From left to right
    the values need less memory: nothing, all but products of matrices and attention, all but
    attention, all."""

    def __post_init__(self):
        limits.check_fields(self, path="model.vision.")
        _require(
            1 <= self.grid <= _MOST_PATCHES,
            f"vision.image_size must hold 1 to {_MOST_PATCHES} times vision.patch_size",
        )

    @property
    def grid(self) -> int:
        """Patches along one side; pixels that do not fill a patch are unused."""
        return self.image_size // self.patch_size


@dataclasses.dataclass(frozen=True, kw_only=True)
class DtsConfig:
    """Dynamic Token Synthesizer. Its width is the tower's."""

    layout: Layout = "released"
    """Order of channels and time. `released` is the order that the released weights were trained
    with (a reshape of frame-major channels, no transpose); `temporal` puts channel c of frame f at
    (c, f)."""
    grid: int = 24
    """Side of the grid to which each frame's features are resized."""

    def __post_init__(self):
        limits.check_fields(self, path="model.dts.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class YarnConfig:
    """YaRN rescaling of the rotary frequencies, for contexts longer than the weights were made for.

    Qwen2.5 reads 131,072 positions with a factor of 4.
    """

    factor: float = 1.0
    """Factor by which the context length grows; 1 leaves the frequencies unchanged."""
    original_positions: int = 32_768
    """Context length that the weights were trained for, before YaRN."""
    attention_factor: float = 0.0
    """Factor that scales queries and keys; 0 for the paper's value, 0.1 ln(factor) + 1."""
    beta_fast: float = 32.0
    """Turns within the original context above which a frequency is left unchanged."""
    beta_slow: float = 1.0
    """Turns within the original context below which a frequency is divided by the factor."""
    truncate: bool = True
    """Round the bounds of the ramp between these two to whole channels."""

    def __post_init__(self):
        limits.check_fields(self, path="model.decoder.yarn.")

    @property
    def scale(self) -> float:
        """Factor that scales queries and keys."""
        return self.attention_factor or 0.1 * math.log(self.factor) + 1

    @property
    def is_off(self) -> bool:
        """Whether the rotary embedding is not rescaled."""
        return self.factor == 1 and self.scale == 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """Qwen2.5 decoder. Defaults: Qwen2.5-3B-Instruct as released."""

    vocab_size: int = 151_936
    """Rows of the token embedding."""
    width: int = 2048
    """Hidden size (channels per position)."""
    depth: int = 36
    """Transformer layers."""
    num_heads: int = 16
    """Attention heads of the queries."""
    num_kv_heads: int = 2
    """Attention heads of keys and values."""
    mlp_width: int = 11_008
    """Hidden units of the MLP."""
    rope_theta: float = 1e6
    """Base of the rotary frequencies."""
    yarn: YarnConfig = YarnConfig()
    norm_eps: float = 1e-6
    """Epsilon of the RMS norms."""
    tied_head: bool = True
    """Whether the output head is the token embedding."""
    max_positions: int = 32_768
    """Context length that the weights were trained for."""
    remat: Remat = "none"
    """What each layer computes again in the backward pass instead of keeping it. From left to right
    the values need less memory: nothing, all but products of matrices and attention, all but
    attention, all."""
    scan_layers: bool = True
    """Stack the layers' parameters and scan over them, so that compile time does not grow with
    depth. Without it each layer has its own parameters, which saves the copy that a scan makes of
    them on a CPU."""

    def __post_init__(self):
        limits.check_fields(self, path="model.decoder.")

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.width // self.num_heads

    @property
    def context(self) -> int:
        """Context length in positions, extended by YaRN if it is on."""
        if self.yarn.is_off:
            return self.max_positions
        return max(self.max_positions, int(self.yarn.factor * self.yarn.original_positions))


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The whole model: tower, DTS, projector and selector (sized by the two widths), decoder."""

    vision: VisionConfig = VisionConfig()
    dts: DtsConfig = DtsConfig()
    decoder: DecoderConfig = DecoderConfig()
    pool: int = 2
    """Side of the square window that is averaged into one visual token; 2 in the release."""
    attention: str = "auto"
    """Attention backend, a module of `ops/attention/backends`; `auto` chooses by platform and
    length."""
    selector_gradient: SelectorGradient = "scores"
    """How the selector learns, since its choice of tokens has no gradient. `scores` is as in the
    release: through the scores that are added to the kept tokens. With `straight_through` the
    selector also learns as if each kept token were multiplied by its score, so that tokens which
    help to answer get higher scores."""

    def __post_init__(self):
        limits.check_fields(self, path="model.")
        _require(self.vision.width % 32 == 0, "vision.width must be a multiple of 32 (GroupNorm)")
        for part, value in (("vision", self.vision), ("decoder", self.decoder)):
            fits = value.width % value.num_heads == 0
            _require(fits, f"{part}.width must be a multiple of {part}.num_heads")
        _require(self.decoder.head_dim % 2 == 0, "decoder.width / decoder.num_heads must be even")
        groups = self.decoder.num_heads % self.decoder.num_kv_heads == 0
        _require(groups, "decoder.num_heads must be a multiple of decoder.num_kv_heads")
        _require(
            self.decoder.width % 8 == 0, "decoder.width must be a multiple of 8 (selector heads)"
        )
        pools = self.pool > 0 and self.dts.grid % self.pool == 0
        _require(pools, "dts.grid must be a multiple of pool")

    @property
    def tokens_per_group(self) -> int:
        """Visual tokens per group of four frames."""
        return (self.dts.grid // self.pool) ** 2

    @classmethod
    def from_release(cls, config: Mapping[str, Any]) -> Self:
        """Reads the sizes from a release-format `config.json`; `release_keys` explains its keys.

        Raises:
            InputError: a size is missing, has another type or is out of its range, or a key asks
                for something that the model does not compute.
        """
        defaults = nested.flatten(dataclasses.asdict(cls()), separator=".")
        fields = release_keys.read(config, defaults=defaults)
        decoder = fields["decoder"] | {"yarn": YarnConfig(**fields["decoder"].get("yarn", {}))}
        return cls(
            vision=VisionConfig(**fields.get("vision", {})),
            dts=DtsConfig(**fields.get("dts", {})),
            # Qwen2's own default, which differs from the released model's.
            decoder=DecoderConfig(**{"tied_head": False, **decoder}),
            pool=fields.get("pool", cls.pool),
        )

    def to_release(self, source: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Returns the `config.json` that `from_release` reads back, in the release's names.

        Args:
            source: content of the config.json that the model comes from. Its keys that are not
                sizes are kept, and so is its form of the rotary embedding if that is the same.
        """
        carried = dict(source or {})
        if not self._rotates_as(carried):
            carried = {key: x for key, x in carried.items() if key not in release_rope.KEYS}
        return release_keys.write(dataclasses.asdict(self), carried=carried)

    def _rotates_as(self, source: Mapping[str, Any]) -> bool:
        found = release_rope.read(source)
        theta, yarn = found.get("rope_theta"), YarnConfig(**found.get("yarn", {}))
        return (theta, yarn) == (self.decoder.rope_theta, self.decoder.yarn)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecotConfig:
    """ReCoT: masking of the compressor's input, the decoder that restores it, and the loss.

    Only the scores of the policy `sgm` are published; all else is ours.
    """

    policy: str = "sgm"
    """Mask policy, a module of `ops/mask_policies`. `sgm` follows its learned scores, `random`
    ignores the content, `tube` hides the same places in all four frames, `motion` keeps what
    changes."""
    mask_ratio: tuple[float, float] = (0.75, 0.75)
    """Shares of tokens to hide, each in [0.05, 0.95]: for a clip whose frames have nothing in
    common, and for a still clip."""
    difference_weight: float = 1.0
    """Weight of the frame-difference error, relative to the token error."""
    decoder_width: int = 512
    """Channels of the reconstruction decoder."""
    decoder_depth: int = 2
    """Layers of the reconstruction decoder."""
    decoder_heads: int = 8
    """Attention heads of the reconstruction decoder."""

    def __post_init__(self):
        limits.check_fields(self, path="recot.")
        low, high = self.mask_ratio
        shares = 0.05 <= low <= high <= 0.95
        _require(shares, "recot.mask_ratio must be two of 0.05 to 0.95, the lower one first")
        fits = self.decoder_width % self.decoder_heads == 0
        _require(fits, "recot.decoder_width must be a multiple of recot.decoder_heads")


@dataclasses.dataclass(frozen=True, kw_only=True)
class InferenceConfig:
    """Default sampling of frames and tokens for questions, taken from how the model was trained."""

    max_frames: int = 128
    """Largest number of frames sampled from a video."""
    fps: float = 0.0
    """Sampling rate of videos in frames per second; 0 for uniformly spaced frames."""
    keep_ratio: float = 0.9
    """Share of the visual tokens that the selector keeps, in (0, 1]."""

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
    """Data sources, and the static shapes to which samples are padded.

    Paths may be URLs (`http`, `https`, `s3`, `gs`) if the extra `remote` is installed.
    """

    path: str = ""
    """Data files; empty for the embedded synthetic clips. A LLaVA-format JSON list, JSONL
    (`*.jsonl`), ArrayRecord shards (`*.arrayrecord`) or the folder of their ingest, several of
    these by braces or stars (`a/{x,y}.json`, `shards/*.arrayrecord`), or a mixture (`*.yaml`)."""
    eval_path: str = ""
    """Data files of held-out samples, used only for evaluation."""
    video_root: str = ""
    """Folder of the videos; empty for each data file's own folder."""
    image_root: str = ""
    """Folder of the images; empty for each data file's own folder."""
    cache_dir: str = "~/.cache/vxlpro_jax"
    """Folder for files that can be recreated: embedded clips and copies of remote shards."""
    feature_cache: str = ""
    """Folder for cached features of a frozen tower, or of tower and DTS if both are frozen; empty
    for no cache. `{cache_dir}` in it is replaced by that field."""
    tokenizer: str = ""
    """Folder with `tokenizer.json`; empty for the one of `init_from`, or else the tiny one."""
    batch_size: int = 8
    """Global batch size: rows of a batch over all devices."""
    max_frames: int = 8
    """Frames per row, a multiple of 4."""
    max_text_tokens: int = 96
    """Text tokens per row, including template and answers."""
    samples_per_row: int = 1
    """Largest number of samples that share a row."""
    fps: float = 0.0
    """Sampling rate of videos in frames per second; 0 for uniformly spaced frames."""
    frames_per_sample: int = 0
    """Largest number of frames per sample; 0 for as many as a row has."""
    frame_buckets: tuple[int, ...] = ()
    """Smaller numbers of frames per row, multiples of 4. A batch holds samples of one bucket, and
    the step is compiled once per bucket. At a fixed `fps` a video's bucket follows from its
    record's `duration`; otherwise a video may need all frames."""
    num_workers: int = 0
    """Number of processes that decode videos; with 0, threads decode without a time limit."""
    seconds_per_file: float = 120.0
    """Time limit for decoding a video, in seconds."""
    bad_sample_quota: float = 0.05
    """Share of unreadable records above which the run stops."""

    def __post_init__(self):
        limits.check_fields(self, path="data.")
        folder = self.feature_cache.replace("{cache_dir}", self.cache_dir)
        object.__setattr__(self, "feature_cache", folder)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ParamGroup:
    """Parameters matched by path, with their learning rate and update rule; first match wins."""

    pattern: str = ""
    """Regular expression that is searched in a parameter's path, such as `decoder/embed`."""
    lr_scale: float = 1.0
    """Learning rate factor; 0 freezes the group."""
    rule: Literal["adamw", "muon"] = "adamw"
    """Update rule. `muon` gives weight matrices orthogonal updates; vectors and embedding tables
    stay with AdamW."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """AdamW or Muon, with linear warm-up and cosine decay to zero."""

    lr: float = 1e-3
    """Peak learning rate."""
    warmup: float = 0.03
    """Share of the steps spent on linear warm-up."""
    b1: float = 0.9
    """Decay of AdamW's first moments."""
    b2: float = 0.999
    """Decay of AdamW's second moments."""
    eps: float = 1e-8
    """Epsilon of AdamW."""
    weight_decay: float = 0.0
    """Decoupled weight decay, applied to matrices and the embedding."""
    clip_norm: float = 1.0
    """Global norm to which gradients are clipped."""
    momentum_dtype: str = ""
    """Dtype of first moments and Muon's momentum; empty for float32. Second moments are always
    float32: they change by a thousandth per step, too little for bfloat16."""
    rounding: Rounding = "stochastic"
    """How parameters that `param_dtype` stores in less than float32 follow updates smaller than
    their precision. `stochastic` rounds up or down at random, right on average; `master` keeps a
    float32 copy in the optimizer state; `nearest` loses most updates of small learning rates."""
    groups: tuple[ParamGroup, ...] = ()
    """Parameter groups, `({"pattern": "^vision/", "lr_scale": 0.0},)`; the first match wins."""

    def __post_init__(self):
        limits.check_fields(self, path="optim.")
        _require(0 <= self.b1 < 1 and 0 <= self.b2 < 1, "optim.b1 and optim.b2 must be in [0, 1)")
        _require(self.clip_norm > 0, "optim.clip_norm must be above 0")
        for group in self.groups:
            fits = math.isfinite(group.lr_scale) and group.lr_scale >= 0
            _require(fits, f"optim.groups: lr_scale of {group.pattern!r} must be 0 or more")


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """Devices along each mesh axis; one axis may be -1, which takes all remaining devices."""

    data: int = 1
    """Data-parallel replicas, which split the batch."""
    fsdp: int = -1
    """Devices that split the batch and shard the parameters."""
    tensor: int = 1
    """Devices that split heads and MLP units."""
    context: int = 1
    """Devices that split the sequence."""
    num_slices: int = 1
    """Number of slices: groups of devices with a fast network of their own, along axis `data`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One training run."""

    objective: str = "sft"
    """Training objective: `sft` (answer questions, whole model), `recot` (restore hidden tokens,
    compressor alone), or a Python file that defines an objective of your own."""
    model: ModelConfig = PRESETS["tiny"]
    recot: RecotConfig = RecotConfig()
    data: DataConfig = DataConfig()
    optim: OptimConfig = OptimConfig()
    mesh: MeshConfig = MeshConfig()
    seed: int = 0
    """Seed of initialisation, shuffling and random draws."""
    total_steps: int = 100
    """Number of optimizer steps; the learning rate reaches zero at the last."""
    checkpoint_every: int = 50
    """Steps between checkpoints."""
    eval_every: int = 0
    """Steps between evaluations on held-out samples, plus one at the end; 0 for none."""
    log_every: int = 10
    """Steps between log lines on the console."""
    init_from: str = ""
    """Checkpoints or model folders to initialise from, separated by commas; each part comes from
    the first that holds it."""
    keep_ratio: tuple[float, float] = (0.7, 0.99)
    """Range from which the keep ratio is drawn uniformly; a draw above 1 keeps all tokens."""
    pose_max_frames: int = 0
    """Longest video, in frames, whose positions are learned by position skipping (PoSE); 0 turns
    it off. Samples get positions as if they were pieces of longer videos."""
    param_dtype: str = "float32"
    """Dtype of the parameters and of the gradients."""
    compute_dtype: str = "float32"
    """Dtype to which the forward pass casts parameters and activations."""
    encode_microbatch: int = 0
    """Groups of four frames that a device encodes at a time, which bounds the memory of tower and
    compressor; 0 for all at once."""
    grad_accum_steps: int = 1
    """Gradient accumulation steps: microbatches per step, whose gradients are averaged."""

    def __post_init__(self):
        limits.check_fields(self, path="")
        low, high = self.keep_ratio
        fits = 0 < low <= high < math.inf
        _require(fits, "keep_ratio must be two numbers above 0, the lower one first")

    @property
    def mean_keep_ratio(self) -> float:
        """Mean of the drawn keep ratios, where a draw above 1 counts as 1."""
        low, high = self.keep_ratio
        if high <= 1 or low >= 1:
            return min((low + high) / 2, 1.0)
        return 1 - (1 - low) ** 2 / (2 * (high - low))

    @property
    def inference(self) -> InferenceConfig:
        """Default inference settings: the frames and the mean keep ratio of training."""
        return InferenceConfig(
            max_frames=self.data.frames_per_sample or self.data.max_frames,
            fps=self.data.fps,
            keep_ratio=self.mean_keep_ratio,
        )

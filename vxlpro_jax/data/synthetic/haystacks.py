"""The embedded task's longer videos: haystacks with cards, for training and evaluation.

Real mp4 files with data files in the format of `synthetic.clips`, written once to a cache folder.
"""

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from vxlpro_jax.config.schema import FRAMES_PER_GROUP
from vxlpro_jax.data.synthetic.clips import (
    FPS,
    SEED,
    VERSION,
    clip_records,
    create_folder_once,
    haystack,
    write_json,
)
from vxlpro_jax.data.synthetic.drawing import COLOURS, write_mp4

NEEDLE_FRAMES = (8, 16, 32, 64, 128)
NEEDLE_DEPTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
NEEDLES = 4  # Clips per length and depth.

TRAIN_FRAMES = (16, 32, 64)
TRAIN_CLIPS = 64  # Clips per length.
_STRETCHES = 8  # Number of factors by which each clip's time stamps are stretched.
_LONGEST_STRETCH = 256.0  # Largest factor, for about 8,000 seconds.


def needle_set(cache: Path) -> Path:
    """Returns a data file of haystacks under `cache`, writing it first if it is missing.

    Its samples have the fields of held-out samples, and also `frames` and `depth`. The clips are in
    the same folder.

    Raises:
        InputError: The folder cannot be written.
    """
    return create_folder_once(cache / f"needles-v{VERSION}", _write_needles) / "needles.json"


def training_set(cache: Path, *, most_frames: int) -> list[Path]:
    """Returns data files of haystacks of up to `most_frames` frames, for training.

    There is one file per length, in the folder of its clips; they are written under `cache` first
    if they are missing. A clip has several samples, each with its time stamps stretched by a
    different `scale`. No file is returned if `most_frames` is too small.

    Raises:
        InputError: The folder cannot be written.
    """
    lengths = [frames for frames in TRAIN_FRAMES if frames <= most_frames]
    if not lengths:
        return []
    root = create_folder_once(cache / f"training-haystacks-v{VERSION}", _write_training)
    return [root / f"{frames}.json" for frames in lengths]


def _write_needles(folder: Path) -> None:
    rng = np.random.default_rng(SEED)
    records = []
    for frames, depth in itertools.product(NEEDLE_FRAMES, NEEDLE_DEPTHS):
        for i in range(NEEDLES):
            colour, name = tuple(COLOURS)[i % len(COLOURS)], f"needle{len(records):04d}"
            [record] = _write_clip(rng, folder / name, colour=colour, frames=frames, depth=depth)
            records.append(record | {"frames": frames, "depth": depth})
    write_json(folder / "needles.json", records)


def _write_training(folder: Path) -> None:
    for frames in TRAIN_FRAMES:
        rng = np.random.default_rng([SEED, frames])
        write_json(folder / f"{frames}.json", list(_write_clips(rng, folder, frames=frames)))


def _write_clips(rng: np.random.Generator, folder: Path, *, frames: int) -> Iterator[dict]:
    for i in range(TRAIN_CLIPS):
        colour, name = tuple(COLOURS)[i % len(COLOURS)], f"hay{frames}-{i:04d}"
        depth = rng.uniform()
        [record] = _write_clip(rng, folder / name, colour=colour, frames=frames, depth=depth)
        for stretch in range(_STRETCHES):
            scale = float(_LONGEST_STRETCH ** rng.uniform())
            yield record | {"id": f"{name}-{stretch}", "scale": round(scale, 2)}


def _write_clip(rng, place: Path, *, colour: str, frames: int, depth: float) -> list[dict]:
    """Writes `place`.mp4 and returns its samples, one per question."""
    clip = haystack(rng, colour=colour, groups=frames // FRAMES_PER_GROUP, depth=depth)
    write_mp4(place.with_suffix(".mp4"), clip.frames, fps=FPS)
    return clip_records(clip, name=place.name, split="eval")

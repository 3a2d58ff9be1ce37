"""Compares our video reading with OpenCV and decord, and measures waits for data in training.

    pip install opencv-python-headless decord2
    python benchmarks/data.py [--rounds 5] [--case NAME ...]

All readers read the same frames of the same files, by index, and resize them with Pillow's bicubic
filter to 384 x 384, as the vision tower expects. OpenCV grabs every frame and converts those that
are taken to pixels; decord gets the indices. Each uses its own default number of threads. `decoder
process` is our reader in one process of a `DecoderPool`, to show that overhead.

The files are written first, with moving noise: H.264 with B-frames as x264 makes it. Readers
alternate within one process, in changing order, so that a drifting machine is fair to all: a ratio
is the median over the rounds of our frames per second relative to the other reader's in the same
round, above 1 where ours is faster. `differs by` is the mean pixel distance from ours, in levels of
255.

Then follow samples per second of the whole pipeline on the embedded clips (reading, decoding and
resizing 8 frames, tokenizing, packing), with threads and with two decoder processes, and the share
of its time in steps that the tiny preset's stage 2 waits for data, from frames and from cached
features.
"""

import argparse
import dataclasses
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

_ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(_ROOT))

import av
import cv2  # pyright: ignore[reportMissingImports]
import decord  # pyright: ignore[reportMissingImports]
import numpy as np
from PIL import Image

from vxlpro_jax.config.schema import DataConfig
from vxlpro_jax.data.loader.build import build_pipeline
from vxlpro_jax.data.video.pool import DecoderPool
from vxlpro_jax.data.video.reader import read_video

SIZE = 384
PIPELINE_SECONDS = 20
TRAINING_STEPS = 300


class Case(NamedTuple):
    """A file of `count` frames, 30 a second, key frames `group` apart; `taken` of them are read."""

    width: int
    height: int
    count: int
    group: int
    taken: int


CASES = {
    "all of a clip": Case(854, 480, 150, 250, 150),
    "32 of a clip": Case(854, 480, 300, 250, 32),
    "a frame a second": Case(1280, 720, 1800, 250, 60),
    "8 of a minute": Case(1280, 720, 1800, 250, 8),
    "8, short groups": Case(1280, 720, 1800, 30, 8),
}

Read = Callable[[Path, int], np.ndarray]


def main() -> None:
    """Prints a table per case."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="timed runs of each implementation")
    parser.add_argument("--case", nargs="+", choices=CASES, default=list(CASES))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, DecoderPool(1, time_limit=600) as pool:

        def in_process(path: Path, taken: int) -> np.ndarray:
            return pool.read(path, max_frames=taken, size=SIZE).frames

        readers = {
            "ours": ours,
            "decoder process": in_process,
            "OpenCV": with_opencv,
            "decord": with_decord,
        }
        for name in args.case:
            path = written(Path(folder, f"{name}.mp4"), CASES[name])
            print(f"\n{name}: {CASES[name]}\n\n{table(path, CASES[name], readers, args.rounds)}")
        print("\n| whole pipeline | samples/s |\n| --- | --: |")
        for workers in (0, 2):
            print(f"| {workers or 'no'} decoder processes | {samples_per_second(workers):.0f} |")
        print(
            "\n| tiny stage 2 reads | waits for data, share of steps and waiting |\n| --- | --: |"
        )
        for what, cache in (("frames", ""), ("features", str(Path(folder, "features")))):
            print(f"| {what} | {waiting_share(Path(folder, what), feature_cache=cache):.1%} |")


def samples_per_second(workers: int) -> float:
    """Measures the pipeline with batches of 8 rows, two samples each."""
    data = DataConfig(max_frames=16, frames_per_sample=8, max_text_tokens=192, samples_per_row=2)
    batches = build_pipeline(dataclasses.replace(data, num_workers=workers), image_size=112, seed=0)
    next(batches)  # Starts the processes.
    started, samples = time.perf_counter(), 0
    while (seconds := time.perf_counter() - started) < PIPELINE_SECONDS:
        samples += int(next(batches)["group_segments"].max(axis=1).sum())
    batches.close()
    return samples / seconds


def waiting_share(workdir: Path, *, feature_cache: str) -> float:
    """Returns a short run's waiting time for data as a share of it and the time of its steps."""
    command = [sys.executable, "-m", "vxlpro_jax.train", "--config=configs/stage2.py"]
    command += [f"--workdir={workdir}", f"--config.data.feature_cache={feature_cache}"]
    subprocess.run(
        [*command, f"--config.total_steps={TRAINING_STEPS}"],
        cwd=_ROOT,
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    seconds = json.loads((workdir / "goodput.json").read_text())["seconds"]
    return seconds["data"] / (seconds["data"] + seconds["step"])


def written(path: Path, case: Case) -> Path:
    """Writes the case's file and returns its path."""
    noise = np.random.default_rng(0).integers(0, 256, (case.height // 8, 640, 3), np.uint8)
    scene = np.kron(noise, np.ones((8, 8, 1), np.uint8))
    with av.open(str(path), "w") as container:
        options = {"preset": "veryfast", "crf": "26"}
        stream = container.add_stream("libx264", rate=30, options=options)
        stream.width, stream.height, stream.pix_fmt = case.width, case.height, "yuv420p"
        stream.codec_context.gop_size = case.group
        for index in range(case.count):
            x = 5 * index % (scene.shape[1] - case.width)
            picture = scene[:, x : x + case.width].copy()
            band = picture[case.height // 4 : case.height // 2]
            band[:, 7 * index % case.width :][:, :90] = index % 256
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, 30)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def ours(path: Path, taken: int) -> np.ndarray:
    """Reads with our reader in this process."""
    return read_video(path, max_frames=taken, size=SIZE).frames


def with_opencv(path: Path, taken: int) -> np.ndarray:
    """Grabs every frame, which decodes it; only frames that are taken become pixels."""
    capture = cv2.VideoCapture(str(path))
    count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    picks = set(np.linspace(0, count - 1, taken, dtype=int).tolist())
    frames = []
    for index in range(count):
        capture.grab()
        if index in picks:
            _, pixels = capture.retrieve()
            frames.append(resized(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)))
    capture.release()
    return np.stack(frames)


def with_decord(path: Path, taken: int) -> np.ndarray:
    """Reads with decord, which seeks to key frames itself."""
    reader = decord.VideoReader(str(path))
    picks = np.linspace(0, len(reader) - 1, taken, dtype=int)
    return np.stack([resized(pixels) for pixels in reader.get_batch(picks).asnumpy()])


def resized(pixels: np.ndarray) -> np.ndarray:
    """Resizes as our reader does."""
    picture = Image.fromarray(pixels)
    return np.asarray(picture.resize((SIZE, SIZE), Image.Resampling.BICUBIC))


def table(path: Path, case: Case, readers: dict[str, Read], rounds: int) -> str:
    """Formats one line per reader."""
    outputs = {who: read(path, case.taken) for who, read in readers.items()}
    seconds: dict[str, list[float]] = {who: [] for who in readers}
    for turn in range(rounds):
        for who in list(readers)[:: -1 if turn % 2 else 1]:
            started = time.perf_counter()
            readers[who](path, case.taken)
            seconds[who].append(time.perf_counter() - started)
    lines = [
        "| | frames/s, best | median | ours / this | differs by |",
        "| --- | --: | --: | --: | --: |",
    ]
    for who, times in seconds.items():
        ratio = statistics.median(b / a for a, b in zip(seconds["ours"], times, strict=True))
        best, median = case.taken / min(times), case.taken / statistics.median(times)
        away = np.abs(outputs[who].astype(np.int16) - outputs["ours"]).mean()
        lines.append(f"| {who} | {best:.1f} | {median:.1f} | {ratio:.2f} | {away:.2f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()

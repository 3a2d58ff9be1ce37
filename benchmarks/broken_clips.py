"""Reads 1,000 clips, 60 of them broken in ten ways, through the data pipeline for three epochs.

    python benchmarks/broken_clips.py [--clips 1000] [--broken 60] [--epochs 3] [--workers 2]

Writes the clips, reads all of them as training does, and prints the number of reported errors by
kind of damage and kind of error, and the resident memory of this process and its decoders after
each epoch. Two kinds are no errors: a variable frame rate and a rotation are read correctly.
"""

import argparse
import collections
import json
import sys
import tempfile
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(_ROOT))

import av
import numpy as np

from vxlpro_jax.config.schema import DataConfig
from vxlpro_jax.data.loader.build import build_pipeline
from vxlpro_jax.data.synthetic.drawing import write_mp4

_SECONDS_PER_FILE = 3.0
_ENDLESS_FRAMES = 200_000


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--clips", type=int, default=1000)
    parser.add_argument("--broken", type=int, default=60)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        ways = write_set(Path(folder), clips=args.clips, broken=args.broken)
        read_set(Path(folder), ways, epochs=args.epochs, workers=args.workers)


def write_set(folder: Path, *, clips: int, broken: int) -> dict[str, str]:
    """Writes clips and `data.json`; returns the kind of damage of each broken clip, by name."""
    rng, ways = np.random.default_rng(0), {}
    endless = folder / "endless.mp4"
    noise = rng.integers(0, 256, (16, 64, 64, 3), np.uint8)
    _write_endless(endless, noise)
    chosen = set(rng.choice(clips, broken, replace=False).tolist())
    for number in range(clips):
        path = folder / f"{number}.mp4"
        write_mp4(path, np.roll(noise[:8], number, axis=2), fps=2)
        if number in chosen:
            way = list(_WAYS)[len(ways) % len(_WAYS)]
            _WAYS[way](path, endless)
            ways[path.name] = way
    endless.unlink()
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "Noise."}]
    samples = [
        {"video": f"{n}.mp4", "conversations": turns, "id": f"{n}.mp4"} for n in range(clips)
    ]
    (folder / "data.json").write_text(json.dumps(samples))
    return ways


def read_set(folder: Path, ways: dict[str, str], *, epochs: int, workers: int) -> None:
    """Reads all clips and prints the number of reported errors by kind."""
    positions = len(json.loads((folder / "data.json").read_text()))
    data = DataConfig(
        path=str(folder / "data.json"),
        batch_size=4,
        max_frames=8,
        num_workers=workers,
        seconds_per_file=_SECONDS_PER_FILE,
        bad_sample_quota=1.05 * len(ways) / positions,
    )
    listed = folder / "bad_samples.jsonl"
    iterator = build_pipeline(data, image_size=112, seed=0, bad_samples_path=listed)
    print(
        "| epoch | batches | seconds | resident MiB, decoders included |\n| --- | --- | --- | --- |"
    )
    for epoch in range(1, epochs + 1):
        started, batches = time.monotonic(), 0
        while sum(place[0] for place in iterator.get_state()["rows"].values()) < epoch * positions:
            next(iterator)
            batches += 1
        seconds = time.monotonic() - started
        print(f"| {epoch} | {batches} | {seconds:.0f} | {resident_mib():.0f} |", flush=True)
    iterator.close()
    found = {}
    for line in listed.read_text().splitlines():
        sample = json.loads(line)
        found[sample["name"].split("'")[1]] = sample["kind"]
    strangers = found.keys() - ways.keys()
    counts = collections.Counter((way, found.get(name, "read")) for name, way in ways.items())
    print("\n| broken by | became | clips |\n| --- | --- | --- |")
    for (way, kind), count in sorted(counts.items()):
        print(f"| {way} | {kind} | {count} |")
    print(f"\n{len(found)} named, {len(strangers)} of them not broken.")


def resident_mib() -> float:
    """Returns the resident memory of this process and its children in MiB."""
    total, pending = 0, [str(Path("/proc/self").resolve().name)]
    while pending:
        process = Path("/proc") / pending.pop()
        total += int((process / "statm").read_text().split()[1])
        for task in (process / "task").iterdir():
            pending += (task / "children").read_text().split()
    return total * 4096 / 2**20


# ---- Ways ----------------------------------------------------------------------------------------


def _truncated(path: Path, _: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def _empty(path: Path, _: Path) -> None:
    path.write_bytes(b"")


def _random_bytes(path: Path, _: Path) -> None:
    path.write_bytes(np.random.default_rng(0).bytes(20_000))


def _text(path: Path, _: Path) -> None:
    path.write_text("This is no video.\n" * 100)


def _missing(path: Path, _: Path) -> None:
    path.unlink()


def _sound_alone(path: Path, _: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16_000)
        samples = np.zeros((1, 1024), np.float32)
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 16_000, 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode())


def _write_endless(path: Path, noise: np.ndarray) -> None:
    """Writes a clip with a single key frame, so that the last frame needs all others."""
    with av.open(str(path), "w") as container:
        options = {"preset": "ultrafast", "x264-params": "keyint=infinite:scenecut=0"}
        stream = container.add_stream("libx264", rate=30, options=options)
        stream.height, stream.width, stream.pix_fmt = *noise.shape[1:3], "yuv420p"
        for index in range(_ENDLESS_FRAMES):
            frame = av.VideoFrame.from_ndarray(noise[index % len(noise)], format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, 30)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def _endless(path: Path, endless: Path) -> None:
    """Makes a clip that takes longer to decode than the time limit."""
    path.write_bytes(endless.read_bytes())


def _too_wide(path: Path, _: Path) -> None:
    with av.open(str(path), "w", format="mov") as container:
        stream = container.add_stream("mjpeg", rate=1)
        stream.width, stream.height, stream.pix_fmt = 16_384, 4096, "yuvj420p"
        frame = av.VideoFrame(16_384, 4096, "yuvj420p")
        container.mux(stream.encode(frame))
        container.mux(stream.encode())


def _variable_rate(path: Path, _: Path) -> None:
    _write(path, times=(0, 40, 80, 2000, 2040, 5000, 5040, 9000))


def _rotated(path: Path, _: Path) -> None:
    _write(path, times=range(0, 4000, 500), rotation=90)


def _write(path: Path, *, times, rotation: int = 0) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        if rotation:
            stream.set_display_rotation(rotation)
        for time_ in times:
            frame = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")
            frame.pts, frame.time_base = int(time_), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


_WAYS: dict[str, Callable[[Path, Path], None]] = {
    "truncation": _truncated,
    "no bytes": _empty,
    "random bytes": _random_bytes,
    "text": _text,
    "absence": _missing,
    "sound alone": _sound_alone,
    "endless decoding": _endless,
    "16,384 pixels": _too_wide,
    "variable rate": _variable_rate,
    "rotation": _rotated,
}


if __name__ == "__main__":
    main()

"""Fine-tunes a model on clips of your own, and asks it about clips that it has not seen.

`python docs/examples/fine_tune.py --checkpoint runs/tiny --out runs/mine` draws 72 clips of a room
in which the light goes on or off. Put your clips and questions in their place.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np

import vxlpro_jax
from vxlpro_jax.data.synthetic.drawing import write_mp4

QUESTION = "Does the light go on or off?"
ANSWERS = ("on", "off")


def main(argv: list[str]) -> None:
    """Writes the data, trains, and compares answers before and after."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--checkpoint", required=True, help="model or training folder")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--steps", type=int, default=100, help="training steps")
    args = parser.parse_args(argv)
    data, run = args.out / "data", args.out / "run"

    write_clips(data, "train", count=64)
    held_out = write_clips(data, "eval", count=8)
    print(f"before: {accuracy(args.checkpoint, held_out, data):.2f}", flush=True)
    train(args.checkpoint, data, run, steps=args.steps)
    print(f"after: {accuracy(run, held_out, data):.2f}")


def write_clips(folder: Path, split: str, *, count: int) -> list[dict]:
    """Writes `count` clips, and the data file that names them."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(len(split))
    samples = []
    for index in range(count):
        answer = ANSWERS[index % 2]
        file = f"{split}{index}.mp4"
        write_mp4(folder / file, room(rng, answer), fps=2)
        turns = [
            {"from": "human", "value": f"<image>\n{QUESTION}"},
            {"from": "gpt", "value": answer},
        ]
        samples.append({"id": file, "video": file, "conversations": turns})
    (folder / f"{split}.json").write_text(json.dumps(samples, indent=1))
    return samples


def room(rng: np.random.Generator, answer: str) -> list[np.ndarray]:
    """Eight frames of a wall with a pattern: dark, then bright, or the other way round."""
    wall = rng.uniform(0.3, 1.0, (160, 160, 3))
    light = np.full(8, 60.0)
    switch = rng.integers(2, 7)
    light[switch:] = 230.0
    if answer == "off":
        light = light[::-1]
    return [(wall * level).astype(np.uint8) for level in light]


def train(checkpoint: str, data: Path, run: Path, *, steps: int) -> None:
    """Runs the training command, starting from `checkpoint`."""
    command = [
        "vxlpro_jax.train",
        "--config=configs/stage2.py",
        f"--workdir={run}",
        f"--config.init_from={checkpoint}",
        f"--config.data.path={data}/train.json",
        f"--config.data.video_root={data}",
        f"--config.total_steps={steps}",
    ]
    print("python -m", *command, flush=True)
    subprocess.run([sys.executable, "-m", *command], check=True, stdout=subprocess.DEVNULL)


def accuracy(checkpoint: str | Path, samples: list[dict], data: Path) -> float:
    """The share of samples that the model answers right, choosing among `ANSWERS`."""
    engine = vxlpro_jax.Engine(vxlpro_jax.load_model(checkpoint))
    right = []
    for sample in samples:
        answer = engine.ask(data / sample["video"], QUESTION, choices=ANSWERS)
        right.append(answer == sample["conversations"][-1]["value"])
    return sum(right) / len(right)


if __name__ == "__main__":
    main(sys.argv[1:])

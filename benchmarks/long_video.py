"""Measures seconds and memory of an answer about increasing numbers of frames of one long video.

    python benchmarks/long_video.py --checkpoint DIR [--video FILE] [--frames 1000 2000 5000 10000]
        [--keep_ratio 0.9] [--token_cache DIR]

Each number of frames is measured in its own process. It reads and encodes the video, reads the kept
tokens, answers a first question, and then a second one from the same prefill. `resident` is the
peak memory of the process; `of start` is how much longer everything up to the first answer took
than the second answer. Without `--video` a video of 10,240 frames is drawn.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(_ROOT))

from vxlpro_jax.config.schema import DataConfig
from vxlpro_jax.evals.needle import synthetic
from vxlpro_jax.inference.engine import Engine
from vxlpro_jax.inference.options import Options

_COLUMNS = ("frames", "positions", "encode", "frames/s", "read", "first", "second", "of start")
_QUESTIONS = ("What is shown?", "Which colour is the card?")


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--video", default="")
    parser.add_argument("--frames", type=int, nargs="+", default=[1000, 2000, 5000, 10_000])
    parser.add_argument("--keep_ratio", type=float, default=0.9)
    parser.add_argument("--token_cache", default="")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args)))
        return
    args.video = args.video or str(synthetic.haystack(Path(DataConfig().cache_dir).expanduser()))
    print("| " + " | ".join((*_COLUMNS, "resident MiB")) + " |")
    print("| --- " * (len(_COLUMNS) + 1) + "|")
    for frames in args.frames:
        command = [sys.executable, __file__, "--one", f"--checkpoint={args.checkpoint}"]
        command += [f"--video={args.video}", f"--keep_ratio={args.keep_ratio}"]
        command += [f"--token_cache={args.token_cache}", "--frames", str(frames)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        figures = json.loads(done.stdout)
        cells = [f"{figures[name]:.4g}" for name in (*_COLUMNS, "resident")]
        print("| " + " | ".join(cells) + " |", flush=True)


def measure(args: argparse.Namespace) -> dict[str, float]:
    """Measures one number of frames; returns figures in seconds and MiB."""
    [frames] = args.frames
    engine = Engine.load(args.checkpoint, token_cache=args.token_cache)
    options = Options(keep_ratio=args.keep_ratio, max_new_tokens=8, max_context=10**7)
    started = time.monotonic()
    encoded = engine.encode_video(args.video, max_frames=frames)
    seconds = [time.monotonic() - started]

    def lap():
        seconds.append(time.monotonic() - started - sum(seconds))

    plans = [engine.plan(encoded, question, options=options) for question in _QUESTIONS]
    state = engine.prefill(encoded, plans, options=options)
    state.cache.lengths.block_until_ready()
    lap()
    for plan in plans:
        "".join(engine.generate(state, plan, options=options))
        lap()
    encode, read, first, second = seconds
    return {
        "frames": frames,
        "positions": plans[0].positions,
        "encode": encode,
        "frames/s": frames / encode,
        "read": read,
        "first": first,
        "second": second,
        "of start": (encode + read + first) / second,
        "resident": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


if __name__ == "__main__":
    main()

"""Answers questions about a video or a picture.

`python -m vxlpro_jax.generate --checkpoint DIR --video FILE --prompt TEXT [--prompt TEXT ...]`
"""

import argparse
import contextlib
import functools
import json
import sys
from collections.abc import Sequence

from vxlpro_jax.checkpoints.inference_config import read_inference_config
from vxlpro_jax.checkpoints.params import locate
from vxlpro_jax.config.schema import InferenceConfig
from vxlpro_jax.inference import flags, memory_plan
from vxlpro_jax.inference.engine import Encoded, Engine
from vxlpro_jax.inference.memory_plan import Options, Plan
from vxlpro_jax.utils import cli


def main(argv: Sequence[str]) -> None:
    """Runs the command line `argv`, without the program's name."""
    args = parse_arguments(argv)
    defaults = read_inference_config(locate(args.checkpoint).root)
    asked = flags.inference_config_of(args, defaults=defaults)
    options = flags.options_of(
        args,
        keep_ratio=asked.keep_ratio,
        temperature=args.temperature,
        top_p=args.top_p,
        seed=args.seed,
        max_new_tokens=args.max_new_tokens,
    )
    engine = Engine.load(
        args.checkpoint, dtype=args.dtype, progress=cli.progress, feature_cache=args.feature_cache
    )
    with contextlib.ExitStack() as opened:
        if args.video:
            video = engine.open_video(
                args.video, max_frames=asked.max_frames, fps=asked.fps or None
            )
            found = opened.enter_context(video)
            groups, encode = found.groups, found.encode
        else:
            encoded = engine.encode_image(args.image)
            groups, encode = len(encoded.visual), lambda: encoded
        plans = [engine.plan_groups(groups, prompt, options=options) for prompt in args.prompt]
        seen = _describe_sampling(asked) if args.video else ""
        print(_describe(plans, groups=groups, seen=seen, options=options), file=sys.stderr)
        encoded = encode()
    answer = functools.partial(engine.answer, encoded, options=options)
    if args.watch_once:
        watched = engine.watch(encoded, plans, options=options)
        answer = functools.partial(engine.generate, watched, options=options)
    for prompt, plan in zip(args.prompt, plans, strict=True):
        pieces = answer(plan)
        if args.json:
            print(json.dumps(_record(prompt, "".join(pieces), encoded, plan.keep)), flush=True)
        else:
            _stream(prompt if len(plans) > 1 else None, pieces)


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Reads the command line; argparse itself exits with 2 on a mistake."""
    parser = argparse.ArgumentParser(
        prog="python -m vxlpro_jax.generate",
        description=__doc__.split("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--checkpoint", required=True, help="model folder or training folder")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--video", help="video file")
    source.add_argument("--image", help="picture file")
    add("--prompt", required=True, action="append", help="question; repeat it for several")
    add("--watch_once", action="store_true", help="choose visual tokens for all prompts together")
    flags.add_inference_flags(parser)
    add("--temperature", type=float, default=0.0, help="0 is deterministic")
    add("--top_p", type=float, default=1.0, help="nucleus of sampling")
    add("--seed", type=int, default=0, help="of sampling")
    add("--max_new_tokens", type=int, default=256, help="length limit of an answer")
    cache = "folder where visual tokens are kept, so that the next start finds them"
    add("--feature_cache", default="", help=cache)
    add("--json", action="store_true", help="one JSON object a prompt instead of text")
    flags.add_flags(parser)
    return parser.parse_args(argv)


def _describe_sampling(asked: InferenceConfig) -> str:
    rate = f"{asked.fps:g} a second" if asked.fps else "uniformly spaced"
    return f" (at most {asked.max_frames} frames, {rate})"


def _describe(plans: Sequence[Plan], *, groups: int, seen: str, options: Options) -> str:
    """Describes the longest of the plans, before carrying it out takes long."""
    plan = max(plans, key=lambda plan: plan.positions)
    memory, gib = plan.memory, memory_plan.gib
    return (
        f"{groups} groups of four frames{seen}; keep ratio {options.keep_ratio:g}: {plan.keep}"
        f" visual tokens kept, {plan.positions} positions to read. On the device up to"
        f" {gib(memory.peak)}: weights {gib(memory.params)}, visual tokens {gib(memory.visual)},"
        f" input {gib(memory.embeddings)}, keys and values {gib(memory.cache)}, workspace"
        f" {gib(memory.workspace)}, not all of it at once."
    )


def _stream(prompt, pieces):
    if prompt is not None:
        print(f"> {prompt}")
    for piece in pieces:
        print(piece, end="", flush=True)
    print(flush=True)


def _record(prompt: str, answer: str, encoded: Encoded, keep: int) -> dict:
    return {
        "prompt": prompt,
        "answer": answer,
        "groups": len(encoded.visual),
        "visual_tokens": encoded.num_tokens,
        "kept_visual_tokens": keep,
    }


if __name__ == "__main__":
    cli.run(lambda: main(sys.argv[1:]))

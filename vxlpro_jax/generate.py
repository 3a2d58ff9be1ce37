"""Answers questions about a video or a picture.

`python -m vxlpro_jax.generate --checkpoint DIR --video FILE --prompt TEXT [--prompt TEXT ...]`
"""

import argparse
import functools
import json
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from vxlpro_jax.config.schema import InferenceConfig
from vxlpro_jax.inference import flags
from vxlpro_jax.utils import cli
from vxlpro_jax.utils.arguments import ArgumentParser
from vxlpro_jax.utils.errors import InputError

if TYPE_CHECKING:
    from vxlpro_jax.inference.encoder import Encoded, OpenMedia
    from vxlpro_jax.inference.engine import Engine


def main(argv: Sequence[str]) -> None:
    """Runs the command line `argv`, without the program's name."""
    args = parse_arguments(argv)
    _check_prompts(args.prompt)
    # Imported here because they import JAX, which --help does not need.
    from vxlpro_jax.checkpoints.inference_config import read_inference_config
    from vxlpro_jax.checkpoints.params import locate
    from vxlpro_jax.inference.engine import Engine
    from vxlpro_jax.inference.memory_plan import describe

    defaults = read_inference_config(locate(args.checkpoint).root)
    asked = flags.inference_config_of(args, defaults=defaults)
    sampling = {name: getattr(args, name) for name in _SAMPLING}
    options = flags.options_of(args, keep_ratio=asked.keep_ratio, **sampling)
    engine = Engine.load(
        args.checkpoint, dtype=args.dtype, progress=cli.progress, token_cache=args.token_cache
    )
    with _open(args, engine=engine, asked=asked) as media:
        plans = [
            engine.plan_groups(media.groups, prompt, options=options) for prompt in args.prompt
        ]
        seen = _frames(asked) if args.video else "a picture"
        longest = max(plans, key=lambda plan: plan.positions)
        print(
            f"{media.groups} groups of four frames ({seen}); keep ratio {options.keep_ratio:g}:"
            f" {describe(longest)}",
            file=sys.stderr,
        )
        encoded = media.encode()
    answer = functools.partial(engine.answer, encoded, options=options)
    if args.shared_selection:
        state = engine.prefill(encoded, plans, options=options)
        answer = functools.partial(engine.generate, state, options=options)
    for prompt, plan in zip(args.prompt, plans, strict=True):
        pieces = answer(plan)
        if args.json:
            print(json.dumps(_record(prompt, "".join(pieces), encoded, plan.keep)), flush=True)
        else:
            _stream(prompt if len(plans) > 1 else None, pieces)


def _check_prompts(prompts: Sequence[str]) -> None:
    for prompt in prompts:
        try:
            prompt.encode()
        except UnicodeEncodeError as error:
            raise InputError(f"--prompt {prompt!r} is not UTF-8: type it again.") from error


_SAMPLING = ("temperature", "top_p", "seed", "max_new_tokens")


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Parses the command line; argparse itself exits with 2 on a mistake."""
    parser = ArgumentParser(
        prog="python -m vxlpro_jax.generate", description=(__doc__ or "").split("\n")[0]
    )
    add = parser.add_argument
    add("--checkpoint", required=True, help="model folder or training folder")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--video", help="video file")
    source.add_argument("--image", help="picture file")
    add("--prompt", required=True, action="append", help="question; repeat it for several")
    shared = "select the visual tokens once for all prompts, which is faster"
    add("--shared_selection", action="store_true", help=shared)
    temperature = "sampling temperature; 0 is deterministic (default: %(default)s)"
    add("--temperature", type=float, default=0.0, help=temperature)
    top_p = "probability mass to sample from (default: %(default)s)"
    add("--top_p", type=float, default=1.0, help=top_p)
    add("--seed", type=int, default=0, help="seed of the sampling (default: %(default)s)")
    tokens = "maximum number of tokens per answer (default: %(default)s)"
    add("--max_new_tokens", type=int, default=256, help=tokens)
    cache = "folder that caches visual tokens for later runs"
    add("--token_cache", default="", help=cache)
    add("--json", action="store_true", help="print one JSON object per prompt instead of text")
    flags.add_inference_flags(parser)
    flags.add_flags(parser)
    return parser.parse_args(argv)


def _open(args: argparse.Namespace, *, engine: "Engine", asked: InferenceConfig) -> "OpenMedia":
    if args.image:
        return engine.open_image(args.image)
    return engine.open_video(args.video, max_frames=asked.max_frames, fps=asked.fps or None)


def _frames(asked: InferenceConfig) -> str:
    rate = f"{asked.fps:g} per second" if asked.fps else "uniformly spaced"
    return f"at most {asked.max_frames} frames, {rate}"


def _stream(prompt: str | None, pieces: Iterable[str]) -> None:
    if prompt is not None:
        print(f"> {prompt}")
    for piece in pieces:
        print(piece, end="", flush=True)
    print(flush=True)


def _record(prompt: str, answer: str, encoded: "Encoded", keep: int) -> dict:
    return {
        "prompt": prompt,
        "answer": answer,
        "groups": len(encoded.visual),
        "visual_tokens": encoded.num_tokens,
        "kept_visual_tokens": keep,
    }


if __name__ == "__main__":
    cli.run(lambda: main(sys.argv[1:]))

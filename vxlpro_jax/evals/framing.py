"""A benchmark's prompt as ids, and its subtitles as the frames show them."""

from pathlib import Path

import av
import numpy as np

from vxlpro_jax.data.text import chat
from vxlpro_jax.evals.scoring import Profile, Prompt
from vxlpro_jax.evals.subtitles import read_srt, subtitles_at
from vxlpro_jax.inference.engine import Engine, Options, Plan

_FOLDER_RATE = 1.0  # Frames of a folder last a second each.


def plan_prompt(engine: Engine, prompt: Prompt, *, groups: int, options: Options) -> Plan:
    """A plan for `groups` groups of frames, with the prompt's own system message and prefill.

    Raises:
        InputError: not even the prompt and the time stamps fit.
    """
    return engine.plan_ids(_ids(engine, prompt), groups=groups, options=options)


def subtitles_of(path: Path, *, video: Path, times: np.ndarray, profile: Profile) -> str:
    """What an SRT file says while sampled frames are on the screen.

    Args:
        path: of the SRT file.
        video: that it belongs to.
        times: float64 [F], seconds after the first frame.
        profile: whose rule.

    Raises:
        InputError: the file cannot be used.
    """
    fps = _rate(video)
    frames = np.rint(times * fps).astype(int).tolist()
    return subtitles_at(read_srt(path), frames=frames, fps=fps, profile=profile)


def _ids(engine: Engine, prompt: Prompt) -> np.ndarray:
    """The usual prompt with another system message at its front and the reply's start behind."""
    encode = engine.tokenizer.encode
    turns = chat.visual_question(prompt.text)
    ids = chat.encode_prompt(turns, tokenizer=engine.tokenizer)
    usual, wanted = (
        encode(f"<|im_start|>system\n{system}<|im_end|>\n")
        for system in (chat.SYSTEM_MESSAGE, prompt.system)
    )
    prefill = encode(prompt.prefill) if prompt.prefill else []
    return np.array([*wanted, *ids[len(usual) :], *prefill], np.int32)


def _rate(video: Path) -> float:
    """Frames a second."""
    if video.is_dir():
        return _FOLDER_RATE
    try:
        with av.open(str(video)) as container:
            videos = container.streams.video
            return float(videos[0].average_rate or _FOLDER_RATE) if videos else _FOLDER_RATE
    except av.FFmpegError:
        return _FOLDER_RATE

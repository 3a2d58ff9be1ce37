"""ChatML conversations, prompts and time stamps as ids.

Source of every quirk: the release's `preprocess_qwen` (training) and `demo_utils` (inference).

Shapes: T text slots, G groups of four frames.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

import numpy as np

from vxlpro_jax.config.schema import IGNORE_LABEL, IMAGE_TOKEN, STAMP_TOKENS
from vxlpro_jax.data.text.tokenizer import Tokenizer
from vxlpro_jax.utils.errors import InputError

IMAGE_MARK = "<image>"
SYSTEM_MESSAGE = "You are a helpful assistant."

_ROLES = {"human": "user", "gpt": "assistant"}


class Turn(NamedTuple):
    """One turn; `<image>` in a human turn is the place of the video or picture."""

    role: Literal["human", "gpt"]
    text: str


class ChatIds(NamedTuple):
    """ids int32 [T], IMAGE_TOKEN for the visual; labels int32 [T], IGNORE_LABEL where no target."""

    ids: np.ndarray
    labels: np.ndarray


def encode_conversation(turns: Sequence[Turn], *, tokenizer: Tokenizer) -> ChatIds:
    """A training conversation: template, turns and targets.

    Of every turn `<|im_start|>`, `<|im_end|>` and the newline after it are targets; of a `gpt` turn
    the reply too. A conversation that begins with a `gpt` turn loses that turn. `<image>` moves to
    the front of its turn, and its place is followed by a newline of its own before the turn's text,
    which begins with another.

    Args:
        turns: at most one of them, a human one, holds `<image>`, once.
        tokenizer: of the model.

    Raises:
        InputError: no human turn, or `<image>` elsewhere or more than once.
    """
    turns = drop_leading_reply(turns)
    check_image_mark(turns)
    newline = tokenizer.encode("\n")
    system = [*tokenizer.encode("system"), *newline, *tokenizer.encode(SYSTEM_MESSAGE)]
    parts = [_framed(system, tokenizer=tokenizer, target_from=len(system))]
    for turn in turns:
        role = tokenizer.encode(_ROLES[turn.role])
        body = [*role, *newline, *_turn_text(turn.text, tokenizer=tokenizer)]
        first = len(role) + len(newline) if turn.role == "gpt" else len(body)
        parts.append(_framed(body, tokenizer=tokenizer, target_from=first))
    return ChatIds(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def encode_prompt(turns: Sequence[Turn], *, tokenizer: Tokenizer) -> np.ndarray:
    """An inference prompt up to the reply's first id: int32 [T].

    Unlike in training, `<image>` stays where it is and no newline is added after it.

    Raises:
        InputError: no human turn at the end, or `<image>` in a reply or more than once.
    """
    if not turns or turns[-1].role != "human":
        raise InputError("A prompt must end with a human turn: add the question.")
    check_image_mark(turns)
    said = [("system", SYSTEM_MESSAGE), *((_ROLES[turn.role], turn.text) for turn in turns)]
    text = "".join(f"<|im_start|>{role}\n{value}<|im_end|>\n" for role, value in said)
    before, mark, after = f"{text}<|im_start|>assistant\n".partition(IMAGE_MARK)
    image = [IMAGE_TOKEN] if mark else []
    ids = [*tokenizer.encode(before), *image, *tokenizer.encode(after)]
    return np.array(ids, np.int32)


def visual_question(question: str) -> list[Turn]:
    """The turns that ask `question` of one video or picture.

    Raises:
        InputError: the question itself holds `<image>`.
    """
    if IMAGE_MARK in question:
        raise InputError(
            f"The prompt holds {IMAGE_MARK}, which marks the place of the video and is added for"
            " you: remove it."
        )
    return [Turn("human", f"{IMAGE_MARK}\n{question}")]


def drop_leading_reply(turns: Sequence[Turn]) -> list[Turn]:
    """`turns` without a first `gpt` turn, which the release drops.

    Raises:
        InputError: nothing is left.
    """
    kept = list(turns[1:] if turns and turns[0].role == "gpt" else turns)
    if not kept:
        raise InputError("A conversation needs a human turn: add one.")
    return kept


def check_image_mark(turns: Iterable[Turn]) -> int:
    """How many places for a video or picture `turns` hold: 0 or 1.

    Raises:
        InputError: several, or one in a reply.
    """
    if any(IMAGE_MARK in turn.text for turn in turns if turn.role == "gpt"):
        raise InputError(f"{IMAGE_MARK} stands in a reply: move it to a human turn.")
    places = sum(turn.text.count(IMAGE_MARK) for turn in turns)
    if places > 1:
        raise InputError(f"{IMAGE_MARK} stands {places} times in a conversation: keep one.")
    return places


def encode_stamps(
    times: Iterable[float], *, tokenizer: Tokenizer, scale: float = 1.0
) -> np.ndarray:
    """Ids of the groups' time stamps: int32 [G, 10].

    Args:
        times: seconds of each group's first frame; 0.0 for every crop of a picture.
        tokenizer: of the model.
        scale: the sample's time stretch.

    Raises:
        InputError: a time that is negative, not finite or past 999,999 s, or a tokenizer that does
            not give a stamp exactly 10 ids.
    """
    rows = [_stamp_ids(stamp_text(time, scale=scale), tokenizer) for time in times]
    return np.array(rows, np.int32).reshape(-1, STAMP_TOKENS)


def stamp_text(seconds: float, *, scale: float = 1.0) -> str:
    """`Time 0012.5s:` for 12.5 seconds.

    The time is rounded to 0.1 s before it is stretched, as in the release. From 10,000.0 s on whole
    seconds are printed, which differs because one character more would be an eleventh id, and
    windows of the release drift out of step from there.

    Raises:
        InputError: the time is negative, not finite or past 999,999 s.
    """
    # float: Python rounds the exact binary value, numpy's round a scaled copy of it.
    value = round(float(seconds), 1) * scale if math.isfinite(seconds) else math.nan
    if not 0.0 <= value < 999_999.5:
        raise InputError(
            f"A frame's time is {seconds} s (scale {scale}): stamps reach from 0 to 999,999 s, so"
            " mend the file's time stamps or the sample's scale."
        )
    return f"Time {value:06.0f}s:" if round(value, 1) >= 10_000.0 else f"Time {value:06.1f}s:"


def _stamp_ids(text: str, tokenizer: Tokenizer) -> list[int]:
    ids = tokenizer.encode(text)
    if len(ids) != STAMP_TOKENS:
        raise InputError(
            f"The tokenizer gives {text!r} {len(ids)} ids instead of {STAMP_TOKENS}: use one that"
            " splits digits, such as Qwen2.5's."
        )
    return ids


def _turn_text(text: str, *, tokenizer: Tokenizer) -> list[int]:
    if IMAGE_MARK not in text:
        return tokenizer.encode(text)
    if not text.startswith(IMAGE_MARK):
        text = f"{IMAGE_MARK}\n{text.replace(IMAGE_MARK, '').strip()}".strip()
    rest = tokenizer.encode(text.removeprefix(IMAGE_MARK))
    return [IMAGE_TOKEN, *tokenizer.encode("\n"), *rest]


def _framed(body: Sequence[int], *, tokenizer: Tokenizer, target_from: int) -> ChatIds:
    """`body` between the turn's markers; its ids are targets from `target_from` on."""
    targets = [*[IGNORE_LABEL] * target_from, *body[target_from:]]
    end = [tokenizer.im_end, *tokenizer.encode("\n")]
    return ChatIds(
        *(np.array([tokenizer.im_start, *row, *end], np.int32) for row in (body, targets))
    )

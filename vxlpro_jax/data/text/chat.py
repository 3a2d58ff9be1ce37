"""Conversations, prompts and time stamps as token ids, in the ChatML format.

The details follow the release's `preprocess_qwen` (training) and `demo_utils` (inference).

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
    """A turn; `<image>` in a human turn marks the place of the video or picture."""

    role: Literal["human", "gpt"]
    text: str


class ChatIds(NamedTuple):
    """Token ids and labels of a conversation.

    Attributes:
        ids: int32 [T], with IMAGE_TOKEN in the place of the visual.
        labels: int32 [T], with IGNORE_LABEL where the id is not a target.
    """

    ids: np.ndarray
    labels: np.ndarray


def encode_conversation(turns: Sequence[Turn], *, tokenizer: Tokenizer) -> ChatIds:
    """Encodes a training conversation with its chat template and labels.

    In every turn, `<|im_start|>`, `<|im_end|>` and the newline after it are targets; in a `gpt`
    turn the reply is a target too. A leading `gpt` turn is dropped. `<image>` moves to the front of
    its turn and is followed by an extra newline before the turn's text, which itself begins with a
    newline.

    Args:
        turns: turns of the conversation; at most one human turn contains `<image>`, once.
        tokenizer: the model's tokenizer.

    Raises:
        InputError: There is no human turn, or `<image>` is in a reply or occurs more than once.
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
    """Encodes an inference prompt up to the first id of the reply: int32 [T].

    Unlike in training, `<image>` stays where it is and no newline is added after it.

    Raises:
        InputError: The last turn is not a human turn, or `<image>` is in a reply or occurs more
            than once.
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
    """Returns the turns that ask `question` about one video or picture.

    Raises:
        InputError: The question contains `<image>`.
    """
    if IMAGE_MARK in question:
        raise InputError(
            f"The prompt contains {IMAGE_MARK}, which is added automatically: remove it."
        )
    return [Turn("human", f"{IMAGE_MARK}\n{question}")]


def drop_leading_reply(turns: Sequence[Turn]) -> list[Turn]:
    """Returns `turns` without a leading `gpt` turn, which the release drops.

    Raises:
        InputError: No turn is left.
    """
    kept = list(turns[1:] if turns and turns[0].role == "gpt" else turns)
    if not kept:
        raise InputError("A conversation needs a human turn: add one.")
    return kept


def check_image_mark(turns: Iterable[Turn]) -> int:
    """Returns the number of places for a video or picture in `turns`: 0 or 1.

    Raises:
        InputError: There are several, or one is in a reply.
    """
    if any(IMAGE_MARK in turn.text for turn in turns if turn.role == "gpt"):
        raise InputError(f"A reply contains {IMAGE_MARK}: move it to a human turn.")
    places = sum(turn.text.count(IMAGE_MARK) for turn in turns)
    if places > 1:
        raise InputError(f"A conversation contains {IMAGE_MARK} {places} times: keep one.")
    return places


def encode_stamps(
    times: Iterable[float], *, tokenizer: Tokenizer, scale: float = 1.0
) -> np.ndarray:
    """Encodes the time stamps of groups: int32 [G, 10].

    Args:
        times: time of each group's first frame in seconds; 0.0 for every crop of a picture.
        tokenizer: the model's tokenizer.
        scale: factor that stretches the sample's times.

    Raises:
        InputError: A time is negative, not finite or beyond 999,999 s, or the tokenizer does not
            encode a stamp as exactly 10 ids.
    """
    rows = [_stamp_ids(stamp_text(time, scale=scale), tokenizer) for time in times]
    return np.array(rows, np.int32).reshape(-1, STAMP_TOKENS)


def stamp_text(seconds: float, *, scale: float = 1.0) -> str:
    """Returns `Time 0012.5s:` for 12.5 seconds.

    The time is rounded to 0.1 s before it is stretched, as in the release. From 10,000.0 s on,
    whole seconds are printed. The release prints tenths there, which adds an eleventh id and shifts
    all following windows.

    Raises:
        InputError: The time is negative, not finite or beyond 999,999 s.
    """
    # Python's float rounds the exact binary value; numpy's rounds a scaled copy of it.
    value = round(float(seconds), 1) * scale if math.isfinite(seconds) else math.nan
    if not 0.0 <= value < 999_999.5:
        raise InputError(
            f"A frame's time is {seconds} s (scale {scale}): stamps reach from 0 to 999,999 s, so"
            " correct the file's time stamps or the sample's scale."
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
    """Puts `body` between the markers of a turn; ids from index `target_from` on are targets."""
    targets = [*[IGNORE_LABEL] * target_from, *body[target_from:]]
    end = [tokenizer.im_end, *tokenizer.encode("\n")]
    return ChatIds(
        *(np.array([tokenizer.im_start, *row, *end], np.int32) for row in (body, targets))
    )

"""What is wrong with a conversation, so that it is badly formed."""

import itertools
import re
import unicodedata
from collections.abc import Sequence

from vxlpro_jax.data.text.chat import IMAGE_MARK, Turn

# A model that has got stuck says one thing over and over; people rarely so often.
_MOST_WORDS, _MOST_LETTERS = 10, 20

_MARKER = re.compile(r"<\|\w+\|>")
_STUTTER = re.compile(rf"(\w)\1{{{_MOST_LETTERS},}}")
_LINES = "\n\r\t"


def text_fault(turns: Sequence[Turn]) -> str:
    """Why the turns of a record are badly formed, or nothing.

    They must be human and gpt by turns (a gpt turn may come first; training drops it), end with a
    reply, each say something, and hold no broken or control characters, no names of special tokens,
    which would become these, and no word more than 10 times in a row or letter more than 20 times.
    """
    turns = turns[1:] if turns and turns[0].role == "gpt" else turns
    expected = itertools.cycle(("human", "gpt"))
    for place, (turn, role) in enumerate(zip(turns, expected, strict=False)):
        if turn.role != role:
            return f"turn {place} is of {turn.role}, not of {role}"
        if fault := _fault(turn.text.replace(IMAGE_MARK, "")):
            return f"turn {place} {fault}"
    if not turns or turns[-1].role != "gpt":
        return "there is no reply at the end"
    return ""


def _fault(text: str) -> str:
    if not text.strip():
        return "says nothing"
    if "\ufffd" in text or any(_is_control(character) for character in text):
        return "holds broken or control characters"
    if found := _MARKER.search(text):
        return f"holds the special token {found[0]}"
    if _STUTTER.search(text) or any(_is_stutter(*run) for run in _runs(text)):
        return "repeats itself"
    return ""


def _is_control(character: str) -> bool:
    return character not in _LINES and unicodedata.category(character) == "Cc"


def _runs(text: str):
    """Words, each with how often it stands there in a row."""
    for word, run in itertools.groupby(text.split()):
        yield word, sum(1 for _ in run)


def _is_stutter(word: str, times: int) -> bool:
    """Not of what rules and tables are drawn with."""
    return times > _MOST_WORDS and any(map(str.isalnum, word))

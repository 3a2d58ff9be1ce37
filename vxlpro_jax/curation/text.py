"""Finds faults that make a conversation malformed."""

import itertools
import re
import unicodedata
from collections.abc import Sequence

from vxlpro_jax.data.text.chat import IMAGE_MARK, Turn

# A stuck model repeats itself far more often than people do.
_MOST_WORDS, _MOST_LETTERS = 10, 20

_MARKER = re.compile(r"<\|\w+\|>")
_STUTTER = re.compile(rf"(\w)\1{{{_MOST_LETTERS},}}")
_LINES = "\n\r\t"


def text_fault(turns: Sequence[Turn]) -> str:
    """Returns the reason why the turns of a record are malformed, or "".

    Human and gpt turns must alternate (training drops a leading gpt turn), the last must be a
    reply, and none may be empty. No turn may contain broken or control characters, names of special
    tokens (which would become those tokens), a word more than 10 times in a row, or a letter more
    than 20 times.
    """
    turns = turns[1:] if turns and turns[0].role == "gpt" else turns
    expected = itertools.cycle(("human", "gpt"))
    for place, (turn, role) in enumerate(zip(turns, expected, strict=False)):
        if turn.role != role:
            return f"turn {place} is from {turn.role}, not from {role}"
        if fault := _fault(turn.text.replace(IMAGE_MARK, "")):
            return f"turn {place} {fault}"
    if not turns or turns[-1].role != "gpt":
        return "the last turn is not a reply"
    return ""


def _fault(text: str) -> str:
    if not text.strip():
        return "is empty"
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
    """Yields each word with the number of its repetitions in a row."""
    for word, run in itertools.groupby(text.split()):
        yield word, sum(1 for _ in run)


def _is_stutter(word: str, times: int) -> bool:
    """Returns whether a word is repeated too often; lines drawn with signs are allowed."""
    return times > _MOST_WORDS and any(map(str.isalnum, word))

"""Rewrites numbers in replies of any language, so that parsers made for English read them whole.

The benchmarks' own parsers find numbers by ASCII rules: they read 24 from `24.3秒`, and 24 and 3
from `24,3`.
"""

# This file has to contain other scripts.
# ruff: noqa: RUF001

import math
import re
import unicodedata

_NUMBER = r"\d++(?:\.\d++)?+"
_SECONDS = r"(?:秒(?:钟|鐘|間)?|초|секунд\w*|сек(?!\w)\.?|с(?!\w)|ثانية|ثوان|″)"
_MINUTES = r"(?:分(?:钟|鐘|間)?|분|минут\w*|мин(?!\w)\.?|دقيقة|دقائق|′)"
_COMPOUND = re.compile(rf"(?<![\d.])({_NUMBER})\s*+{_MINUTES}\s*+({_NUMBER})\s*+{_SECONDS}")
_SECONDS_UNIT = re.compile(rf"(?<=\d)\s*+{_SECONDS}")
_MINUTES_UNIT = re.compile(rf"(?<=\d)\s*+{_MINUTES}")
_UNTIL = re.compile(r"(?<=[\d ])(?:到|至|から|에서|부터|до|по|إلى|à|até|đến)\s*+(?=\d)")
_SYMBOLS = str.maketrans(
    {
        **dict.fromkeys("\uff0e\u066b", "."),  # Full-width full stop, Arabic decimal separator.
        **dict.fromkeys("\uff5e\u301c\uff0d\u2212\u2012", "-"),  # Wave dashes, other dashes.
        **{"\uff1a": ":", "\uff0c": ", ", "\u3001": ", ", "\u066c": ""},
    }
)
# A non-ASCII letter directly before a number, or in the word directly after it.
_BEFORE = re.compile(r"(?<=[^\W\d_a-zA-Z])(?=\d)")
_BEHIND = re.compile(r"(?<=\d)(?=[a-zA-Z]*+[^\W\d_])(?=[a-zA-Z]*+[^\x00-\x7f])")

_ANY_NUMBER = re.compile(r"\d++(?:[.,:]\d++)*+")
_COMMA = re.compile(r"(?<![\d.,])(\d++),(\d++)(?![.,]\d)")
_THOUSANDS = re.compile(r"[1-9]\d{0,2},\d{3}")


def plain_numbers(text: str) -> str:
    """Rewrites the text with ASCII digits, decimal points, and spaces around numbers if needed.

    Seconds in other scripts lose their unit, and minutes get an English one. A comma is a decimal
    comma unless it separates list members or thousands. Other ASCII text is unchanged.
    """
    if not text.isascii():
        text = _in_ascii(text)
    return _with_decimal_points(text)


def _in_ascii(text: str) -> str:
    text = "".join(map(_ascii_digit, text.translate(_SYMBOLS)))
    text = _COMPOUND.sub(_as_seconds, text)
    text = _MINUTES_UNIT.sub(" minutes ", _SECONDS_UNIT.sub(" ", text))
    text = _UNTIL.sub("- ", text)
    return _BEHIND.sub(" ", _BEFORE.sub(" ", text))


def _ascii_digit(character: str) -> str:
    if character.isascii() or not character.isdecimal():
        return character
    return str(unicodedata.decimal(character))


def _as_seconds(found: re.Match) -> str:
    """Replaces `1分5秒` by ` 65 `."""
    seconds = 60 * float(found[1]) + float(found[2])
    return f" {seconds:.10g} " if math.isfinite(seconds) else found[0]


def _with_decimal_points(text: str) -> str:
    """Replaces decimal commas; a lone `3,9` and `[3,9]` in brackets stay lists; joins `1,234`."""
    if "," not in text or len(_ANY_NUMBER.findall(text)) < 2:
        return text

    def point(found: re.Match) -> str:
        around = (
            text[max(0, found.start() - 1) : found.start()],
            text[found.end() : found.end() + 1],
        )
        if around in (("[", "]"), ("(", ")")):
            return found[0]
        is_thousands = around[0] != ":" and _THOUSANDS.fullmatch(found[0])
        return f"{found[1]}{'' if is_thousands else '.'}{found[2]}"

    return _COMMA.sub(point, text)

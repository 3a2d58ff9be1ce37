"""Decodes the token ids of a conversation, split by whether they are training targets.

Shapes: t text ids of one sample.
"""

import itertools
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple, cast

import numpy as np

from vxlpro_jax.config.schema import IGNORE_LABEL, IMAGE_TOKEN
from vxlpro_jax.data.text.chat import IMAGE_MARK
from vxlpro_jax.data.text.tokenizer import Tokenizer

LINE_END = "↵"

TextKind = Literal["target", "context", "image"]


class TextSpan(NamedTuple):
    """A piece of text of a single kind.

    Attributes:
        text: text with visible line ends.
        kind: `target` for training targets, `image` for the visual's place, else `context`.
    """

    text: str
    kind: TextKind


def split_turns(
    tokens: np.ndarray, labels: np.ndarray, *, tokenizer: Tokenizer
) -> list[list[TextSpan]]:
    """Splits a sample into turns, each a list of spans; tokens and labels are int32 [t]."""
    starts = np.flatnonzero(tokens == tokenizer.im_start)
    turns = np.split(np.arange(len(tokens)), starts[starts > 0])
    return [split_kinds(tokens[turn], labels[turn], tokenizer=tokenizer) for turn in turns]


def split_kinds(tokens: np.ndarray, labels: np.ndarray, *, tokenizer: Tokenizer) -> list[TextSpan]:
    """Splits ids where their kind changes; tokens and labels are int32 [t]."""
    is_image, is_target = tokens == IMAGE_TOKEN, labels != IGNORE_LABEL
    kinds = np.select([is_image, is_target], ["image", "target"], "context")
    changes = 1 + np.flatnonzero(kinds[1:] != kinds[:-1])
    pieces = zip(np.split(tokens, changes), np.split(kinds, changes), strict=True)
    return [
        TextSpan(_text(ids, tokenizer=tokenizer), cast(TextKind, str(kind[0])))
        for ids, kind in pieces
    ]


def _text(ids: np.ndarray, *, tokenizer: Tokenizer) -> str:
    """Decodes ids, with the names of special tokens and without control characters."""
    text = b"".join(_bytes(token, tokenizer) for token in ids.tolist()).decode(errors="replace")
    text = text.replace("\n", LINE_END)
    return "".join(char if char.isprintable() else "\ufffd" for char in text)


def _bytes(token: int, tokenizer: Tokenizer) -> bytes:
    if token == IMAGE_TOKEN:
        return IMAGE_MARK.encode()
    name = tokenizer.backend.id_to_token(token) or f"<id {token}>"
    return tokenizer.token_bytes(token) or name.encode()


def width(text: str) -> int:
    """Returns the number of terminal columns of a text; wide characters (Chinese ones) take two."""
    return sum(map(_columns, text))


def _columns(char: str) -> int:
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def wrap(spans: Sequence[TextSpan], *, columns: int) -> list[list[TextSpan]]:
    """Wraps spans into lines of at most `columns` columns, at spaces where possible.

    Joining the lines gives back the text of the spans.
    """
    text = "".join(span.text for span in spans)
    at = np.cumsum([0, *map(_columns, text)])
    cuts = [0]
    while at[-1] - at[cuts[-1]] > columns:
        limit = int(np.searchsorted(at, at[cuts[-1]] + columns, side="right")) - 1
        space = text.rfind(" ", cuts[-1], limit)
        cuts.append(space + 1 if space >= 0 else limit)
    cuts.append(len(text))
    return [list(_cut(spans, start, end)) for start, end in itertools.pairwise(cuts)]


def _cut(spans: Sequence[TextSpan], start: int, end: int) -> Iterator[TextSpan]:
    """Yields the characters from `start` to `end`."""
    at = 0
    for text, kind in spans:
        if piece := text[max(start - at, 0) : max(end - at, 0)]:
            yield TextSpan(piece, kind)
        at += len(text)

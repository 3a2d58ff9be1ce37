"""Letters of multiple-choice answers."""

import re
from collections.abc import Iterable


def letter(index: int) -> str:
    """The name of an option: 0 is A."""
    return chr(ord("A") + index)


def first_letter(text: str, *, letters: str, phrases: Iterable[str]) -> str | None:
    """The first of `letters` anywhere in a reply from which `phrases` were deleted in turn."""
    text = text.strip()
    for phrase in phrases:
        text = text.replace(phrase, "")
    found = re.search(f"[{letters}]", text)
    return found[0] if found else None


def before_parenthesis(text: str) -> str:
    """The character before the first ")"; without one the whole text."""
    end = text.find(")")
    return text if end < 0 else text[max(end - 1, 0) : end]


def lettered(options: Iterable[str], *, form: str) -> str:
    """Options a line each, such as `A. goat` for the form `{}. {}`."""
    return "\n".join(form.format(letter(i), option) for i, option in enumerate(options))

"""Converts samples in formats close to LLaVA's to LLaVA's format.

Accepted are: null fields, which count as absent; `videos` and `images`, lists of paths; `messages`
in the format of OpenAI's API, whose content is a text or a list of parts; and `<video>` as the mark
of a video's place. All other fields of a sample are unchanged.
"""

from typing import Any

from vxlpro_jax.data.text.chat import IMAGE_MARK
from vxlpro_jax.utils.errors import InputError, short_repr

_VIDEO_MARK = "<video>"
_SPEAKERS = {"user": "human", "assistant": "gpt"}
_MEDIA = ("video", "image")


def media_in_llava_form(sample: dict, where: str) -> dict:
    """Returns the fields of a sample without nulls, with its files in `video` or `image`.

    Raises:
        InputError: Files are named in two ways, or there are several videos.
    """
    fields = {name: value for name, value in sample.items() if value is not None}
    for name in _MEDIA:
        named = [key for key in (name, f"{name}s") if key in fields]
        in_messages = _media_of_messages(fields.get("messages"), name)
        if len(named) + bool(in_messages) > 1:
            raise InputError(f"{where}: names its {name} in two ways: keep field {name!r}.")
        given = fields.pop(f"{name}s", None) if f"{name}s" in named else in_messages or None
        if given == []:
            continue
        if isinstance(given, list) and len(given) == 1:
            given = given[0]
        if given is not None:
            fields[name] = given
    return fields


def in_llava_form(sample: dict, where: str, *, has_visual: bool) -> dict:
    """Returns the fields of a sample without nulls, with its text in `conversations`.

    Args:
        sample: sample as written.
        where: file and position of the sample, for messages.
        has_visual: whether the sample has a video or pictures, whose place `<video>` then marks.

    Raises:
        InputError: `messages` cannot be used.
    """
    fields = {name: value for name, value in sample.items() if value is not None}
    if "messages" in fields:
        if "conversations" in fields:
            raise InputError(f"{where}: has 'conversations' and 'messages': keep one of them.")
        fields["conversations"] = _turns(fields["messages"], where)
    turns = fields.get("conversations")
    if has_visual and isinstance(turns, list):
        fields["conversations"] = [_with_image_mark(turn) for turn in turns]
    return fields


def _with_image_mark(turn: Any) -> Any:
    text = turn.get("value") if isinstance(turn, dict) else None
    if not isinstance(text, str) or _VIDEO_MARK not in text:
        return turn
    return {**turn, "value": text.replace(_VIDEO_MARK, IMAGE_MARK)}


def _turns(messages: Any, where: str) -> list[dict]:
    if not isinstance(messages, list):
        raise InputError(
            f"{where}: field 'messages' is {short_repr(messages)}: expected a list of messages."
        )
    return [_turn(message, f"{where}: field 'messages[{i}]'") for i, message in enumerate(messages)]


def _turn(message: Any, where: str) -> dict:
    role = message.get("role") if isinstance(message, dict) else None
    if not isinstance(message, dict) or not isinstance(role, str) or role not in _SPEAKERS:
        raise InputError(
            f"{where} has the role {short_repr(role)}: expected 'user' or 'assistant'."
        )
    content = message.get("content")
    parts = content if isinstance(content, list) else [content]
    texts = [text for text in map(_text_of_part, parts) if text is not None]
    if len(texts) < len(parts):
        raise InputError(
            f"{where} has the content {short_repr(content)}: expected text, or a list of parts of"
            " the types text, image and video."
        )
    others = {key: value for key, value in message.items() if key not in ("role", "content")}
    return {**others, "from": _SPEAKERS[role], "value": "\n".join(texts)}


def _text_of_part(part: Any) -> str | None:
    """Returns the text of a message part, or the mark for a file; None for any other part."""
    if not isinstance(part, dict):
        return part if isinstance(part, str) else None
    if part.get("type") in _MEDIA:
        return IMAGE_MARK
    text = part.get("text")
    return text if part.get("type") == "text" and isinstance(text, str) else None


def _media_of_messages(messages: Any, kind: str) -> list:
    """Returns the files in message parts of a kind, `{"type": "video", "video": PATH}`."""
    contents = [message.get("content") for message in _list(messages) if isinstance(message, dict)]
    parts = [part for content in contents for part in _list(content) if isinstance(part, dict)]
    return [part[kind] for part in parts if part.get("type") == kind and kind in part]


def _list(value: Any) -> list:
    return value if isinstance(value, list) else []

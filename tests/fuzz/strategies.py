"""Hypothesis strategies of damaged and odd inputs, built from good ones."""

import copy
import json
from collections.abc import Mapping
from typing import Any

from hypothesis import strategies as st

# Numbers and texts that often break parsers: too large, not finite, negative, of another type or
# script, not printable, deeply nested.
ODD_NUMBERS = (0, -1, 1, 2**31, 2**63, 2**64, -(2**63), 10**400, 0.5, -0.0, 1e308)
NOT_FINITE = (float("nan"), float("inf"), -float("inf"))
ODD_TEXTS = (
    *("", " ", "\0", "\n", "\ufeff", "\u2028", "\u0663", "é", "e\u0301", "\U0001f600", "\ud800"),
    *("../x", "/etc/passwd", "file:///etc/passwd", "http://127.0.0.1:9/x", "a\\b", "fr%d.png"),
    *("x" * 5000, "9" * 400, "NaN", "true", "null", "<image>", "<video>", "{" * 50, "[" * 2000),
)


def odd_values() -> st.SearchStrategy[Any]:
    """Returns unexpected JSON values."""
    leaves = st.one_of(
        st.sampled_from((None, True, False, *ODD_NUMBERS, *NOT_FINITE)),
        st.sampled_from(ODD_TEXTS),
        st.integers(),
        st.floats(),
        st.text(max_size=20),
    )
    return st.recursive(
        leaves,
        lambda inner: st.one_of(
            st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=8), inner, max_size=4)
        ),
        max_leaves=6,
    )


def _places(value: Any, path: tuple = ()) -> list[tuple]:
    """Returns the paths of all values below a JSON value."""
    inner = []
    if isinstance(value, dict):
        inner = list(value.items())
    elif isinstance(value, list):
        inner = list(enumerate(value))
    return [
        place for key, below in inner for place in ((*path, key), *_places(below, (*path, key)))
    ]


def _edit(document: Any, path: tuple, *, how: str, value: Any) -> None:
    holder = document
    for key in path[:-1]:
        holder = holder[key]
    old = holder[path[-1]]
    match how:
        case "replace":
            holder[path[-1]] = value
        case "drop":
            del holder[path[-1]]
        case "wrap":
            holder[path[-1]] = [old]
        case "unwrap":
            holder[path[-1]] = old[0] if isinstance(old, list) and old else value
        case "as text":
            holder[path[-1]] = str(old)
        case "beside":
            if isinstance(holder, dict):
                holder[f"{path[-1]}x"] = old
            else:
                holder.append(old)


@st.composite
def edited(draw: st.DrawFn, document: Any) -> Any:
    """Returns a JSON document with a few values replaced, dropped, wrapped or repeated."""
    document = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, 3))):
        places = _places(document)
        if not places:
            return document
        how = draw(st.sampled_from(("replace", "drop", "wrap", "unwrap", "as text", "beside")))
        _edit(document, draw(st.sampled_from(places)), how=how, value=draw(odd_values()))
    return document


def json_bytes(document: Any) -> bytes:
    """Returns JSON text, in which lone surrogates are escaped."""
    return json.dumps(document).encode()


@st.composite
def mutated(draw: st.DrawFn, data: bytes) -> bytes:
    """Returns bytes, some of which are flipped, set, cut, repeated, inserted or removed."""
    result = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        how = draw(st.sampled_from(("flip", "set", "cut", "repeat", "insert", "remove", "zero")))
        start = draw(st.integers(0, max(0, len(result) - 1)))
        length = draw(st.sampled_from((1, 2, 4, 8, 64, 1024)))
        match how:
            case "flip" if result:
                result[start] ^= 1 << draw(st.integers(0, 7))
            case "set" if result:
                result[start : start + 4] = draw(
                    st.sampled_from(
                        (b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff", b"\x80")
                    )
                )
            case "cut":
                del result[start:]
            case "repeat":
                result[start:start] = result[start : start + length]
            case "insert":
                result[start:start] = draw(st.binary(max_size=16))
            case "remove":
                del result[start : start + length]
            case "zero":
                result[start : start + length] = bytes(len(result[start : start + length]))
    return bytes(result)


def text_files(document: Any) -> st.SearchStrategy[bytes]:
    """Returns a JSON file of an edited document, or one with damaged or re-encoded bytes."""
    good = json_bytes(document)
    recoded = st.sampled_from(("utf-8-sig", "utf-16", "utf-32")).map(
        lambda encoding: good.decode().encode(encoding)
    )
    repeated = st.just(good.replace(b"{", b'{"id": 1, "id": 2, ', 1))
    return st.one_of(edited(document).map(json_bytes), mutated(good), recoded, repeated)


def one_of_files(files: Mapping[str, bytes]) -> st.SearchStrategy[dict[str, bytes]]:
    """Returns files, one of which is damaged."""

    def with_damage(name: str) -> st.SearchStrategy[dict[str, bytes]]:
        return mutated(files[name]).map(lambda data: {**files, name: data})

    return st.sampled_from(sorted(files)).flatmap(with_damage)

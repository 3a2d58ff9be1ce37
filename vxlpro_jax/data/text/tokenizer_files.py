"""Reads the tokenizer files of checkpoint folders, as written by any tool.

A folder has `tokenizer.json`, or `vocab.json` and `merges.txt` with the added tokens in
`tokenizer_config.json` or `added_tokens.json`. Files may start with a byte order mark and have
Windows line ends. Every token gets the id that its file declares.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import tokenizers
from tokenizers import AddedToken, models

from vxlpro_jax.utils.errors import InputError
from vxlpro_jax.utils.files import parse_json, read_json, read_text

_FLAGS = ("special", "lstrip", "rstrip", "single_word", "normalized")


class Added(NamedTuple):
    """Attributes: `id` that a file declares for an added `token`."""

    id: int
    token: AddedToken


def read_whole(file: Path) -> tokenizers.Tokenizer:
    """Reads a `tokenizer.json`.

    Raises:
        InputError: the file is not a tokenizer, or two of its tokens have the same id.
    """
    content = parse_json(read_text(file), name=str(file))
    declared = _declared(content, file=file)
    backend = _from_content(content, file=file)
    if _wrong_ids(backend, declared):
        # The library gives added tokens consecutive ids, except those in the vocabulary.
        vocab = content["model"]["vocab"]
        if isinstance(vocab, dict):
            _add(vocab, declared.items(), file=file)
            backend = _from_content(content, file=file)
    if wrong := _wrong_ids(backend, declared):
        raise InputError(
            f"{file} gives {wrong[0]!r} the id {declared[wrong[0]]}, which another token has: copy"
            " it from the checkpoint again."
        )
    return backend


def read_bpe(vocab: Path, merges: Path, *, added: Iterable[Added]) -> models.BPE:
    """Reads `vocab.json` and `merges.txt` into a vocabulary that includes the added tokens.

    Raises:
        InputError: a file is malformed, or two tokens have the same id.
    """
    ids = read_json(vocab)
    if not ids or not all(map(_is_id, ids.values())) or len(set(ids.values())) < len(ids):
        raise InputError(f"{vocab} is not a vocabulary: expected tokens, each with its id.")
    _add(ids, ((str(each.token.content), each.id) for each in added), file=vocab)
    pairs = list(_merges(merges))
    return call_library(lambda: models.BPE(vocab=ids, merges=pairs), file=merges)


def read_added(folder: Path) -> list[Added]:
    """Returns the added tokens that a folder declares, in the order of their ids; may be empty.

    Raises:
        InputError: `tokenizer_config.json` or `added_tokens.json` is malformed.
    """
    config, old = folder / "tokenizer_config.json", folder / "added_tokens.json"
    declared = read_json(config).get("added_tokens_decoder") if config.is_file() else None
    if declared:
        added = _decoder(declared, file=config)
    else:
        added = _ids_by_name(read_json(old), file=old) if old.is_file() else []
    return sorted(added, key=lambda each: each.id)


def call_library(function, *, file: Path):
    """Calls the library, which raises bare exceptions or panics on malformed files.

    Raises:
        InputError: the library failed.
    """
    try:
        return function()
    except BaseException as error:
        if isinstance(error, Exception) or type(error).__name__ == "PanicException":
            reason = " ".join(str(error).split())[:200]
            raise InputError(
                f"{file} is not a readable tokenizer ({reason}): copy it from the checkpoint again."
            ) from error
        raise


def _from_content(content: Mapping[str, Any], *, file: Path) -> tokenizers.Tokenizer:
    text = json.dumps(content, ensure_ascii=False)
    return call_library(lambda: tokenizers.Tokenizer.from_str(text), file=file)


def _declared(content: Mapping[str, Any], *, file: Path) -> dict[str, int]:
    """Returns the ids of added tokens, keyed by their text."""
    added = content.get("added_tokens") or []
    fits = isinstance(added, list) and all(
        isinstance(x, dict) and isinstance(x.get("content"), str) and _is_id(x.get("id"))
        for x in added
    )
    if not fits or not isinstance(content.get("model"), dict):
        raise InputError(f"{file} is not a readable tokenizer: copy it from the checkpoint again.")
    return {token["content"]: token["id"] for token in added}


def _wrong_ids(backend: tokenizers.Tokenizer, declared: Mapping[str, int]) -> list[str]:
    return [text for text, token in declared.items() if backend.token_to_id(text) != token]


def _add(vocab: dict[str, int], tokens: Iterable[tuple[str, int]], *, file: Path) -> None:
    owners = {token: text for text, token in vocab.items()}
    for text, token in tokens:
        if vocab.get(text, token) != token or owners.get(token, text) != text:
            other = owners.get(token, text)
            raise InputError(
                f"{file} and the added tokens beside it disagree: {text!r} has the id {token}, but"
                f" also {vocab[text]}."
                if other == text
                else f"{file}: {text!r} and {other!r} both have the id {token}: copy the tokenizer"
                " from the checkpoint again."
            )
        vocab[text], owners[token] = token, text


def _merges(file: Path) -> Iterable[tuple[str, str]]:
    # Not `splitlines`, which also splits at characters that tokens may contain.
    for number, line in enumerate(read_text(file).split("\n"), 1):
        if not line or (number == 1 and line.startswith("#version")):
            continue
        pair = line.split(" ")
        if len(pair) != 2 or not all(pair):
            raise InputError(
                f"{file}: line {number} is not two tokens with a space between: copy it from the"
                " checkpoint again."
            )
        yield pair[0], pair[1]


def _decoder(declared: Any, *, file: Path) -> Iterable[Added]:
    if not isinstance(declared, dict):
        raise InputError(f"{file}: added_tokens_decoder is not an object of ids and tokens.")
    for key, token in declared.items():
        known = key.isascii() and key.isdigit() and len(key) < 10 and isinstance(token, dict)
        if not known or not isinstance(token.get("content"), str) or not token["content"]:
            raise InputError(f"{file}: added_tokens_decoder has no token under {key[:60]!r}.")
        flags = {name: token.get(name, False) for name in _FLAGS}
        if not all(isinstance(flag, bool) for flag in flags.values()):
            raise InputError(
                f"{file}: {', '.join(_FLAGS)} of {token['content'][:60]!r} must be true or false."
            )
        yield Added(int(key), AddedToken(token["content"], **flags))


def _ids_by_name(declared: Mapping[str, Any], *, file: Path) -> Iterable[Added]:
    for text, token in declared.items():
        if not _is_id(token) or not text:
            raise InputError(f"{file} is not an object of tokens and ids.")
        yield Added(token, AddedToken(text, special=text.startswith("<|"), normalized=False))


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31

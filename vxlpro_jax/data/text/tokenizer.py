"""Byte-level BPE text <-> ids, read from the tokenizer files of a checkpoint folder."""

import codecs
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers

from vxlpro_jax.utils.errors import InputError

# Qwen2.5's special tokens, in the order of their ids, which follow the base vocabulary.
SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)

# Qwen2.5's split: contractions, words, single digits, punctuation, line ends, other space.
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


class Tokenizer:
    """Text to ids and back, with the special ids that prompts are made of."""

    def __init__(self, backend: tokenizers.Tokenizer, *, name: str = "the tokenizer"):
        """Wraps `backend`; `name` is what error messages call it.

        Raises:
            InputError: a special token of the chat template is missing.
        """
        backend.no_truncation()
        backend.no_padding()
        self.backend = backend
        self.vocab_size = backend.get_vocab_size(with_added_tokens=True)
        self.endoftext, self.im_start, self.im_end, self.vision_pad = (
            _special_id(backend, token, name)
            for token in ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_pad|>")
        )
        added = backend.get_added_tokens_decoder()
        self._special = frozenset(i for i, token in added.items() if token.special)

    @classmethod
    def from_folder(cls, folder: str | Path) -> Self:
        """Reads `tokenizer.json`, or else `vocab.json` and `merges.txt`, from `folder`.

        Raises:
            InputError: neither is there, a file cannot be read, or a special token is missing.
        """
        folder = Path(folder).expanduser()
        whole, vocab, merges = (
            folder / name for name in ("tokenizer.json", "vocab.json", "merges.txt")
        )
        if whole.is_file():
            return cls(_read(tokenizers.Tokenizer.from_file, whole), name=str(whole))
        if vocab.is_file() and merges.is_file():
            bpe = _read(models.BPE.from_file, vocab, merges)
            return cls(byte_level(bpe, specials=_added_tokens(folder)), name=str(vocab))
        raise InputError(
            f"No tokenizer in {folder}: put the checkpoint's tokenizer.json (or vocab.json and"
            " merges.txt) there, or name the folder that holds it."
        )

    def encode(self, text: str) -> list[int]:
        """Ids of `text`; names of special tokens in it become their ids, nothing is added."""
        return self.backend.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids` without special tokens; bytes that are not UTF-8 become U+FFFD."""
        return b"".join(map(self.token_bytes, ids)).decode("utf-8", errors="replace")

    def token_bytes(self, token: int) -> bytes:
        """The bytes that one id stands for: none for a special token or an unused id."""
        if token in self._special or (text := self.backend.id_to_token(token)) is None:
            return b""
        if all(char in _BYTE_OF for char in text):
            return bytes(_BYTE_OF[char] for char in text)
        return text.encode()


class StreamDecoder:
    """Text of ids that arrive one by one; a character is given out once it is complete."""

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token: int) -> str:
        """The text that `token` completes, perhaps none."""
        return self._utf8.decode(self._tokenizer.token_bytes(int(token)))

    def finish(self) -> str:
        """What is left at the end: U+FFFD for an unfinished character."""
        return self._utf8.decode(b"", final=True)


def byte_level(
    bpe: models.BPE, *, specials: Sequence[AddedToken | str] = SPECIAL_TOKENS
) -> tokenizers.Tokenizer:
    """`bpe` with Qwen2.5's normaliser (NFC), split and byte alphabet; `specials` get the next ids.

    Raises:
        InputError: a special token would not get an id of its own.
    """
    tokenizer = tokenizers.Tokenizer(bpe)
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens(
        [
            AddedToken(token, special=True, normalized=False) if isinstance(token, str) else token
            for token in specials
        ]
    )
    return tokenizer


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's printable stand-ins for bytes: visible Latin-1 as itself, the rest from U+0100 on."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in visible]
    shifted = {chr(0x100 + i): byte for i, byte in enumerate(hidden)}
    return {chr(byte): byte for byte in visible} | shifted


_BYTE_OF = _byte_alphabet()


def _special_id(backend: tokenizers.Tokenizer, token: str, name: str) -> int:
    found = backend.token_to_id(token)
    if found is None:
        raise InputError(
            f"{name} has no token {token}, which every prompt needs: use the tokenizer files of a"
            " Video-XL-Pro or Qwen2.5 checkpoint."
        )
    return found


def _read(reader, *paths: Path):
    try:
        return reader(*map(str, paths))
    except Exception as error:  # The library raises bare Exception for anything malformed.
        raise InputError(
            f"{paths[0]} is not a readable tokenizer ({error}): copy it from the checkpoint again."
        ) from error


def _added_tokens(folder: Path) -> list[AddedToken | str]:
    """The added tokens that `tokenizer_config.json` declares, by id; else Qwen2.5's."""
    path = folder / "tokenizer_config.json"
    if not path.is_file():
        return list(SPECIAL_TOKENS)
    declared = json.loads(path.read_text(encoding="utf-8")).get("added_tokens_decoder")
    if not declared:
        return list(SPECIAL_TOKENS)
    return [
        AddedToken(token["content"], special=token.get("special", False), normalized=False)
        for _, token in sorted(declared.items(), key=lambda item: int(item[0]))
    ]

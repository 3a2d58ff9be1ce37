"""Byte-level BPE tokenizer, loaded from the tokenizer files of a checkpoint folder."""

import codecs
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers

from vxlpro_jax.data.text import tokenizer_files
from vxlpro_jax.utils.errors import InputError

# Qwen2.5's special tokens in the order of their ids, which follow the base vocabulary.
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
    """Encodes and decodes text, and provides the special tokens of prompts."""

    def __init__(self, backend: tokenizers.Tokenizer, *, name: str = "the tokenizer"):
        """Wraps `backend`; error messages call it `name`.

        Raises:
            InputError: A special token of the chat template is missing.
        """
        self.name = name
        backend.no_truncation()
        backend.no_padding()
        self.backend = backend
        # One more than the largest id, because some checkpoints skip ids.
        self.vocab_size = 1 + max(backend.get_vocab(with_added_tokens=True).values(), default=-1)
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
            InputError: Both are missing, a file cannot be read, or a special token is missing.
        """
        folder = Path(folder).expanduser()
        whole, vocab, merges = (
            folder / name for name in ("tokenizer.json", "vocab.json", "merges.txt")
        )
        if whole.is_file():
            return cls(tokenizer_files.read_whole(whole), name=str(whole))
        if vocab.is_file() and merges.is_file():
            added = tokenizer_files.read_added(folder)
            bpe = tokenizer_files.read_bpe(vocab, merges, added=added)
            specials = [each.token for each in added] or SPECIAL_TOKENS
            return cls(byte_level(bpe, specials=specials), name=str(vocab))
        raise InputError(
            f"No tokenizer in {folder}: put the checkpoint's tokenizer.json (or vocab.json and"
            " merges.txt) there, or name the folder that holds it."
        )

    def check_fits(self, rows: int) -> None:
        """Checks that an embedding has a row for each id.

        Raises:
            InputError: The embedding has fewer rows.
        """
        if self.vocab_size > rows:
            raise InputError(
                f"{self.name} has {self.vocab_size} ids, the model only {rows}: use the tokenizer"
                " that belongs to the model."
            )

    def encode(self, text: str) -> list[int]:
        """Returns the ids of `text`; names of special tokens in it become their ids."""
        return self.backend.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of `ids` without special tokens; invalid UTF-8 becomes U+FFFD."""
        return b"".join(map(self.token_bytes, ids)).decode("utf-8", errors="replace")

    def token_bytes(self, token: int) -> bytes:
        """Returns the bytes of one id; empty for a special token or an unused id."""
        if token in self._special or (text := self.backend.id_to_token(token)) is None:
            return b""
        if all(char in _BYTE_OF for char in text):
            return bytes(_BYTE_OF[char] for char in text)
        return text.encode()


class StreamDecoder:
    """Decodes ids that arrive one by one; a character is returned once it is complete."""

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token: int) -> str:
        """Returns the text that `token` completes; it may be empty."""
        return self._utf8.decode(self._tokenizer.token_bytes(int(token)))

    def finish(self) -> str:
        """Returns the remaining text: U+FFFD for an incomplete character."""
        return self._utf8.decode(b"", final=True)


def byte_level(
    bpe: models.BPE, *, specials: Sequence[AddedToken | str] = SPECIAL_TOKENS
) -> tokenizers.Tokenizer:
    """Adds Qwen2.5's normalizer (NFC), splitting and byte alphabet to `bpe`.

    Args:
        bpe: vocabulary and merges.
        specials: special tokens, which get the ids after the vocabulary.
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
    """Maps bytes to GPT-2's printable characters: visible Latin-1 unchanged, others from U+0100."""
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

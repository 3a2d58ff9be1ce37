"""Tokenizer files, text round trips and streaming."""

import json
import random
import shutil
import unicodedata

import pytest
import tokenizers

from vxlpro_jax.data.synthetic import train_tokenizer
from vxlpro_jax.data.text.tiny_tokenizer import TINY_TOKENIZER
from vxlpro_jax.data.text.tokenizer import SPECIAL_TOKENS, StreamDecoder, Tokenizer
from vxlpro_jax.utils.errors import InputError

TEXTS = [
    "",
    "a  b\n\n c\t",
    "I'LL say don't 12,345.60!",
    "描述一下这个视频。👩‍👩‍👧 é e\u0301 ﬁ",
    "\x00\x7f\r\n  trailing   ",
    "Time 0012.0s:<tool_call>",
]


@pytest.fixture(scope="module")
def tiny():
    return Tokenizer.from_folder(TINY_TOKENIZER)


def random_texts(count: int) -> list[str]:
    rng = random.Random(0)
    pools = [(0x20, 0x7F), (0x09, 0x0E), (0xA0, 0x250), (0x4E00, 0x4F00), (0x1F300, 0x1F600)]
    return [
        "".join(chr(rng.randrange(*rng.choice(pools))) for _ in range(rng.randrange(40)))
        for _ in range(count)
    ]


@pytest.mark.slow
def test_special_ids_are_qwens(qwen):
    assert qwen.backend.token_to_id("<|video_pad|>") == 151_656
    ids = (qwen.endoftext, qwen.im_start, qwen.im_end, qwen.vision_pad)
    assert ids == (151_643, 151_644, 151_645, 151_654)


@pytest.mark.parametrize("name", ["qwen", "tiny"])
def test_round_trip_of_any_text(name, request):
    tokenizer = request.getfixturevalue(name)
    for text in [*TEXTS, *random_texts(200)]:
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == unicodedata.normalize("NFC", text)
        assert tokenizer.decode(ids) == tokenizer.backend.decode(ids)


@pytest.mark.parametrize("name", ["qwen", "tiny"])
def test_stream_gives_the_same_text_as_decode(name, request):
    tokenizer = request.getfixturevalue(name)
    rng = random.Random(1)
    whole = [tokenizer.encode(text) for text in TEXTS]
    noise = [[rng.randrange(tokenizer.vocab_size) for _ in range(50)] for _ in range(50)]
    for ids in [*whole, *noise]:
        stream = StreamDecoder(tokenizer)
        pieces = [stream.push(token) for token in ids]
        assert "".join(pieces) + stream.finish() == tokenizer.decode(ids)


def test_stream_holds_back_unfinished_characters(tiny):
    ids = tiny.encode("猫!")
    assert len(ids) == 4
    stream = StreamDecoder(tiny)
    assert [stream.push(token) for token in ids] == ["", "", "猫", "!"]
    assert stream.push(ids[0]) == ""
    assert stream.finish() == "\N{REPLACEMENT CHARACTER}"


def test_specials_and_unused_ids_have_no_text(tiny):
    ids = [tiny.im_start, *tiny.encode("red"), tiny.im_end, tiny.vocab_size + 5]
    assert tiny.decode(ids) == "red"


def test_tiny_tokenizer_is_what_train_returns():
    shipped = json.loads((TINY_TOKENIZER / "tokenizer.json").read_text(encoding="utf-8"))
    trained = json.loads(train_tokenizer.train_tokenizer().to_str())
    assert trained["model"]["vocab"] == shipped["model"]["vocab"]
    assert trained["model"]["merges"] == shipped["model"]["merges"]
    assert trained["added_tokens"] == shipped["added_tokens"]


def test_tiny_tokenizer_writes_every_byte_with_few_ids(tiny):
    assert tiny.vocab_size <= train_tokenizer.VOCAB_SIZE
    vocab = tiny.backend.get_vocab()
    assert {tiny.token_bytes(i) for i in vocab.values()} >= {bytes([byte]) for byte in range(256)}
    assert [vocab[token] for token in SPECIAL_TOKENS] == list(
        range(tiny.vocab_size - len(SPECIAL_TOKENS), tiny.vocab_size)
    )


def test_vocab_and_merges_files_are_enough(qwen, qwen_folder):
    built = Tokenizer.from_folder(qwen_folder)
    assert built.backend.get_vocab() == qwen.backend.get_vocab()
    for text in [*TEXTS, "<|im_start|>user\n"]:
        assert built.encode(text) == qwen.encode(text)


def test_added_tokens_come_from_tokenizer_config(qwen, qwen_folder, tmp_path):
    folder = shutil.copytree(qwen_folder, tmp_path / "declared")
    declared = [*SPECIAL_TOKENS, "<tool_call>"]
    (folder / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "added_tokens_decoder": {
                    str(151_643 + i): {"content": token, "special": token in SPECIAL_TOKENS}
                    for i, token in reversed(list(enumerate(declared)))
                }
            }
        )
    )
    tokenizer = Tokenizer.from_folder(folder)
    ids = tokenizer.encode("<tool_call><|im_end|>")
    assert ids == [151_657, 151_645]
    assert tokenizer.decode(ids) == "<tool_call>"


def test_missing_and_broken_files_are_named(tmp_path):
    with pytest.raises(InputError, match=r"No tokenizer in .*put the checkpoint's tokenizer.json"):
        Tokenizer.from_folder(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(InputError, match=r"tokenizer.json is not a readable tokenizer"):
        Tokenizer.from_folder(tmp_path)


def test_a_tokenizer_without_the_chat_tokens_is_refused(tmp_path):
    tokenizers.Tokenizer(tokenizers.models.BPE()).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(InputError, match=r"has no token <\|endoftext\|>"):
        Tokenizer.from_folder(tmp_path)

"""Tests tokenizer files, text round trips and streaming."""

import json
import random
import shutil
import unicodedata

import pytest
import tokenizers

from vxlpro_jax.data.synthetic import train_tokenizer
from vxlpro_jax.data.text import tokenizer_export
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


@pytest.mark.slow
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
    with pytest.raises(InputError, match=r"tokenizer.json is not valid JSON"):
        Tokenizer.from_folder(tmp_path)


def test_a_tokenizer_without_the_chat_tokens_is_refused(tmp_path):
    tokenizers.Tokenizer(tokenizers.models.BPE()).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(InputError, match=r"has no token <\|endoftext\|>"):
        Tokenizer.from_folder(tmp_path)


@pytest.fixture
def parts(tmp_path):
    """Writes the tiny tokenizer as `vocab.json` and `merges.txt`."""
    model = json.loads((TINY_TOKENIZER / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    (tmp_path / "vocab.json").write_text(json.dumps(model["vocab"]), encoding="utf-8")
    merges = [" ".join(pair) for pair in model["merges"]]
    (tmp_path / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), "utf-8")
    return tmp_path


def declare(folder, tokens) -> None:
    declared = {str(i): {"content": token, "special": True} for token, i in tokens.items()}
    text = json.dumps({"added_tokens_decoder": declared})
    (folder / "tokenizer_config.json").write_text(text)


@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_byte_order_marks_and_line_ends_change_nothing(parts, tiny, start, end):
    for name in ("vocab.json", "merges.txt"):
        file = parts / name
        file.write_bytes(start + file.read_bytes().replace(b"\n", end))
    (parts / "tokenizer_config.json").write_bytes(start + b'{"added_tokens_decoder": null}')
    read = Tokenizer.from_folder(parts)
    assert read.vocab_size == tiny.vocab_size
    for text in [*TEXTS, "<|im_start|>user\n"]:
        assert read.encode(text) == tiny.encode(text)


def test_added_tokens_keep_their_ids_across_gaps(parts, tmp_path):
    ids = {token: 400 + 7 * i for i, token in enumerate(SPECIAL_TOKENS)}
    declare(parts, ids)
    whole = json.loads((TINY_TOKENIZER / "tokenizer.json").read_text(encoding="utf-8"))
    for token in whole["added_tokens"]:
        token["id"] = ids[token["content"]]
    (tmp_path / "whole").mkdir()
    (tmp_path / "whole" / "tokenizer.json").write_text(json.dumps(whole))
    for folder in (parts, tmp_path / "whole"):
        tokenizer = Tokenizer.from_folder(folder)
        assert tokenizer.encode("".join(ids)) == list(ids.values())
        assert tokenizer.vocab_size == 1 + max(ids.values())
        assert tokenizer.decode([*tokenizer.encode("red"), 401, tokenizer.im_end]) == "red"


def test_ids_in_added_tokens_json_are_kept(parts):
    ids = {token: 500 + i for i, token in enumerate(SPECIAL_TOKENS)}
    (parts / "added_tokens.json").write_text(json.dumps(ids))
    assert Tokenizer.from_folder(parts).im_end == ids["<|im_end|>"]


def test_a_tokenizer_larger_than_the_embedding_is_refused(tiny):
    tiny.check_fits(tiny.vocab_size)
    with pytest.raises(InputError, match=r"tokenizer.json has 382 ids, the model only 381"):
        tiny.check_fits(381)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        *(("tokenizer.json", text) for text in ("[" * 100_000, "[]", "{}", "{", "null", "\udc80")),
        ("tokenizer.json", '{"model": {"vocab": {"a": 1}}, "added_tokens": [{"id": 1}]}'),
        ("tokenizer.json", '{"model": [], "added_tokens": [{"id": 1, "content": "x"}]}'),
        ("tokenizer.json", '{"model": {}, "added_tokens": [{"id": "1", "content": "x"}]}'),
        ("vocab.json", "{}"),
        ("vocab.json", '{"a": "1"}'),
        ("vocab.json", '{"a": -1}'),
        ("vocab.json", '{"a": 1, "b": 1}'),
        ("merges.txt", "a b c\n"),
        ("merges.txt", "ab\n"),
        ("merges.txt", "zzz qqq\n"),
        ("tokenizer_config.json", "[1]"),
        ("tokenizer_config.json", '{"added_tokens_decoder": [1]}'),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"a": {"content": "x"}}}'),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"²": {"content": "x"}}}'),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"500": {"content": 7}}}'),
        (
            "tokenizer_config.json",
            '{"added_tokens_decoder": {"5": {"content": "x", "special": 1}}}',
        ),
        ("added_tokens.json", '{"x": "5"}'),
    ],
)
def test_malformed_files_are_named(parts, name, content):
    (parts / name).write_bytes(content.encode("utf-8", errors="surrogateescape"))
    with pytest.raises(InputError, match=name.split(".")[0]) as caught:
        Tokenizer.from_folder(parts)
    assert len(str(caught.value)) <= 500


def test_two_tokens_of_one_id_are_named(parts):
    declare(parts, {"zzz": 5})
    with pytest.raises(InputError, match="'zzz' and '&' both have the id 5"):
        Tokenizer.from_folder(parts)


def test_an_export_is_read_by_its_own_settings(parts):
    (parts / "config.json").write_text(json.dumps({"max_position_embeddings": 64, "x": 1}))
    tokenizer_export.write_whole(parts)
    tokenizer_export.complete(parts)
    written = json.loads((parts / "tokenizer.json").read_text(encoding="utf-8"))
    assert all(isinstance(pair, str) for pair in written["model"]["merges"])
    made = Tokenizer.from_folder(parts)
    config = json.loads((parts / "config.json").read_text())
    assert config["eos_token_id"] == made.im_end
    assert config["x"] == 1
    before = {file.name: file.read_bytes() for file in parts.iterdir()}
    tokenizer_export.write_whole(parts)
    tokenizer_export.complete(parts)
    assert before == {file.name: file.read_bytes() for file in parts.iterdir()}


@pytest.mark.torch
@pytest.mark.slow
def test_transformers_reads_an_export(tmp_path, tiny):
    transformers = pytest.importorskip("transformers")
    shutil.copy(TINY_TOKENIZER / "tokenizer.json", tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llava_qwen"}))
    tokenizer_export.write_whole(tmp_path)
    tokenizer_export.complete(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in [*TEXTS, "<|im_start|>user\n"]:
        assert theirs(text).input_ids == tiny.encode(text)
    assert theirs.eos_token_id == tiny.im_end

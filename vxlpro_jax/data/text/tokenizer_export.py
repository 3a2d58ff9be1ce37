"""Writes what transformers needs besides `tokenizer.json` to load a tokenizer and to generate."""

import json
from pathlib import Path
from typing import Any

from vxlpro_jax.data.text.tokenizer import Tokenizer
from vxlpro_jax.utils.files import parse_json, read_json, read_text, write_atomically

_WHOLE = "tokenizer.json"
# The chat template of the release, which is Qwen2.5's without tools.
_CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def complete(folder: Path) -> None:
    """Writes tokenizer settings and end-of-answer ids that a folder lacks.

    These are `tokenizer_config.json`, `generation_config.json` and, in `config.json`, the ids
    `bos_token_id` and `eos_token_id`. A folder without a tokenizer is left as it is.

    Raises:
        InputError: a file of the folder is malformed.
    """
    has_whole = (folder / _WHOLE).is_file()
    if not has_whole and not (folder / "vocab.json").is_file():
        return
    tokenizer = Tokenizer.from_folder(folder)
    end, turn_end = tokenizer.endoftext, tokenizer.im_end
    config = read_json(folder / "config.json")
    ids = {"bos_token_id": end, "eos_token_id": turn_end}
    if absent := {key: token for key, token in ids.items() if config.get(key) is None}:
        _write(folder / "config.json", config | absent)
    generation = {"bos_token_id": end, "eos_token_id": [turn_end, end], "pad_token_id": end}
    _write_if_absent(folder / "generation_config.json", generation)
    settings = {
        # This class uses `tokenizer.json` unchanged; Qwen2's class reads the other files.
        "tokenizer_class": "PreTrainedTokenizerFast" if has_whole else "Qwen2Tokenizer",
        "added_tokens_decoder": _added_tokens(tokenizer),
        "bos_token": None,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "unk_token": None,
        "model_max_length": config.get("max_position_embeddings", 32_768),
        "clean_up_tokenization_spaces": False,
        "chat_template": _CHAT_TEMPLATE,
    }
    _write_if_absent(folder / "tokenizer_config.json", settings)


def write_whole(folder: Path) -> None:
    """Writes `tokenizer.json` in a form that transformers 4.43 reads, from other files if absent.

    That version expects merges as `a b`; later versions write pairs and read both forms. The file
    is unchanged if it has no pairs, or has tokens with spaces, which only pairs can express.
    """
    file = folder / _WHOLE
    if file.is_file():
        text = read_text(file)
    elif (folder / "vocab.json").is_file():
        text = Tokenizer.from_folder(folder).backend.to_str()
    else:
        return
    content = parse_json(text, name=str(file))
    model = content["model"]
    merges = model.get("merges") or []
    pairs = [pair for pair in merges if isinstance(pair, list)]
    if pairs and not any(" " in part for pair in pairs for part in pair):
        model["merges"] = [x if isinstance(x, str) else " ".join(x) for x in merges]
        write_atomically(file, json.dumps(content, ensure_ascii=False, indent=2) + "\n")


def _added_tokens(tokenizer: Tokenizer) -> dict[str, dict[str, Any]]:
    flags = ("lstrip", "normalized", "rstrip", "single_word", "special")
    return {
        str(token): {"content": added.content} | {flag: getattr(added, flag) for flag in flags}
        for token, added in sorted(tokenizer.backend.get_added_tokens_decoder().items())
    }


def _write_if_absent(file: Path, content: dict[str, Any]) -> None:
    if not file.exists():
        _write(file, content)


def _write(file: Path, content: dict[str, Any]) -> None:
    write_atomically(file, json.dumps(content, indent=2) + "\n")

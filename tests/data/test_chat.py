"""Compares prompts, labels and time stamps id by id."""

import json
from pathlib import Path

import numpy as np
import pytest

from vxlpro_jax.config.schema import IGNORE_LABEL, IMAGE_TOKEN, ModelConfig
from vxlpro_jax.data.text.chat import (
    Turn,
    encode_conversation,
    encode_prompt,
    encode_stamps,
    stamp_text,
    visual_question,
)
from vxlpro_jax.utils.errors import InputError

CASES = json.loads(Path(__file__).with_name("golden").joinpath("chat_cases.json").read_text())


def turns_of(case) -> list[Turn]:
    return [Turn(turn["from"], turn["value"]) for turn in case["conversations"]]


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_conversations_are_the_releases(case, qwen):
    chat = encode_conversation(turns_of(case), tokenizer=qwen)
    assert chat.ids.tolist() == case["input_ids"]
    assert chat.labels.tolist() == case["labels"]
    assert chat.ids.dtype == chat.labels.dtype == np.int32


@pytest.mark.parametrize("case", CASES)
def test_stamps_are_the_releases(case, qwen):
    times = np.array(case["time_stamps"])
    groups = times if case["modality"] == "image" else times[::4]
    stamps = encode_stamps(groups, tokenizer=qwen)
    slots = np.full((len(stamps), ModelConfig().tokens_per_group), qwen.vision_pad)
    assert np.concatenate([stamps, slots], axis=1).ravel().tolist() == case["time_ids"]


def test_text_only_conversations(qwen):
    turns = [Turn("human", "Hi"), Turn("gpt", "Hello!"), Turn("human", "Bye"), Turn("gpt", "Bye!")]
    chat = encode_conversation(turns, tokenizer=qwen)
    text = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n" + "".join(
        f"<|im_start|>{'user' if t.role == 'human' else 'assistant'}\n{t.text}<|im_end|>\n"
        for t in turns
    )
    assert chat.ids.tolist() == qwen.encode(text)


def test_targets_are_replies_and_markers(qwen):
    turns = [Turn("human", "<image>\nWho?"), Turn("gpt", "A cat."), Turn("human", "Where?")]
    chat = encode_conversation(turns, tokenizer=qwen)
    kept = [i for i in chat.labels.tolist() if i != IGNORE_LABEL]
    markers = [qwen.im_start, qwen.im_end, *qwen.encode("\n")]
    reply = [qwen.im_start, *qwen.encode("A cat."), *markers[1:]]
    assert kept == [*markers, *markers, *reply, *markers]
    copied = chat.labels != IGNORE_LABEL
    assert (chat.labels[copied] == chat.ids[copied]).all()


@pytest.mark.parametrize("text", ["What is <image> this?", "What is  this?\n<image>", "<image>"])
def test_training_moves_the_image_to_the_front(text, qwen):
    moved = encode_conversation([Turn("human", text), Turn("gpt", "x")], tokenizer=qwen).ids
    rest = text.replace("<image>", "").strip()
    front = f"<image>\n{rest}" if rest else "<image>"
    fronted = encode_conversation([Turn("human", front), Turn("gpt", "x")], tokenizer=qwen).ids
    np.testing.assert_array_equal(moved, fronted)
    place = moved.tolist().index(IMAGE_TOKEN)
    newlines = qwen.encode("\n") if not rest else [*qwen.encode("\n"), *qwen.encode("\n")]
    assert moved[place + 1 :].tolist()[: len(newlines)] == newlines


def test_a_leading_reply_is_dropped(qwen):
    turns = [Turn("human", "<image>\nWho?"), Turn("gpt", "Me.")]
    late = encode_conversation([Turn("gpt", "<image> lost"), *turns], tokenizer=qwen)
    np.testing.assert_array_equal(late.ids, encode_conversation(turns, tokenizer=qwen).ids)


def test_prompts_split_at_the_image(qwen):
    ids = encode_prompt(visual_question("What happens?"), tokenizer=qwen).tolist()
    before = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
    after = "\nWhat happens?<|im_end|>\n<|im_start|>assistant\n"
    assert ids == [*qwen.encode(before), IMAGE_TOKEN, *qwen.encode(after)]


def test_prompts_of_several_turns_and_of_text_alone(qwen):
    turns = [*visual_question("Who?"), Turn("gpt", "A dog."), Turn("human", "Where?")]
    ids = encode_prompt(turns, tokenizer=qwen).tolist()
    assert ids.count(IMAGE_TOKEN) == 1
    ends = "A dog.<|im_end|>\n<|im_start|>user\nWhere?<|im_end|>\n<|im_start|>assistant\n"
    assert qwen.encode(ends) == ids[-len(qwen.encode(ends)) :]
    assert IMAGE_TOKEN not in encode_prompt([Turn("human", "Hi")], tokenizer=qwen)


@pytest.mark.parametrize(
    ("turns", "sentence"),
    [
        ([], "needs a human turn"),
        ([Turn("gpt", "only")], "needs a human turn"),
        ([Turn("human", "<image> and <image>")], "2 times"),
        ([Turn("human", "<image>"), Turn("gpt", "x"), Turn("human", "<image>")], "2 times"),
        ([Turn("human", "Hi"), Turn("gpt", "<image>")], "reply contains <image>"),
    ],
)
def test_unusable_conversations_are_refused(turns, sentence, qwen):
    with pytest.raises(InputError, match=sentence):
        encode_conversation(turns, tokenizer=qwen)


def test_unusable_prompts_are_refused(qwen):
    with pytest.raises(InputError, match="remove it"):
        visual_question("Is <image> here?")
    with pytest.raises(InputError, match="must end with a human turn"):
        encode_prompt([Turn("human", "Hi"), Turn("gpt", "Ho")], tokenizer=qwen)


@pytest.mark.parametrize(
    ("seconds", "scale", "text"),
    [
        (0, 1, "Time 0000.0s:"),
        (12.34, 1, "Time 0012.3s:"),
        (0.15, 1, "Time 0000.1s:"),  # 0.15 is stored as a slightly smaller number.
        (0.25, 1, "Time 0000.2s:"),  # Halves are rounded to even.
        (12.34, 2, "Time 0024.6s:"),  # The time is rounded before it is scaled.
        (9999.94, 1, "Time 9999.9s:"),
        (9999.96, 1, "Time 010000s:"),
        (4999.98, 2, "Time 010000s:"),
        (10_000.0, 1, "Time 010000s:"),
        (123_456.7, 1, "Time 123457s:"),
        (999_999.4, 1, "Time 999999s:"),
    ],
)
def test_stamp_text(seconds, scale, text, qwen):
    assert stamp_text(seconds, scale=scale) == text
    assert stamp_text(np.float64(seconds), scale=scale) == text
    assert encode_stamps([seconds], tokenizer=qwen, scale=scale).tolist() == [qwen.encode(text)]


def test_every_stamp_has_ten_ids(qwen):
    times = np.random.default_rng(0).uniform(0, 1, 300) ** 4 * 999_999
    assert encode_stamps(times, tokenizer=qwen).shape == (300, 10)
    assert encode_stamps([], tokenizer=qwen).shape == (0, 10)


@pytest.mark.parametrize("seconds", [-0.1, 999_999.6, float("nan"), float("inf")])
def test_impossible_times_are_refused(seconds):
    with pytest.raises(InputError, match="from 0 to 999,999 s"):
        stamp_text(seconds)


def test_a_tokenizer_that_joins_digits_is_refused(qwen):
    class Joining:
        def encode(self, text):
            return qwen.encode(text)[1:]

    with pytest.raises(InputError, match="9 ids instead of 10"):
        encode_stamps([1.0], tokenizer=Joining())

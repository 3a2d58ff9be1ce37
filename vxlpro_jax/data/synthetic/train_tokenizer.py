"""Trains the tiny preset's tokenizer on the text of the embedded clips."""

import tokenizers
from tokenizers import models, pre_tokenizers, trainers

from vxlpro_jax.data.synthetic.clips import SIZES, make_clip
from vxlpro_jax.data.text.chat import SYSTEM_MESSAGE, stamp_text
from vxlpro_jax.data.text.tokenizer import SPECIAL_TOKENS, byte_level

VOCAB_SIZE = 1024


def train_tokenizer() -> tokenizers.Tokenizer:
    """Trains a tokenizer of at most 1024 ids, the last 14 of them special; every byte has an id.

    Digits are split one by one as in Qwen2.5, so that a time stamp has exactly 10 ids.
    """
    tokenizer = byte_level(models.BPE(), specials=())
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE - len(SPECIAL_TOKENS),
        min_frequency=2,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(), trainer)
    return byte_level(tokenizer.model)


def _texts():
    for index in range(SIZES["train"]):
        yield f"system\n{SYSTEM_MESSAGE}\nuser\nassistant\n"
        yield stamp_text(index / 2)
        for question in make_clip(index, split="train").questions:
            yield f"\n{question.text}"
            yield question.answer

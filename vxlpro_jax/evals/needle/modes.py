"""The two published ways to ask for a needle in a haystack, and when a reply counts as right."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from vxlpro_jax.data.text import chat
from vxlpro_jax.evals.needle.needles import NUM_OPTIONS, Needle
from vxlpro_jax.evals.parsing import letter, lettered
from vxlpro_jax.inference.engine import Encoded, Engine, Options, Plan
from vxlpro_jax.utils.errors import InputError

# Video-XL's prompt, which has nothing between the video and the text.
_MCQ = "Question: {}\nAnswer: "
_MCQ_REPLY = "Best option:("
# The end of LongVA's questions that are not multiple choice.
_SHORT = "\nAnswer the question using a single word or phrase."


class ModeReply(NamedTuple):
    """The `reply` of the model, and whether it is `right`."""

    reply: str
    right: bool


class Mode(NamedTuple):
    """A test.

    Attributes:
        plan: function (engine, needle, *, groups, options) that plans the prompt about a number of
            groups of frames. It raises InputError if the needle does not suit the test or the
            prompt does not fit the context.
        ask: function (engine, needle, *, encoded, plan, options) that returns the reply.
        chance: accuracy of guessing; None if guessing never succeeds.
    """

    plan: Callable[..., Plan]
    ask: Callable[..., ModeReply]
    chance: float | None


def _plan_mcq(engine: Engine, needle: Needle, *, groups: int, options: Options) -> Plan:
    if needle.is_plain:
        return engine.plan_groups(groups, needle.question, options=options)
    mcq_letter(needle)
    return _plan_with_prefill(
        engine, mcq_text(needle), reply=_MCQ_REPLY, groups=groups, options=options
    )


def _plan_with_prefill(
    engine: Engine, text: str, *, reply: str, groups: int, options: Options
) -> Plan:
    """Plans a prompt whose text directly follows the video, with the reply already begun."""
    turn = chat.Turn("human", f"{chat.IMAGE_MARK}{text}")
    ids = chat.encode_prompt([turn], tokenizer=engine.tokenizer)
    ids = np.array([*ids, *engine.tokenizer.encode(reply)], np.int32)
    return engine.plan_ids(ids, groups=groups, options=options)


def mcq_text(needle: Needle) -> str:
    """Returns the text after the video in `mcq`; published questions repeat `Question: `."""
    if not needle.options:
        return _MCQ.format(needle.question)
    return _MCQ.format(f"{needle.question}\n{lettered(needle.options, form='({}) {}')}")


def mcq_letter(needle: Needle) -> str:
    """Returns the letter of the right option.

    Raises:
        InputError: the needle has no options, and its answer is not the letter of one.
    """
    if needle.options:
        return letter(needle.options.index(needle.answer))
    if needle.answer not in map(letter, range(NUM_OPTIONS)):
        raise InputError(
            f"Needle {needle.name!r} has no options and its answer is {needle.answer!r}: for"
            " --mode mcq give four options, or list them in the question and answer by a letter."
        )
    return needle.answer


def _ask_mcq(
    engine: Engine, needle: Needle, *, encoded: Encoded, plan: Plan, options: Options
) -> ModeReply:
    if needle.is_plain:
        options = dataclasses.replace(options, choices=needle.options)
        reply = "".join(engine.answer(encoded, plan, options=options))
        return ModeReply(reply, reply == needle.answer)
    reply = "".join(engine.answer(encoded, plan, options=options))
    return ModeReply(reply, mcq_letter(needle) in reply.split(")")[0])


def _plan_forced(engine: Engine, needle: Needle, *, groups: int, options: Options) -> Plan:
    return engine.plan_groups(groups, forced_text(needle), options=options)


def forced_text(needle: Needle) -> str:
    """Returns the text after the video and a newline in `teacher_forced`."""
    is_whole = needle.is_plain or not needle.options
    return needle.question if is_whole else needle.question + _SHORT


def _ask_forced(
    engine: Engine, needle: Needle, *, encoded: Encoded, plan: Plan, options: Options
) -> ModeReply:
    found = engine.predict(encoded, plan, needle.answer, options=options)
    expected, predicted = np.asarray(found.expected)[:-1], np.asarray(found.predicted)[:-1]
    reply = engine.tokenizer.decode(predicted.tolist())
    return ModeReply(reply, bool((expected == predicted).all()))


MODES = {
    # Video-XL's test: the model continues `Best option:(` greedily. As published, the reply is
    # right if the text before its first ")" contains the letter of the answer. A plain needle's
    # question is asked without letters, and the reply is the likeliest option, chosen token by
    # token.
    "mcq": Mode(_plan_mcq, _ask_mcq, chance=1 / NUM_OPTIONS),
    # LongVA's test: the reply is right if every token of the answer is the likeliest one given all
    # tokens before it. The end of the reply is not tested. `reply` is the text of the likeliest
    # tokens.
    "teacher_forced": Mode(_plan_forced, _ask_forced, chance=None),
}

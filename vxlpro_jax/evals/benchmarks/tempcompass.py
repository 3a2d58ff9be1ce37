"""TempCompass: four tasks on five temporal aspects, scored by the authors' matching rules.

What the rules do not match counts as wrong, as in the authors' script without a judge model (with
one see `evals.judging`). Captions are for a judge alone.
"""

import functools
from collections.abc import Sequence

from vxlpro_jax.evals.benchmarks import tempcompass_questions as questions
from vxlpro_jax.evals.benchmarks.tempcompass_questions import Question
from vxlpro_jax.evals.scoring import (
    PENDING,
    Benchmark,
    Profile,
    Prompt,
    Rated,
    Verdict,
    percent,
    pooled_accuracies,
)

_CHOOSE = "\nPlease directly give the best option:"
_YES_OR_NO = "\nPlease answer yes or no:"


def prompt(question: Question, profile: Profile, *, ending: str) -> Prompt:
    """The question and the task's `ending`."""
    del profile
    return Prompt(f"{question.question}{ending}")


def rate_multi_choice(question: Question, answer: str, profile: Profile) -> Verdict:
    """The whole right line, a bare letter, or a reply that begins with `A.` or `A)`."""
    del profile
    reply = cleaned(answer)
    if reply in tuple("ABCD") or reply[:2] in [f"{name}{mark}" for name in "ABCD" for mark in ".)"]:
        return Verdict(reply[0], reply[0] == question.gold[0])
    return Verdict(reply, True) if reply == question.gold else Verdict(None, False)


def rate_yes_no(question: Question, answer: str, profile: Profile) -> Verdict:
    """What the reply begins with, in either case: "Not sure" is a no."""
    del profile
    reply = cleaned(answer).lower()
    parsed = next((word for word in ("yes", "no") if reply.startswith(word)), None)
    return Verdict(parsed, parsed == question.gold)


def rate_caption_matching(question: Question, answer: str, profile: Profile) -> Verdict:
    """An option's line, sentence, name (`Caption A`) or label (`A`); the last that fits counts."""
    del profile
    reply = cleaned(answer)
    after_parenthesis = reply.split(") ")[1] if ") " in reply else None
    options = question.question.split("\n")[1:]
    names = [option.split(": ")[0] for option in options]
    labels = [_without_kind(name) for name in names]
    parsed = None
    for option in options:
        parsed = option if option == reply else parsed
    for sentence in (option.split(": ")[1] for option in options):
        parsed = sentence if sentence in (reply, after_parenthesis) else parsed
    for name in (*names, *labels):
        parsed = name if name in (reply, reply.replace(".", "")) else parsed
    name, sentence = question.gold.split(": ")[:2]
    right = (question.gold, question.gold.split(":")[0], sentence, name.split()[1])
    return Verdict(parsed, parsed in right)


def rate_captioning(question: Question, answer: str, profile: Profile) -> Verdict:
    """Wrong without an answer; the rest is for a judge model."""
    del question, profile
    return PENDING if cleaned(answer) else Verdict(None, False)


def captioning_judged(judgement: str, *, gold: str) -> bool:
    """Whether a judge that answered the clip's multiple-choice question chose the right line.

    Args:
        judgement: its reply, with a line `Answer: B. ...`, or nothing but the answer.
        gold: the right line.
    """
    lines = [line.strip() for line in judgement.split("\n") if "Answer" in line]
    chosen = lines[-1].replace("Answer:", "").strip() if lines else judgement
    named = sum(chosen.count(f"{name}.") for name in "ABCD")
    return chosen.split(". ")[0] == gold.split(". ")[0] and named == 1


def summarise(rated: Sequence[Rated], profile: Profile) -> dict[str, float]:
    """`overall` (pooled over questions), `match_rate`, and the accuracy of each aspect."""
    matched = percent(one.verdict.parsed is not None for one in rated)
    return {**pooled_accuracies(rated, profile), "match_rate": matched}


def summarise_captioning(rated: Sequence[Rated], profile: Profile) -> dict[str, float]:
    """`answered`, the share of captions that a judge has to rate."""
    del profile
    return {"answered": percent(one.verdict.is_pending for one in rated)}


def cleaned(answer: str) -> str:
    """A reply without the end-of-text mark and the space around it."""
    return answer.replace("</s>", "").strip()


def _without_kind(name: str) -> str:
    for kind in ("Sentence ", "Option ", "Caption "):
        name = name.replace(kind, "")
    return name


MULTI_CHOICE = Benchmark(
    read=functools.partial(questions.read, check=questions.right_line),
    prompt=functools.partial(prompt, ending=_CHOOSE),
    rate=rate_multi_choice,
    summarise=summarise,
)
YES_NO = Benchmark(
    read=functools.partial(questions.read, check=questions.yes_or_no),
    prompt=functools.partial(prompt, ending=_YES_OR_NO),
    rate=rate_yes_no,
    summarise=summarise,
)
CAPTION_MATCHING = Benchmark(
    read=functools.partial(questions.read, check=questions.right_caption),
    prompt=functools.partial(prompt, ending=_CHOOSE),
    rate=rate_caption_matching,
    summarise=summarise,
)
CAPTIONING = Benchmark(
    read=questions.read_captioning,
    prompt=functools.partial(prompt, ending=""),
    rate=rate_captioning,
    summarise=summarise_captioning,
)

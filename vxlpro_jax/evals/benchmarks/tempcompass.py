"""TempCompass: four tasks on five temporal aspects, scored by the authors' matching rules.

An answer that the rules do not match counts as wrong, as in the authors' script without a judge
model; a judge may rate it. Only a judge can rate captions.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vxlpro_jax.evals.annotations import AnnotationRow, read_records, rows_of
from vxlpro_jax.evals.benchmark import (
    PENDING,
    Benchmark,
    Budget,
    JudgeRequest,
    Profile,
    Prompt,
    Record,
    Rubric,
    Score,
    ScoredRecord,
)
from vxlpro_jax.evals.metrics import judged_accuracies, percent, pooled_accuracies
from vxlpro_jax.utils.errors import InputError

ASPECTS = ("action", "direction", "speed", "order", "attribute_change")

_CHOOSE = "\nPlease directly give the best option:"
_YES_OR_NO = "\nPlease answer yes or no:"

# ---- Annotations --------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class TempcompassQuestion(Record):
    """A question about a clip.

    Attributes:
        aspect: one of `ASPECTS`.
        fine_aspect: aspect in the authors' `meta_info.json`; "" without that file.
        question: text of the question, with its options.
        gold: right answer.
        paired_question: multiple-choice question that a judge model answers from a caption; "" in
            other tasks, or if unknown.
    """

    aspect: str
    fine_aspect: str
    question: str
    gold: str
    paired_question: str = ""

    @property
    def groups(self) -> tuple[str, ...]:
        """The aspect and, if known, the fine aspect."""
        fine = (f"fine_aspect/{self.fine_aspect}",) if self.fine_aspect else ()
        return (f"aspect/{self.aspect}", *fine)


def _read(path: Path, *, check: Callable[[AnnotationRow], str]) -> list[TempcompassQuestion]:
    """Reads the authors' file, an object of clips, aspects and questions, or a list of rows.

    Rows have `video_id` and `dim`. Fine aspects come from `meta_info.json`, beside the file or in
    the folder above.

    Args:
        path: path of the annotations.
        check: one of the functions below, which returns the right answer of a row.

    Raises:
        InputError: the file or a record cannot be used.
    """
    records = read_records(path)
    if isinstance(records, dict):
        records = _flat(records, path)
    fine_aspects = _fine_aspects(path)
    return [_question(row, check(row), fine_aspects) for row in rows_of(records, path=path)]


def _read_captioning(path: Path) -> list[TempcompassQuestion]:
    """Reads captioning questions, each with a multiple-choice question for a judge model.

    This is the record's `mc_question` and `mc_answer`, or else the clip's first question on the
    aspect in `multi-choice.json` beside the file.

    Raises:
        InputError: a file or a record cannot be used.
    """
    beside = path.parent / "multi-choice.json"
    paired: dict[tuple[str, str], TempcompassQuestion] = {}
    if beside.is_file():
        for asked in _read(beside, check=_right_line):
            paired.setdefault((asked.video, asked.aspect), asked)
    return [_paired(asked, paired) for asked in _read(path, check=_paired_line)]


def _right_line(row: AnnotationRow) -> str:
    """Returns the line of the right option."""
    return row.text("answer")


def _yes_or_no(row: AnnotationRow) -> str:
    """Returns the right answer, yes or no."""
    return row.one_of("answer", ("yes", "no"))


def _right_caption(row: AnnotationRow) -> str:
    """Returns the line of the right option."""
    answer = row.text("answer")
    options = row.text("question").split("\n")[1:]
    if not options or not all(": " in option for option in options):
        raise row.wrong("question", "a line, then options a line each as 'Caption A: ..'")
    name, colon, _ = answer.partition(": ")
    if not colon or len(name.split()) < 2:
        raise row.wrong("answer", "the whole line of an option, as 'Caption A: ..'")
    return answer


def _paired_line(row: AnnotationRow) -> str:
    """Returns the right line of the judge's multiple-choice question; "" if the row has none."""
    return row.text("mc_answer") if "mc_answer" in row else ""


def _paired(
    asked: TempcompassQuestion, paired: Mapping[tuple[str, str], TempcompassQuestion]
) -> TempcompassQuestion:
    other = paired.get((asked.video, asked.aspect))
    if asked.paired_question or other is None:
        return asked
    return dataclasses.replace(asked, paired_question=other.question, gold=other.gold)


def _flat(nested: Mapping[str, Any], path: Path) -> list[dict]:
    flat = []
    for video, aspects in nested.items():
        listed = aspects.items() if isinstance(aspects, dict) else [("", None)]
        for aspect, questions in listed:
            if not isinstance(questions, list) or not all(isinstance(q, dict) for q in questions):
                raise InputError(
                    f"{path}, clip {video!r}: expected aspects, each with a list of questions."
                )
            flat += [{**asked, "video_id": video, "dim": aspect} for asked in questions]
    return flat


def _question(
    row: AnnotationRow, gold: str, fine_aspects: Mapping[str, Any]
) -> TempcompassQuestion:
    aspect = row.one_of("dim", ASPECTS)
    video = row.text("video_id")
    return TempcompassQuestion(
        id=row.id(),
        video=f"{video}.mp4",
        aspect=aspect,
        fine_aspect=_fine_aspect(fine_aspects, video, aspect),
        question=row.text("question"),
        gold=gold,
        paired_question=row.text("mc_question") if "mc_question" in row else "",
    )


def _fine_aspects(path: Path) -> Mapping[str, Any]:
    for folder in (path.parent, path.parent.parent):
        file = folder / "meta_info.json"
        if file.is_file():
            found = read_records(file)
            return found if isinstance(found, dict) else {}
    return {}


def _fine_aspect(fine_aspects: Mapping[str, Any], video: str, aspect: str) -> str:
    if aspect == "order":
        return "order" if fine_aspects else ""
    try:
        return str(fine_aspects[video]["eval_dim"][aspect]["type"])
    except (KeyError, TypeError):
        return ""


# ---- Prompts and scores -------------------------------------------------------------------------


def _prompt(question: TempcompassQuestion, profile: Profile, *, ending: str) -> Prompt:
    """Returns the question followed by the task's `ending`."""
    del profile
    return Prompt(f"{question.question}{ending}")


def _score_multi_choice(question: TempcompassQuestion, answer: str, profile: Profile) -> Score:
    """Accepts the whole right line, a bare letter, and a reply that begins with `A.` or `A)`."""
    del profile
    reply = _cleaned(answer)
    if reply in tuple("ABCD") or reply[:2] in [f"{name}{mark}" for name in "ABCD" for mark in ".)"]:
        return Score(reply[0], reply[0] == question.gold[0])
    return Score(reply, True) if reply == question.gold else Score(None, False)


def _score_yes_no(question: TempcompassQuestion, answer: str, profile: Profile) -> Score:
    """Matches the beginning of the reply, ignoring case, so that "Not sure" counts as no."""
    del profile
    reply = _cleaned(answer).lower()
    parsed = next((word for word in ("yes", "no") if reply.startswith(word)), None)
    return Score(parsed, parsed == question.gold)


def _score_caption_matching(question: TempcompassQuestion, answer: str, profile: Profile) -> Score:
    """Accepts an option's line, sentence, name (`Caption A`) or label (`A`).

    If several match, the last one counts.
    """
    del profile
    reply = _cleaned(answer)
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
    return Score(parsed, parsed in right)


def _score_captioning(question: TempcompassQuestion, answer: str, profile: Profile) -> Score:
    """Scores an empty caption as wrong; any other caption waits for a judge model."""
    del question, profile
    return PENDING if _cleaned(answer) else Score(None, False)


def _aggregate(scored: Sequence[ScoredRecord], profile: Profile) -> dict[str, float]:
    """Computes `overall` (pooled over questions), `match_rate`, and each aspect's accuracy."""
    matched = percent(one.score.parsed is not None for one in scored)
    return {**pooled_accuracies(scored, profile), "match_rate": matched}


def _aggregate_captioning(scored: Sequence[ScoredRecord], profile: Profile) -> dict[str, float]:
    """Computes `answered`, the percentage of captions that a judge has to rate."""
    del profile
    return {"answered": percent(one.score.is_pending for one in scored)}


def _cleaned(answer: str) -> str:
    """Returns a reply without the end-of-text mark and surrounding whitespace."""
    return answer.replace("</s>", "").strip()


def _without_kind(name: str) -> str:
    for kind in ("Sentence ", "Option ", "Caption "):
        name = name.replace(kind, "")
    return name


# ---- Judge --------------------------------------------------------------------------------------
#
# The criteria are the authors', but in our own words, because their texts may not be copied.

_JUDGE_SETTINGS = {"max_tokens": 128, "temperature": 1.0, "top_p": 1, "presence_penalty": 1}
_CAPTION_SYSTEM = "You answer questions about a video of which you know only a description."
_CAPTION = (
    "From the description choose the option that is right. If it does not tell, or if no option is"
    ' right, answer "None of the choices are correct". Reply in two lines, the second of which'
    " repeats the option as it stands:\nReasoning: ...\nAnswer: ...\n\n"
    "Description: {caption}\nQuestion:\n{question}\n"
)
_MATCHING_SYSTEM = (
    "You compare an answer to a question about a video with the right one. Reply with one word:"
    ' "Correct" if they say the same, else "Incorrect".'
)
_MATCHING = "Question:\n{question}\nRight answer: {reference}\nAnswer: {answer}"


def _caption_request(one: ScoredRecord) -> JudgeRequest | None:
    """Asks the judge the multiple-choice question about the caption instead of the clip."""
    caption, record = _cleaned(one.answer), one.record
    if not caption or not record.paired_question:
        return None
    text = _CAPTION.format(caption=caption, question=record.paired_question)
    return JudgeRequest(_CAPTION_SYSTEM, text, _JUDGE_SETTINGS)


def _read_caption_reply(one: ScoredRecord, reply: str | None) -> dict[str, float]:
    right = reply is not None and judge_chose_right(reply, gold=one.record.gold)
    return {"right": float(right)}


def judge_chose_right(judgement: str, *, gold: str) -> bool:
    """Returns whether a judge that answered a multiple-choice question chose the right line.

    Args:
        judgement: reply of the judge, with a line `Answer: B. ...`, or only the answer.
        gold: right line.
    """
    lines = [line.strip() for line in judgement.split("\n") if "Answer" in line]
    chosen = lines[-1].replace("Answer:", "").strip() if lines else judgement
    named = sum(chosen.count(f"{name}.") for name in "ABCD")
    return chosen.split(". ")[0] == gold.split(". ")[0] and named == 1


def _matching_request(one: ScoredRecord) -> JudgeRequest | None:
    """Asks the judge about an answer that the authors' rules do not match."""
    answer, record = _cleaned(one.answer), one.record
    if not answer or one.score.parsed is not None:
        return None
    text = _MATCHING.format(question=record.question, reference=record.gold, answer=answer)
    return JudgeRequest(_MATCHING_SYSTEM, text, _JUDGE_SETTINGS)


def _read_matching_reply(one: ScoredRecord, reply: str | None) -> dict[str, float]:
    """Returns the rules' score, or whether the judge says "Correct"; neither word means wrong."""
    if reply is None:
        return {"right": float(bool(one.score.correct))}
    is_right = "Correct" in reply and ("Incorrect" not in reply or reply.startswith("Correct"))
    return {"right": float(is_right)}


# ---- The four tasks -----------------------------------------------------------------------------

_BUDGET = Budget(max_frames=128, max_new_tokens=128)
_MATCHING_RUBRIC = Rubric(
    request=_matching_request, read_reply=_read_matching_reply, aggregate=judged_accuracies
)

MULTI_CHOICE = Benchmark(
    name="tempcompass_multi_choice",
    read=functools.partial(_read, check=_right_line),
    prompt=functools.partial(_prompt, ending=_CHOOSE),
    score=_score_multi_choice,
    aggregate=_aggregate,
    budget=_BUDGET,
    rubric=_MATCHING_RUBRIC,
)
YES_NO = Benchmark(
    name="tempcompass_yes_no",
    read=functools.partial(_read, check=_yes_or_no),
    prompt=functools.partial(_prompt, ending=_YES_OR_NO),
    score=_score_yes_no,
    aggregate=_aggregate,
    budget=_BUDGET,
    rubric=_MATCHING_RUBRIC,
)
CAPTION_MATCHING = Benchmark(
    name="tempcompass_caption_matching",
    read=functools.partial(_read, check=_right_caption),
    prompt=functools.partial(_prompt, ending=_CHOOSE),
    score=_score_caption_matching,
    aggregate=_aggregate,
    budget=_BUDGET,
    rubric=_MATCHING_RUBRIC,
)
CAPTIONING = Benchmark(
    name="tempcompass_captioning",
    read=_read_captioning,
    prompt=functools.partial(_prompt, ending=""),
    score=_score_captioning,
    aggregate=_aggregate_captioning,
    budget=_BUDGET,
    rubric=Rubric(
        request=_caption_request, read_reply=_read_caption_reply, aggregate=judged_accuracies
    ),
)
BENCHMARKS = (MULTI_CHOICE, YES_NO, CAPTION_MATCHING, CAPTIONING)

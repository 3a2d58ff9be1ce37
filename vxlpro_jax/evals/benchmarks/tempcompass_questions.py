"""Questions of TempCompass in both forms of file, checked by task."""

import dataclasses
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from vxlpro_jax.evals.annotations import Row, read_records, rows_of
from vxlpro_jax.utils.errors import InputError

ASPECTS = ("action", "direction", "speed", "order", "attribute_change")

# A name of two words, such as `Caption A`, before its sentence.
_NAMED = re.compile(r"\S+\s+\S.*?: ")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Question:
    """A question on a clip.

    Attributes: `fine_aspect`, "" without the authors' `meta_info.json`; `paired_question`, what a
    judge model is asked of a caption, "" of other tasks and if it is not told.
    """

    id: str | int
    video: str
    aspect: str
    fine_aspect: str
    question: str
    gold: str
    paired_question: str = ""

    @property
    def groups(self) -> tuple[str, ...]:
        """Its aspect and, if known, the finer one."""
        fine = (f"fine_aspect/{self.fine_aspect}",) if self.fine_aspect else ()
        return (f"aspect/{self.aspect}", *fine)


def read(path: Path, *, check: Callable[[Row], str]) -> list[Question]:
    """Reads the authors' file, clip to aspect to questions, or rows with `video_id` and `dim`.

    Fine aspects come from `meta_info.json`, beside the file or one folder above.

    Args:
        path: the annotations.
        check: the right answer of a row; one of the functions below.

    Raises:
        InputError: the file or a record cannot be used.
    """
    records = read_records(path)
    if isinstance(records, dict):
        records = _flat(records, path)
    fine_aspects = _fine_aspects(path)
    return [_question(row, check(row), fine_aspects) for row in rows_of(records, path=path)]


def read_captioning(path: Path) -> list[Question]:
    """`read`, with the clip's first multiple-choice question on the aspect for a judge model.

    It is the record's `mc_question` and `mc_answer`, or from `multi-choice.json` beside the file.

    Raises:
        InputError: a file or a record cannot be used.
    """
    beside = path.parent / "multi-choice.json"
    paired: dict[tuple[str, str], Question] = {}
    if beside.is_file():
        for asked in read(beside, check=right_line):
            paired.setdefault((asked.video, asked.aspect), asked)
    return [_paired(asked, paired) for asked in read(path, check=paired_line)]


def right_line(row: Row) -> str:
    """The right option's line."""
    return row.text("answer")


def yes_or_no(row: Row) -> str:
    """Yes or no."""
    return row.one_of("answer", ("yes", "no"))


def right_caption(row: Row) -> str:
    """The right option's line."""
    answer = row.text("answer")
    options = row.text("question").split("\n")[1:]
    if not options or not all(": " in option for option in options):
        raise row.wrong("question", "a line, then options a line each as 'Caption A: ..'")
    if not _NAMED.match(answer):
        raise row.wrong("answer", "the whole line of an option, as 'Caption A: ..'")
    return answer


def paired_line(row: Row) -> str:
    """The right line of the multiple-choice question that a judge is asked, if it is told."""
    return row.text("mc_answer") if "mc_answer" in row else ""


def _paired(asked: Question, paired: Mapping[tuple[str, str], Question]) -> Question:
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


def _question(row: Row, gold: str, fine_aspects: Mapping[str, Any]) -> Question:
    aspect = row.one_of("dim", ASPECTS)
    video = row.text("video_id")
    return Question(
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

"""VNBench: needles in videos; each question is asked four times with shuffled options."""

import dataclasses
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from vxlpro_jax.evals.annotations import AnnotationRow, read_rows
from vxlpro_jax.evals.benchmark import (
    Benchmark,
    Budget,
    Profile,
    Prompt,
    Record,
    Score,
    ScoredRecord,
)
from vxlpro_jax.evals.metrics import mean, percent
from vxlpro_jax.evals.parsing import letter, lettered

TRIES = 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class VnbenchQuestion(Record):
    """One of the four tries of a video's question; `type` is the file's, such as `cnt_edit1`."""

    type: str
    question: str
    options: tuple[str, ...]
    gold: str

    @property
    def groups(self) -> tuple[str, ...]:
        """The type of the question."""
        return (f"type/{self.type}",)


def _read(path: Path) -> list[VnbenchQuestion]:
    """Reads `VNBench-main-4try.json`.

    Raises:
        InputError: the file or a record cannot be used.
    """
    return [_question(row) for row in read_rows(path)]


def _prompt(question: VnbenchQuestion, profile: Profile) -> Prompt:
    """Returns the authors' prompt."""
    del profile
    options = lettered(question.options, form="{}. {}")
    ending = "Answer with the option's letter from the given choices directly."
    return Prompt(f"{question.question}\n{options}\n{ending}")


def _score(question: VnbenchQuestion, answer: str, profile: Profile) -> Score:
    """Takes the first of A, B, C, D, in this order, that occurs before the first full stop."""
    del profile
    text = answer.split(".")[0]
    parsed = next((name for name in "ABCD" if name in text), None)
    return Score(parsed, parsed == question.gold)


def _aggregate(scored: Sequence[ScoredRecord], profile: Profile) -> dict[str, float]:
    """Computes the percentages of videos for which all four tries are right.

    `overall` is the mean over types, not over videos.
    """
    del profile
    types = defaultdict(lambda: defaultdict(int))
    for one in scored:
        types[one.record.type][one.record.video] += bool(one.score.correct)
    by_type = {
        name: percent(right == TRIES for right in videos.values()) for name, videos in types.items()
    }
    kinds = defaultdict(list)
    for name, value in by_type.items():
        kinds[name.split("_")[0]].append(value)
    return {
        "overall": mean(by_type.values()),
        **{f"group/{kind}": mean(values) for kind, values in kinds.items()},
        **{f"type/{name}": value for name, value in by_type.items()},
    }


def _question(row: AnnotationRow) -> VnbenchQuestion:
    gold = row.one_of("gt_option", (*"ABCD", 0, 1, 2, 3))
    return VnbenchQuestion(
        id=row.id(),
        video=row.text("video"),
        type=row.text("type"),
        question=row.text("question"),
        options=row.options("options"),
        gold=gold if isinstance(gold, str) else letter(int(gold)),
    )


VNBENCH = Benchmark(
    name="vnbench",
    read=_read,
    prompt=_prompt,
    score=_score,
    aggregate=_aggregate,
    budget=Budget(max_frames=256, max_new_tokens=5),
    fps=1.0,
)
BENCHMARKS = (VNBENCH,)

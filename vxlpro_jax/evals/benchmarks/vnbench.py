"""VNBench: needles in videos, each asked four times with its options shuffled."""

import dataclasses
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from vxlpro_jax.evals.annotations import Row, read_rows
from vxlpro_jax.evals.letters import letter, lettered
from vxlpro_jax.evals.scoring import Benchmark, Profile, Prompt, Rated, Verdict, mean, percent

TRIES = 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class Question:
    """One try at a video's question; `type` such as `cnt_edit1` as the file has it."""

    id: str | int
    video: str
    type: str
    question: str
    options: tuple[str, ...]
    gold: str

    @property
    def groups(self) -> tuple[str, ...]:
        """Its type."""
        return (f"type/{self.type}",)


def read(path: Path) -> list[Question]:
    """Reads `VNBench-main-4try.json`.

    Raises:
        InputError: the file or a record cannot be used.
    """
    return [_question(row) for row in read_rows(path)]


def prompt(question: Question, profile: Profile) -> Prompt:
    """The authors' prompt."""
    del profile
    options = lettered(question.options, form="{}. {}")
    ending = "Answer with the option's letter from the given choices directly."
    return Prompt(f"{question.question}\n{options}\n{ending}")


def rate(question: Question, answer: str, profile: Profile) -> Verdict:
    """The first of A, B, C and D, in this order, that occurs before the first full stop."""
    del profile
    text = answer.split(".")[0]
    parsed = next((name for name in "ABCD" if name in text), None)
    return Verdict(parsed, parsed == question.gold)


def summarise(rated: Sequence[Rated], profile: Profile) -> dict[str, float]:
    """A video is right if four tries are; `overall` is the mean over types, not over videos."""
    del profile
    types = defaultdict(lambda: defaultdict(int))
    for one in rated:
        types[one.record.type][one.record.video] += bool(one.verdict.correct)
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


def _question(row: Row) -> Question:
    gold = row.one_of("gt_option", (*"ABCD", 0, 1, 2, 3))
    return Question(
        id=row.id(),
        video=row.text("video"),
        type=row.text("type"),
        question=row.text("question"),
        options=row.options("options"),
        gold=gold if isinstance(gold, str) else letter(int(gold)),
    )


VNBENCH = Benchmark(read=read, prompt=prompt, rate=rate, summarise=summarise, fps=1.0)

"""What benchmarks have in common: prompts, verdicts on answers, and means over groups."""

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

from vxlpro_jax.utils.errors import InputError

# `official` is the benchmark authors' script (lmms-eval of 2026 for Charades-STA and
# LongVideoBench), `legacy2025` what evaluations of March to May 2025 used.
Profile = Literal["official", "legacy2025"]

SYSTEM = "You are a helpful assistant."


class Prompt(NamedTuple):
    """Attributes: `text` of the user's turn, `system`, and `prefill`, how the reply begins."""

    text: str
    system: str = SYSTEM
    prefill: str = ""


class Record(Protocol):
    """One question of a benchmark.

    Attributes: `id`; `video`, its file's name or stem; `groups`, such as `task/count`.
    """

    @property
    def id(self) -> str | int: ...  # noqa: D102

    @property
    def video(self) -> str: ...  # noqa: D102

    @property
    def groups(self) -> tuple[str, ...]: ...  # noqa: D102


class Verdict(NamedTuple):
    """What became of an answer.

    Attributes:
        parsed: what was found in it, as JSON; None if nothing.
        correct: None if it counts neither way.
        is_pending: whether that is for want of a judge model or of the right answer.
        measures: further numbers, such as an IoU from 0 to 1.
    """

    parsed: Any
    correct: bool | None
    is_pending: bool = False
    measures: Mapping[str, float] = {}


PENDING = Verdict(parsed=None, correct=None, is_pending=True)


class Rated(NamedTuple):
    """A record, the model's answer to it ("" without one), and the verdict."""

    record: Any
    answer: str
    verdict: Verdict


@dataclasses.dataclass(frozen=True, kw_only=True)
class Benchmark:
    """How a benchmark is asked and scored.

    Attributes:
        read: annotation file to records; raises InputError.
        prompt: what a record asks under a profile.
        rate: verdict on an answer to a record under a profile.
        summarise: metrics, in percent, of rated records under a profile.
        fps: frames a second that published runs sample, if they state it.
        prompt_with: what is asked with `subtitles`, if the benchmark shows them.
    """

    read: Callable[[Path], Sequence[Any]]
    prompt: Callable[[Any, Profile], Prompt]
    rate: Callable[[Any, str, Profile], Verdict]
    summarise: Callable[[Sequence[Rated], Profile], dict[str, float]]
    fps: float | None = None
    prompt_with: Callable[..., Prompt] | None = None


def read_checked(benchmark: Benchmark, path: Path) -> Sequence[Any]:
    """The records of an annotation file.

    Raises:
        InputError: as `benchmark.read`, or two records have one id.
    """
    records = benchmark.read(path)
    seen = set()
    for index, record in enumerate(records):
        if record.id in seen:
            raise InputError(f"{path}, record {index}: id {record.id!r} was given before: mend it.")
        seen.add(record.id)
    return records


def rate_all(
    benchmark: Benchmark, records: Iterable[Any], answers: Mapping[Any, str], *, profile: Profile
) -> list[Rated]:
    """Verdicts in the order of the records; a record without an answer has the empty one."""
    rated = []
    for record in records:
        answer = answers.get(record.id, "")
        rated.append(Rated(record, answer, benchmark.rate(record, answer, profile)))
    return rated


def mean(values: Iterable[float]) -> float:
    """Of no values 0."""
    values = list(values)
    return sum(values) / len(values) if values else 0.0


def percent(values: Iterable[float]) -> float:
    """Their mean, times 100."""
    return 100 * mean(values)


def by_group(rated: Iterable[Rated]) -> dict[str, list[Rated]]:
    """Rated records by each of their groups, in the order in which groups appear."""
    groups = defaultdict(list)
    for one in rated:
        for name in one.record.groups:
            groups[name].append(one)
    return dict(groups)


def accuracy(rated: Iterable[Rated]) -> float:
    """Percent right of those that count; of none 0."""
    return percent(one.verdict.correct for one in rated if one.verdict.correct is not None)


def group_accuracies(rated: Sequence[Rated]) -> dict[str, float]:
    """Accuracy of each group that has a record with a verdict or one that was left out."""
    decided = [one for one in rated if not one.verdict.is_pending]
    return {name: accuracy(members) for name, members in by_group(decided).items()}


def pooled_accuracies(rated: Sequence[Rated], profile: Profile) -> dict[str, float]:
    """`overall`, each question counted once, and the accuracy of each group."""
    del profile
    return {"overall": accuracy(rated), **group_accuracies(rated)}

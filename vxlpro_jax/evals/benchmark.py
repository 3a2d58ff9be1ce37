"""The interface of a benchmark: what it asks, how it scores an answer, and what was published.

A file that defines benchmarks lists them in a module variable, `BENCHMARKS`. Files in
`vxlpro_jax/evals/benchmarks/` are found by themselves; see `registry` for files outside.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

from vxlpro_jax.utils.errors import InputError, short_repr

# `official` is the benchmark authors' script (lmms-eval of 2026 for Charades-STA and
# LongVideoBench), `legacy2025` what evaluations of March to May 2025 used.
Profile = Literal["official", "legacy2025"]

SYSTEM_MESSAGE = "You are a helpful assistant."


class Prompt(NamedTuple):
    """The text of a question.

    Attributes:
        text: the user's turn.
        system: the system message.
        prefill: the beginning of the reply, which the model continues.
    """

    text: str
    system: str = SYSTEM_MESSAGE
    prefill: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Record:
    """One question of a benchmark; benchmarks extend it with their own fields.

    Attributes:
        id: unique within the annotations.
        video: the file that the question is about, by its name, its stem or its path.
        is_image: whether that file is a picture.
    """

    id: str | int
    video: str
    is_image: bool = False

    @property
    def groups(self) -> tuple[str, ...]:
        """Groups for which a metric of their own is reported, such as `task/count`."""
        return ()

    @property
    def is_choice(self) -> bool:
        """Whether the answer is one of given options, as opposed to free text."""
        return True


class Score(NamedTuple):
    """The score of an answer.

    Attributes:
        parsed: what the parser found in the answer, as JSON; None if it found nothing.
        correct: None if the answer is left out of the accuracy.
        is_pending: whether the answer needs a judge model, or the right answer is not published.
        measures: further numbers, such as an IoU from 0 to 1.
    """

    parsed: Any
    correct: bool | None
    is_pending: bool = False
    measures: Mapping[str, float] = {}


PENDING = Score(parsed=None, correct=None, is_pending=True)


class ScoredRecord(NamedTuple):
    """A record, the model's answer to it ("" if there is none), and its score."""

    record: Any
    answer: str
    score: Score


@dataclasses.dataclass(frozen=True, kw_only=True)
class Budget:
    """The limits within which a question is asked.

    Attributes:
        max_frames: of a video; None leaves it to the model folder. Benchmarks that sample at a
            frame rate take fewer of shorter videos.
        max_new_tokens: of an answer.
        free_text: tokens of an answer that is no choice; None for `max_new_tokens`.
    """

    max_frames: int | None
    max_new_tokens: int
    free_text: int | None = None

    def new_tokens_for(self, record: Record) -> int:
        """The largest number of tokens that the answer to a record may have."""
        if record.is_choice:
            return self.max_new_tokens
        return self.free_text or self.max_new_tokens

    def with_max_new_tokens(self, limit: int | None) -> Self:
        """This budget with another limit for all answers; None leaves it as it is."""
        if limit is None:
            return self
        return dataclasses.replace(self, max_new_tokens=limit, free_text=limit)


def _every_record(record: Record) -> bool:
    del record
    return True


@dataclasses.dataclass(frozen=True, kw_only=True)
class Published:
    """Figures that the authors of Video-XL-Pro report for their 3B model.

    Attributes:
        figures: by the name of our metric.
        num_questions: numbers of questions that published annotation files have; empty if unknown.
        counts: whether a record is one of these questions.
    """

    figures: Mapping[str, float]
    num_questions: tuple[int, ...] = ()
    counts: Callable[[Any], bool] = _every_record


class JudgeRequest(NamedTuple):
    """A question to a judge model: `system` and `user` message, further fields of the request."""

    system: str
    user: str
    settings: Mapping[str, Any]


class JudgedRecord(NamedTuple):
    """A scored record and the numbers, by name, that a judge's reply means."""

    scored: ScoredRecord
    measures: Mapping[str, float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rubric:
    """How a judge model rates answers.

    Attributes:
        request: question about an answer; None if the answer needs no judge.
        read_reply: numbers by name, from an answer and the judge's reply to the request; the reply
            is None if there was no request.
        aggregate: metrics, whose names begin with `judged/`, of judged answers.
        applies: whether a judge has a say in the answers to a record.
    """

    request: Callable[[ScoredRecord], JudgeRequest | None]
    read_reply: Callable[[ScoredRecord, str | None], dict[str, float]]
    aggregate: Callable[[Sequence[JudgedRecord]], dict[str, float]]
    applies: Callable[[Any], bool] = _every_record


@dataclasses.dataclass(frozen=True, kw_only=True)
class Benchmark:
    """How a benchmark is asked and scored.

    Attributes:
        name: on the command line and in results.
        read: records of an annotation file; raises InputError.
        prompt: of a record under a profile.
        score: of an answer to a record under a profile.
        aggregate: metrics, in percent, of scored records under a profile.
        budget: frames of a video and tokens of an answer.
        fps: sampling rate in frames per second; None for the video's own.
        subtitled_prompt: prompt of a record under a profile with `subtitles`, if the benchmark
            shows them.
        rubric: for a judge model, if one can rate answers.
        published: figures of the original model, if there are any.
        true_span: seconds of the right answer to a record, if answers are spans of time.
        other_chains: the same questions asked in other ways, by their number; this is number 1.
        paths: `anywhere` finds a record's file by name in any folder below the given one, and with
            another suffix too; `exact` takes the path as it stands.
    """

    name: str
    read: Callable[[Path], Sequence[Any]]
    prompt: Callable[[Any, Profile], Prompt]
    score: Callable[[Any, str, Profile], Score]
    aggregate: Callable[[Sequence[ScoredRecord], Profile], dict[str, float]]
    budget: Budget
    fps: float | None = None
    subtitled_prompt: Callable[..., Prompt] | None = None
    rubric: Rubric | None = None
    published: Published | None = None
    true_span: Callable[[Any], Sequence[float]] | None = None
    other_chains: Mapping[int, "Benchmark"] = dataclasses.field(default_factory=dict)
    paths: Literal["anywhere", "exact"] = "anywhere"

    def read_unique(self, path: Path) -> Sequence[Any]:
        """The records of an annotation file.

        Raises:
            InputError: the file cannot be used, or two records have the same id.
        """
        records = self.read(path)
        seen = set()
        for index, record in enumerate(records):
            if record.id in seen:
                raise InputError(
                    f"{path}, record {index}: id {short_repr(record.id)} was given before: give"
                    " each record an id of its own."
                )
            seen.add(record.id)
        return records

    def score_all(
        self, records: Sequence[Any], answers: Mapping[Any, str], *, profile: Profile
    ) -> list[ScoredRecord]:
        """Scores of all records in their order; a record without an answer has the empty one."""
        texts = ((record, answers.get(record.id, "")) for record in records)
        return [
            ScoredRecord(record, text, self.score(record, text, profile)) for record, text in texts
        ]

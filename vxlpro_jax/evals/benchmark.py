"""The interface of a benchmark: its questions, scoring and published figures.

A file that defines benchmarks lists them in a module variable, `BENCHMARKS`. Files in
`vxlpro_jax/evals/benchmarks/` are found automatically; see `registry` for files elsewhere.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

from vxlpro_jax.utils.errors import InputError, short_repr

# `official` follows the benchmark authors' script (lmms-eval of 2026 for Charades-STA and
# LongVideoBench); `legacy2025` follows the evaluations of March to May 2025.
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
    """One question of a benchmark; benchmarks extend it with further fields.

    Attributes:
        id: identifier, unique within the annotations.
        video: name, stem or path of the file that the question is about.
        is_image: whether that file is a picture.
    """

    id: str | int
    video: str
    is_image: bool = False

    @property
    def groups(self) -> tuple[str, ...]:
        """Groups, such as `task/count`, for which a separate metric is reported."""
        return ()

    @property
    def is_choice(self) -> bool:
        """Whether the answer is one of the given options, as opposed to free text."""
        return True


class Score(NamedTuple):
    """The score of an answer.

    Attributes:
        parsed: the value that the parser found in the answer, as JSON; None if it found nothing.
        correct: whether the answer is right; None if it is left out of the accuracy.
        is_pending: whether the answer needs a judge model, or the right answer is unpublished.
        measures: further numbers, such as an IoU from 0 to 1.
    """

    parsed: Any
    correct: bool | None
    is_pending: bool = False
    measures: Mapping[str, float] = {}


PENDING = Score(parsed=None, correct=None, is_pending=True)


class ScoredRecord(NamedTuple):
    """A record, the model's answer ("" if there is none), and its score."""

    record: Any
    answer: str
    score: Score


@dataclasses.dataclass(frozen=True, kw_only=True)
class Budget:
    """The limits on frames and answer length of a question.

    Attributes:
        max_frames: largest number of frames of a video; None for the model folder's value.
            Benchmarks that sample at a frame rate take fewer from shorter videos.
        max_new_tokens: largest number of tokens in an answer.
        free_text: the same for free-text answers; None for `max_new_tokens`.
    """

    max_frames: int | None
    max_new_tokens: int
    free_text: int | None = None

    def new_tokens_for(self, record: Record) -> int:
        """Returns the largest number of tokens in the answer to a record."""
        if record.is_choice:
            return self.max_new_tokens
        return self.free_text or self.max_new_tokens

    def with_max_new_tokens(self, limit: int | None) -> Self:
        """Returns this budget with another limit for all answers; None changes nothing."""
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
        figures: values by the name of our metric.
        num_questions: numbers of questions in the published annotation files; empty if unknown.
        counts: function that says whether a record is one of these questions.
    """

    figures: Mapping[str, float]
    num_questions: tuple[int, ...] = ()
    counts: Callable[[Any], bool] = _every_record


class JudgeRequest(NamedTuple):
    """A request to a judge model: `system` and `user` message, and further request fields."""

    system: str
    user: str
    settings: Mapping[str, Any]


class JudgedRecord(NamedTuple):
    """A scored record, and the numbers by name that a judge's reply gives."""

    scored: ScoredRecord
    measures: Mapping[str, float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rubric:
    """The way in which a judge model rates answers.

    Attributes:
        request: function that makes the request about an answer; None if it needs no judge.
        read_reply: function that gives numbers by name from an answer and the judge's reply; the
            reply is None if there was no request.
        aggregate: function that computes metrics, named `judged/...`, from judged answers.
        applies: function that says whether a judge rates answers to a record.
    """

    request: Callable[[ScoredRecord], JudgeRequest | None]
    read_reply: Callable[[ScoredRecord, str | None], dict[str, float]]
    aggregate: Callable[[Sequence[JudgedRecord]], dict[str, float]]
    applies: Callable[[Any], bool] = _every_record


@dataclasses.dataclass(frozen=True, kw_only=True)
class Benchmark:
    """The questions and the scoring of a benchmark.

    Attributes:
        name: name on the command line and in results.
        read: function that reads the records of an annotation file; raises InputError.
        prompt: function that makes the prompt of a record under a profile.
        score: function that scores an answer to a record under a profile.
        aggregate: function that computes metrics, in percent, of scored records under a profile.
        budget: limits on the frames of a video and the tokens of an answer.
        fps: sampling rate in frames per second; None for the video's own.
        subtitled_prompt: function that makes the prompt of a record under a profile with
            `subtitles`, if the benchmark shows them.
        rubric: rules for a judge model, if one can rate answers.
        published: figures of the original model, if there are any.
        true_span: function that returns the right answer in seconds, if answers are time spans.
        other_chains: the same questions asked in other ways, by their number; this is number 1.
        paths: `anywhere` finds a record's file by name in any folder below the given one, also with
            another suffix; `exact` uses the path unchanged.
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
        """Returns the records of an annotation file.

        Raises:
            InputError: the file cannot be used, or two records have the same id.
        """
        records = self.read(path)
        seen = set()
        for index, record in enumerate(records):
            if record.id in seen:
                raise InputError(
                    f"{path}, record {index}: id {short_repr(record.id)} occurs twice: give each"
                    " record a unique id."
                )
            seen.add(record.id)
        return records

    def score_all(
        self, records: Sequence[Any], answers: Mapping[Any, str], *, profile: Profile
    ) -> list[ScoredRecord]:
        """Scores all records in order; a record without an answer gets the empty answer."""
        texts = ((record, answers.get(record.id, "")) for record in records)
        return [
            ScoredRecord(record, text, self.score(record, text, profile)) for record, text in texts
        ]

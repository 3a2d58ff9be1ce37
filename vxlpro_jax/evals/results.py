"""The results of a benchmark: metrics, counts and scores of all items, as tables and files."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

from vxlpro_jax.evals.benchmark import Benchmark, Profile, Published, ScoredRecord
from vxlpro_jax.evals.judge import Replies, judged_records
from vxlpro_jax.utils.files import write_atomically


@dataclasses.dataclass(frozen=True, kw_only=True)
class Results:
    """What answers to a benchmark were worth.

    Attributes:
        benchmark: name.
        profile: whose parser and metrics.
        metrics: in percent, by name.
        counts: of all items, of empty answers (missing or blank), of answers in which the parser
            found nothing, and of unscored items.
        unscored: ids of items that need a judge or whose right answer is not published.
        per_item: id, groups, what was parsed, whether it is right, and further measures of every
            item.
    """

    benchmark: str
    profile: Profile
    metrics: Mapping[str, float]
    counts: Mapping[str, int]
    unscored: Sequence[Any]
    per_item: Sequence[Mapping[str, Any]]

    @classmethod
    def of(cls, benchmark: Benchmark, scored: Sequence[ScoredRecord], *, profile: Profile) -> Self:
        """The results of scored records, without a judge."""
        unscored = [one.record.id for one in scored if one.score.is_pending]
        decided = [one.score for one in scored if not one.score.is_pending]
        counts = {
            "items": len(scored),
            "empty": sum(not one.answer.strip() for one in scored),
            "unparsed": sum(score.parsed is None for score in decided),
            "unscored": len(unscored),
        }
        return cls(
            benchmark=benchmark.name,
            profile=profile,
            metrics=benchmark.aggregate(scored, profile),
            counts=counts,
            unscored=unscored,
            per_item=[_item(one) for one in scored],
        )

    def with_judge(
        self, benchmark: Benchmark, scored: Sequence[ScoredRecord], replies: Replies
    ) -> Self:
        """These results with the measures and metrics that a judge's replies mean.

        Args:
            benchmark: one that has a rubric.
            scored: the records of these results.
            replies: of the judge; records without one stay unscored.
        """
        rubric = benchmark.rubric
        assert rubric is not None
        judged = judged_records(rubric, scored, replies)
        measures = {each.scored.record.id: dict(each.measures) for each in judged}
        waiting = {one.record.id for one in scored if one.score.is_pending or rubric.request(one)}
        unscored = [one.record.id for one in scored if one.record.id in waiting - measures.keys()]
        return dataclasses.replace(
            self,
            metrics={**self.metrics, **rubric.aggregate(judged)},
            counts={**self.counts, "unscored": len(unscored)},
            unscored=unscored,
            per_item=[
                {**item, "judged": measures[item["id"]]} if item["id"] in measures else item
                for item in self.per_item
            ],
        )

    def to_json(self) -> dict[str, Any]:
        """The fields by name."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def to_text(self) -> str:
        """The metrics, one per line, under a line of counts."""
        width = max(map(len, self.metrics), default=0)
        lines = [self.headline()]
        lines += [f"{name:{width}}  {value:6.2f}" for name, value in self.metrics.items()]
        if self.unscored:
            lines.append(f"Without a judge model {len(self.unscored)} items stay unscored.")
        return "\n".join(lines)

    def headline(self) -> str:
        """Benchmark, profile and counts in a line."""
        counts = ", ".join(f"{count} {name}" for name, count in self.counts.items())
        return f"{self.benchmark} ({self.profile}): {counts}"


def _item(one: ScoredRecord) -> dict[str, Any]:
    fields = {"id": one.record.id, "parsed": one.score.parsed, "correct": one.score.correct}
    groups = {"groups": list(one.record.groups)} if one.record.groups else {}
    return {**fields, **groups, **one.score.measures}


class Answers(NamedTuple):
    """The answers of a run.

    Attributes:
        texts: by id of the record.
        unreadable: reasons why videos could not be read, by video.
        unused_subtitles: reasons why questions were asked without subtitles that are there, by
            video.
    """

    texts: Mapping[Any, str]
    unreadable: Mapping[str, str]
    unused_subtitles: Mapping[str, str] = {}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """The figures that are published of the original model, if a run can be compared with them.

    Attributes:
        figures: by name of the metric; empty if there are none or the run is not complete.
        left_out: reason why published figures are left out; "" if they are not.
    """

    figures: Mapping[str, float] = dataclasses.field(default_factory=dict)
    left_out: str = ""


def compare(
    published: Published | None, records: Sequence[Any], answers: Answers, *, num_available: int
) -> Comparison:
    """Published figures, unless the run is not complete.

    Args:
        published: of the benchmark.
        records: that were asked.
        answers: of the run.
        num_available: number of records in the annotations, asked or not.
    """
    if published is None:
        return Comparison()
    asked = sum(map(published.counts, records))
    missing = sum(record.id not in answers.texts for record in records)
    whole = " or ".join(f"{count:,}" for count in published.num_questions)
    if len(records) < num_available:
        reason = f"only {len(records):,} of {num_available:,} questions were asked (--limit)"
    elif missing:
        reason = f"{missing:,} of {len(records):,} questions have no answer"
    elif published.num_questions and asked not in published.num_questions:
        reason = f"the published file has {whole} questions, this one has {asked:,}"
    else:
        return Comparison(figures=published.figures)
    return Comparison(left_out=reason)


def to_markdown(results: Results, *, comparison: Comparison, answers: Answers) -> str:
    """A table of the metrics, with published figures beside them if the run is complete."""
    ours, theirs = results.metrics, comparison.figures
    columns = ["ours", *(["Video-XL-Pro, published"] if theirs else [])]
    lines = [results.headline(), "", f"| metric | {' | '.join(columns)} |"]
    lines.append("| --- " * (1 + len(columns)) + "|")
    for name in {**ours, **theirs}:
        cells = [f"{each[name]:.2f}" if name in each else "" for each in (ours, theirs)]
        lines.append(f"| {name} | {' | '.join(cells[: len(columns)])} |")
    if comparison.left_out:
        lines += ["", f"Published figures are left out: {comparison.left_out}."]
    if results.unscored:
        lines += ["", f"{len(results.unscored)} items wait for a judge model or an answer key."]
    for what, reasons in (
        ("Videos that could not be read", answers.unreadable),
        ("Subtitles that could not be used", answers.unused_subtitles),
    ):
        if reasons:
            lines += ["", f"{what}: {len(reasons)}", ""]
            lines += [f"- {video}: {reason}" for video, reason in reasons.items()]
    return "\n".join(lines) + "\n"


def write_results(results: Results, *, comparison: Comparison, answers: Answers, out: Path) -> str:
    """Writes `predictions.jsonl`, which `score` reads, `results.md` and, last, `results.json`.

    Returns the text of `results.md`.
    """
    predictions = [
        json.dumps({"id": item["id"], "prediction": answers.texts.get(item["id"])})
        for item in results.per_item
    ]
    table = to_markdown(results, comparison=comparison, answers=answers)
    whole = {
        **results.to_json(),
        "published": dict(comparison.figures),
        "published_left_out": comparison.left_out,
        "unreadable": dict(answers.unreadable),
        "unused_subtitles": dict(answers.unused_subtitles),
    }
    write_atomically(out / "predictions.jsonl", "\n".join(predictions) + "\n")
    write_atomically(out / "results.md", table)
    write_atomically(out / "results.json", json.dumps(whole, indent=2))
    return table

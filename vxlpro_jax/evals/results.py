"""Results of a benchmark: metrics, counts and scores of all items, as tables and files."""

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
    """The metrics and scores of the answers to a benchmark.

    Attributes:
        benchmark: name of the benchmark.
        profile: profile whose parser and metrics were used.
        metrics: values in percent, by name.
        counts: numbers of all items, of empty answers (missing or blank), of answers in which the
            parser found nothing, and of unscored items.
        unscored: ids of items that need a judge or whose right answer is unpublished.
        per_item: id, groups, parsed value, correctness, and further measures of every item.
    """

    benchmark: str
    profile: Profile
    metrics: Mapping[str, float]
    counts: Mapping[str, int]
    unscored: Sequence[Any]
    per_item: Sequence[Mapping[str, Any]]

    @classmethod
    def of(cls, benchmark: Benchmark, scored: Sequence[ScoredRecord], *, profile: Profile) -> Self:
        """Computes the results of scored records, without a judge."""
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
        """Adds the measures and metrics from a judge's replies to these results.

        Args:
            benchmark: benchmark with a rubric.
            scored: records of these results.
            replies: replies of the judge; records without one stay unscored.
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
        """Returns the fields by name."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def to_text(self) -> str:
        """Formats the metrics, one per line, below a line of counts."""
        width = max(map(len, self.metrics), default=0)
        lines = [self.headline()]
        lines += [f"{name:{width}}  {value:6.2f}" for name, value in self.metrics.items()]
        if self.unscored:
            lines.append(f"Without a judge model {len(self.unscored)} items stay unscored.")
        return "\n".join(lines)

    def headline(self) -> str:
        """Formats benchmark, profile and counts in one line."""
        counts = ", ".join(f"{count} {name}" for name, count in self.counts.items())
        return f"{self.benchmark} ({self.profile}): {counts}"


def _item(one: ScoredRecord) -> dict[str, Any]:
    fields = {"id": one.record.id, "parsed": one.score.parsed, "correct": one.score.correct}
    groups = {"groups": list(one.record.groups)} if one.record.groups else {}
    return {**fields, **groups, **one.score.measures}


class Answers(NamedTuple):
    """The answers of a run.

    Attributes:
        texts: answers by record id.
        unreadable: reasons why videos could not be read, by video.
        unused_subtitles: reasons why existing subtitles were not shown, by video.
    """

    texts: Mapping[Any, str]
    unreadable: Mapping[str, str]
    unused_subtitles: Mapping[str, str] = {}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """The published figures of the original model, if a run can be compared with them.

    Attributes:
        figures: values by name of the metric; empty if there are none or the run is incomplete.
        left_out: reason why published figures are left out; "" if they are not.
    """

    figures: Mapping[str, float] = dataclasses.field(default_factory=dict)
    left_out: str = ""


def compare(
    published: Published | None, records: Sequence[Any], answers: Answers, *, num_available: int
) -> Comparison:
    """Returns the published figures, unless the run is incomplete.

    Args:
        published: published figures of the benchmark.
        records: records that were asked.
        answers: answers of the run.
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
    """Formats a table of the metrics, with published figures if the run is complete."""
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
        needs = "they need a judge model or an answer key"
        lines += ["", f"{len(results.unscored)} items are unscored: {needs}."]
    for what, reasons in (
        ("Videos that could not be read", answers.unreadable),
        ("Subtitles that could not be used", answers.unused_subtitles),
    ):
        if reasons:
            lines += ["", f"{what}: {len(reasons)}", ""]
            lines += [f"- {video}: {reason}" for video, reason in reasons.items()]
    return "\n".join(lines) + "\n"


def write_results(results: Results, *, comparison: Comparison, answers: Answers, out: Path) -> str:
    """Writes `predictions.jsonl`, which `score` reads, `results.md` and finally `results.json`.

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

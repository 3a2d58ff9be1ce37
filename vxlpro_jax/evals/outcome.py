"""The results of a published benchmark, once all its questions have been answered."""

import concurrent.futures
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from vxlpro_jax.evals import judging, score
from vxlpro_jax.evals.judge import Judge, Question
from vxlpro_jax.evals.published import ORIGINAL
from vxlpro_jax.evals.scoring import Benchmark, Profile, Rated, rate_all
from vxlpro_jax.utils.files import write_atomically
from vxlpro_jax.utils.journal import Journal, Shard

_ASKED_AT_ONCE = 8


class Answers(NamedTuple):
    """What a run came to.

    Attributes:
        texts: the model's, by id of the record.
        unreadable: what was wrong, by video.
    """

    texts: Mapping[Any, str]
    unreadable: Mapping[str, str]


def results(
    name: str,
    benchmark: Benchmark,
    records: Sequence[Any],
    answers: Answers,
    *,
    profile: Profile,
    judgements: Mapping[Any, str | None],
) -> dict[str, Any]:
    """Metrics, the `published` ones, `counts`, what was `unreadable` and `per_item` verdicts.

    Args:
        name: of the benchmark in the registry.
        benchmark: that of this name.
        records: that were asked.
        answers: to them; a record without one has the empty answer.
        profile: whose metrics.
        judgements: what `ask_judge` returns; nothing without a judge.
    """
    rated = rate_all(benchmark, records, answers.texts, profile=profile)
    found = score.report(score.Scores(benchmark.summarise(rated, profile), rated))
    if judgements:
        found = judging.with_judge(found, name, rated, judgements)
    return {
        "benchmark": name,
        "profile": profile,
        "metrics": found.pop("metrics"),
        "published": ORIGINAL.get(name, {}),
        **found,
        "unreadable": dict(answers.unreadable),
    }


def ask_judge(
    judge: Judge, name: str, rated: Sequence[Rated], *, out: Path, progress: Callable
) -> dict[Any, str | None]:
    """A judge's replies by id, None where a verdict stands without; nothing if none is needed.

    They are kept in `judgements-*.jsonl`, and what has been asked before is not asked again.

    Raises:
        InputError: the endpoint refuses a request.
        Failure: it does not answer.
    """
    how = judging.JUDGINGS.get(name)
    if how is None:
        return {}
    questions = {one.record.id: how.ask(one) for one in rated}
    keys = {id: _key(judge, question) for id, question in questions.items() if question}
    journal = Journal(out, name="judgements", shard=Shard())
    missing = {key: questions[id] for id, key in keys.items() if key not in journal.entries}
    with concurrent.futures.ThreadPoolExecutor(_ASKED_AT_ONCE) as pool:
        running = {pool.submit(judge.ask, question): key for key, question in missing.items()}
        try:
            done = concurrent.futures.as_completed(running)
            for future in progress(done, name="judging", unit="answer", total=len(running)):
                journal.add(running[future], {"judge": judge.model, "reply": future.result()})
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    replies = {id: journal.entries[key]["reply"] for id, key in keys.items()}
    return dict.fromkeys(judging.settled(how, rated)) | replies


def _key(judge: Judge, question: Question) -> str:
    """Tells all that a reply depends on."""
    asked = json.dumps([judge.model, question.system, question.user, dict(question.settings)])
    return hashlib.sha256(asked.encode()).hexdigest()


def table(found: Mapping[str, Any]) -> str:
    """A Markdown table of the metrics, with those that are published of the original beside."""
    lines = [
        f"{found['benchmark']} ({found['profile']}):"
        f" {', '.join(f'{count} {name}' for name, count in found['counts'].items())}",
        "",
        "| metric | ours | Video-XL-Pro, published |",
        "| --- | --- | --- |",
    ]
    ours, theirs = found["metrics"], found["published"]
    for name in {**ours, **theirs}:
        cells = (f"{each[name]:.2f}" if name in each else "" for each in (ours, theirs))
        lines.append(f"| {name} | {' | '.join(cells)} |")
    if found["unscored"]:
        lines += ["", f"{len(found['unscored'])} items wait for a judge model or an answer key."]
    if found["unreadable"]:
        lines += ["", f"Answered with nothing for {len(found['unreadable'])} videos:", ""]
        lines += [f"- {video}: {reason}" for video, reason in found["unreadable"].items()]
    return "\n".join(lines) + "\n"


def write(found: Mapping[str, Any], answers: Answers, *, out: Path) -> None:
    """Writes `predictions.jsonl`, as `evals.score` reads it, `results.md` and `results.json`."""
    lines = [
        json.dumps({"id": item["id"], "prediction": answers.texts.get(item["id"])})
        for item in found["per_item"]
    ]
    write_atomically(out / "predictions.jsonl", "\n".join(lines) + "\n")
    write_atomically(out / "results.md", table(found))
    write_atomically(out / "results.json", json.dumps(found, indent=2))

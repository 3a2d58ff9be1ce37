"""The embedded benchmark: held-out questions about synthetic clips.

Every reply is generated at temperature 0 from an mp4 file, as by `vxlpro_jax.generate`.
"""

import dataclasses
import functools
import itertools
import json
import operator
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vxlpro_jax.config.schema import FRAMES_PER_GROUP
from vxlpro_jax.data.synthetic.clips import synthetic_set
from vxlpro_jax.data.synthetic.haystacks import NEEDLE_FRAMES
from vxlpro_jax.data.text.chat import IMAGE_MARK
from vxlpro_jax.data.video import reader
from vxlpro_jax.inference.engine import Encoded, Engine
from vxlpro_jax.inference.options import Options
from vxlpro_jax.utils import cli
from vxlpro_jax.utils.files import write_atomically

# The longest answer, a time span, has 13 tokens.
MAX_NEW_TOKENS = 16

_SPAN = re.compile(r"(\d+\.\d)s to (\d+\.\d)s")


class SyntheticReply(NamedTuple):
    """A question about a `video`, its right `answer`, the `reply`, and the reply's `score`, 0 to 1.

    `kept` is the number of visual tokens that the decoder read.
    """

    kind: str
    video: str
    question: str
    answer: str
    reply: str
    score: float
    kept: int


class SampleQuestion(NamedTuple):
    """The question of a sample of a data file, and its right answer."""

    text: str
    answer: str


def run(engine: Engine, *, cache_dir: Path, keep_ratio: float, out: Path) -> str:
    """Asks all held-out questions, and writes `replies.jsonl`, `results.md` and `results.json`.

    Results are `accuracy`, `blind` (every clip is black, and the reply is one of the possible
    answers) and `chance`, by kind of question.

    Args:
        engine: model to ask.
        cache_dir: folder of the clips, which are written if missing.
        keep_ratio: share of the visual tokens that the selector keeps.
        out: existing folder.

    Returns:
        The text of `results.md`.
    """
    samples = read_samples(synthetic_set(cache_dir).eval)
    seen = ask(engine, samples, keep_ratio=keep_ratio)
    blind = ask_blind(engine, samples, keep_ratio=keep_ratio)
    replies = {
        name: list(cli.progress(asked, name=name, unit="question"))
        for name, asked in (("seen", seen), ("blind", blind))
    }
    results = {
        "accuracy": by_kind(replies["seen"]),
        "blind": by_kind(replies["blind"]),
        "chance": chance(replies["seen"]),
    }
    lines = [
        json.dumps({"run": name, **reply._asdict()})
        for name, several in replies.items()
        for reply in several
    ]
    table = to_markdown(results)
    write_atomically(out / "replies.jsonl", "\n".join(lines) + "\n")
    write_atomically(out / "results.md", table)
    write_atomically(out / "results.json", json.dumps(results, indent=2))
    return table


# ---- Asking -------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Samples:
    """The samples of a data file of `data.synthetic`, with clips in the `folder` of the file.

    Samples about the same clip are consecutive.
    """

    folder: Path
    samples: Sequence[Mapping[str, Any]]

    def by_clip(self) -> Iterator[tuple[Path, list[Mapping[str, Any]]]]:
        """Yields each clip with its samples."""
        for name, several in itertools.groupby(self.samples, key=operator.itemgetter("video")):
            yield self.folder / name, list(several)


def read_samples(data_file: Path) -> Samples:
    """Returns the samples of a data file of `data.synthetic`."""
    return Samples(data_file.parent, json.loads(data_file.read_text(encoding="utf-8")))


def ask(engine: Engine, samples: Samples, *, keep_ratio: float) -> Iterator[SyntheticReply]:
    """Yields the model's replies to samples, in their order.

    Args:
        engine: model to ask.
        samples: questions and clips.
        keep_ratio: share of the visual tokens that the selector keeps.

    Raises:
        InputError: a clip cannot be read.
    """
    options = Options(keep_ratio=keep_ratio, max_new_tokens=MAX_NEW_TOKENS)
    for clip, several in samples.by_clip():
        frames, times = read_groups(engine, clip)
        reply_to = functools.partial(
            reply_to_question, engine, engine.encode_groups(frames, times=times), options=options
        )
        for sample in several:
            yield scored_reply(sample, *reply_to(question_of(sample).text))


def ask_blind(engine: Engine, samples: Samples, *, keep_ratio: float) -> Iterator[SyntheticReply]:
    """Asks like `ask`, but with black clips, so that only the question can reveal the answer.

    The reply is the likeliest among the answers that are right for some clip.
    """
    choices = defaultdict(set)
    for sample in samples.samples:
        choices[question_of(sample).text].add(question_of(sample).answer)
    free = Options(keep_ratio=keep_ratio, max_new_tokens=MAX_NEW_TOKENS)
    size = engine.config.vision.image_size

    # Most clips of the same length have the same times, and then the same reply.
    @functools.cache
    def reply_to(times: tuple[float, ...], question: str) -> tuple[str, int]:
        black = np.zeros((len(times), FRAMES_PER_GROUP, size, size, 3), np.uint8)
        options = dataclasses.replace(free, choices=tuple(sorted(choices[question])))
        encoded = engine.encode_groups(black, times=np.asarray(times))
        return reply_to_question(engine, encoded, question, options=options)

    for clip, several in samples.by_clip():
        times = tuple(read_groups(engine, clip)[1])
        for sample in several:
            yield scored_reply(sample, *reply_to(times, question_of(sample).text))


def read_groups(engine: Engine, clip: Path) -> tuple[np.ndarray, np.ndarray]:
    """Returns all frames of a clip in groups of four, and the seconds of the groups."""
    size = engine.config.vision.image_size
    return reader.group_video(reader.read_video(clip, max_frames=max(NEEDLE_FRAMES), size=size))


def reply_to_question(
    engine: Engine, encoded: Encoded, question: str, *, options: Options
) -> tuple[str, int]:
    """Returns the reply, and the number of visual tokens that were kept for it."""
    plan = engine.plan(encoded, question, options=options)
    return "".join(engine.answer(encoded, plan, options=options)), plan.keep


def question_of(sample: Mapping[str, Any]) -> SampleQuestion:
    """Returns the question of a sample, without the mark of its clip, and the right answer."""
    text, answer = (turn["value"] for turn in sample["conversations"])
    return SampleQuestion(text.removeprefix(f"{IMAGE_MARK}\n"), answer)


def scored_reply(sample: Mapping[str, Any], reply: str, kept: int) -> SyntheticReply:
    """Scores a reply to a sample."""
    question, answer = question_of(sample)
    score = score_reply(reply, answer=answer)
    return SyntheticReply(sample["kind"], sample["video"], question, answer, reply, score, kept)


# ---- Scores -------------------------------------------------------------------------------------


def score_reply(reply: str, *, answer: str) -> float:
    """Returns 1 if the reply is the answer, else 0; for two time spans their IoU."""
    right, given = _SPAN.fullmatch(answer), _SPAN.fullmatch(reply)
    if not right:
        return float(reply == answer)
    if not given:
        return 0.0
    (a, b), (c, d) = (tuple(map(float, span.groups())) for span in (right, given))
    overlap, length = min(b, d) - max(a, c), max(b, d) - min(a, c)
    return max(overlap, 0.0) / length if b > a and d > c else 0.0


def by_kind(replies: Iterable[SyntheticReply]) -> dict[str, float]:
    """Averages the scores per kind of question; the mean of `when` is named `when_iou`."""
    scores = defaultdict(list)
    for reply in replies:
        scores["when_iou" if reply.kind == "when" else reply.kind].append(reply.score)
    return {kind: float(np.mean(values)) for kind, values in scores.items()}


def chance(replies: Sequence[SyntheticReply]) -> dict[str, float]:
    """Computes the chance accuracy per kind of question.

    It is the expected score of the reference answer to the same question about a random clip.
    """
    answers = defaultdict(list)
    for reply in replies:
        answers[reply.question].append(reply.answer)
    guesses = (
        reply._replace(
            score=np.mean(
                [score_reply(guess, answer=reply.answer) for guess in answers[reply.question]]
            )
        )
        for reply in replies
    )
    return by_kind(guesses)


def to_markdown(results: Mapping[str, Mapping[str, float]]) -> str:
    """Formats a table of `accuracy`, `blind` and `chance` by kind of question."""
    rows = ["| question | accuracy | blind | chance |", "| --- | --- | --- | --- |"]
    for kind in results["accuracy"]:
        figures = (results[who][kind] for who in ("accuracy", "blind", "chance"))
        rows.append(f"| {kind} | " + " | ".join(f"{figure:.3f}" for figure in figures) + " |")
    return "\n".join(rows) + "\n"

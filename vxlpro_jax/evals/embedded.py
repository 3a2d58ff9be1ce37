"""What a model makes of the embedded task: held-out questions by kind, and needles in haystacks.

Every reply is generated at temperature 0 from an mp4 file, as `vxlpro_jax.generate` would.
"""

import dataclasses
import functools
import itertools
import json
import operator
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from vxlpro_jax.config.schema import FRAMES_PER_GROUP
from vxlpro_jax.data.synthetic import haystacks
from vxlpro_jax.data.text.chat import IMAGE_MARK
from vxlpro_jax.data.video import reader
from vxlpro_jax.inference.engine import Engine, Options

_SPAN = re.compile(r"(\d+\.\d)s to (\d+\.\d)s")
_MAX_NEW_TOKENS = 16  # The longest answer, a time span, has 13.


class Reply(NamedTuple):
    """A question, its right `answer`, the model's `reply` and that one's `score`, 0 to 1.

    `frames` and `depth` tell where a needle lies; both are 0 for other questions.
    """

    kind: str
    reader: str
    question: str
    answer: str
    reply: str
    score: float
    frames: int
    depth: float


def ask(
    engine: Engine, data_file: Path, *, keep_ratio: float, is_blind: bool = False
) -> Iterator[Reply]:
    """The model's replies to a data file of `data.synthetic`, in its order.

    Args:
        engine: the model.
        data_file: beside its clips.
        keep_ratio: share of the visual tokens that the selector keeps.
        is_blind: every clip is black and the reply one of those that are right for some clip, so
            that only the question can tell which.

    Raises:
        InputError: a clip cannot be read.
    """
    free = Options(keep_ratio=keep_ratio, max_new_tokens=_MAX_NEW_TOKENS)
    size = engine.config.vision.image_size

    def reply(encoded, question, options=free):
        plan = engine.plan(encoded, question, options=options)
        return "".join(engine.answer(encoded, plan, options=options))

    # Most clips of a length have the same times, and then the same reply.
    @functools.cache
    def blind_reply(times, question):
        black = np.zeros((len(times), FRAMES_PER_GROUP, size, size, 3), np.uint8)
        options = dataclasses.replace(free, choices=tuple(sorted(answers[question])))
        return reply(engine.encode_groups(black, times=np.asarray(times)), question, options)

    samples = json.loads(data_file.read_text(encoding="utf-8"))
    answers = defaultdict(set)
    for sample in samples:
        asked = _turns(sample)
        answers[asked.question].add(asked.answer)
    for name, samples_of_clip in itertools.groupby(samples, key=operator.itemgetter("video")):
        read = reader.read_video(
            data_file.parent / name, max_frames=max(haystacks.NEEDLE_FRAMES), size=size
        )
        frames, times = reader.group_frames(read)
        if is_blind:
            reply_to = functools.partial(blind_reply, tuple(times))
        else:
            reply_to = functools.partial(reply, engine.encode_groups(frames, times=times))
        for sample in samples_of_clip:
            yield _replied(sample, reply_to)


class _Turns(NamedTuple):
    question: str
    answer: str


def _turns(sample: dict) -> _Turns:
    question, answer = (turn["value"] for turn in sample["conversations"])
    return _Turns(question.removeprefix(f"{IMAGE_MARK}\n"), answer)


def _replied(sample: dict, reply_to: Callable[[str], str]) -> Reply:
    question, answer = _turns(sample)
    reply = reply_to(question)
    return Reply(
        sample["kind"],
        sample["video"],
        question,
        answer,
        reply,
        score(reply, answer=answer),
        sample.get("frames", 0),
        sample.get("depth", 0.0),
    )


def score(reply: str, *, answer: str) -> float:
    """1 if `reply` is `answer`, else 0; of two time spans, their intersection over union."""
    right, given = _SPAN.fullmatch(answer), _SPAN.fullmatch(reply)
    if not right:
        return float(reply == answer)
    if not given:
        return 0.0
    (a, b), (c, d) = (tuple(map(float, span.groups())) for span in (right, given))
    overlap, length = min(b, d) - max(a, c), max(b, d) - min(a, c)
    return max(overlap, 0.0) / length if b > a and d > c else 0.0


def by_kind(replies: Iterable[Reply]) -> dict[str, float]:
    """Mean score of each kind of question; that of `when` is called `when_iou`."""
    scores = defaultdict(list)
    for reply in replies:
        scores[_measure(reply.kind)].append(reply.score)
    return {kind: float(np.mean(values)) for kind, values in scores.items()}


def chance(replies: Sequence[Reply]) -> dict[str, float]:
    """Mean score by kind of who answers each question as some other asker of it was answered."""
    answers = defaultdict(list)
    for reply in replies:
        answers[reply.question].append(reply.answer)
    guesses = (
        reply._replace(
            score=np.mean([score(guess, answer=reply.answer) for guess in answers[reply.question]])
        )
        for reply in replies
    )
    return by_kind(guesses)


def _measure(kind: str) -> str:
    return "when_iou" if kind == "when" else kind


def needle_grid(replies: Iterable[Reply]) -> list[dict[str, float]]:
    """`frames`, `depth` and mean `accuracy` of every length and depth."""
    cells = defaultdict(list)
    for reply in replies:
        cells[reply.frames, reply.depth].append(reply.score)
    return [
        {"frames": frames, "depth": depth, "accuracy": float(np.mean(scores))}
        for (frames, depth), scores in sorted(cells.items())
    ]


def table(results: dict) -> str:
    """A Markdown table of `accuracy`, `blind` and `chance` by kind of question."""
    rows = ["| question | accuracy | blind | chance |", "| --- | --- | --- | --- |"]
    for kind in results["accuracy"]:
        figures = (results[who][kind] for who in ("accuracy", "blind", "chance"))
        rows.append(f"| {kind} | " + " | ".join(f"{figure:.3f}" for figure in figures) + " |")
    return "\n".join(rows) + "\n"


class _Cells(NamedTuple):
    lengths: list[int]
    depths: list[float]
    accuracy: np.ndarray


def _cells(grid) -> _Cells:
    """Accuracy by depth, downwards, and length."""
    lengths, depths = (sorted({cell[axis] for cell in grid}) for axis in ("frames", "depth"))
    found = {(cell["frames"], cell["depth"]): cell["accuracy"] for cell in grid}
    accuracy = np.array([[found[length, depth] for length in lengths] for depth in depths])
    return _Cells(lengths, depths, accuracy)


def needle_table(grid: Sequence[dict[str, float]]) -> str:
    """A Markdown table of `needle_grid`: frames to the right, depth downwards."""
    lengths, depths, accuracy = _cells(grid)
    head = "| depth | " + " | ".join(f"{length} frames" for length in lengths) + " |"
    rows = [
        f"| {depth:.0%} | " + " | ".join(f"{cell:.3f}" for cell in row) + " |"
        for depth, row in zip(depths, accuracy, strict=True)
    ]
    return "\n".join([head, "| --- " * (len(lengths) + 1) + "|", *rows]) + "\n"


def draw_needles(grid: Sequence[dict[str, float]], *, path: Path) -> None:
    """A heat map PNG of `needle_grid`: frames to the right, depth downwards."""
    lengths, depths, accuracy = _cells(grid)
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(accuracy, cmap="RdYlGn", vmin=0, vmax=1, aspect="auto")
    axes.set_xticks(range(len(lengths)), lengths)
    axes.set_yticks(range(len(depths)), [f"{depth:.0%}" for depth in depths])
    axes.set(xlabel="frames", ylabel="depth", title="Needle in a haystack")
    for (row, column), cell in np.ndenumerate(accuracy):
        axes.text(column, row, f"{cell:.2f}", ha="center", va="center")
    figure.colorbar(image, label="accuracy")
    figure.savefig(path, dpi=120)

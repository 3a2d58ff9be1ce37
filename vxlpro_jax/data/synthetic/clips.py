"""The tiny preset's embedded task: drawn clips that test the model's skills.

The clips are real mp4 files with LLaVA-format JSON, identical everywhere, and are written once to a
cache folder. Every question has four possible answers that are correct equally often, so that the
question alone reveals nothing. Held-out clips show combinations that training does not: of colour
and shape, and of the colours and times of two flashes.

Shapes: F frames of one clip, H and W its height and width, S side of a frame.
"""

import functools
import itertools
import json
import shutil
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from vxlpro_jax.config.schema import FRAMES_PER_GROUP
from vxlpro_jax.data.synthetic.drawing import COLOURS, SHAPES, Canvas, Figure, write_mp4
from vxlpro_jax.data.text.chat import IMAGE_MARK
from vxlpro_jax.utils.errors import InputError

VERSION = 6  # Part of the folder's name: increase it whenever the written files change.
SEED = 5
FPS = 2
FRAMES = 8
_FLASH = 2  # Frames.

Split = Literal["train", "eval"]
SIZES: dict[Split, int] = {"train": 1536, "eval": 192}  # Multiples of the combinations' number.

DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
NUMBERS = ("1", "2", "3", "4")


class ClipQuestion(NamedTuple):
    """A question about a clip.

    Attributes:
        kind: skill that the question tests.
        text: text of the question.
        answer: correct answer.
        choices: possible answers.
    """

    kind: str
    text: str
    answer: str
    choices: tuple[str, ...]


class DrawnClip(NamedTuple):
    """A clip and its questions.

    Attributes:
        frames: F frames, uint8 [H,W,3], shown at `FPS`.
        questions: questions about the clip.
    """

    frames: list[np.ndarray]
    questions: list[ClipQuestion]


class SyntheticSet(NamedTuple):
    """Paths of the set.

    Attributes:
        root: folder of the clips.
        train: data file for training.
        eval: data file of held-out clips.
    """

    root: Path
    train: Path
    eval: Path


def make_clip(index: int, *, split: Split) -> DrawnClip:
    """Draws clip number `index` of a split and its questions, deterministically."""
    rng = np.random.default_rng([SEED, split == "eval", index])
    turn, kind = divmod(index, len(_KINDS))
    combinations, draw = _KINDS[kind]
    shown = combinations(split)
    clip = draw(rng, *shown[turn % len(shown)])
    # Held-out questions are asked alone, so in training each must come first equally often.
    order = rng.permutation(len(clip.questions))
    return clip._replace(questions=[clip.questions[i] for i in order])


def _looks(split: Split, *, answers: Iterable[str]) -> list[tuple[str, str, str]]:
    """Returns each answer combined with each colour and shape that the split shows together.

    In neither split do the held-out combinations reveal the answer.
    """
    pairs = itertools.product(enumerate(COLOURS), enumerate(SHAPES))
    return [
        (answer, colour, shape)
        for (i, colour), (j, shape) in pairs
        if (i == j) == (split == "eval")
        for answer in answers
    ]


def _canvas(rng: np.random.Generator) -> Canvas:
    width, height = rng.choice(range(160, 209, 16), 2)
    return Canvas(int(width), int(height), int(rng.integers(100, 156)))


def _appearance(colour: str) -> ClipQuestion:
    return ClipQuestion("appearance", "What colour is the shape?", colour, tuple(COLOURS))


def _moving(rng: np.random.Generator, way: str, colour: str, shape: str) -> DrawnClip:
    """Draws a large shape that crosses a room from one wall to the opposite one."""
    canvas = _canvas(rng)._replace(has_walls=True)
    middle, radius = rng.uniform(0.45, 0.55, 2), rng.uniform(0.2, 0.28)
    centres = middle + np.linspace(-0.35, 0.35, FRAMES)[:, None] * DIRECTIONS[way]
    figures = [Figure(shape, colour, tuple(at), radius) for at in centres]
    question = ClipQuestion("direction", "Which way does it move?", way, tuple(DIRECTIONS))
    frames = [canvas.draw([figure]) for figure in figures]
    return DrawnClip(frames, [question, _appearance(colour)])


def _counting(rng: np.random.Generator, number: str, colour: str, shape: str) -> DrawnClip:
    """Draws one to four equal shapes that tremble in the corners; all shapes have the same area."""
    canvas = _canvas(rng)
    corners = rng.permutation([(0.28, 0.28), (0.72, 0.28), (0.28, 0.72), (0.72, 0.72)])
    corners = corners[: int(number)] + rng.uniform(-0.04, 0.04, (int(number), 2))
    frames = []
    for _ in range(FRAMES):
        moved = corners + rng.uniform(-0.02, 0.02, corners.shape)
        figures = [Figure(shape, colour, tuple(at), 0.14) for at in moved]
        frames.append(canvas.draw(figures))
    question = ClipQuestion("count", "How many shapes are there?", number, NUMBERS)
    return DrawnClip(frames, [question, _appearance(colour)])


def _flashes(split: Split) -> list[tuple]:
    """Combines two colours, their two time slots, and the index of the flash that is asked for."""
    colours = itertools.permutations(enumerate(COLOURS), 2)
    slots = itertools.combinations(range(FRAMES // _FLASH), 2)
    return [
        ((first, last), times, asked)
        for ((i, first), (j, last)), times in itertools.product(colours, slots)
        if (times == _held_out_slots(i, j)) == (split == "eval")
        for asked in (0, 1)
    ]


def _held_out_slots(first: int, last: int) -> tuple[int, int] | None:
    """Returns the time slots at which only held-out clips show two colours; None if there are none.

    The slots lie in different groups of four frames, so that the content of a single token is never
    new. Over all pairs of colours, each colour is in each slot once.
    """
    pairing = first ^ last
    return ((first + pairing + 1) % 2, 2 + first // 2) if pairing < 3 else None


def _flashing(rng: np.random.Generator, colours, slots, asked: int) -> DrawnClip:
    """Draws a background that flashes in one colour and later in another."""
    canvas, shown = _canvas(rng), dict(zip(slots, colours, strict=True))
    frames = [canvas.draw([], background=shown.get(i // _FLASH, "")) for i in range(FRAMES)]
    first, last = (
        ClipQuestion("order", f"Which flash comes {place}?", colour, tuple(COLOURS))
        for place, colour in zip(("first", "last"), colours, strict=True)
    )
    spans = tuple(_span(slot) for slot in range(FRAMES // _FLASH))
    when = ClipQuestion("when", f"When is the {colours[asked]} flash?", spans[slots[asked]], spans)
    return DrawnClip(frames, [first, last, when])


def _span(slot: int) -> str:
    start = slot * _FLASH / FPS
    return f"{start:.1f}s to {start + _FLASH / FPS:.1f}s"


def _needles(split: Split) -> list[tuple]:
    return list(itertools.product(COLOURS, (0.0, 1.0)))


def _haystack(rng: np.random.Generator, colour: str, depth: float) -> DrawnClip:
    """Draws the shortest haystack."""
    return haystack(rng, colour=colour, groups=FRAMES // FRAMES_PER_GROUP, depth=depth)


# For each kind of clip: function that lists the combinations of a split, and function that draws.
_KINDS: tuple[tuple[Callable[[Split], list[tuple]], Callable[..., DrawnClip]], ...] = (
    (functools.partial(_looks, answers=DIRECTIONS), _moving),
    (functools.partial(_looks, answers=NUMBERS), _counting),
    (_flashes, _flashing),
    (_needles, _haystack),
)


def haystack(rng: np.random.Generator, *, colour: str, groups: int, depth: float) -> DrawnClip:
    """Draws grey frames with one group that shows a coloured card, at `depth` from 0 to 1."""
    canvas = _canvas(rng)
    at = round(depth * (groups - 1))
    place, radius = rng.uniform(0.35, 0.65, 2), rng.uniform(0.2, 0.3)
    card = [Figure("square", colour, tuple(place), radius)]
    frames = []
    for group in range(groups):
        for _ in range(FRAMES_PER_GROUP):
            grey = Canvas(canvas.width, canvas.height, int(rng.integers(100, 156)))
            frames.append(grey.draw(card if group == at else []))
    return DrawnClip(
        frames, [ClipQuestion("needle", "What colour is the card?", colour, tuple(COLOURS))]
    )


class MotionClips(NamedTuple):
    """Clips of four frames in which one shape moves.

    Attributes:
        frames: uint8 [N,4,S,S,3].
        labels: int [N], indices into `DIRECTIONS`.
        picked: int [N], index of one frame in each clip.
    """

    frames: np.ndarray
    labels: np.ndarray
    picked: np.ndarray


def motion_clips(count: int, *, side: int) -> MotionClips:
    """Draws clips of four frames in which one shape moves, deterministically.

    The position of the shape in the `picked` frame does not reveal its direction: its offset from
    the middle across its path varies as much as the offset along the path.
    """
    rng = np.random.default_rng([SEED, count, side])
    labels = rng.integers(len(DIRECTIONS), size=count)
    steps = list(DIRECTIONS.values())
    frames = np.stack([_motion(rng, step=steps[label], side=side) for label in labels])
    return MotionClips(frames, labels, rng.integers(FRAMES_PER_GROUP, size=count))


def _motion(rng: np.random.Generator, *, step: tuple[int, int], side: int) -> np.ndarray:
    # Darker than every shape, so that a linear probe does not depend on the colour.
    canvas = Canvas(side, side, int(rng.integers(15, 75)))
    shape, colour = str(rng.choice(SHAPES)), str(rng.choice(list(COLOURS)))
    middle, radius = rng.uniform(0.35, 0.65, 2), rng.uniform(0.1, 0.18)
    offsets = np.linspace(-0.2, 0.2, FRAMES_PER_GROUP)
    across = rng.choice(offsets) * np.abs(step[::-1])
    centres = middle + across + offsets[:, None] * step
    return np.stack([canvas.draw([Figure(shape, colour, tuple(at), radius)]) for at in centres])


def synthetic_set(cache: Path) -> SyntheticSet:
    """Returns the embedded set under `cache`, writing it first if it is missing.

    Raises:
        InputError: The folder cannot be written.
    """
    root = create_folder_once(cache / f"synthetic-v{VERSION}", _write_task)
    return SyntheticSet(root, root / "train.json", root / "eval.json")


def create_folder_once(root: Path, write: Callable[[Path], None]) -> Path:
    """Returns the folder `root`, which appears only when it is complete.

    An interrupted run therefore leaves no incomplete folder, and several processes may compete.
    """
    if root.is_dir():
        return root
    building = None
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(prefix=f".{root.name}-", dir=root.parent))
        write(building)
        building.rename(root)
    except OSError as error:
        if not root.is_dir():  # Otherwise another process was faster, with the same content.
            raise InputError(
                f"{root} cannot be written ({error}): set data.cache_dir, or --cache_dir, to a"
                " writable folder."
            ) from error
    finally:
        if building:
            shutil.rmtree(building, ignore_errors=True)
    return root


def _write_task(folder: Path) -> None:
    for split, size in SIZES.items():
        records = [r for index in range(size) for r in _write_clip(index, split, folder)]
        write_json(folder / f"{split}.json", records)


def write_json(path: Path, records: list[dict]) -> None:
    """Writes samples as a data file."""
    path.write_text(json.dumps(records, indent=1), encoding="utf-8")


def _write_clip(index: int, split: Split, folder: Path) -> list[dict]:
    clip, name = make_clip(index, split=split), f"{split}{index:04d}"
    write_mp4(folder / f"{name}.mp4", clip.frames, fps=FPS)
    return clip_records(clip, name=name, split=split)


def clip_records(clip: DrawnClip, *, name: str, split: Split) -> list[dict]:
    """Returns LLaVA-format samples: a conversation for training, else one sample per question."""
    chats = [clip.questions] if split == "train" else [[q] for q in clip.questions]
    return [
        {
            "id": f"{name}-{i}",
            "video": f"{name}.mp4",
            "kind": chat[0].kind,
            "duration": len(clip.frames) / FPS,
            "conversations": conversation(chat),
        }
        for i, chat in enumerate(chats)
    ]


def conversation(questions: Iterable[ClipQuestion]) -> list[dict]:
    """Returns the turns of a LLaVA-format sample; the video comes before the first question."""
    turns = []
    for i, question in enumerate(questions):
        text = question.text if i else f"{IMAGE_MARK}\n{question.text}"
        turns.append({"from": "human", "value": text})
        turns.append({"from": "gpt", "value": question.answer})
    return turns

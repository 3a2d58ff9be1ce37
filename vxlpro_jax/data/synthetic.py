"""The tiny preset's embedded set: clips of coloured shapes, with questions and answers.

Real mp4 files and LLaVA-format JSON, the same for everyone, written once to a cache folder.

Shapes: F frames of one clip, H and W its height and width.
"""

import dataclasses
import json
import shutil
import tempfile
from collections.abc import Callable, Iterable
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from PIL import Image, ImageDraw

from vxlpro_jax.config import FRAMES_PER_GROUP, InputError
from vxlpro_jax.data.chat import IMAGE_MARK

VERSION = 1  # Part of the folder's name: raise it whenever what is written changes.
TRAIN_CLIPS = 96
EVAL_CLIPS = 16
FPS = 2

COLOURS = {
    "red": (220, 40, 40),
    "green": (40, 180, 60),
    "blue": (50, 80, 230),
    "yellow": (240, 220, 50),
    "white": (245, 245, 245),
    "purple": (160, 60, 200),
}
SHAPES = ("circle", "square", "triangle")
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
_EVENT_FRAMES = 3  # An event lasts so long, to be seen in any eight of sixteen frames.


class SyntheticSet(NamedTuple):
    """Where the set lies: the folder of its clips, and two data files."""

    root: Path
    train: Path
    eval: Path


class Question(NamedTuple):
    """A question and its answer."""

    text: str
    answer: str


class Clip(NamedTuple):
    """frames uint8 [F,H,W,3], shown at `FPS`, and what can be asked of them."""

    frames: list[np.ndarray]
    questions: list[Question]


def synthetic_set(cache: Path) -> SyntheticSet:
    """The embedded set under `cache`, written now if it is not there yet.

    It appears at once and whole, so an interrupted run leaves nothing that looks finished and
    processes may race.

    Raises:
        InputError: the folder cannot be written.
    """
    root = cache / f"synthetic-v{VERSION}"
    if not root.is_dir():
        try:
            _write(root)
        except OSError as error:
            raise InputError(
                f"The embedded clips cannot be written to {root} ({error}): set"
                " data.workdir_cache to a folder that can."
            ) from error
    return SyntheticSet(root, root / "train.json", root / "eval.json")


def make_clip(index: int) -> Clip:
    """Clip number `index`: its frames and three questions, always the same."""
    rng = np.random.default_rng([VERSION, index])
    return _KINDS[index % len(_KINDS)](rng)


def clip_records(clip: Clip, *, name: str) -> list[dict]:
    """LLaVA-format samples of one clip: its first question alone, the others as a conversation."""
    first, *others = clip.questions
    return [
        {
            "id": f"{name}-{i}",
            "video": f"{name}.mp4",
            "conversations": _conversation(asked),
        }
        for i, asked in enumerate(([first], others))
    ]


class MotionClips(NamedTuple):
    """frames uint8 [N,4,S,S,3]; labels int [N], into `DIRECTIONS`; picked int [N], a frame each."""

    frames: np.ndarray
    labels: np.ndarray
    picked: np.ndarray


def motion_clips(count: int, *, side: int) -> MotionClips:
    """Clips of four frames in which one shape moves, always the same.

    Where the shape is in the `picked` frame tells nothing about where it goes: across its way it
    is off the middle by as much as it may be along it.
    """
    rng = np.random.default_rng([VERSION, count, side])
    labels = rng.integers(len(DIRECTIONS), size=count)
    steps = list(DIRECTIONS.values())
    frames = np.stack([_motion(rng, step=steps[label], side=side) for label in labels])
    return MotionClips(frames, labels, rng.integers(FRAMES_PER_GROUP, size=count))


def _motion(rng: np.random.Generator, *, step: tuple[int, int], side: int) -> np.ndarray:
    canvas = _Canvas(side, side, int(rng.integers(15, 75)))
    (shape,), (colour,) = _pick(rng, SHAPES), _pick(rng, COLOURS)
    middle, radius = rng.uniform(0.35, 0.65, 2), rng.uniform(0.1, 0.18)
    offsets = np.linspace(-0.2, 0.2, FRAMES_PER_GROUP)
    across = rng.choice(offsets) * np.abs(step[::-1])
    centres = middle + across + offsets[:, None] * step
    return np.stack(
        [
            canvas.draw([_Figure(shape=shape, colour=colour, centre=tuple(at), radius=radius)])
            for at in centres
        ]
    )


def write_mp4(path: Path, frames: Iterable[np.ndarray], *, fps: Fraction | int) -> None:
    """Encodes frames (uint8 [H,W,3], even sides) as H.264, or MPEG-4 where FFmpeg lacks x264."""
    frames = iter(frames)
    first = next(frames)
    with av.open(str(path), "w") as container:
        if "libx264" in av.codecs_available:
            stream = container.add_stream("libx264", rate=fps, options={"crf": "18"})
        else:
            stream = container.add_stream("mpeg4", rate=fps, options={"qscale": "2"})
        stream.height, stream.width = first.shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1  # The same bytes whatever the machine.
        for frame in (first, *frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def _write(root: Path) -> None:
    root.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=f".{root.name}-", dir=root.parent))
    try:
        for split, indices in (
            ("train", range(TRAIN_CLIPS)),
            ("eval", range(TRAIN_CLIPS, TRAIN_CLIPS + EVAL_CLIPS)),
        ):
            records = [record for index in indices for record in _write_clip(index, building)]
            text = json.dumps(records, indent=1)
            (building / f"{split}.json").write_text(text, encoding="utf-8")
        building.rename(root)
    except OSError:
        if not root.is_dir():  # Otherwise another process was faster, with the same content.
            raise
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _write_clip(index: int, folder: Path) -> list[dict]:
    clip, name = make_clip(index), f"clip{index:03d}"
    write_mp4(folder / f"{name}.mp4", clip.frames, fps=FPS)
    return clip_records(clip, name=name)


def _conversation(questions: Iterable[Question]) -> list[dict]:
    turns = []
    for i, question in enumerate(questions):
        text = question.text if i else f"{IMAGE_MARK}\n{question.text}"
        turns.append({"from": "human", "value": text})
        turns.append({"from": "gpt", "value": question.answer})
    return turns


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Figure:
    """A shape on the canvas: its centre in units of the canvas, its radius of the shorter side."""

    shape: str
    colour: str
    centre: tuple[float, float]
    radius: float


class _Canvas(NamedTuple):
    width: int
    height: int
    grey: int

    def draw(self, figures: Iterable[_Figure], *, background: str = "") -> np.ndarray:
        fill = COLOURS[background] if background else (self.grey,) * 3
        picture = Image.new("RGB", (self.width, self.height), fill)
        pen = ImageDraw.Draw(picture)
        for figure in figures:
            x, y = figure.centre[0] * self.width, figure.centre[1] * self.height
            r = figure.radius * min(self.width, self.height)
            _PENS[figure.shape](pen, x, y, r, COLOURS[figure.colour])
        return np.asarray(picture)


_PENS: dict[str, Callable] = {
    "circle": lambda pen, x, y, r, fill: pen.ellipse((x - r, y - r, x + r, y + r), fill=fill),
    "square": lambda pen, x, y, r, fill: pen.rectangle((x - r, y - r, x + r, y + r), fill=fill),
    "triangle": lambda pen, x, y, r, fill: pen.polygon(
        [(x, y - r), (x - r, y + r), (x + r, y + r)], fill=fill
    ),
}


def _canvas(rng: np.random.Generator) -> _Canvas:
    width, height = rng.choice(range(112, 225, 16), 2)
    return _Canvas(int(width), int(height), int(rng.integers(15, 75)))


def _pick(rng: np.random.Generator, options: Iterable[str], count: int = 1) -> list[str]:
    return [str(choice) for choice in rng.choice(list(options), count, replace=False)]


def _ask(rng: np.random.Generator, answer: str, *templates: str) -> Question:
    return Question(_pick(rng, templates)[0], answer)


def _moving(rng: np.random.Generator) -> Clip:
    """One shape crosses the picture."""
    canvas, count = _canvas(rng), int(rng.integers(8, 17))
    (shape,), (colour,), (way,) = (_pick(rng, o) for o in (SHAPES, COLOURS, DIRECTIONS))
    radius, across = rng.uniform(0.1, 0.18), rng.uniform(0.3, 0.7)
    frames = []
    for along in np.linspace(-0.3, 0.3, count):
        dx, dy = DIRECTIONS[way]
        centre = (0.5 + along * dx, across) if dx else (across, 0.5 + along * dy)
        figure = _Figure(shape=shape, colour=colour, centre=centre, radius=radius)
        frames.append(canvas.draw([figure]))
    questions = [
        _ask(rng, way, "Which way does the shape move?", f"Where does the {shape} go?"),
        _ask(rng, colour, "What colour is the shape?", f"What is the colour of the {shape}?"),
        _ask(rng, shape, "What shape is moving?", f"Which shape is {colour}?"),
    ]
    return Clip(frames, [questions[i] for i in rng.permutation(3)])


def _counting(rng: np.random.Generator) -> Clip:
    """One to four shapes of a kind tremble in the corners."""
    canvas, count, number = _canvas(rng), int(rng.integers(8, 17)), int(rng.integers(1, 5))
    (shape,), (colour,) = (_pick(rng, options) for options in (SHAPES, COLOURS))
    corners = rng.permutation([(0.28, 0.28), (0.72, 0.28), (0.28, 0.72), (0.72, 0.72)])[:number]
    frames = []
    for _ in range(count):
        figures = [
            _Figure(
                shape=shape,
                colour=colour,
                centre=tuple(corner + rng.uniform(-0.02, 0.02, 2)),
                radius=0.14,
            )
            for corner in corners
        ]
        frames.append(canvas.draw(figures))
    questions = [
        _ask(rng, str(number), "How many shapes are there?", f"How many {shape}s can you see?"),
        _ask(rng, colour, "What colour are the shapes?", f"What colour is each {shape}?"),
        _ask(rng, shape, "What shape do you see?", f"What is drawn in {colour}?"),
    ]
    return Clip(frames, [questions[i] for i in rng.permutation(3)])


def _flashing(rng: np.random.Generator) -> Clip:
    """The background flashes in one colour, later in another."""
    canvas, count = _canvas(rng), int(rng.integers(10, 17))
    first, second, colour = _pick(rng, COLOURS, 3)
    starts = _two_starts(rng, count)
    (shape,) = _pick(rng, SHAPES)
    figure = _Figure(shape=shape, colour=colour, centre=(0.5, 0.5), radius=0.15)
    frames = []
    for i in range(count):
        now = [c for c, start in zip((first, second), starts, strict=True) if _lasts(i, start)]
        frames.append(canvas.draw([figure], background=now[0] if now else ""))
    questions = [
        _ask(rng, first, "Which flash comes first?", "What colour flashes first?"),
        _ask(rng, second, "Which flash comes last?", f"What colour flashes after {first}?"),
        _ask(rng, _seconds(starts[1]), f"When does the {second} flash start?"),
    ]
    return Clip(frames, [questions[i] for i in rng.permutation(3)])


def _appearing(rng: np.random.Generator) -> Clip:
    """One shape appears, later another beside it."""
    canvas, count = _canvas(rng), int(rng.integers(10, 17))
    starts, shapes, colours = _two_starts(rng, count), _pick(rng, SHAPES, 2), _pick(rng, COLOURS, 2)
    figures = [
        _Figure(shape=shape, colour=colour, centre=(x, 0.5), radius=0.16)
        for shape, colour, x in zip(shapes, colours, rng.permutation([0.27, 0.73]), strict=True)
    ]
    frames = [
        canvas.draw(figure for figure, start in zip(figures, starts, strict=True) if i >= start)
        for i in range(count)
    ]
    questions = [
        _ask(rng, shapes[0], "Which shape appears first?", "What do you see first?"),
        _ask(rng, colours[1], f"What colour is the {shapes[1]}?", "What colour appears last?"),
        _ask(rng, _seconds(starts[1]), f"When does the {shapes[1]} appear?"),
    ]
    return Clip(frames, [questions[i] for i in rng.permutation(3)])


_KINDS = (_moving, _counting, _flashing, _appearing)


def _two_starts(rng: np.random.Generator, count: int) -> tuple[int, int]:
    """Frames at which two events start, the first one over before the second."""
    half = count // 2
    first = int(rng.integers(1, half - _EVENT_FRAMES + 1))
    return first, int(rng.integers(half, count - _EVENT_FRAMES + 1))


def _lasts(frame: int, start: int) -> bool:
    return start <= frame < start + _EVENT_FRAMES


def _seconds(frame: int) -> str:
    return f"{frame / FPS:.1f}s"

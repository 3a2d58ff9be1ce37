"""Makes a data set with planted faults, and measures the rules' precision and recall on it.

`python tests/support/planted.py DIR` writes the set to DIR, prunes it to DIR/pruned and prints the
precision and recall of each rule. Beside each planted fault the set has samples that resemble it
and should stay.
"""

import json
import math
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from PIL import Image, ImageDraw

from vxlpro_jax.curation.limits import RULES
from vxlpro_jax.curation.rules import ReplyLosses

FPS = 10
WIDTH, HEIGHT = 128, 96

Frames = list[np.ndarray]


class Planted(NamedTuple):
    """Attributes: the `manifest`, and by sample id the rule that should drop it, or None."""

    manifest: Path
    expected: dict[str, str]


class Encoding(NamedTuple):
    """Encoding settings of a clip."""

    width: int = WIDTH
    height: int = HEIGHT
    crf: int = 23
    codec: str = "libx264"


_PLAIN = Encoding()


def scene(seed: int, *, side: int = 400) -> np.ndarray:
    """Returns a picture with the spectrum of natural images: uint8 [side,side,3]."""
    rng = np.random.default_rng(seed)
    waves = np.hypot(*np.meshgrid(*[np.fft.fftfreq(side)] * 2))
    waves[0, 0] = 1
    spectrum = np.fft.fft2(rng.normal(size=(4, side, side))) / waves
    field = np.fft.ifft2(spectrum).real
    light, *tints = field / field.std(axis=(1, 2), keepdims=True)
    field = 128 + 50 * light + 15 * np.stack(tints)
    return field.clip(0, 255).astype(np.uint8).transpose(1, 2, 0)


def window(picture: np.ndarray, x: float, y: float) -> np.ndarray:
    x, y = int(x), int(y)
    return picture[y : y + HEIGHT, x : x + WIDTH].copy()


def pan(seed: int, *, seconds: float = 4, start: float = 0, speed: float = 12) -> Frames:
    """Returns frames of a camera that moves over a scene in a random direction."""
    picture, angle = scene(seed), np.random.default_rng(seed).uniform(0, 2 * math.pi)
    times = start + np.arange(round(seconds * FPS)) / FPS
    centre = 140 + speed * (times[:, None] - 2) * [math.cos(angle), math.sin(angle)]
    return [window(picture, *at.clip(0, 270)) for at in centre]


def ball(
    seed: int, *, seconds: float = 4, radius: float = 9, path: Callable[[float], complex]
) -> Frames:
    """Returns frames of a ball that moves over a scene; `path` maps shares of time to places."""
    ground, count = window(scene(seed), 50, 50), round(seconds * FPS)
    frames = []
    for index in range(count):
        picture = Image.fromarray(ground)
        at = path(index / count)
        x, y = at.real * WIDTH, at.imag * HEIGHT
        box = (x - radius, y - radius, x + radius, y + radius)
        ImageDraw.Draw(picture).ellipse(box, fill=(250, 240, 60))
        frames.append(np.asarray(picture))
    return frames


def still(seed: int, *, seconds: float = 4, noise: float = 0) -> Frames:
    rng, picture = np.random.default_rng(seed), window(scene(seed), 50, 50)
    return [
        (picture + rng.normal(0, noise, picture.shape)).clip(0, 255).astype(np.uint8)
        for _ in range(round(seconds * FPS))
    ]


def slides(seeds: Iterable[int], *, seconds: float = 3, fade: int = 0) -> Frames:
    """Returns frames of successive pictures, faded into each other over `fade` frames."""
    pictures = [window(scene(seed), 50, 50).astype(float) for seed in seeds]
    frames: Frames = []
    for picture in pictures:
        for step in range(1, fade + 1 if frames else 1):
            share = step / (fade + 1)
            frames.append((1 - share) * frames[-step] + share * picture)
        frames += [picture] * round(seconds * FPS)
    return [frame.astype(np.uint8) for frame in frames]


def brighter(frames: Frames) -> Frames:
    return [(frame * 0.8 + 40).clip(0, 255).astype(np.uint8) for frame in frames]


def mirrored(frames: Frames) -> Frames:
    return [frame[:, ::-1] for frame in frames]


def halved(frames: Frames) -> Frames:
    """Returns every other frame, to be written at half the rate."""
    return frames[::2]


def write(path: Path, frames: Frames, *, how: Encoding = _PLAIN, fps: float = FPS) -> None:
    """Writes a real video file."""
    with av.open(str(path), "w") as container:
        options = {"crf": str(how.crf)} if how.codec == "libx264" else {}
        stream = container.add_stream(how.codec, rate=Fraction(fps), options=options)
        stream.width, stream.height, stream.pix_fmt = how.width, how.height, "yuv420p"
        for frame in frames:
            picture = Image.fromarray(np.ascontiguousarray(frame))
            resized = picture.resize((how.width, how.height), Image.Resampling.BILINEAR)
            container.mux(stream.encode(av.VideoFrame.from_image(resized)))
        container.mux(stream.encode())


def plant(folder: Path) -> Planted:
    """Writes the data set."""
    folder.mkdir(parents=True, exist_ok=True)
    records, expected = [], {}

    def add(name: str, rule: str = "", **fields) -> None:
        record = {"id": name, "extra": {"kept": [1, "as it is"]}}
        records.append(record | fields)
        expected[name] = rule

    for make in (_films, _copies, _stills, _slides, _shorts, _broken, _texts, _pictures):
        for name, rule, fields in make(folder):
            add(name, rule, **fields)
    for name, rule, fields in _questions():
        add(name, rule, **fields)
    manifest = folder / "samples.jsonl"
    lines = [json.dumps(record, ensure_ascii=False) for record in records]
    manifest.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return Planted(manifest, expected)


_Made = Iterator[tuple[str, str, dict]]


def chat(question: str, answer: str) -> list[dict]:
    mark = "<image>\n"
    return [{"from": "human", "value": mark + question}, {"from": "gpt", "value": answer}]


def shows(name: str) -> dict:
    """Makes a sample that cannot be answered without its clip, with a unique answer."""
    return {"video": name, "conversations": chat("What is seen here?", f"It is {name}.")}


def _films(folder: Path) -> _Made:
    """Plants twelve moving clips, three of which are similar; all should be kept."""
    circle = 0.5 + 0.5j
    paths = {
        "across": lambda t: complex(0.1 + 0.8 * t, 0.5),
        "down": lambda t: complex(0.5, 0.1 + 0.8 * t),
        "round": lambda t: circle + 0.3 * complex(math.cos(6.28 * t), math.sin(6.28 * t)),
    }
    clips = {f"pan{seed}": pan(seed) for seed in range(8)}
    # The scene is the same, but the movement differs.
    clips |= {f"ball-{name}": ball(20, path=path, radius=14) for name, path in paths.items()}
    clips["later"] = pan(0, start=8)
    for name, frames in clips.items():
        write(folder / f"{name}.mp4", frames)
        yield name, "", shows(f"{name}.mp4")
    # Other questions about the same clip are not duplicates.
    yield "again", "", shows("pan3.mp4") | {"conversations": chat("What is seen here?", "A hill.")}


def _copies(folder: Path) -> _Made:
    """Plants the same clips re-encoded in seven ways, and two that only look like duplicates."""
    copies = {
        "smaller": (pan(0), Encoding(64, 48)),
        "wider": (pan(1), Encoding(192, 96)),
        "coarse": (pan(2), Encoding(crf=38)),
        "brighter": (brighter(pan(3)), _PLAIN),
        "other-codec": (pan(4), Encoding(codec="mpeg4")),
        "trimmed": (pan(5)[1:-1], _PLAIN),
        "ball": (ball(20, path=lambda t: complex(0.1 + 0.8 * t, 0.5), radius=14), Encoding(crf=32)),
    }
    for name, (frames, how) in copies.items():
        write(folder / f"copy-{name}.mp4", frames, how=how)
        yield f"copy-{name}", "duplicate", shows(f"copy-{name}.mp4")
    write(folder / "copy-slow.mp4", halved(pan(6)), fps=FPS / 2)
    yield "copy-slow", "duplicate", shows("copy-slow.mp4")
    yield "copy-slow-again", "duplicate", shows("copy-slow.mp4")
    # Repeated samples: identical, and with other fields.
    yield "copy-said", "duplicate", shows("pan2.mp4") | {"source": "elsewhere"}
    write(folder / "mirrored.mp4", mirrored(pan(7)))
    yield "mirrored", "", shows("mirrored.mp4")
    write(folder / "reversed.mp4", pan(7)[::-1])
    yield "reversed", "", shows("reversed.mp4")


def _stills(folder: Path) -> _Made:
    static = {
        "plain": (still(40), _PLAIN),
        "coarse": (still(41, seconds=6), Encoding(crf=40)),
        "noisy": (still(42, noise=3), _PLAIN),
        "black": ([np.zeros((HEIGHT, WIDTH, 3), np.uint8)] * 40, _PLAIN),
    }
    for name, (frames, how) in static.items():
        write(folder / f"static-{name}.mp4", frames, how=how)
        yield f"static-{name}", "static", shows(f"static-{name}.mp4")
    # A small object moves all the time, or for a third of it.
    write(folder / "small.mp4", ball(43, radius=6, path=lambda t: 0.5 + 0.4j + 0.2 * t))
    yield "small", "", shows("small.mp4")
    write(folder / "small-too.mp4", ball(43, radius=6, path=lambda t: 0.2 + 0.6j + 0.2j * t))
    yield "small-too", "", shows("small-too.mp4")
    passing = still(44, seconds=6) + ball(44, seconds=3, path=lambda t: complex(1.2 * t, 0.5))
    write(folder / "passing.mp4", passing)
    yield "passing", "", shows("passing.mp4")


def _slides(folder: Path) -> _Made:
    shown = {
        "hard": slides(range(50, 54)),
        "faded": slides(range(54, 58), seconds=4, fade=4),
        "two": slides((58, 59), seconds=4),
    }
    for name, frames in shown.items():
        write(folder / f"slides-{name}.mp4", frames)
        yield f"slides-{name}", "slides", shows(f"slides-{name}.mp4")
    cut = [frame for seed in range(60, 66) for frame in pan(seed, seconds=1)]
    write(folder / "cut.mp4", cut)
    yield "cut", "", shows("cut.mp4")


def _shorts(folder: Path) -> _Made:
    for seed, seconds in ((70, 0.5), (71, 1.0), (72, 1.4)):
        write(folder / f"short{seed}.mp4", pan(seed, seconds=seconds))
        yield f"short{seed}", "short", shows(f"short{seed}.mp4")
    write(folder / "brief.mp4", pan(73, seconds=2.5))
    yield "brief", "", shows("brief.mp4")


def _broken(folder: Path) -> _Made:
    whole = (folder / "pan0.mp4").read_bytes()
    (folder / "cut-off.mp4").write_bytes(whole[: len(whole) // 2])
    (folder / "words.mp4").write_text("no video")
    (folder / "empty.mp4").touch()
    for name in ("cut-off", "words", "empty", "missing"):
        yield name, "undecodable", shows(f"{name}.mp4")


def _texts(folder: Path) -> _Made:
    human, gpt = chat("What is seen here?", "A hill and, behind it, a lake.")
    said = {
        "no-reply": [human],
        "blank": [human, gpt | {"value": "  \n"}],
        "nothing-asked": [human | {"value": "<image>"}, gpt],
        "twice": [human, gpt, gpt],
        "no-mark": [human | {"value": "What is seen here?"}, gpt],
        "replacement": [human, gpt | {"value": "Caf\ufffd on a hill"}],
        "template": [human, gpt | {"value": "A hill.<|im_end|>"}],
        "stuck": [human, gpt | {"value": "It is " + "very " * 30 + "tall."}],
        "letters": [human, gpt | {"value": "A" * 60}],
        "role": [human | {"from": "user"}, gpt],
    }
    for name, turns in said.items():
        yield f"text-{name}", "text", {"video": "pan0.mp4", "conversations": turns}
    yield "text-none", "text", {"video": "pan0.mp4"}
    table = "| a | b |\n|" + "-" * 40 + "|\n" + "| | | | | | | | | | | | |\n" * 2 + "Ha ha ha!"
    for name, reply in (("table", table), ("chinese", "山后面有一个湖。"), ("no", "No.")):
        turns = [human, gpt | {"value": reply}]
        yield f"good-{name}", "", {"video": "pan1.mp4", "conversations": turns}
    alone = [human | {"value": "Why is the sky blue?"}, gpt | {"value": "It scatters light."}]
    yield "text-alone", "", {"conversations": alone}


def _pictures(folder: Path) -> _Made:
    for seed in (80, 81):
        Image.fromarray(scene(seed)).save(folder / f"picture{seed}.png")
        yield f"picture{seed}", "", _picture(f"picture{seed}.png")
    Image.fromarray(scene(80)).resize((200, 200)).save(folder / "copy.jpg", quality=60)
    yield "picture-copy", "duplicate", _picture("copy.jpg")
    (folder / "broken.png").write_bytes((folder / "picture81.png").read_bytes()[:500])
    yield "picture-broken", "undecodable", _picture("broken.png")


def _picture(name: str) -> dict:
    return {"image": name, "conversations": chat("What is seen here?", f"It is {name}.")}


def _questions() -> _Made:
    """Plants two questions that can be answered without the clip, and one that cannot."""
    for index in range(8):
        clip = f"pan{index}.mp4"
        ways = ("left", "right", "up", "down")
        asked = chat("Which way does the camera go?", ways[index % 4])
        yield f"way{index}", "", {"video": clip, "conversations": asked}
        for name, question, answer in (
            ("grass", "What colour is the grass?", "green"),
            ("sky", "Where is the sky?", "above"),
        ):
            conversations = chat(question, answer)
            yield f"{name}{index}", "blind", {"video": clip, "conversations": conversations}


class Counting:
    """Stand-in model: sure of the reply with the video; blind, it uses the answers' frequencies.

    It is interrupted after `limit` samples.
    """

    name = "counting"

    def __init__(self, manifest: Path, *, limit: int | None = None):
        self._answers: dict[str, Counter] = defaultdict(Counter)
        for line in manifest.read_text(encoding="utf-8").splitlines():
            turns = json.loads(line).get("conversations", [])
            if len(turns) >= 2:
                self._answers[turns[0]["value"]][turns[1]["value"]] += 1
        self.asked, self._limit = 0, limit

    def score(self, items):
        for number, record in items:
            if self.asked == self._limit:
                raise KeyboardInterrupt
            self.asked += 1
            if len(record.turns) < 2:
                yield number, ReplyLosses(None, None, "It has no reply.")
                continue
            answers = self._answers[record.turns[0].text]
            share = answers[record.turns[1].text] / answers.total()
            yield number, ReplyLosses(seen=0.02 + 0.01 * (number % 3), blind=-math.log(share))


class Found(NamedTuple):
    """Attributes: the numbers of samples that a rule should drop, dropped, and dropped rightly."""

    planted: int
    dropped: int
    right: int

    @property
    def precision(self) -> float:
        return self.right / self.dropped if self.dropped else 0.0

    @property
    def recall(self) -> float:
        return self.right / self.planted if self.planted else 0.0


def found_by_rule(decisions: Path, expected: dict[str, str]) -> dict[str, Found]:
    """Counts the samples that each rule should have dropped, dropped, and dropped rightly."""
    rows = [json.loads(line) for line in decisions.read_text(encoding="utf-8").splitlines()]
    pairs = [(expected[row["id"]], row["rule"]) for row in rows]
    return {
        rule: Found(
            planted=sum(wanted == rule for wanted, _ in pairs),
            dropped=sum(given == rule for _, given in pairs),
            right=sum(wanted == given == rule for wanted, given in pairs),
        )
        for rule in RULES
    }


def table(found: dict[str, Found]) -> str:
    """Formats precision and recall as a Markdown table."""
    lines = ["| rule | planted | dropped | precision | recall |", "| --- | --- | --- | --- | --- |"]
    for rule, one in found.items():
        figures = f"{one.precision:.2f} | {one.recall:.2f}"
        lines.append(f"| {rule} | {one.planted} | {one.dropped} | {figures} |")
    return "\n".join(lines)


def prune(
    planted: Planted, out: Path, *arguments: str, scorer=None, manifest: Path | None = None
) -> None:
    """Prunes a planted set, or the samples of another `manifest` of it, into the folder `out`."""
    from vxlpro_jax import prune as command

    command.main(
        [
            *("--manifest", str(manifest or planted.manifest), "--out", str(out)),
            *("--num_workers", "2"),
            *(("--checkpoint", "unused") if scorer else ()),
            *arguments,
        ],
        load_scorer=lambda decoders: scorer,
    )


if __name__ == "__main__":
    planted = plant(Path(sys.argv[1]))
    out = Path(sys.argv[1]) / "pruned"
    prune(planted, out, scorer=Counting(planted.manifest))
    print(table(found_by_rule(out / "decisions.jsonl", planted.expected)))

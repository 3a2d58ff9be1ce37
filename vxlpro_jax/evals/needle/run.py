"""Runs a needle test: asks the cells that a folder of replies lacks, and writes the results."""

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vxlpro_jax.checkpoints.params import locate
from vxlpro_jax.evals.needle import grid, haystack, needles, report, synthetic
from vxlpro_jax.evals.needle.clips import CHANCE, ClipTest
from vxlpro_jax.evals.needle.modes import MODES
from vxlpro_jax.evals.needle.replies import Cell, NeedleReply, Replies
from vxlpro_jax.evals.needle.report import Caption, CellScore
from vxlpro_jax.inference.engine import Engine
from vxlpro_jax.inference.options import Options
from vxlpro_jax.utils.errors import InputError
from vxlpro_jax.utils.files import write_atomically

CLIPS = "clips"

_DEFAULT_FRAMES = (128, 256, 512)
_DEFAULT_DEPTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
# A vocabulary with at least this many ids is taken for one of natural language.
_NATURAL_VOCABULARY = 10_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """A run of a needle test.

    Attributes:
        checkpoint: model folder or training folder.
        out: folder of the results.
        mode: `clips`, or one of `MODES`.
        haystack: videos or folders of videos; empty for a synthetic one.
        needles: JSON list; None for synthetic needles.
        frames: lengths; None for the mode's default.
        depths: depths from 0 to 1; None for the mode's default.
        keep_ratios: shares of the visual tokens that are kept; None for the model folder's.
        cache_dir: folder of synthetic files.
        options: options of the decoder.
        decoder_flags: decoder flags by name, as JSON.
        dtype: dtype of the parameters; None for the stored one.
    """

    checkpoint: str
    out: Path
    mode: str
    haystack: Sequence[Path]
    needles: Path | None
    frames: Sequence[int] | None
    depths: Sequence[float] | None
    keep_ratios: Sequence[float] | None
    cache_dir: Path
    options: Options
    decoder_flags: Mapping[str, Any]
    dtype: str | None

    def __post_init__(self):
        limits = (
            ("frames", self.frames, lambda value: value >= 1, "1 or more"),
            ("depths", self.depths, lambda value: 0 <= value <= 1, "from 0 to 1"),
            ("keep_ratio", self.keep_ratios, lambda value: 0 < value <= 1, "in (0, 1]"),
        )
        for name, values, fits, wanted in limits:
            for value in values or ():
                if not fits(value):
                    raise InputError(f"--{name} has {value}: each must be {wanted}.")
        if self.mode == CLIPS and (self.haystack or self.needles):
            raise InputError(
                f"--mode {CLIPS} has clips of its own: leave out --haystack and --needles."
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Test:
    """A test that is ready to run.

    Attributes:
        cells: questions.
        settings: values besides the model and decoder on which replies depend, as JSON.
        ask: function that maps cells to replies.
        chance: accuracy of guessing; None if guessing never succeeds.
    """

    cells: Sequence[Cell]
    settings: Mapping[str, Any]
    ask: Callable[[Sequence[Cell]], Iterator[NeedleReply]]
    chance: float | None


def run(request: Run) -> str:
    """Asks the cells that have no reply yet and writes the results.

    `needle.png` and `needle.csv` are also written each time a length is complete.

    Returns:
        The table of the results.

    Raises:
        InputError: a file cannot be used, the folder holds replies under other settings, or a
            prompt does not fit the context.
    """
    engine = Engine.load(request.checkpoint, dtype=request.dtype)
    ratios = request.keep_ratios or (engine.inference_config.keep_ratio,)
    prepare = _clip_test if request.mode == CLIPS else _haystack_test
    test = prepare(request, engine, keep_ratios=ratios)
    replies = Replies(request.out, settings=_settings(request, test))
    model = Path(request.checkpoint).resolve().name
    caption = Caption(model, request.mode, test.chance)
    if missing := replies.missing(test.cells):
        lasts = {cell.frames: cell for cell in missing}.values()
        for reply in test.ask(missing):
            replies.add(reply)
            if reply.cell in lasts:
                scores = report.cell_scores(replies.of(test.cells))
                _write_grid(scores, caption=caption, out=request.out)
    scores = report.cell_scores(replies.of(test.cells))
    _write_grid(scores, caption=caption, out=request.out)
    _write_results(scores, caption=caption, out=request.out)
    return report.to_markdown(scores)


def _clip_test(request: Run, engine: Engine, *, keep_ratios: Sequence[float]) -> _Test:
    test = ClipTest.load(request.cache_dir)
    return _Test(
        cells=test.cells(frames=request.frames, depths=request.depths, keep_ratios=keep_ratios),
        settings={"clips": test.digest},
        ask=lambda cells: test.ask(engine, cells, options=request.options),
        chance=CHANCE,
    )


def _haystack_test(request: Run, engine: Engine, *, keep_ratios: Sequence[float]) -> _Test:
    hidden = _hidden(request, engine)
    places = request.haystack or [synthetic.haystack(request.cache_dir)]
    files = haystack.find_files(places)
    mode = MODES[request.mode]
    asked = grid.Grid(
        request.frames or _DEFAULT_FRAMES, request.depths or _DEFAULT_DEPTHS, keep_ratios
    )
    return _Test(
        cells=asked.cells(hidden),
        settings={
            "haystack": [[str(file.resolve()), file.stat().st_size] for file in files],
            "needles": [needles.needle_digest(*each) for each in hidden.values()],
        },
        ask=lambda cells: grid.ask(
            engine, cells, files=files, hidden=hidden, mode=mode, options=request.options
        ),
        chance=mode.chance,
    )


def _hidden(request: Run, engine: Engine) -> dict[str, grid.Hidden]:
    """Returns needles by name; the words of synthetic ones depend on the model's tokenizer."""
    is_natural = engine.tokenizer.vocab_size >= _NATURAL_VOCABULARY
    draw = synthetic.natural_needles if is_natural else synthetic.tiny_needles
    found = needles.read_needles(request.needles or draw(request.cache_dir))
    size = engine.config.vision.image_size
    return {
        needle.name: grid.Hidden(needle, needles.read_frames(needle, size=size, fps=haystack.FPS))
        for needle in found
    }


def _settings(request: Run, test: _Test) -> dict[str, Any]:
    """Returns everything besides its cell on which a reply depends, as JSON."""
    params = locate(request.checkpoint).params
    return {
        "mode": request.mode,
        "checkpoint": str(params),
        "checkpoint_time": params.stat().mtime,
        **test.settings,
        **request.decoder_flags,
    }


def _write_grid(scores: Sequence[CellScore], *, caption: Caption, out: Path) -> None:
    report.draw(scores, caption=caption, path=out / "needle.png")
    write_atomically(out / "needle.csv", report.to_csv(scores))


def _write_results(scores: Sequence[CellScore], *, caption: Caption, out: Path) -> None:
    results = {
        "mode": caption.test,
        "chance": caption.chance,
        "accuracy": report.mean_accuracy(scores),
        "grid": [score._asdict() for score in scores],
    }
    write_atomically(out / "results.json", json.dumps(results, indent=2))

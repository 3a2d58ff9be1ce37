"""Asks a model a published benchmark's questions, a share of the videos, one video after another.

Shapes: `F` sampled frames.
"""

import dataclasses
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vxlpro_jax.evals.folders import Folder
from vxlpro_jax.evals.framing import plan_prompt, subtitles_of
from vxlpro_jax.evals.published import Budget
from vxlpro_jax.evals.scoring import Benchmark, Profile, Prompt
from vxlpro_jax.evals.subtitles import NO_SUBTITLES
from vxlpro_jax.inference.engine import Encoded, Engine, Options
from vxlpro_jax.utils.errors import InputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Asker:
    """How questions are asked.

    Attributes:
        engine: the model.
        benchmark: that is asked.
        profile: whose prompts and parsers.
        videos: where the videos are.
        subtitles: where the SRT files are, if the benchmark shows them.
        budget: of frames and of ids of an answer.
        options: what the decoder reads of them; the budget sets the length of answers.
    """

    engine: Engine
    benchmark: Benchmark
    profile: Profile
    videos: Folder
    subtitles: Folder | None
    budget: Budget
    options: Options

    def ask(self, records: Sequence[Any]) -> Iterator[dict[str, Any]]:
        """Lines about the questions on one video, in their order.

        A line has `id`, `video`, `system`, `prompt`, `prefill`, `frames` (their seconds), `answer`,
        `parsed`, `right` (None if it counts neither way) and `seconds` taken; or `id`, `video` and
        `error`, a sentence.
        """
        try:
            watched = self._watch(records[0])
        except InputError as error:
            yield from (_failed(record, error) for record in records)
            return
        for record in records:
            try:
                yield self._answered(record, watched)
            except InputError as error:
                yield _failed(record, error)

    def _watch(self, record: Any) -> "_Video":
        hints = [group.partition("/")[2] for group in record.groups]
        path = self.videos.find(record.video, hints=hints)
        with self.engine.open_video(
            path, max_frames=self.budget.max_frames, fps=self.benchmark.fps
        ) as opened:
            return _Video(path, opened.times(), opened.encode())

    def _answered(self, record: Any, video: "_Video") -> dict[str, Any]:
        started = time.monotonic()
        prompt = self._prompt(record, video)
        options = dataclasses.replace(
            self.options, max_new_tokens=self.budget.new_tokens_for(record)
        )
        encoded = video.encoded
        plan = plan_prompt(self.engine, prompt, groups=len(encoded.visual), options=options)
        answer = "".join(self.engine.answer(encoded, plan, options=options))
        verdict = self.benchmark.rate(record, answer, self.profile)
        return {
            **{"id": record.id, "video": record.video, "system": prompt.system},
            **{"prompt": prompt.text, "prefill": prompt.prefill},
            "frames": np.round(video.times, 3).tolist(),
            **{"answer": answer, "parsed": verdict.parsed, "right": verdict.correct},
            "seconds": round(time.monotonic() - started, 3),
        }

    def _prompt(self, record: Any, video: "_Video") -> Prompt:
        if self.subtitles is None:
            return self.benchmark.prompt(record, self.profile)
        try:
            path = self.subtitles.find(f"{Path(record.video).stem}.srt")
        except InputError:
            # Short videos have none: the authors then show nothing, lmms-eval says so.
            if self.profile == "official":
                return self.benchmark.prompt(record, self.profile)
            text = NO_SUBTITLES
        else:
            text = subtitles_of(path, video=video.path, times=video.times, profile=self.profile)
        return self.benchmark.prompt_with(record, self.profile, subtitles=text)


@dataclasses.dataclass(frozen=True)
class _Video:
    """Attributes: its `path`, float64 [F] `times` of the frames, and what they are `encoded` as."""

    path: Path
    times: np.ndarray
    encoded: Encoded


def by_video(records: Iterable[Any]) -> list[list[Any]]:
    """Records on the same video together, in the order in which videos appear."""
    videos: dict[str, list[Any]] = {}
    for record in records:
        videos.setdefault(record.video, []).append(record)
    return list(videos.values())


def _failed(record: Any, error: InputError) -> dict[str, Any]:
    return {"id": record.id, "video": record.video, "error": str(error)}

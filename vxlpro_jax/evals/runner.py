"""Runs a benchmark: asks a model about each video, stores the answers in a folder, and scores them.

Shapes: `F` sampled frames.
"""

import dataclasses
import functools
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import av.error
import numpy as np

from vxlpro_jax.checkpoints.inference_config import read_inference_config
from vxlpro_jax.checkpoints.params import locate
from vxlpro_jax.config.schema import InferenceConfig
from vxlpro_jax.data.text import chat
from vxlpro_jax.evals import judge as judging
from vxlpro_jax.evals import results as reports
from vxlpro_jax.evals.annotations import files_digest
from vxlpro_jax.evals.benchmark import Benchmark, Budget, Profile, Prompt, Record
from vxlpro_jax.evals.judge import Judge
from vxlpro_jax.evals.media_folder import MediaFolder, MediaKind, stem_of
from vxlpro_jax.evals.results import Answers, Results
from vxlpro_jax.evals.run_folder import Line, RunFolder, check_settings, folder_lock
from vxlpro_jax.evals.subtitles import NO_SUBTITLES, read_srt, subtitles_at
from vxlpro_jax.inference.engine import Encoded, Engine
from vxlpro_jax.inference.memory_plan import Plan
from vxlpro_jax.inference.options import Options
from vxlpro_jax.utils import cli
from vxlpro_jax.utils.errors import InputError
from vxlpro_jax.utils.journal import Shard

_FOLDER_FPS = 1.0  # Frame rate of a video that is a folder of frames.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """A run of a benchmark.

    Attributes:
        checkpoint: model folder or training folder.
        benchmark: benchmark to ask.
        chain: number of the requested chain; None if none was requested.
        source: hash of the file that defines the benchmark; None if it was found by name.
        annotations: published file or folder of questions.
        videos: folder of the videos.
        subtitles: folder of the SRT files; None to show none.
        out: folder of the run.
        profile: profile whose prompts, parser and metrics are used.
        limit: number of questions to ask, from the first on; None for all.
        sampling: sampling of frames and tokens of a video.
        budget: limits of the benchmark, replaced by those that the user gave.
        options: options of the decoder.
        decoder_flags: decoder flags by name, as JSON.
        dtype: dtype of the parameters; None for the stored one.
        token_cache: folder that caches visual tokens; "" for none.
        shard: share of the videos that this process asks about.
        max_unreadable: number of videos that may fail.
        judge: model that rates answers; None for none.
    """

    checkpoint: str
    benchmark: Benchmark
    chain: int | None
    source: str | None
    annotations: Path
    videos: Path
    subtitles: Path | None
    out: Path
    profile: Profile
    limit: int | None
    sampling: InferenceConfig
    budget: Budget
    options: Options
    decoder_flags: Mapping[str, Any]
    dtype: str | None
    token_cache: str
    shard: Shard
    max_unreadable: int
    judge: Judge | None

    def __post_init__(self):
        if (self.subtitles is not None) != (self.benchmark.subtitled_prompt is not None):
            raise InputError(
                "--benchmark videomme_subtitles needs --subtitles, which no other benchmark takes."
            )


def default_sampling(checkpoint: str, *, benchmark: Benchmark) -> InferenceConfig:
    """Returns the default sampling of a benchmark's videos.

    If the benchmark has its own number of frames, it determines frames and rate; everything else
    comes from the model folder.

    Raises:
        InputError: the checkpoint does not exist or cannot be used.
    """
    config = read_inference_config(locate(checkpoint).root)
    if benchmark.budget.max_frames is None:
        return config
    own = {"max_frames": benchmark.budget.max_frames, "fps": benchmark.fps or 0.0}
    return dataclasses.replace(config, **own)


def run(request: Run) -> str:
    """Asks this process's share; writes the results once all questions are answered.

    Returns:
        The table of the results, or a sentence that other processes are still running.

    Raises:
        InputError: the annotations or the checkpoint cannot be used, the folder holds another run,
            or the judge refuses a request.
        Failure: too many videos cannot be read, tokens cannot be written to the cache, or the judge
            does not answer.
    """
    available = request.benchmark.read_unique(request.annotations)
    records = available[: request.limit]
    asker = Asker(
        request,
        videos=MediaFolder(request.videos),
        subtitles=MediaFolder(request.subtitles) if request.subtitles else None,
    )
    with folder_lock(request.out):
        check_settings(request.out, _settings(request))
    folder = RunFolder(request.out, records=records, shard=request.shard)
    folder.run(asker.ask, max_unreadable=request.max_unreadable, progress=cli.progress)
    answers = folder.answers()
    if answers is None:
        return "This process has finished its share; the last one to finish writes the results."
    with folder_lock(request.out):
        return _finish(request, records, answers, num_available=len(available))


def _finish(request: Run, records: Sequence[Any], answers: Answers, *, num_available: int) -> str:
    """Scores the answers and writes results, first without a judge in case the judge fails."""
    benchmark, judge = request.benchmark, request.judge
    comparison = reports.compare(benchmark.published, records, answers, num_available=num_available)
    write = functools.partial(
        reports.write_results, comparison=comparison, answers=answers, out=request.out
    )
    scored = benchmark.score_all(records, answers.texts, profile=request.profile)
    results = Results.of(benchmark, scored, profile=request.profile)
    table = write(results)
    if judge is None or benchmark.rubric is None:
        return table
    replies = judging.ask_judge(
        judge, benchmark.rubric, scored, out=request.out, progress=cli.progress
    )
    return write(results.with_judge(benchmark, scored, replies))


def _settings(request: Run) -> dict[str, Any]:
    """Returns everything besides its question on which an answer depends, as JSON.

    Names and order are fixed, because they are compared with those of runs of earlier versions.
    """
    params = locate(request.checkpoint).params
    settings = {
        "benchmark": request.benchmark.name,
        "chain": request.chain,
        "profile": request.profile,
        "annotations": files_digest(request.annotations),
        "checkpoint": str(params),
        "checkpoint_time": params.stat().mtime,
        "max_frames": request.sampling.max_frames,
        "max_new_tokens": request.budget.max_new_tokens,
        "keep_ratio": request.sampling.keep_ratio,
        **request.decoder_flags,
        "fps": request.sampling.fps,
    }
    return settings | ({"source": request.source} if request.source else {})


@dataclasses.dataclass(frozen=True)
class _Media:
    """An encoded video or picture.

    Attributes:
        path: path of the file.
        times: float64 [F], seconds of the frames; empty for a picture.
        encoded: its visual tokens.
    """

    path: Path
    times: np.ndarray
    encoded: Encoded


class Asker:
    """Asks the model about one video after another; the model is loaded on first use."""

    def __init__(self, request: Run, *, videos: MediaFolder, subtitles: MediaFolder | None):
        self._run = request
        self._videos = videos
        self._subtitles = subtitles

    def ask(self, records: Sequence[Any]) -> Iterator[Line]:
        """Yields lines about the questions on one video, in order.

        A line has `id`, `video`, `system`, `prompt`, `prefill`, `frames` (their seconds), `answer`
        and the `seconds` that it took, and, if existing subtitles cannot be used, a sentence
        `unused_subtitles`; or else `id`, `video` and a sentence `error`.
        """
        engine = self._engine  # A checkpoint that cannot be loaded is not the video's fault.
        try:
            media = self._encode(engine, records[0])
        except InputError as error:
            yield from (_failed(record, error) for record in records)
            return
        for record in records:
            try:
                yield self._answer(engine, record, media)
            except InputError as error:
                yield _failed(record, error)

    @functools.cached_property
    def _engine(self) -> Engine:
        run = self._run
        return Engine.load(run.checkpoint, dtype=run.dtype, token_cache=run.token_cache)

    def _encode(self, engine: Engine, record: Record) -> _Media:
        sampling = self._run.sampling
        path = self._find(record)
        if record.is_image:
            return _Media(path, np.zeros(0), engine.encode_image(path))
        with engine.open_video(
            path, max_frames=sampling.max_frames, fps=sampling.fps or None
        ) as opened:
            return _Media(path, opened.times(), opened.encode())

    def _find(self, record: Record) -> Path:
        if self._run.benchmark.paths == "exact":
            return self._videos.find_exact(record.video)
        hints = [group.partition("/")[2] for group in record.groups]
        kind = MediaKind.PICTURE if record.is_image else MediaKind.VIDEO
        return self._videos.find(record.video, kind=kind, hints=hints)

    def _answer(self, engine: Engine, record: Record, media: _Media) -> Line:
        started = time.monotonic()
        subtitles = self._shown_subtitles(record, media)
        prompt = self._prompt(record, subtitles)
        options = dataclasses.replace(
            self._run.options, max_new_tokens=self._run.budget.new_tokens_for(record)
        )
        encoded = media.encoded
        plan = plan_prompt(engine, prompt, groups=len(encoded.visual), options=options)
        answer = "".join(engine.answer(encoded, plan, options=options))
        return {
            **{"id": record.id, "video": record.video, "system": prompt.system},
            **{"prompt": prompt.text, "prefill": prompt.prefill},
            **{"frames": np.round(media.times, 3).tolist(), "answer": answer},
            "seconds": round(time.monotonic() - started, 3),
            **({"unused_subtitles": subtitles.fault} if subtitles.fault else {}),
        }

    def _prompt(self, record: Record, subtitles: "_Subtitles") -> Prompt:
        benchmark, profile, text = self._run.benchmark, self._run.profile, subtitles.text
        if self._subtitles is None or benchmark.subtitled_prompt is None:
            return benchmark.prompt(record, profile)
        if text is None:
            # Short videos have none. The authors then show nothing; lmms-eval says that there are
            # none.
            if profile == "official":
                return benchmark.prompt(record, profile)
            text = NO_SUBTITLES
        return benchmark.subtitled_prompt(record, profile, subtitles=text)

    def _shown_subtitles(self, record: Record, media: _Media) -> "_Subtitles":
        """Returns the subtitles of a record; an unusable file does not lose the question."""
        if self._subtitles is None:
            return _Subtitles()
        try:
            path = self._subtitles.find(f"{stem_of(record.video)}.srt", kind=MediaKind.SUBTITLES)
        except InputError:
            return _Subtitles()
        try:
            return _Subtitles(_shown_text(path, media=media, profile=self._run.profile))
        except InputError as error:
            return _Subtitles(fault=str(error))


class _Subtitles(NamedTuple):
    """The subtitles of a video.

    Attributes:
        text: text on the screen during the sampled frames; None if there is no usable file.
        fault: reason why the file cannot be used, or "".
    """

    text: str | None = None
    fault: str = ""


def _failed(record: Record, error: InputError) -> Line:
    return {"id": record.id, "video": record.video, "error": str(error)}


def plan_prompt(engine: Engine, prompt: Prompt, *, groups: int, options: Options) -> Plan:
    """Plans a prompt about `groups` groups of frames, with its system message and prefill.

    Raises:
        InputError: not even the prompt and the time stamps fit.
    """
    return engine.plan_ids(_ids(engine, prompt), groups=groups, options=options)


def _ids(engine: Engine, prompt: Prompt) -> np.ndarray:
    """Returns the token ids of a prompt.

    These are the usual ids with another system message at the start and the beginning of the reply
    at the end.
    """
    encode = engine.tokenizer.encode
    turns = chat.visual_question(prompt.text)
    ids = chat.encode_prompt(turns, tokenizer=engine.tokenizer)
    usual, wanted = (
        encode(f"<|im_start|>system\n{system}<|im_end|>\n")
        for system in (chat.SYSTEM_MESSAGE, prompt.system)
    )
    prefill = encode(prompt.prefill) if prompt.prefill else []
    return np.array([*wanted, *ids[len(usual) :], *prefill], np.int32)


def _shown_text(path: Path, *, media: _Media, profile: Profile) -> str:
    """Returns the text of an SRT file that is on the screen during the sampled frames.

    Raises:
        InputError: the file cannot be used.
    """
    fps = _frame_rate(media.path)
    frames = np.rint(media.times * fps).astype(int).tolist()
    return subtitles_at(read_srt(path), frames=frames, fps=fps, profile=profile)


def _frame_rate(video: Path) -> float:
    """Returns the frame rate of a video in frames per second."""
    if video.is_dir():
        return _FOLDER_FPS
    try:
        with av.open(str(video)) as container:
            return float(container.streams.video[0].average_rate or _FOLDER_FPS)
    except (av.error.FFmpegError, IndexError, TypeError):
        return _FOLDER_FPS

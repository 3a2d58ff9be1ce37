"""The folder of a run: its settings, the answers so far, and the videos that could not be read.

It contains `settings.json`, `answers-I-of-N.jsonl` (one line per question, written as soon as it is
answered), `unreadable-I-of-N.jsonl`, and at the end the files of `results.write_results`.
"""

import contextlib
import fcntl
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vxlpro_jax.evals.results import Answers
from vxlpro_jax.utils.errors import Failure, InputError
from vxlpro_jax.utils.files import make_writable, write_atomically
from vxlpro_jax.utils.journal import Journal, Shard

# A line of a journal: `id` and `video`, and `answer` or `error`.
Line = dict[str, Any]


class RunFolder:
    """One process's view of a run over some records."""

    def __init__(self, out: Path, *, records: Sequence[Any], shard: Shard):
        """Creates the folder, or reads the answers that it already holds.

        Args:
            out: folder of the run, shared by all its processes.
            records: all questions of the run.
            shard: share of the videos that this process asks about.
        """
        self._records = records
        self._out = out
        self._shard = shard
        self._answers = Journal(out, name="answers", shard=shard)
        self._unreadable = Journal(out, name="unreadable", shard=shard)

    def pending(self) -> list[list[Any]]:
        """Returns this share's unanswered records, grouped by video."""
        shares = enumerate(by_video(self._records))
        mine = [records for place, records in shares if self._shard.owns(place)]
        left = [[r for r in records if _key(r) not in self._answers.entries] for records in mine]
        return [records for records in left if records]

    def run(
        self,
        ask: Callable[[Sequence[Any]], Iterable[Line]],
        *,
        max_unreadable: int,
        progress: Callable,
    ) -> None:
        """Asks all pending questions.

        Args:
            ask: function that answers records about the same video.
            max_unreadable: number of videos that may fail.
            progress: function such as `cli.progress`.

        Raises:
            Failure: more videos failed, or `ask` raised it.
        """
        videos = self.pending()
        lines = itertools.chain.from_iterable(map(ask, videos))
        failed = {}
        total = sum(map(len, videos))
        for line in progress(lines, name="asking", unit="question", total=total):
            key = json.dumps(line["id"])
            if "error" not in line:
                self._answers.add(key, line)
                continue
            self._unreadable.add(key, line)
            failed[line["video"]] = line["error"]
            if len(failed) > max_unreadable:
                raise Failure(
                    f"{len(failed)} videos cannot be used, the last because: {line['error']}"
                    " Correct --videos or raise --max_unreadable, and start the same command again."
                )

    def answers(self) -> Answers | None:
        """Returns the answers of all processes; None while some questions are still unasked."""
        texts, unreadable, unused_subtitles = {}, {}, {}
        answers, failed = (
            Journal(self._out, name=name, shard=self._shard).entries
            for name in ("answers", "unreadable")
        )
        for record in self._records:
            key = _key(record)
            if key in answers:
                texts[record.id] = answers[key]["answer"]
                if fault := answers[key].get("unused_subtitles"):
                    unused_subtitles[record.video] = fault
            elif key in failed:
                unreadable[record.video] = failed[key]["error"]
            else:
                return None
        return Answers(texts, unreadable, unused_subtitles)


def by_video(records: Iterable[Any]) -> list[list[Any]]:
    """Groups records by video, in the order in which videos first appear."""
    videos: dict[str, list[Any]] = {}
    for record in records:
        videos.setdefault(record.video, []).append(record)
    return list(videos.values())


@contextlib.contextmanager
def folder_lock(out: Path) -> Iterator[None]:
    """Creates the folder and holds its lock, waiting while another process holds it."""
    make_writable(out, flag="--out")
    with (out / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def check_settings(out: Path, settings: Mapping[str, Any], *, name: str = "settings.json") -> None:
    """Writes the settings of a run, or compares them with those in its folder.

    Call it while holding the `folder_lock`. Settings missing in the file are not compared, since
    runs started with an earlier version do not have them.

    Raises:
        InputError: the folder holds a run with other settings.
    """
    path = out / name
    if not path.exists():
        write_atomically(path, json.dumps(settings, indent=1))
        return
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
        changed = [key for key in settings if before.get(key, settings[key]) != settings[key]]
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(f"{path} cannot be read ({error}): choose another --out.") from error
    if changed:
        raise InputError(
            f"{out} holds a run with other settings ({', '.join(changed)}): choose another --out,"
            " or remove it."
        )


def _key(record: Any) -> str:
    return json.dumps(record.id)

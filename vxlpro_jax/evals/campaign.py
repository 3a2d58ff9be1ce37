"""A run over a published benchmark: shares of its videos, what is there already, and the end.

The folder of a run holds `settings.json`, `answers-I-of-N.jsonl` (a line a question as soon as it
is answered), `unreadable-I-of-N.jsonl`, and at the end what `outcome.write` writes.
"""

import contextlib
import fcntl
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vxlpro_jax.evals.outcome import Answers
from vxlpro_jax.evals.running import Asker, by_video
from vxlpro_jax.utils.errors import Failure, InputError
from vxlpro_jax.utils.files import write_atomically
from vxlpro_jax.utils.journal import Journal, Shard


class Campaign:
    """One process's view of a run; `records` are all that are asked in it."""

    def __init__(self, out: Path, *, records: Sequence[Any], shard: Shard):
        """Reads what is there already, and makes the folder.

        Args:
            out: the folder of the run, shared by all processes.
            records: of the benchmark.
            shard: the share of the videos that this process asks about.
        """
        self.records = records
        self._out = out
        self._shard = shard
        self._answers = Journal(out, name="answers", shard=shard)
        self._unreadable = Journal(out, name="unreadable", shard=shard)

    def pending(self) -> list[list[Any]]:
        """Records of this share without an answer, those on one video together."""
        shares = enumerate(by_video(self.records))
        mine = [video for place, video in shares if self._shard.owns(place)]
        left = [[r for r in video if _key(r) not in self._answers.entries] for video in mine]
        return [video for video in left if video]

    def run(self, asker: Asker, *, most_unreadable: int, progress: Callable) -> None:
        """Asks what is pending.

        Args:
            asker: of the model.
            most_unreadable: videos about which questions may fail.
            progress: `cli.progress`, or the like.

        Raises:
            Failure: more videos failed, or tokens cannot be kept.
        """
        videos = self.pending()
        lines = itertools.chain.from_iterable(map(asker.ask, videos))
        failed = {}
        total = sum(map(len, videos))
        for line in progress(lines, name="asking", unit="question", total=total):
            key = json.dumps(line["id"])
            if "error" not in line:
                self._answers.add(key, line)
                continue
            self._unreadable.add(key, line)
            failed[line["video"]] = line["error"]
            if len(failed) > most_unreadable:
                raise Failure(
                    f"{len(failed)} videos cannot be used, the last because: {line['error']} Mend"
                    " --videos or raise --max_unreadable, and start this again."
                )

    def answers(self) -> Answers | None:
        """All processes' answers; None while some are missing."""
        texts, unreadable = {}, {}
        answers, failed = (
            Journal(self._out, name=name, shard=self._shard).entries
            for name in ("answers", "unreadable")
        )
        for record in self.records:
            key = _key(record)
            if key in answers:
                texts[record.id] = answers[key]["answer"]
            elif key in failed:
                unreadable[record.video] = failed[key]["error"]
            else:
                return None
        return Answers(texts, unreadable)


@contextlib.contextmanager
def alone(out: Path) -> Iterator[None]:
    """Waits until no other process is in this context for the folder, which is made."""
    out.mkdir(parents=True, exist_ok=True)
    with (out / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def check_settings(out: Path, settings: Mapping[str, Any], *, name: str = "settings.json") -> None:
    """Writes the file `name`, or compares it; to be called `alone`.

    A setting that was not known when it was written is not compared.

    Raises:
        InputError: the folder holds a run under other settings.
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
            f"{out} holds a run under other settings ({', '.join(changed)}): choose another --out,"
            " or remove it."
        )


def _key(record: Any) -> str:
    return json.dumps(record.id)

"""A judge model behind an OpenAI-compatible endpoint, which rates answers by a `Rubric`."""

import concurrent.futures
import hashlib
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vxlpro_jax.evals.annotations import read_predictions
from vxlpro_jax.evals.benchmark import JudgedRecord, JudgeRequest, Rubric, ScoredRecord
from vxlpro_jax.utils.errors import Failure, InputError
from vxlpro_jax.utils.journal import Journal, Shard

TRIES = 6
_TIMEOUT = 120.0  # Seconds.
_LONGEST_WAIT = 60.0
_CONCURRENT_REQUESTS = 8
_BUSY = (408, 409, 425, 429, *range(500, 600))


# The replies of a judge by the ids of records; None where a score stands without a judge.
Replies = Mapping[Any, str | None]


class Judge:
    """A client of the endpoint, which several threads may use at once."""

    def __init__(self, url: str, *, model: str, key: str, first_wait: float = 1.0):
        """Takes the address of an endpoint.

        Args:
            url: address under which `chat/completions` lies, such as `https://api.openai.com/v1`.
            model: name of the model there.
            key: bearer token; empty for none.
            first_wait: seconds before the second try; each wait is twice the one before.

        Raises:
            InputError: the URL is not an HTTP address.
        """
        if not url.startswith(("http://", "https://")):
            raise InputError(f"--judge_url is {url!r}: give a URL that begins with http(s)://.")
        self.model = model
        self._url = f"{url.rstrip('/')}/chat/completions"
        self._headers = {"Content-Type": "application/json"}
        if key:
            self._headers["Authorization"] = f"Bearer {key}"
        self._first_wait = first_wait

    def ask(self, request: JudgeRequest) -> str:
        """The text of the reply, without surrounding whitespace.

        Raises:
            InputError: the endpoint refuses the request.
            Failure: the endpoint did not answer in `TRIES` tries.
        """
        wait, reason = self._first_wait, ""
        for number in range(TRIES):
            if number:
                time.sleep(min(wait, _LONGEST_WAIT))
                wait *= 2
            try:
                return self._once(request)
            except urllib.error.HTTPError as error:
                with error:
                    reason = f"HTTP {error.code} {error.reason}"
                if error.code not in _BUSY:
                    raise InputError(
                        f"Judge {self._url} refuses model {self.model!r} ({reason}): check"
                        " --judge_url, --judge_model and OPENAI_API_KEY."
                    ) from error
            except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
                reason = repr(error)
        raise Failure(
            f"Judge {self._url} did not answer in {TRIES} tries ({reason}). Its replies so far"
            " are kept: start this again."
        )

    def _once(self, request: JudgeRequest) -> str:
        messages = [
            {"role": "system", "content": request.system},
            {"role": "user", "content": request.user},
        ]
        body = {"model": self.model, "messages": messages, **request.settings}
        sent = urllib.request.Request(self._url, json.dumps(body).encode(), self._headers)
        with urllib.request.urlopen(sent, timeout=_TIMEOUT) as answer:
            found = json.load(answer)
        return found["choices"][0]["message"]["content"].strip()


def needs_no_reply(rubric: Rubric, scored: Sequence[ScoredRecord]) -> set[Any]:
    """Ids of answers whose score stands without a judge: empty ones, and those that rules match."""
    return {
        one.record.id
        for one in scored
        if not one.score.is_pending and rubric.applies(one.record) and rubric.request(one) is None
    }


def ask_judge(
    judge: Judge,
    rubric: Rubric,
    scored: Sequence[ScoredRecord],
    *,
    out: Path,
    progress: Callable,
) -> Replies:
    """Asks a judge about answers; replies of earlier runs are not asked for again.

    Args:
        judge: model.
        rubric: of the benchmark.
        scored: answers.
        out: folder in which replies are kept, as `judgements-*.jsonl`.
        progress: function such as `cli.progress`.

    Raises:
        InputError: the endpoint refuses a request.
        Failure: the endpoint does not answer.
    """
    requests = {one.record.id: rubric.request(one) for one in scored}
    asked = {id: request for id, request in requests.items() if request}
    keys = {id: _key(judge, request) for id, request in asked.items()}
    journal = Journal(out, name="judgements", shard=Shard())
    missing = {key: asked[id] for id, key in keys.items() if key not in journal.entries}
    with concurrent.futures.ThreadPoolExecutor(_CONCURRENT_REQUESTS) as pool:
        running = {pool.submit(judge.ask, request): key for key, request in missing.items()}
        try:
            done = concurrent.futures.as_completed(running)
            for future in progress(done, name="judging", unit="answer", total=len(running)):
                journal.add(running[future], {"judge": judge.model, "reply": future.result()})
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    replies = {id: journal.entries[key]["reply"] for id, key in keys.items()}
    return dict.fromkeys(needs_no_reply(rubric, scored)) | replies


def read_replies(path: Path, *, rubric: Rubric, scored: Sequence[ScoredRecord]) -> Replies:
    """Reads a judge's stored replies; those about answers that need no judge are ignored.

    Raises:
        InputError: the file cannot be used.
    """
    given = read_predictions(path, ids=[one.record.id for one in scored], field="reply")
    asked = {one.record.id for one in scored if rubric.request(one)}
    known = {id: reply for id, reply in given.items() if id in asked}
    return dict.fromkeys(needs_no_reply(rubric, scored)) | known


def judged_records(
    rubric: Rubric, scored: Sequence[ScoredRecord], replies: Replies
) -> list[JudgedRecord]:
    """Those answers for which there is a reply, or which need none, with the reply's meaning."""
    return [
        JudgedRecord(one, rubric.read_reply(one, replies[one.record.id]))
        for one in scored
        if one.record.id in replies
    ]


def _key(judge: Judge, request: JudgeRequest) -> str:
    """A hash of everything that a reply depends on."""
    asked = json.dumps([judge.model, request.system, request.user, dict(request.settings)])
    return hashlib.sha256(asked.encode()).hexdigest()

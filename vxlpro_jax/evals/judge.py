"""A judge model behind an OpenAI-compatible endpoint, which rates answers by a `Rubric`."""

import concurrent.futures
import hashlib
import http.client
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vxlpro_jax.evals.annotations import read_predictions
from vxlpro_jax.evals.benchmark import JudgedRecord, JudgeRequest, Rubric, ScoredRecord
from vxlpro_jax.evals.endpoint import Endpoint, ExchangeError, post_json
from vxlpro_jax.utils.errors import Failure, InputError
from vxlpro_jax.utils.journal import Journal, Shard

TRIES = 6
_LONGEST_WAIT = 60.0
_CONCURRENT_REQUESTS = 8
_FINE, _REDIRECTS = range(200, 300), range(300, 400)
_BUSY = (408, 409, 425, 429, *range(500, 600))


# The replies of a judge by record id; None if a score needs no judge.
Replies = Mapping[Any, str | None]


class Judge:
    """A client of the endpoint, which several threads may share."""

    def __init__(
        self, url: str, *, model: str, key: str, first_wait: float = 1.0, seconds: float = 120.0
    ):
        """Stores the address of an endpoint.

        Args:
            url: address that contains `chat/completions`, such as `https://api.openai.com/v1`.
            model: name of the model at the endpoint.
            key: bearer token; empty for none. It is sent only to this address.
            first_wait: seconds before the second try; each later wait is twice as long.
            seconds: time limit per try.

        Raises:
            InputError: the URL is not an HTTP address, or the key cannot be sent.
        """
        self.model = model
        self._endpoint = Endpoint.parse(url, path="chat/completions", flag="--judge_url")
        self._headers = _authorization(key.strip())
        self._first_wait, self._seconds = first_wait, seconds

    def ask(self, request: JudgeRequest) -> str:
        """Returns the text of the reply, without surrounding whitespace.

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
            except ExchangeError as error:
                reason = str(error)
        raise Failure(
            f"Judge {self._endpoint} did not answer in {TRIES} tries ({reason}). Its replies so far"
            " are kept: start the same command again."
        )

    def _once(self, request: JudgeRequest) -> str:
        """Makes one try; raises ExchangeError if another try may succeed."""
        messages = [
            {"role": "system", "content": request.system},
            {"role": "user", "content": request.user},
        ]
        content = {"model": self.model, "messages": messages, **request.settings}
        status, body = post_json(
            self._endpoint, content, headers=self._headers, seconds=self._seconds
        )
        said = f"HTTP {status} {http.client.responses.get(status, '')}".strip()
        if status in _BUSY:
            raise ExchangeError(said)
        if status in _REDIRECTS:
            raise InputError(
                f"Judge {self._endpoint} redirects requests to another address ({said}), which is"
                " not followed: give that address as --judge_url if you trust it."
            )
        if status not in _FINE:
            raise InputError(
                f"Judge {self._endpoint} refuses model {self.model[:60]!r} ({said}): check"
                " --judge_url, --judge_model and OPENAI_API_KEY."
            )
        text = _reply_text(body)
        if text is None:
            raise ExchangeError("its reply has no text at choices[0].message.content")
        return text.strip()


def _authorization(key: str) -> dict[str, str]:
    if not key:
        return {}
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise InputError(
            "OPENAI_API_KEY has spaces or characters that are not ASCII, so it cannot be sent: set"
            " it to the key alone."
        )
    return {"Authorization": f"Bearer {key}"}


def _reply_text(body: bytes) -> str | None:
    """Returns the text of a chat completion; None if the body is not one."""
    try:
        text = json.loads(body)["choices"][0]["message"]["content"]
    except (ValueError, RecursionError, LookupError, TypeError):
        return None
    return text if isinstance(text, str) else None


def needs_no_reply(rubric: Rubric, scored: Sequence[ScoredRecord]) -> set[Any]:
    """Returns ids of answers that need no judge: empty ones, and those that rules match."""
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
    """Asks a judge about answers; replies of earlier runs are reused.

    Args:
        judge: client of the judge model.
        rubric: rubric of the benchmark.
        scored: answers to rate.
        out: folder in which replies are stored, as `judgements-*.jsonl`.
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
    """Reads a judge's stored replies; ignores those about answers that need no judge.

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
    """Returns the answers that have a reply or need none, with the numbers that it gives."""
    return [
        JudgedRecord(one, rubric.read_reply(one, replies[one.record.id]))
        for one in scored
        if one.record.id in replies
    ]


def _key(judge: Judge, request: JudgeRequest) -> str:
    """Returns a hash of everything on which a reply depends."""
    asked = json.dumps([judge.model, request.system, request.user, dict(request.settings)])
    return hashlib.sha256(asked.encode()).hexdigest()

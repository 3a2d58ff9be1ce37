"""A judge model behind an OpenAI-compatible endpoint."""

import json
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any, NamedTuple

from vxlpro_jax.utils.errors import Failure, InputError

TRIES = 6
_TIMEOUT = 120.0  # Seconds.
_LONGEST_WAIT = 60.0
_BUSY = (408, 409, 425, 429, *range(500, 600))


class Question(NamedTuple):
    """Attributes: `system` and `user` messages, and further fields of the request."""

    system: str
    user: str
    settings: Mapping[str, Any]


class Judge:
    """Answers questions; may be asked from several threads."""

    def __init__(self, url: str, *, model: str, key: str, first_wait: float = 1.0):
        """Of an endpoint.

        Args:
            url: under which `chat/completions` lies, such as `https://api.openai.com/v1`.
            model: its name there.
            key: sent as a bearer token; empty for none.
            first_wait: seconds before the second try; each wait is twice the one before.

        Raises:
            InputError: the URL is not of HTTP.
        """
        if not url.startswith(("http://", "https://")):
            raise InputError(f"--judge_url is {url!r}: give a URL that begins with http(s)://.")
        self.model = model
        self._url = f"{url.rstrip('/')}/chat/completions"
        self._headers = {"Content-Type": "application/json"}
        if key:
            self._headers["Authorization"] = f"Bearer {key}"
        self._first_wait = first_wait

    def ask(self, question: Question) -> str:
        """The reply's text, stripped.

        Raises:
            InputError: the endpoint refuses the request.
            Failure: it did not answer in `TRIES` tries.
        """
        wait, reason = self._first_wait, ""
        for number in range(TRIES):
            if number:
                time.sleep(min(wait, _LONGEST_WAIT))
                wait *= 2
            try:
                return self._once(question)
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
            f"Judge {self._url} did not answer in {TRIES} tries ({reason}). What it has said is"
            " kept: start this again."
        )

    def _once(self, question: Question) -> str:
        messages = [
            {"role": "system", "content": question.system},
            {"role": "user", "content": question.user},
        ]
        body = {"model": self.model, "messages": messages, **question.settings}
        request = urllib.request.Request(self._url, json.dumps(body).encode(), self._headers)
        with urllib.request.urlopen(request, timeout=_TIMEOUT) as answer:
            found = json.load(answer)
        return found["choices"][0]["message"]["content"].strip()

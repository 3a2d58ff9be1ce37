"""Replies that no benchmark's author expected are scored quickly and written as JSON."""

import json
import random
import time

import published_files
import pytest

from vxlpro_jax.evals import registry
from vxlpro_jax.evals.results import Results

# Replies of a model that repeats itself, so long that backtracking would take hours.
CIRCLES = [
    *("1" * 50_000, "1" + " " * 50_000, "1 - " * 9000, "1-" * 9000, "0." * 20_000, "1:" * 20_000),
    *("start 1 " * 9000, "from " * 20_000, "5 m 5 s " * 5000, "1 minutes " * 5000, "A" * 50_000),
    *("(A" * 20_000, ")" * 50_000, "[" * 50_000, "{" * 50_000, "]" * 50_000, '{"a":' * 9000),
    *("```json\n[" * 20_000, "```json\n[1" * 9000 + "]\n" * 20_000, "]" + "\n" * 50_000),
]
HUGE = [
    *("9" * 400, "9" * 5000, f"{'9' * 400} - {'9' * 500}", f"start {'9' * 400}\nend {'9' * 500}"),
    *(f"{'9' * 400} min 3 s", f"{'9' * 5000} min 3 s to 1 s", '{"1": [1e999, NaN, -Infinity, 9]}'),
    f'{{"1": {"[" * 900}{"]" * 900}}}',
    f'{{"1": [1{"0" * 200}, 0, 1{"0" * 300}, 1{"0" * 200}]}}',
]
ODD = ["", " ", "\0", "\ud800", "\u2028B", "\ufeffA", "\u0130", "\uff21", "\u0663 - \u0669", "</s>"]


def soup(number):
    """Returns pieces of replies in random order."""
    pieces = [*"ABCD12390", *".:-,;()[]{}'\"\n \t!?%s", " to ", "start", "end", "12", "yes", "null"]
    return "".join(random.Random(number).choices(pieces, k=number % 40))


REPLIES = [*CIRCLES, *HUGE, *ODD, *map(soup, range(200))]


@pytest.mark.parametrize("profile", ["official", "legacy2025"])
@pytest.mark.parametrize("name", list(registry.find_all()))
def test_every_reply_is_scored_in_a_short_time(name, profile, tmp_path):
    benchmark = registry.find(name)
    record, *_ = benchmark.read(published_files.write_annotations(name, tmp_path))
    started = time.monotonic()
    for reply in REPLIES:
        scored = benchmark.score_all([record], {record.id: reply}, profile=profile)
        found = Results.of(benchmark, scored, profile=profile).to_json()
        json.dumps(found, allow_nan=False)
        json.dumps(found, indent=1)  # The encoder in Python allows less nesting than that in C.
    assert time.monotonic() - started < 20

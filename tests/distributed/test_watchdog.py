"""Tests the limits of the watchdog with a clock that the test sets."""

import pytest

from vxlpro_jax.distributed.process_group import ProcessGroup
from vxlpro_jax.distributed.watchdog import Watchdog

pytestmark = pytest.mark.slow


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr("vxlpro_jax.distributed.watchdog.time.monotonic", clock)
    return clock


@pytest.fixture
def watchdog(clock):
    """The watchdog of a run with a timeout of ten seconds; its thread is not started."""
    return Watchdog(ProcessGroup(timeout=10))


def limit(watchdog, clock):
    """Returns the seconds after which the step is overdue, to a tenth."""
    began = clock.now
    while not watchdog.is_overdue():
        clock.now += 0.1
    spent, clock.now = clock.now - began, began
    return round(spent, 1)


def steps(watchdog, clock, *durations, first=1):
    for step, seconds in enumerate(durations, first):
        watchdog.reads(step)
        clock.now += seconds
    watchdog.reads(first + len(durations))


def test_no_limit_before_the_first_step(watchdog, clock):
    clock.now += 1e9
    assert not watchdog.is_overdue()


def test_first_step_may_compile(watchdog, clock):
    watchdog.reads(1)
    assert limit(watchdog, clock) == pytest.approx(100, abs=0.2)


def test_quick_steps_may_take_the_timeout(watchdog, clock):
    steps(watchdog, clock, 90, 0.1, 0.1, 0.2)
    assert limit(watchdog, clock) == pytest.approx(10, abs=0.2)


def test_slow_steps_may_take_ten_medians(watchdog, clock):
    """Neither the first step nor an outlier affects the limit."""
    steps(watchdog, clock, 90, 3, 4, 5, 4, 9)
    assert limit(watchdog, clock) == pytest.approx(40, abs=0.2)


def test_a_save_may_take_longer_and_is_not_counted(watchdog, clock):
    steps(watchdog, clock, 90, 1, 1)
    clock.now += 4
    with watchdog.patient():
        assert limit(watchdog, clock) == pytest.approx(100, abs=0.2)
        clock.now += 80
    assert limit(watchdog, clock) == pytest.approx(6, abs=0.2)

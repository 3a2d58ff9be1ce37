"""Calls in a second thread, at most one of which is unfinished."""

import threading

import pytest

from vxlpro_jax.utils.one_ahead import OneAhead


def test_calls_run_in_order_and_have_ended_afterwards():
    done = []
    with OneAhead() as ahead:
        for number in range(100):
            ahead.run(done.append, number)
    assert done == list(range(100))


def test_at_most_one_call_is_unfinished():
    may_end, started = threading.Event(), []

    def call(number):
        started.append(number)
        assert may_end.wait(60)

    def start_two():
        with OneAhead() as ahead:
            ahead.run(call, 1)
            ahead.run(call, 2)

    caller = threading.Thread(target=start_two)
    caller.start()
    caller.join(0.1)
    assert started in ([], [1])
    may_end.set()
    caller.join(60)
    assert started == [1, 2]


def fail():
    raise ZeroDivisionError


def run_all(*calls, error=None):
    with OneAhead() as ahead:
        for call in calls:
            ahead.run(call)
        if error:
            raise error


@pytest.mark.parametrize("calls", [(fail,), (fail, dict), (dict, fail)])
def test_an_exception_of_a_call_is_raised(calls):
    with pytest.raises(ZeroDivisionError):
        run_all(*calls)


def test_an_exception_of_the_block_is_not_hidden():
    with pytest.raises(KeyError):
        run_all(fail, error=KeyError())

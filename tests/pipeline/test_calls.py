"""Calls of Ray have a deadline, keep their order and are in no signal's way; no Ray here."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator

import pytest

from ffpipe.engines.ray.calls import Caller
from ffpipe.system.errors import ClusterLost


@pytest.fixture
def caller() -> Caller:
    """A thread of this test's own, which may be left behind."""
    return Caller()


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """A gate that a call waits for, so that it does not return."""
    gate = threading.Event()
    yield gate
    gate.set()


def test_an_answer_and_an_error_come_through(caller: Caller) -> None:
    def fails() -> None:
        raise TimeoutError("its own")

    assert caller.within(60, "", lambda: 7) == 7
    with pytest.raises(TimeoutError, match="its own"):
        caller.within(60, "", fails)


def test_all_calls_are_made_by_one_thread(caller: Caller) -> None:
    threads = {caller.within(60, "", threading.get_ident) for _ in range(3)}
    assert len(threads) == 1
    assert threading.get_ident() not in threads


def test_what_does_not_answer_has_a_deadline_and_holds_up_the_next(gate: threading.Event, caller: Caller) -> None:
    made: list[int] = []
    with pytest.raises(ClusterLost, match=r"Ray has not answered for 0.05 s, asked for its nodes"):
        caller.within(0.05, "for its nodes", gate.wait)
    with pytest.raises(ClusterLost):
        caller.within(0.05, "", lambda: made.append(1))
    gate.set()
    assert caller.within(60, "", lambda: made) == []  # nobody waits for it any more
    assert not caller.stuck


def test_something_else_is_done_meanwhile(gate: threading.Event, caller: Caller) -> None:
    seen: list[int] = []

    def meanwhile() -> None:
        seen.append(1)
        if len(seen) == 3:
            gate.set()

    assert caller.within(60, "", lambda: gate.wait(60), meanwhile)
    assert len(seen) == 3
    with pytest.raises(ClusterLost):
        caller.within(0.05, "", threading.Event().wait, lambda: None)


def test_one_that_is_stuck_is_left_behind(gate: threading.Event, caller: Caller) -> None:
    with pytest.raises(ClusterLost):
        caller.within(0.05, "", gate.wait)
    caller.leave_behind()
    assert caller.within(60, "", lambda: 7) == 7
    assert caller.stuck


def test_a_signal_is_heard_while_it_is_waited_for(gate: threading.Event, caller: Caller) -> None:
    main = threading.main_thread().ident
    assert main is not None

    def stuck() -> None:
        signal.pthread_kill(main, signal.SIGINT)
        gate.wait()

    with pytest.raises(KeyboardInterrupt):
        caller.within(10, "", stuck)  # all of these pass where the signal comes right before the wait


def test_an_interrupt_leaves_a_call_behind_that_has_begun(gate: threading.Event, caller: Caller) -> None:
    def interrupt() -> None:
        if begun.is_set():
            raise KeyboardInterrupt

    def call() -> None:
        begun.set()
        gate.wait()

    begun = threading.Event()
    with pytest.raises(KeyboardInterrupt):
        caller.within(60, "", call, interrupt)
    assert caller.stuck

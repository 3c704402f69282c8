"""The controller's decisions, on plain numbers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ffpipe.runs.recovery import Again, GiveUp, Recovery


def test_losses_in_a_row_wait_longer_and_end() -> None:
    recovery = Recovery(attempts=3, back_off=1.0)
    assert [recovery.failed("lost", 0) for _ in range(3)] == [Again(1.0), Again(2.0), Again(4.0)]
    assert isinstance(recovery.failed("lost", 0), GiveUp)


# In the second, the snapshot of step 20 was found damaged after the first failure.
@pytest.mark.parametrize("steps", [(0, 10, 20), (20, 10, 15)], ids=["a new snapshot", "further back"])
def test_another_snapshot_brings_all_attempts_back(steps: tuple[int, ...]) -> None:
    recovery = Recovery(attempts=1, back_off=1.0)
    assert [recovery.failed("lost", step) for step in steps] == [Again(1.0)] * 3
    assert isinstance(recovery.failed("lost", steps[-1]), GiveUp)


def test_the_same_error_twice_ends_the_run_before_all_attempts_are_used() -> None:
    recovery = Recovery(attempts=10, back_off=0.0)
    assert recovery.failed("error", 5) == Again(0.0)
    assert isinstance(recovery.failed("error", 5), GiveUp)
    recovery = Recovery(attempts=10, back_off=0.0)
    assert recovery.failed("error", 5) == Again(0.0)
    assert recovery.failed("error", 9) == Again(0.0)


@given(st.integers(0, 5), st.lists(st.tuples(st.sampled_from(["lost", "error"]), st.booleans()), max_size=60))
def test_without_progress_it_always_ends(attempts: int, failures: list[tuple[str, bool]]) -> None:
    recovery, step, in_a_row = Recovery(attempts, 1.0), 0, 0
    for kind, progress in failures:
        step += progress
        in_a_row = 1 if progress else in_a_row + 1
        decision = recovery.failed(kind, step)  # type: ignore[arg-type]  # sampled from the two kinds
        if isinstance(decision, GiveUp):
            return
        assert in_a_row <= attempts
        assert decision.wait == 2.0 ** (in_a_row - 1)

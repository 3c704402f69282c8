"""The schedule of Hinton's program, epoch by epoch."""

from __future__ import annotations

from ffpipe.learn.rates import rate_factor


def test_hinton_is_flat_for_half_the_epochs_then_falls_in_a_line() -> None:
    factors = [rate_factor("hinton", epoch, 10) for epoch in range(10)]
    assert factors == [1, 1, 1, 1, 1, 0.9, 0.7, 0.5, 0.3, 0.1]


def test_constant_is_one() -> None:
    assert {rate_factor("constant", epoch, 7) for epoch in range(7)} == {1.0}

"""Learning-rate schedules: the factor on every rate in each epoch."""

from __future__ import annotations


def rate_factor(schedule: str, epoch: int, epochs: int) -> float:
    """The factor in `epoch` (counted from 0) of `epochs`.

    "hinton" is the schedule of Hinton's program: 1 for the first half of the epochs, then
    (1 + 2 * (epochs - e)) / epochs with e counted from 1, which falls linearly to 1 / epochs.
    """
    if schedule == "constant" or 2 * (epoch + 1) <= epochs:
        return 1.0
    return (1.0 + 2.0 * (epochs - (epoch + 1))) / epochs

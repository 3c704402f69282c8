"""Learning-rate schedules: the factor on a rate at each step."""

from __future__ import annotations

import math
import typing
from dataclasses import dataclass

from ffpipe.config.blocks import Schedule

SCHEDULES = typing.get_args(Schedule)
# The share of the steps in which "onecycle" rises.
RISE = 0.25


def rate_factor(schedule: str, epoch: int, epochs: int) -> float:
    """Return the factor in `epoch` (counted from 0) of `epochs`, for the schedules that are constant within an epoch.

    "hinton" is the schedule of Hinton's program: 1 for the first half of the epochs, then
    (1 + 2 * (epochs - e)) / epochs with e counted from 1, which falls linearly to 1 / epochs. "ff-py" is that of its
    NumPy port, which counts e from 0 and falls to 3 / epochs.
    """
    if schedule == "ff-py":
        return min(1.0, (1.0 + 2.0 * (epochs - epoch)) / epochs)
    if schedule == "constant" or 2 * (epoch + 1) <= epochs:
        return 1.0
    return (1.0 + 2.0 * (epochs - (epoch + 1))) / epochs


@dataclass(frozen=True)
class Rates:
    """The factors of one block or read-out over a run.

    schedule: its name in the config. epochs: of the run. first, last: the epochs from and before which the block
    learns; its schedule runs over these. milestones, decay: of schedule "steps", in epochs since `first`.
    """

    schedule: str
    steps_per_epoch: int
    epochs: int
    first: int = 0
    last: int = 0
    milestones: tuple[int, ...] = ()
    decay: float = 1.0

    def factor(self, step: int) -> float | None:
        """Return the factor at a step; None where the block does not learn.

        "cosine": (1 + cos(pi p)) / 2, p the share of the steps that are done. "onecycle": linearly from 0 to 1 in the
        first quarter of the steps, then linearly to 0. "steps": times `decay` after each of the milestones.
        """
        last = self.last or self.epochs
        epoch = step // self.steps_per_epoch
        if not self.first <= epoch < last:
            return None
        if self.schedule == "steps":
            return self.decay ** sum(epoch - self.first >= milestone for milestone in self.milestones)
        if self.schedule in ("constant", "hinton", "ff-py"):
            return rate_factor(self.schedule, epoch - self.first, last - self.first)
        steps = (last - self.first) * self.steps_per_epoch
        # The middle of a step, so that "onecycle" has no first step with a rate of 0.
        done = (step - self.first * self.steps_per_epoch + 0.5) / steps
        if self.schedule == "cosine":
            return 0.5 * (1.0 + math.cos(math.pi * done))
        return done / RISE if done < RISE else (1.0 - done) / (1.0 - RISE)

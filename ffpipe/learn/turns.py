"""Turns: of which roles the rows of a step are, and which minibatch of these it has.

together, apart    step t has minibatch t of all roles
by-epoch           P P ... P N N ... N   P P ... P N N ... N   an epoch's positive minibatches, then its negative ones
"""

from __future__ import annotations

from dataclasses import dataclass

from ffpipe.config.schema import Training
from ffpipe.data.sampler import Sampler
from ffpipe.data.splits import Splits
from ffpipe.learn.spec import NEGATIVE, POSITIVE


@dataclass(frozen=True)
class Turns:
    """The steps of an epoch. positive: how many, the first, have positive rows alone, and the others negative ones; 0:
    each has rows of all roles."""

    steps_per_epoch: int
    positive: int = 0

    def role(self, step: int) -> str:
        """Return the one role of a step's rows; "" where it has them all."""
        if not self.positive:
            return ""
        return POSITIVE if step % self.steps_per_epoch < self.positive else NEGATIVE

    def minibatch(self, step: int) -> int:
        """Number the minibatch of a step among those of its role since the start of the run."""
        epoch, place = divmod(step, self.steps_per_epoch)
        match self.role(step):
            case "positive":
                return epoch * self.positive + place
            case "negative":
                return epoch * (self.steps_per_epoch - self.positive) + place - self.positive
        return step

    def of_all_roles(self, step: int) -> tuple[int, ...]:
        """Return the step, or where it has rows of one role the step and its like of the other role in its epoch,
        positive rows first."""
        if not self.positive:
            return (step,)
        negative = self.steps_per_epoch - self.positive
        place = step % self.steps_per_epoch
        first = step - place
        place -= 0 if self.role(step) == POSITIVE else self.positive
        return first + min(place, self.positive - 1), first + self.positive + min(place, negative - 1)


def turns_of(training: Training, splits: Splits) -> Turns:
    """Work out the turns of a run. Raises UserError where there are fewer examples than a minibatch has."""
    size, seed = training.batch_size, training.seed
    steps = Sampler(len(splits.train), size, seed).steps_per_epoch
    negative = Sampler(len(splits.others), size, seed).steps_per_epoch if training.takes_others else steps
    return Turns(steps + negative, steps) if training.in_turns else Turns(steps)

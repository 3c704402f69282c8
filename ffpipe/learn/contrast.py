"""Losses of pairs: what a layer makes small, given the goodness of positive and of negative rows.

Such a loss knows goodness alone; the layer carries its derivative on to weights. A new one is a class here, a part of
`PairLoss`, a line of `make_pair_loss`, and a word of `Pairs.objective` (config/pairs.py).
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from ffpipe.learn.threads import sigmoid, softplus


class Slope(NamedTuple):
    """A loss and its derivative by each goodness, each (B,)."""

    loss: Tensor
    positive: Tensor
    negative: Tensor


class ThresholdLoss:
    """weight * [softplus(-(g_pos - threshold) / T) + softplus((g_neg - threshold) / T)].

    The logistic probability that a row is positive is sigmoid((g - threshold) / T) (Hinton, arXiv
    2212.13345, equation 1). weight 1/2 is the mean over positive and negative rows (the loss of the Keras example)
    and gives, with a sum of squares as goodness, the update of Hinton's program, which leaves out the 2 in
    d(y^2) = 2y dy.
    """

    def __init__(self, threshold: float, temperature: float, weight: float) -> None:
        self.threshold = threshold
        self.temperature = temperature
        self.weight = weight

    def __call__(self, positive: Tensor, negative: Tensor) -> Slope:
        """Return the loss of each pair and its derivatives. positive, negative: (B,) goodness."""
        below = (self.threshold - positive) / self.temperature
        above = (negative - self.threshold) / self.temperature
        slope = self.weight / self.temperature
        return Slope(
            loss=(softplus(below) + softplus(above)) * self.weight,
            positive=sigmoid(below).mul_(-slope),
            negative=sigmoid(above).mul_(slope),
        )

    def of_role(self, goodness: Tensor, sign: float) -> tuple[Tensor, Tensor, Tensor]:
        """Judge rows (B,) that are all positive (sign 1) or all negative (-1): their part of the loss of a pair, its
        derivative by the goodness, and which of them are on the wrong side of the threshold."""
        behind = (self.threshold - goodness) * (sign / self.temperature)
        slope = sigmoid(behind).mul_(-sign * self.weight / self.temperature)
        return softplus(behind) * self.weight, slope, behind > 0


class SymmetricLoss:
    """softplus(-(g_pos - g_neg) / T): no threshold, and each pair counts by how little it is told apart.

    SymBa (Lee and Song, arXiv 2303.08418), where 1 / T is called alpha.
    """

    # For `count_errors`, which asks every loss for one: here it is the difference alone that counts.
    threshold = 0.0

    def __init__(self, temperature: float) -> None:
        self.temperature = temperature

    def __call__(self, positive: Tensor, negative: Tensor) -> Slope:
        behind = (negative - positive) / self.temperature
        slope = sigmoid(behind).div_(self.temperature)
        return Slope(loss=softplus(behind), positive=-slope, negative=slope)

    def of_role(self, goodness: Tensor, sign: float) -> tuple[Tensor, Tensor, Tensor]:
        # The config refuses it with phases in which rows of one role learn alone (config/pairs.py).
        raise AssertionError("it compares pairs")


PairLoss = ThresholdLoss | SymmetricLoss


def count_errors(objective: PairLoss, measure: str, positive: Tensor, negative: Tensor) -> list[Tensor]:
    """Count the pairs whose negative row is taken for the better one, each (). positive, negative: (B,) goodness.

    The first count compares these. With measure "logistic" a second one compares the probabilities of being positive,
    sigmoid((g - threshold) / T), as Hinton's NumPy port does, in float64: they are equal, which is not an error, where
    that has both as 1.
    """
    found = [(negative > positive).sum()]
    if measure == "logistic":
        sure, negative = (
            sigmoid((each.double() - objective.threshold) / objective.temperature) for each in (positive, negative)
        )
        found.append((negative > sure).sum())
    return found


def positive_loss(objective: PairLoss, goodness: Tensor) -> Tensor | None:
    """Return the positive rows' part of the loss of pairs, (n,); None where that is not the sum of two parts."""
    # Wide, as tallies of evaluations add up doubles, whose sums do not depend on how examples are batched (tally.py).
    return objective.of_role(goodness, 1.0)[0].double() if isinstance(objective, ThresholdLoss) else None


def make_pair_loss(kind: str, goodness: str, width: int, threshold: float | None, temperature: float) -> PairLoss:
    """Make the loss of a layer of `width` units; without a threshold it is what a mean square of 1 gives."""
    if kind == "symba":
        return SymmetricLoss(temperature)
    if threshold is None:
        threshold = float(width) if goodness == "sum" else 1.0
    return ThresholdLoss(threshold, temperature, weight=0.5 if kind == "hinton" else 1.0)

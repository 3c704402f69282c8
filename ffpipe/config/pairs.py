"""The fields of the objective of dense Forward-Forward layers: a loss of pairs of goodness, and its updates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from msgspec import Meta

from ffpipe.system.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """The part of `training` that says how blocks learn from pairs of a positive and a negative row.

    `objective` is the loss of a pair here. A block's own `objective` (blocks.py) says whether it learns from pairs at
    all, or by a class head.
    """

    goodness: Annotated[Literal["sum", "mean"], Meta(description="of the squared activities of a layer")] = "sum"
    objective: Annotated[
        Literal["hinton", "softplus", "symba"],
        Meta(
            description="loss of a pair of goodness; hinton: half the logistic loss of (goodness - threshold); "
            "softplus: the whole of it; symba: that of (positive goodness - negative goodness)"
        ),
    ] = "hinton"
    threshold: Annotated[
        float | None, Meta(description="of the goodness; none given: the layer's width for sum, 1 for mean")
    ] = None
    temperature: Annotated[
        float, Meta(gt=0, description="divides what the objective takes the logistic loss of; symba: 1 / alpha")
    ] = 1.0
    # The NumPy and JAX ports count by probabilities; by goodness the same weights have 20 to 50 % more errors.
    pair_errors: Annotated[
        Literal["goodness", "logistic"],
        Meta(
            description="an error of a pair is a negative row with the higher goodness; logistic: metrics have beside "
            "these those with the higher probability of being positive, which float64 has alike where both are near 1"
        ),
    ] = "goodness"
    phases: Annotated[
        Literal["together", "apart", "by-epoch"],
        Meta(
            description="one update for positive and negative rows together, or first one for the positive (apart); "
            "by-epoch: a step has rows of one role, all positive minibatches of an epoch come first, and the head "
            "learns from these"
        ),
    ] = "together"
    local_steps: Annotated[int, Meta(ge=1, description="updates that a layer makes on each minibatch")] = 1
    # Strength and averaging are those of Hinton's program (ffnew.m).
    peer: Annotated[float, Meta(ge=0, description="strength of peer normalisation; 0: off")] = 0.03
    peer_averaging: Annotated[float, Meta(ge=0, lt=1, description="share of the old mean activity kept")] = 0.9

    @property
    def updates(self) -> int:
        """Number of updates that a layer makes in a step."""
        return self.local_steps * (2 if self.phases == "apart" else 1)

    def check_phases(self) -> None:
        """Refuse a loss that the phases cannot have; for networks with negatives alone."""
        if self.phases != "together" and self.objective == "symba":
            raise UserError("training.objective 'symba' compares each pair: set training.phases together")

"""The fields of negative rows: the rule that makes them, and labels in rows, which most rules make wrong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from msgspec import Meta

from ffpipe.config.limits import MOST_LAG
from ffpipe.system.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Negatives:
    """The part of `training` that is about labels in rows and negatives."""

    labels: Annotated[
        Literal["overlay", "append", "planes", "none"],
        Meta(
            description="labels replace the first features, or follow the last one, or are further channels (planes), "
            "or stay out: the image alone"
        ),
    ] = "overlay"
    label_strength: Annotated[float, Meta(gt=0, description="value of a label's feature")] = 1.0
    negatives: Annotated[
        Literal["random", "fixed", "shuffled", "hard", "adaptive", "hybrid", "others", "others-fixed", "none"],
        Meta(
            description="wrong labels: drawn each time (random) or once (fixed), the minibatch's own in another "
            "order (shuffled), drawn from the head's predictions (hard), what it believes in most (adaptive); or other "
            "images: two mixed under a mask (hybrid), classes beyond data.positive_classes under labels drawn each "
            "time (others) or once (others-fixed); none: no negatives"
        ),
    ] = "hard"
    # A lag costs no error that the spread of seeds does not hide: measured from 0 to 256 (docs/reproduction.md).
    negative_lag: Annotated[
        int,
        Meta(
            ge=0,
            le=MOST_LAG,
            description="minibatches between a prediction and the negatives it makes; 0: Hinton's lock step",
        ),
    ] = 48
    # The TensorFlow program reads goodness so (five_digits.py), of a network that never saw a label.
    test_labels: Annotated[
        Literal["none", "overlay"],
        Meta(description="labels none: tests read goodness all the same, with each label over the image (overlay)"),
    ] = "none"

    @property
    def read_labels(self) -> str:
        """The way in which tests put labels into rows."""
        return self.labels if self.labels != "none" else self.test_labels

    @property
    def takes_others(self) -> bool:
        """True where the negatives are images of further classes."""
        return self.negatives in ("others", "others-fixed")

    def check_labels(self) -> None:
        """Refuse rules for negatives that these rows cannot have; for networks with negatives alone."""
        labelled = self.labels != "none"
        if labelled and self.negatives == "hybrid":
            raise UserError(
                "training.negatives 'hybrid' mixes two images, so there is no one label: set training.labels none"
            )
        if not labelled and self.negatives != "hybrid" and not self.takes_others:
            raise UserError(
                f"training.negatives {self.negatives!r} are wrong labels, but training.labels is 'none': "
                "set training.negatives hybrid, or training.labels overlay"
            )
        if labelled and self.test_labels != "none":
            raise UserError(
                f"training.test_labels are for rows that carry none, but training.labels is {self.labels!r}: set one "
                "of them to none"
            )

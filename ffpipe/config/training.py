"""The half of a config that says what is computed: each field may change the weights."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from msgspec import Meta

from ffpipe.config.blocks import Augmentation, Schedule
from ffpipe.config.data import Data
from ffpipe.config.limits import MOST_SHARDS
from ffpipe.config.negatives import Negatives
from ffpipe.config.network import Network
from ffpipe.config.optimizer import Optimizer
from ffpipe.config.pairs import Pairs
from ffpipe.config.readout import Readout


@dataclass(frozen=True, kw_only=True)
class Training(Readout, Negatives, Pairs, Network):
    """The half of a config that says what is computed. Every field may change the weights."""

    epochs: Annotated[int, Meta(ge=1, description="passes over the training examples")] = 10
    batch_size: Annotated[int, Meta(ge=1, description="examples in a minibatch")] = 100
    shards: Annotated[
        int,
        Meta(
            ge=1,
            le=MOST_SHARDS,
            description="fixed parts of every minibatch, a power of 2, whose gradients are added up along one tree; "
            "execution.replicas divides them among processes",
        ),
    ] = 1
    seed: Annotated[int, Meta(ge=0, description="of all that is drawn by chance")] = 1
    # bfloat16 keeps weights and sums in float32, since updates would vanish in seven bits.
    precision: Annotated[
        Literal["float32", "bfloat16", "float64"],
        Meta(description="of weights and products; bfloat16: products and streams, with weights and sums in float32"),
    ] = "float32"
    normalization: Annotated[
        Literal["rms", "l2"], Meta(description="rows are divided by their root mean square or by their L2 norm")
    ] = "rms"
    # Hinton's program and its ports add 1e-20; the Keras example 1e-4, the TensorFlow program 1e-7.
    normalization_epsilon: Annotated[
        float, Meta(gt=0, description="added to that, so that a row of zeros stays one")
    ] = 1e-20
    normalize_inputs: Annotated[
        bool, Meta(description="divide the rows before the first layer too, or only those between layers")
    ] = True
    initialization: Annotated[
        Literal["normal", "glorot"],
        Meta(description="of the weights: normal deviates over sqrt(fan-in), or uniform as Glorot and Bengio have it"),
    ] = "normal"
    dropout: Annotated[float, Meta(ge=0, lt=1, description="share of a layer's activities dropped in training")] = 0.0
    # "before" lets rows leave while the block still learns from them.
    hand_on: Annotated[
        Literal["before", "after"], Meta(description="activities go on from before a layer's update or from after it")
    ] = "before"
    optimizer: Annotated[Optimizer, Meta(description="of the layers")] = field(default_factory=Optimizer)
    schedule: Annotated[
        Schedule,
        Meta(
            description="hinton: learning rates constant for half the epochs, then linearly towards zero; ff-py: the "
            "same with epochs counted from 0; cosine: half a period of it; onecycle: linearly up for a quarter of the "
            "steps, then down to zero; steps: times decay after each of the milestones"
        ),
    ] = "hinton"
    milestones: Annotated[
        tuple[Annotated[int, Meta(ge=1)], ...], Meta(description="schedule steps: numbers of epochs that are done")
    ] = ()
    decay: Annotated[float, Meta(gt=0, le=1, description="schedule steps: what rates are multiplied by")] = 0.1
    jitter: Annotated[
        int, Meta(ge=0, description="pixels by which training images are shifted at most, anew at each step")
    ] = 0
    augmentation: Augmentation = field(default_factory=Augmentation)
    standardize: Annotated[
        bool, Meta(description="subtract a mean and divide by a deviation for each channel of an image")
    ] = False
    mean: Annotated[
        tuple[float, ...], Meta(description="the mean of each channel; none: that of the training split")
    ] = ()
    deviation: Annotated[
        tuple[float, ...], Meta(description="the deviation of each channel; none: that of the training split")
    ] = ()
    memory_format: Annotated[
        Literal["contiguous", "channels-last"], Meta(description="how blocks that are trained by autograd keep images")
    ] = "contiguous"
    checkpointing: Annotated[
        bool, Meta(description="method backprop: keep the activations of no block, and make them again")
    ] = False
    accumulation: Annotated[
        int,
        Meta(
            ge=1,
            description="blocks without negatives that are trained by autograd: parts of a minibatch, worked one after "
            "the other, whose gradients are summed for one update; batch normalisation is over a part",
        ),
    ] = 1
    data: Data = field(default_factory=Data)

    @property
    def contrasts(self) -> bool:
        """True where blocks learn from positive against negative rows, or else from the examples alone."""
        return self.negatives != "none" and self.method != "backprop"

    @property
    def by_autograd(self) -> bool:
        """True where blocks may be other ones than dense Forward-Forward layers, whose gradient has a closed form."""
        return bool(self.model or self.blocks) or not self.contrasts

    @property
    def labelled(self) -> bool:
        """True where rows carry a label, so that goodness can be read under each."""
        return self.contrasts and self.labels != "none"

    @property
    def reads_goodness(self) -> bool:
        """True where tests read goodness under each label, which takes as many passes as there are classes."""
        return self.contrasts and self.read_labels != "none" and self.readout != "softmax"

    @property
    def yardstick(self) -> Optimizer:
        """The optimiser of the whole network by backpropagation: Adam's defaults where the config's is for pairs, or
        Forward-Forward's own."""
        own = self.negatives == "none" and self.optimizer.kind != "averaging"
        return self.optimizer if own else Optimizer(kind="Adam", learning_rate=0.001)

    @property
    def in_turns(self) -> bool:
        """True where a step has rows of one role alone."""
        return self.contrasts and self.phases == "by-epoch"

    @property
    def lookahead(self) -> int | None:
        """Number of minibatches ahead that the head must predict; None where negatives do not ask it."""
        return self.negative_lag if self.contrasts and self.negatives in ("hard", "adaptive") else None

    @property
    def most_in_flight(self) -> int | None:
        """The most minibatches in flight; None where any number may be.

        No minibatch leaves before the predictions that it needs are back; in lock step one does at a time.
        """
        return None if self.lookahead is None else max(self.lookahead, 1)

"""The softmax head: a linear classifier on the normalised activities of the layers, trained beside them.

    logits = sum over its layers of y_l S_l      (+ a bias where asked for: Hinton's program never trains one)

It sees rows under the neutral label, or where steps have rows of one role the positive ones, and no gradient of it
enters a layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ffpipe.config.limits import MOST_LAYERS
from ffpipe.config.schema import Training
from ffpipe.learn.denormals import is_due
from ffpipe.learn.dense import initial_weight
from ffpipe.learn.precision import PRECISIONS
from ffpipe.learn.products import accumulate, mm
from ffpipe.learn.shards import Shards
from ffpipe.learn.threads import exp, log_softmax, total
from ffpipe.learn.updates import gradient_of, make_update
from ffpipe.learn.workspace import Workspace
from ffpipe.storage.checkpoint import TensorSpec

# In the place of a layer's index, where the head's first weights are drawn: beyond all layers.
HEAD_INDEX = MOST_LAYERS


class HeadStep(NamedTuple):
    """The head's answers for a minibatch from before its update."""

    probabilities: Tensor  # (B, classes)
    loss: Tensor  # summed over the minibatch, 0-dimensional
    errors: Tensor


class Head(nn.Module):
    """Weights S_l (width, classes) for each block that it sees; they start at zero, or as those of one layer that sees
    all blocks side by side."""

    bias: nn.Parameter | None

    def __init__(self, training: Training, widths: Mapping[int, int], classes: int, workspace: Workspace) -> None:
        """widths: numbers in a row of each block that it sees, by block."""
        super().__init__()
        dtype, device = PRECISIONS[training.precision].weights, workspace.device
        self.layers = tuple(widths)
        for i, width in widths.items():
            weight = torch.zeros(width, classes, dtype=dtype, device=device)
            self.register_parameter(f"weight_{i}", nn.Parameter(weight, requires_grad=False))
        if training.head_initialization == "glorot" and device.type != "meta":
            drawn = initial_weight(training.seed, HEAD_INDEX, sum(widths.values()), classes, "glorot")
            for weight, part in zip(self._weights, drawn.split(list(widths.values())), strict=True):
                weight.copy_(part)
        bias = torch.zeros(classes, dtype=dtype, device=device) if training.head_bias else None
        self.register_parameter("bias", None if bias is None else nn.Parameter(bias, requires_grad=False))
        settings = training.head_optimizer
        self.rate = settings.learning_rate
        # The first layer's update makes that of the bias.
        biases = [self.bias, *[None] * (len(widths) - 1)]
        self._updates = [
            make_update(weight, bias, settings, weight, workspace)
            for weight, bias in zip(self._weights, biases, strict=True)
        ]

    @property
    def _weights(self) -> list[Tensor]:
        return [self.get_parameter(f"weight_{i}") for i in self.layers]

    def forward(self, activities: Sequence[Tensor]) -> Tensor:
        """Return `logits`."""
        return self.logits(activities)

    def logits(self, activities: Sequence[Tensor]) -> Tensor:
        """Return (n, classes). activities: the rows (n, ...) of each of its blocks, in their order."""
        activities, weights = self._wide(activities), self._weights
        logits = mm(activities[0], weights[0])
        for activity, weight in zip(activities[1:], weights[1:], strict=True):
            accumulate(logits, activity, weight)
        return logits if self.bias is None else logits.add_(self.bias)

    def step(self, step: int, activities: Sequence[Tensor], labels: Tensor, factor: float) -> HeadStep:
        """Make one step of softmax regression on labels (B,). step: of the run; factor: on the learning rate."""
        activities = self._wide(activities)
        made, delta = self._judge(activities, labels)
        for activity, update in zip(activities, self._updates, strict=True):
            update.step(activity, delta, len(labels), factor)
            if is_due(step):
                update.flush_denormals()
        return made

    def step_shards(
        self, step: int, shards: Sequence[tuple[Sequence[Tensor], Tensor]], of: Shards, factor: float
    ) -> HeadStep:
        """Do as `step`, from activities and labels of the shards that are here. Returns probabilities and sums of the
        whole minibatch."""
        examples = len(shards[0][1])

        def made() -> Iterator[list[Tensor]]:
            for index, (activities, labels) in zip(of.own, shards, strict=True):
                wide = self._wide(activities)
                (probabilities, loss, errors), delta = self._judge(wide, labels)
                # Those of other shards are 0 here, so that the sum is all of them side by side.
                all_of_them = probabilities.new_zeros(of.count * examples, probabilities.shape[1])
                all_of_them[index * examples : (index + 1) * examples] = probabilities
                bias = [] if self.bias is None else [total(delta, 0)]
                gradients = [
                    gradient_of(weight, activity, delta) for activity, weight in zip(wide, self._weights, strict=True)
                ]
                yield [loss, errors, all_of_them, *gradients, *bias]

        loss, errors, whole, *gradients = of.sum("the head", made())
        # The sums end with that of the bias, where there is one: the first update takes it.
        biases: list[Tensor | None] = [*gradients[len(self._updates) :], *[None] * len(self._updates)]
        for gradient, bias_gradient, update in zip(gradients, biases, self._updates, strict=False):
            update.apply(gradient, bias_gradient, of.count * examples, factor)
            if is_due(step):
                update.flush_denormals()
        return HeadStep(whole, loss, errors)

    def _judge(self, activities: Sequence[Tensor], labels: Tensor) -> tuple[HeadStep, Tensor]:
        """Return what examples come to by the weights as they are, and the derivative of their loss by the logits."""
        log_probabilities = log_softmax(self.logits(activities))
        probabilities = exp(log_probabilities)
        loss = -total(log_probabilities.gather(1, labels.unsqueeze(1)))
        errors = (log_probabilities.argmax(1) != labels).sum()
        # A copy: the probabilities are handed back as they are.
        delta = probabilities.clone()
        delta.scatter_add_(1, labels.unsqueeze(1), delta.new_full((len(labels), 1), -1.0))
        return HeadStep(probabilities, loss, errors), delta

    def _wide(self, activities: Sequence[Tensor]) -> list[Tensor]:
        """Flatten activities, in the format of the weights: the head is too small for another to pay."""
        dtype = self._weights[0].dtype
        return [activity.flatten(1).to(dtype) for activity in activities]

    def weights(self) -> dict[str, Tensor]:
        """Return S_l by layer, in layer order."""
        bias = {} if self.bias is None else {"bias": self.bias}
        return {f"weight.{i}": weight for i, weight in zip(self.layers, self._weights, strict=True)} | bias

    def state(self) -> dict[str, Tensor]:
        """Return what the head needs to go on."""
        optimizer = {
            f"optimizer.{i}.{name}": tensor
            for i, update in zip(self.layers, self._updates, strict=True)
            for name, tensor in update.state().items()
        }
        return {**self.weights(), **optimizer}

    def contents(self, steps: int) -> dict[str, TensorSpec]:
        """Give shapes and dtypes of what `state` has after so many steps."""
        optimizer = {
            f"optimizer.{i}.{name}": kept
            for i, update in zip(self.layers, self._updates, strict=True)
            for name, kept in update.contents(steps).items()
        }
        return {name: TensorSpec(tuple(w.shape), w.dtype) for name, w in self.weights().items()} | optimizer

    def load(self, state: dict[str, Tensor]) -> None:
        """Continue from what `state` returned."""
        for name, weight in self.weights().items():
            weight.copy_(state[name])
        for i, update in zip(self.layers, self._updates, strict=True):
            prefix = f"optimizer.{i}."
            update.load({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})

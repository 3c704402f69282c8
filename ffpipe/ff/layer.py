"""One dense Forward-Forward layer and its training step in closed form.

    total = x W + b,  h = relu(total),  goodness g = sum or mean of h^2,  hands on h / |h|

With a loss L(g_pos, g_neg) the derivative by the total input is (dL/dg) (dg/dh) = (dL/dg) 2 h [/ width],
already zero where relu is; so a step is one product forward over all rows and one for the gradient.
A layer knows nothing of stages, chunks or other layers. Its large buffers are made once.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ffpipe.config import Training
from ffpipe.ff.objectives import make_objective
from ffpipe.ff.precision import PRECISIONS
from ffpipe.ff.rows import row_scale
from ffpipe.ff.updates import make_update
from ffpipe.rng import generator


class StepLoss(NamedTuple):
    """What a step saw before its update: sums over the pairs of the minibatch, as 0-dimensional tensors."""

    loss: Tensor
    pair_errors: Tensor  # pairs whose negative row had the higher goodness


class Layer:
    """ReLU layer `index` (counted from 0) of a network, with its optimiser state.

    weight: (fan_in, width); bias: (width,); mean_activity: (width,), running mean over positive rows.
    """

    def __init__(self, index: int, fan_in: int, width: int, training: Training, device: torch.device) -> None:
        dtype, products = PRECISIONS[training.precision]
        self.index = index
        self.width = width
        self.weight = initial_weight(training.seed, index, fan_in, width).to(device=device, dtype=dtype)
        self.bias = torch.zeros(width, dtype=dtype, device=device)
        # 0.5 is where Hinton's program starts the running mean.
        self.mean_activity = torch.full((width,), 0.5, dtype=dtype, device=device)
        # In bfloat16 the products read a rounded copy of the weight, which every update renews.
        self._factor = self.weight if products == dtype else self.weight.to(products)
        self.update = make_update(self.weight, self.bias, training.optimizer, self._factor)
        self._training = training
        self._objective = make_objective(
            training.objective, training.goodness, width, training.threshold, training.temperature
        )
        self._goodness_factor = 1.0 if training.goodness == "sum" else 1.0 / width
        self._activity = torch.empty(0, width, dtype=dtype, device=device)
        self._product = self._activity if products == dtype else self._activity.to(products)

    def _activate(self, rows: Tensor, out: Tensor) -> tuple[Tensor, Tensor]:
        """Activities h (n, width), valid until the next call, and their goodness (n,); normalised into `out`."""
        activity = self._total(rows).relu_()
        squares = torch.linalg.vecdot(activity, activity)
        torch.mul(activity, row_scale(squares, self.width, self._training.normalization), out=out)
        return activity, squares * self._goodness_factor

    def _total(self, rows: Tensor) -> Tensor:
        """rows W + b, in a buffer that the next call uses again."""
        if len(self._activity) < len(rows):
            self._activity = self._activity.new_empty(len(rows), self.width)
            self._product = self._product.new_empty(len(rows), self.width)
        activity = self._activity[: len(rows)]
        if self._factor is self.weight:
            return torch.addmm(self.bias, rows, self.weight, out=activity)
        product = torch.mm(rows, self._factor, out=self._product[: len(rows)])
        return torch.add(product, self.bias, out=activity)

    def forward(self, rows: Tensor, out: Tensor) -> Tensor:
        """Normalised activities of rows (n, fan_in) into out (n, width); returns their goodness (n,)."""
        return self._activate(rows, out)[1]

    def step(self, rows: Tensor, pairs: int, factor: float, out: Tensor) -> StepLoss:
        """Train on rows[:pairs] as positive and rows[pairs:2*pairs] as negative data; only pass on the rest.

        rows: (n, fan_in), normalised; out: (n, width) gets the normalised activities from before the
        update; factor: on the learning rate.
        """
        activity, goodness = self._activate(rows, out)
        slope = self._objective(goodness[:pairs], goodness[pairs : 2 * pairs])
        pair_errors = (goodness[pairs : 2 * pairs] > goodness[:pairs]).sum()
        pull = self._peer_pull(activity[:pairs]) if self._training.peer else None
        delta = activity[: 2 * pairs]
        delta *= torch.cat([slope.positive, slope.negative]).mul_(2.0 * self._goodness_factor).unsqueeze_(1)
        if pull is not None:
            delta[:pairs] += pull
        self.update.step(rows[: 2 * pairs], delta, pairs, factor)
        return StepLoss(slope.loss.sum(), pair_errors)

    def _peer_pull(self, positive: Tensor) -> Tensor:
        """Peer normalisation (Hinton's program): a pull of each unit's mean activity to that of its layer.

        It acts on the total input as if it were a gradient even where the unit is off, so that it can
        revive units that never fire. Returns (width,), the derivative for each positive row.
        """
        keep = self._training.peer_averaging
        self.mean_activity.mul_(keep).add_(positive.mean(0), alpha=1.0 - keep)
        return (self.mean_activity - self.mean_activity.mean()).mul_(self._training.peer)

    def weights(self) -> dict[str, Tensor]:
        """What the trained network is made of."""
        return {"weight": self.weight, "bias": self.bias}

    def state(self) -> dict[str, Tensor]:
        """What the layer needs to go on: weights, running mean and optimiser state."""
        optimizer = {f"optimizer.{name}": tensor for name, tensor in self.update.state().items()}
        return {**self.weights(), "mean_activity": self.mean_activity, **optimizer}

    def load(self, state: dict[str, Tensor]) -> None:
        """Continue from what `state` returned."""
        self.weight.copy_(state["weight"])
        self._factor.copy_(self.weight)
        self.bias.copy_(state["bias"])
        self.mean_activity.copy_(state["mean_activity"])
        prefix = "optimizer."
        self.update.load({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})


def initial_weight(seed: int, index: int, fan_in: int, width: int) -> Tensor:
    """Normal deviates over sqrt(fan_in) (Hinton's program), a function of the seed and the layer: (fan_in, width)."""
    deviates = generator(seed, "weights", index).standard_normal((fan_in, width), dtype=np.float32)
    return torch.from_numpy(deviates / np.float32(np.sqrt(fan_in)))

"""One dense Forward-Forward layer and its training step in closed form.

    total = x W + b,  h = relu(total),  goodness g = sum or mean of h^2,  hands on h / |h|

With a loss L(g_pos, g_neg) the derivative by the total input is (dL/dg) (dg/dh) = (dL/dg) 2 h [/ width],
already zero where relu is; so a step is one product forward over all rows and one for the gradient.
A layer knows nothing of stages, chunks or other layers. Its large buffers are those of a workspace.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ffpipe.config.schema import Training
from ffpipe.learn.denormals import is_due, settle
from ffpipe.learn.objectives import make_objective
from ffpipe.learn.precision import PRECISIONS
from ffpipe.learn.products import addmm, mm
from ffpipe.learn.rows import row_scale
from ffpipe.learn.threads import mean, total
from ffpipe.learn.updates import make_update
from ffpipe.learn.workspace import Workspace
from ffpipe.system.rng import generator


class StepLoss(NamedTuple):
    """Sums over the pairs of the minibatch, as 0-dimensional tensors, each as its update found it."""

    loss: Tensor  # the mean over local steps
    pair_errors: Tensor  # pairs whose negative row had the higher goodness; at the first local step


class Layer:
    """ReLU layer `index` (counted from 0) of a network, with its optimiser state.

    weight: (fan_in, width); bias: (width,); mean_activity: (width,), running mean over positive rows.
    """

    def __init__(self, index: int, fan_in: int, width: int, training: Training, workspace: Workspace) -> None:
        """workspace: on the device of the layer; others may use it when this one does not compute."""
        device = workspace.device
        dtype, products = PRECISIONS[training.precision]
        self.index = index
        self.width = width
        weight = initial_weight(training.seed, index, fan_in, width, training.initialization)
        self.weight = weight.to(device=device, dtype=dtype, copy=True)  # so that the memory is torch's own
        self.bias = torch.zeros(width, dtype=dtype, device=device)
        # 0.5 is where Hinton's program starts the running mean.
        self.mean_activity = torch.full((width,), 0.5, dtype=dtype, device=device)
        # In bfloat16 the products read a rounded copy of the weight, which every update renews.
        self._factor = self.weight if products == dtype else self.weight.to(products)
        self.update = make_update(self.weight, self.bias, training.optimizer, self._factor, workspace)
        self._workspace = workspace
        self._training = training
        self._objective = make_objective(
            training.objective, training.goodness, width, training.threshold, training.temperature
        )
        self._goodness_factor = 1.0 if training.goodness == "sum" else 1.0 / width
        # d(goodness)/d(activity before dropout) is this times the activity after it.
        self._slope_factor = 2.0 * self._goodness_factor / (1.0 - training.dropout)
        self._update = self._update_together if training.phases == "together" else self._update_apart

    def _activate(self, rows: Tensor, out: Tensor, kept: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Activities h (n, width), valid until the next call, and their goodness (n,); normalised into `out`.

        kept: (n, width), factors of dropout, which come after the normalisation and before the goodness.
        """
        activity = self._total(rows).relu_()
        squares = self._squares(activity)
        scale = row_scale(squares, self.width, self._training.normalization)
        if out.dtype == activity.dtype:
            torch.mul(activity, scale, out=out)
        else:  # torch would take new memory for what it rounds
            out.copy_(torch.mul(activity, scale, out=self._like_squares(activity)))
        if kept is not None:
            out *= kept.to(out.dtype)
            activity *= kept
            squares = self._squares(activity)
        return activity, squares * self._goodness_factor

    def _squares(self, activity: Tensor) -> Tensor:
        """Their sum in each row, with the bits of torch.linalg.vecdot, which would take new memory for them."""
        return total(torch.mul(activity, activity, out=self._like_squares(activity)), 1)

    def _like_squares(self, activity: Tensor) -> Tensor:
        return self._workspace.take("squares", tuple(activity.shape), activity.dtype)

    def _total(self, rows: Tensor) -> Tensor:
        """rows W + b, in a buffer that the next call uses again."""
        shape = (len(rows), self.width)
        activity = self._workspace.take("activity", shape, self.weight.dtype)
        if self._factor is self.weight:
            return addmm(self.bias, rows, self.weight, out=activity)
        product = mm(rows, self._factor, out=self._workspace.take("product", shape, self._factor.dtype))
        return activity.copy_(product).add_(self.bias)  # in one call torch would take new memory for the product

    def forward(self, rows: Tensor, out: Tensor) -> Tensor:
        """Normalised activities of rows (n, fan_in) into out (n, width); returns their goodness (n,)."""
        return self._activate(rows, out)[1]

    def pass_neutral(self, step: int, rows: Tensor, out: Tensor) -> None:
        """Neutral rows (B, fan_in) of a minibatch into out (B, width) ahead of its step, with the dropout that they
        have where they come with the pairs, behind these."""
        self._activate(rows, out, self._kept(step, len(rows), behind=2 * len(rows)))

    def step(self, step: int, rows: Tensor, pairs: int, factor: float, out: Tensor) -> StepLoss:
        """Train on rows[:pairs] as positive and rows[pairs:2*pairs] as negative data; only pass on the rest.

        step: of the run. rows: (n, fan_in), normalised; out: (n, width) gets the normalised activities from before
        or after the updates (`training.hand_on`); factor: on the learning rate.
        """
        kept = self._kept(step, len(rows))
        first = self._update(rows, pairs, factor, out, kept)
        loss, spare = first.loss, out if self._training.hand_on == "after" else None
        for _ in range(1, self._training.local_steps):
            spare = torch.empty_like(out) if spare is None else spare
            loss = loss + self._update(rows, pairs, factor, spare, kept).loss
        if self._training.hand_on == "after":
            self._activate(rows, out, kept)
        if is_due(step, self._training.updates):
            settle([self.mean_activity])
            self.update.settle()
        return StepLoss(loss / self._training.local_steps, first.pair_errors)

    def _update_together(self, rows: Tensor, pairs: int, factor: float, out: Tensor, kept: Tensor | None) -> StepLoss:
        """One update on positive and negative rows."""
        activity, goodness = self._activate(rows, out, kept)
        positive, negative = goodness[:pairs], goodness[pairs : 2 * pairs]
        slope = self._objective(positive, negative)
        pair_errors = (negative > positive).sum()
        pull = self._peer_pull(activity[:pairs]) if self._training.peer else None
        delta = activity[: 2 * pairs]
        delta *= torch.cat([slope.positive, slope.negative]).mul_(self._slope_factor).unsqueeze_(1)
        if pull is not None:
            delta[:pairs] += pull
        self.update.step(rows[: 2 * pairs], delta, pairs, factor)
        return StepLoss(total(slope.loss), pair_errors)

    def _update_apart(self, rows: Tensor, pairs: int, factor: float, out: Tensor, kept: Tensor | None) -> StepLoss:
        """One update on the positive rows, then with the new weights one on the negative rows; the rows that only
        pass go with these."""
        of_positive, of_rest = (None, None) if kept is None else (kept[:pairs], kept[pairs:])
        delta, positive = self._activate(rows[:pairs], out[:pairs], of_positive)
        pull = self._peer_pull(delta) if self._training.peer else None
        delta *= self._objective(positive, positive).positive.mul_(self._slope_factor).unsqueeze_(1)
        if pull is not None:
            delta += pull
        self.update.step(rows[:pairs], delta, pairs, factor)
        activity, goodness = self._activate(rows[pairs:], out[pairs:], of_rest)
        negative = goodness[:pairs]
        slope = self._objective(positive, negative)
        delta = activity[:pairs]
        delta *= slope.negative.mul_(self._slope_factor).unsqueeze_(1)
        self.update.step(rows[pairs : 2 * pairs], delta, pairs, factor)
        return StepLoss(total(slope.loss), (negative > positive).sum())

    def _kept(self, step: int, rows: int, behind: int = 0) -> Tensor | None:
        """What dropout makes of each activity of a step (rows, width): 0, or 1 / (1 - dropout). behind: rows before."""
        dropout = self._training.dropout
        if not dropout:
            return None
        chance = generator(self._training.seed, "dropout", self.index, step)
        drawn = chance.integers(0, 1 << 16, size=(behind + rows, self.width), dtype=np.uint16)[behind:]
        kept = torch.from_numpy(drawn >= round(dropout * (1 << 16)))
        return kept.to(device=self.weight.device, dtype=self.weight.dtype).div_(1.0 - dropout)

    def _peer_pull(self, positive: Tensor) -> Tensor:
        """Peer normalisation (Hinton's program): a pull of each unit's mean activity to that of its layer.

        It acts on the total input as if it were a gradient even where the unit is off, so that it can
        revive units that never fire. Returns (width,), the derivative for each positive row.
        """
        keep = self._training.peer_averaging
        self.mean_activity.mul_(keep).add_(mean(positive, 0), alpha=1.0 - keep)
        return (self.mean_activity - mean(self.mean_activity)).mul_(self._training.peer)

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

    def scratch(self) -> list[Tensor]:
        """Tensors beside `state` that `renew` makes."""
        return [] if self._factor is self.weight else [self._factor]

    def renew(self) -> None:
        """Make the rounded copy of the weight, where there is one."""
        if self._factor is not self.weight:
            self._factor.copy_(self.weight)


def initial_weight(seed: int, index: int, fan_in: int, width: int, kind: str = "normal") -> Tensor:
    """A function of the seed and the layer: (fan_in, width) float32.

    kind "normal": deviates over sqrt(fan_in) (Hinton's program). "glorot": uniform within
    sqrt(6 / (fan_in + width)) (Glorot and Bengio 2010, equation 16; the start of a Keras layer).
    """
    chance = generator(seed, "weights", index)
    if kind == "glorot":
        limit = np.float32(np.sqrt(6.0 / (fan_in + width)))
        return torch.from_numpy((chance.random((fan_in, width), dtype=np.float32) * 2 - 1) * limit)
    deviates = chance.standard_normal((fan_in, width), dtype=np.float32)
    return torch.from_numpy(deviates / np.float32(np.sqrt(fan_in)))

"""One dense Forward-Forward layer and its training step in closed form.

    total = x W + b,  h = relu(total),  goodness g = sum or mean of h^2,  hands on h / |h|

With a loss L(g_pos, g_neg) (contrast.py) the derivative by the total input is (dL/dg) (dg/dh) = (dL/dg) 2 h [/ width],
already zero where relu is; so a step is one product forward over all rows and one for the gradient.
A layer knows nothing of stages, chunks or other layers. Its large buffers are those of a workspace.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from ffpipe.config.schema import Training
from ffpipe.learn.block import Block, Step, nothing
from ffpipe.learn.contrast import Slope, count_errors, make_pair_loss, positive_loss
from ffpipe.learn.denormals import flush_denormals, is_due
from ffpipe.learn.objectives import Learned
from ffpipe.learn.precision import PRECISIONS, wide
from ffpipe.learn.products import addmm, mm
from ffpipe.learn.rows import row_scale
from ffpipe.learn.spec import NEGATIVE, PAIRS, RowLayout, RowSpec
from ffpipe.learn.threads import mean, total
from ffpipe.learn.updates import Update, make_update
from ffpipe.learn.workspace import Workspace
from ffpipe.storage.checkpoint import TensorSpec
from ffpipe.system.rng import generator

Leave = Callable[[], object]


class FFDense(Block):
    """ReLU layer `index` (counted from 0) of a network, with its optimiser state.

    weight: (fan_in, width); bias: (width,); mean_activity: (width,), running mean over positive rows.
    """

    weight: Tensor
    bias: Tensor
    mean_activity: Tensor
    roles = PAIRS

    def __init__(self, index: int, fan_in: int, width: int, training: Training, workspace: Workspace) -> None:
        """workspace: on the device of the layer; others may use it when this one does not compute."""
        super().__init__()
        device = workspace.device
        dtype, products = PRECISIONS[training.precision]
        self.index, self.width = index, width
        self.inputs, self.outputs = RowSpec((fan_in,), products), RowSpec((width,), products)
        if device.type == "meta":  # nothing is to be allocated
            weight = torch.empty(fan_in, width, dtype=dtype, device=device)
        else:
            weight = initial_weight(training.seed, index, fan_in, width, training.initialization)
            # A copy, so that the memory is torch's own and not NumPy's: layerwise training frees it (parking.py).
            weight = weight.to(device=device, dtype=dtype, copy=True)
        # Parameters, so that a loaded network can be trained further; here no gradient is asked of autograd.
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = nn.Parameter(torch.zeros(width, dtype=dtype, device=device), requires_grad=False)
        # 0.5 is where Hinton's program starts the running mean.
        self.register_buffer("mean_activity", torch.full((width,), 0.5, dtype=dtype, device=device))
        # In bfloat16 the products read a rounded copy of the weight, which every update renews.
        self._rounded: Tensor | None
        self.register_buffer("_rounded", None if products == dtype else self.weight.to(products), persistent=False)
        operand = self.weight if self._rounded is None else self._rounded
        self.optimizer: Update = make_update(self.weight, self.bias, training.optimizer, operand, workspace)
        self.rate = training.optimizer.learning_rate
        self._workspace, self.config = workspace, training
        self._objective = make_pair_loss(
            training.objective, training.goodness, width, training.threshold, training.temperature
        )
        self._goodness_factor = 1.0 if training.goodness == "sum" else 1.0 / width
        # d(goodness)/d(activity before dropout) is this times the activity after it.
        self._slope_factor = 2.0 * self._goodness_factor / (1.0 - training.dropout)
        self._update = self._update_together if training.phases == "together" else self._update_apart

    def _activate(
        self, rows: Tensor, out: Tensor | None, dropped: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the activities h (n, width) of rows, what is handed on, and the goodness (n,).

        out: takes what is handed on; the activities are then in a buffer, valid until the next call. None: all is in
        memory of its own, and can be differentiated. dropped: (n, width), factors of dropout, which come after the
        normalisation and before the goodness.
        """
        buffered = out is not None
        activity = wide(self._total(rows, buffered).relu_())
        squares = self._squares(activity, buffered)
        scale = row_scale(squares, self.width, self.config.normalization, self.config.normalization_epsilon)
        if out is None or out.dtype == activity.dtype:
            out = torch.mul(activity, scale, out=out).to(rows.dtype)
        else:  # torch would take new memory for what it rounds
            out.copy_(torch.mul(activity, scale, out=self._buffer("squares", activity)))
        if dropped is not None:
            out *= dropped.to(out.dtype)
            activity *= dropped
            squares = self._squares(activity, buffered)
        return activity, out, squares * self._goodness_factor

    def _squares(self, activity: Tensor, buffered: bool) -> Tensor:
        """Sum the squares in each row, with the bits of torch.linalg.vecdot, which would take new memory for them."""
        return total(torch.mul(activity, activity, out=self._buffer("squares", activity) if buffered else None), 1)

    def _buffer(self, name: str, like: Tensor) -> Tensor:
        return self._workspace.take(name, tuple(like.shape), like.dtype)

    def _total(self, rows: Tensor, buffered: bool) -> Tensor:
        """Multiply rows by the weight and add the bias."""
        shape = (rows.shape[0], self.width)
        out = self._workspace.take("activity", shape, self.weight.dtype) if buffered else None
        if rows.dtype == self.weight.dtype:
            return addmm(self.bias, rows, self.weight, out=out)
        # By the weight itself, which a gradient is to reach; the rounded copy is for training.
        if out is None:
            return torch.add(mm(rows, self.weight.to(rows.dtype)), self.bias)
        assert self._rounded is not None
        product = mm(rows, self._rounded, out=self._workspace.take("product", shape, self._rounded.dtype))
        return out.copy_(product).add_(self.bias)  # in one call torch would take new memory for the product

    def score(self, x: Tensor, *kept: Tensor) -> tuple[Tensor, Tensor | None]:
        _, out, goodness = self._activate(x, None)
        return out, goodness

    def positive_loss(self, scores: Tensor) -> Tensor | None:
        return positive_loss(self._objective, scores)

    def pass_on(self, x: Tensor, step: Step, out: Tensor, kept: Sequence[Tensor] = ()) -> None:
        """Pass neutral rows (B, fan_in) of a minibatch into out (B, width) ahead of its step, with the dropout that
        they have where they come with the pairs, behind these."""
        self._activate(x, out, self._dropped(step, len(x), behind=2 * len(x)))

    def learn(
        self, x: Tensor, layout: RowLayout, labels: Tensor | None, step: Step, out: Tensor, kept: Sequence[Tensor] = ()
    ) -> Learned:
        """Train on the positive and negative rows of x (n, fan_in), which are normalised; only pass on the rest.

        out: (n, width) gets the normalised activities from before or after the updates (`training.hand_on`). The loss
        is the mean over local steps, errors are those that the first found.
        """
        dropped, pairs = self._dropped(step, len(x)), layout.batch
        update = partial(self._update_role, step.role) if self.config.in_turns else self._update
        if step.factor is None:
            _, _, goodness = self._activate(x, out, dropped)
            if self.config.in_turns:
                loss, _, wrong = self._objective.of_role(goodness, _sign(step.role))
                return Learned(total(loss), wrong.sum())
            slope, errors = self._judge(goodness[:pairs], goodness[pairs : 2 * pairs])
            return Learned(total(slope.loss), *errors)
        early = self.config.hand_on == "before"
        first = update(x, pairs, step.factor, out, dropped, step.leave if early else nothing)
        # Rows that are handed on may have left: further steps write elsewhere.
        loss, spare = first.loss, None if early else out
        for _ in range(1, self.config.local_steps):
            spare = torch.empty_like(out) if spare is None else spare
            loss = loss + update(x, pairs, step.factor, spare, dropped, nothing).loss
        if not early:
            self._activate(x, out, dropped)
        if is_due(step.index, self.config.updates):
            flush_denormals([self.mean_activity])
            self.optimizer.flush_denormals()
        return Learned(loss / self.config.local_steps, *first[1:])

    def _update_together(
        self, rows: Tensor, pairs: int, factor: float, out: Tensor, dropped: Tensor | None, leave: Leave
    ) -> Learned:
        """Make one update on positive and negative rows. leave: called when out is whole, before the update."""
        activity, _, goodness = self._activate(rows, out, dropped)
        leave()
        slope, errors = self._judge(goodness[:pairs], goodness[pairs : 2 * pairs])
        delta = self._derivative(activity[: 2 * pairs], torch.cat([slope.positive, slope.negative]), pairs)
        self.optimizer.step(rows[: 2 * pairs], delta, pairs, factor)
        return Learned(total(slope.loss), *errors)

    def _update_apart(
        self, rows: Tensor, pairs: int, factor: float, out: Tensor, dropped: Tensor | None, leave: Leave
    ) -> Learned:
        """Make one update on the positive rows, then with the new weights one on the negative rows; the rows that only
        pass go with these. leave: called when out is whole, before the last update."""
        of_positive, of_rest = (None, None) if dropped is None else (dropped[:pairs], dropped[pairs:])
        activity, _, positive = self._activate(rows[:pairs], out[:pairs], of_positive)
        # The negative rows are yet to come; the slope of the positive ones does not depend on them.
        delta = self._derivative(activity, self._objective(positive, positive).positive, pairs)
        self.optimizer.step(rows[:pairs], delta, pairs, factor)
        activity, _, goodness = self._activate(rows[pairs:], out[pairs:], of_rest)
        leave()
        slope, errors = self._judge(positive, goodness[:pairs])
        delta = self._derivative(activity[:pairs], slope.negative)
        self.optimizer.step(rows[pairs : 2 * pairs], delta, pairs, factor)
        return Learned(total(slope.loss), *errors)

    def _update_role(
        self, role: str, rows: Tensor, count: int, factor: float, out: Tensor, dropped: Tensor | None, leave: Leave
    ) -> Learned:
        """Make one update on rows that are all positive or all negative. leave: called when out is whole, before it."""
        activity, _, goodness = self._activate(rows, out, dropped)
        leave()
        loss, slope, wrong = self._objective.of_role(goodness, _sign(role))
        delta = self._derivative(activity, slope, 0 if role == NEGATIVE else len(rows))
        self.optimizer.step(rows, delta, count, factor)
        return Learned(total(loss), wrong.sum())

    def _derivative(self, activity: Tensor, slope: Tensor, positive: int = 0) -> Tensor:
        """Make of the activities of rows, in their memory, the derivative of the loss by their total input.

        slope: its derivative by their goodness, which is used up. positive: how many of them, the first,
        peer normalisation acts on.
        """
        # First, since afterwards the activities are gone.
        pull = self._peer_pull(mean(activity[:positive], 0)) if self.config.peer and positive else None
        activity *= slope.mul_(self._slope_factor).unsqueeze_(1)
        if pull is not None:
            activity[:positive] += pull
        return activity

    def _judge(self, positive: Tensor, negative: Tensor) -> tuple[Slope, list[Tensor]]:
        """Return the loss of pairs by their goodness (B,) each, and their errors by the measures of the config."""
        errors = count_errors(self._objective, self.config.pair_errors, positive, negative)
        return self._objective(positive, negative), errors

    def _dropped(self, step: Step, rows: int, behind: int = 0) -> Tensor | None:
        """Return the factor of dropout on each activity of a step (rows, width): 0, or 1 / (1 - dropout). behind: rows
        that come before these."""
        dropout = self.config.dropout
        if not dropout:
            return None
        chance = generator(self.config.seed, "dropout", self.index, *step.key)
        # Two bytes a number are fine enough for a share; planning counts them (dense_cost.DRAWN).
        drawn = chance.integers(0, 1 << 16, size=(behind + rows, self.width), dtype=np.uint16)[behind:]
        stays = torch.from_numpy(drawn >= round(dropout * (1 << 16)))
        return stays.to(device=self.weight.device, dtype=self.weight.dtype).div_(1.0 - dropout)

    def _peer_pull(self, activity: Tensor) -> Tensor:
        """Compute peer normalisation (Hinton's program): a pull of each unit's mean activity to that of its layer.

        It acts on the total input as if it were a gradient even where the unit is off, so that it can
        revive units that never fire. activity: mean over positive rows, (width,). Returns (width,), the derivative for
        each of these rows.
        """
        keep = self.config.peer_averaging
        self.mean_activity.mul_(keep).add_(activity, alpha=1.0 - keep)
        return (self.mean_activity - mean(self.mean_activity)).mul_(self.config.peer)

    def weights(self) -> dict[str, Tensor]:
        # Without the mean activity, which learning alone reads.
        return {"weight": self.weight, "bias": self.bias}

    def contents(self, step: int) -> dict[str, TensorSpec]:
        # Optimisers count updates, of which local steps and phases apart make several in a step.
        return super().contents(step * self.config.updates)

    def scratch(self) -> list[Tensor]:
        return [] if self._rounded is None else [self._rounded]

    def renew(self) -> None:
        if self._rounded is not None:
            self._rounded.copy_(self.weight)


def _sign(role: str) -> float:
    """Return -1 for negative rows, of which goodness is to be low."""
    return -1.0 if role == NEGATIVE else 1.0


def initial_weight(seed: int, index: int, fan_in: int, width: int, kind: str = "normal") -> Tensor:
    """Draw the weight (fan_in, width) in float32 by seed and layer alone.

    kind "normal": deviates over sqrt(fan_in) (Hinton's program). "glorot": uniform within
    sqrt(6 / (fan_in + width)) (Glorot and Bengio 2010, equation 16; the start of a Keras layer).
    """
    chance = generator(seed, "weights", index)
    # Factors are float32 too: by a float64 of NumPy's the product would be float64.
    if kind == "glorot":
        limit = np.float32(np.sqrt(6.0 / (fan_in + width)))
        return torch.from_numpy((chance.random((fan_in, width), dtype=np.float32) * 2 - 1) * limit)
    deviates = chance.standard_normal((fan_in, width), dtype=np.float32)
    return torch.from_numpy(deviates / np.float32(np.sqrt(fan_in)))

"""Blocks, a read-out and a feeder whose numbers say what they were made from: for simulations of a run.

A block is a count of its updates and a chain: a number mixed, at each update, from the one before and from all that the
block has seen: its rows, what it uses of earlier blocks, and labels. So is the read-out, and what it predicts is such
a number too. Two chains agree only if every step came once, in order, on the right rows, with negatives from the right
prediction (expected.py has what they must be). Numbers have 24 bits: a float32 keeps them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from expected import (
    BELIEF,
    CLASSES,
    GOODNESS,
    LOGIT,
    NEUTRAL,
    OUT,
    STEP,
    Model,
    blocks_of,
    example_row,
    first_chain,
    label_of,
    logits_of,
    mix,
    small,
)
from numpy.typing import NDArray
from torch import Tensor

from ffpipe.config.schema import Training
from ffpipe.data.examples import Examples
from ffpipe.data.splits import Splits
from ffpipe.learn.block import Block, Step
from ffpipe.learn.blueprint import Blueprint
from ffpipe.learn.feeder import Feeder
from ffpipe.learn.objectives import Learned
from ffpipe.learn.outline import Outline
from ffpipe.learn.rates import Rates
from ffpipe.learn.readout import Head, HeadStep
from ffpipe.learn.spec import PAIRS, PLAIN, RowLayout, RowSpec
from ffpipe.learn.workspace import Workspace
from ffpipe.storage.checkpoint import Input

ROW, LABEL = RowSpec((1,), torch.float32), RowSpec((), torch.int64)


@dataclass(frozen=True, eq=False)
class ChainBlueprint(Blueprint):
    """A network of chains."""

    def make(self, index: int, workspace: Workspace) -> Block:
        return ChainBlock(self.outlines[index], PAIRS if self.training.contrasts else PLAIN)

    def make_head(self, workspace: Workspace) -> Head:
        return ChainHead(self.training, dict.fromkeys(self.taps, 1), CLASSES, workspace)

    def make_feeder(self, splits: Splits) -> Feeder:
        return ChainFeeder(self.training)


def blueprint(training: Training) -> ChainBlueprint:
    """Make the network of a config: who keeps and who uses what, and when blocks learn, is as it says."""
    steps = training.data.train_limit
    outlines = (
        Outline(
            index,
            "chain",
            *(ROW, ROW, ROW),
            Rates("constant", steps, training.epochs, block.first_epoch, block.last_epoch),
            block.keep,
            block.use,
        )
        for index, block in enumerate(blocks_of(training))
    )
    return ChainBlueprint(training, Input((1,), 1, CLASSES), ROW, LABEL, steps, outlines=tuple(outlines))


class ChainBlock(Block):
    """Rows are (n, 1)."""

    weight: Tensor

    def __init__(self, outline: Outline, roles: tuple[str, ...]) -> None:
        super().__init__()
        self.index, self.inputs, self.outputs, self.roles = outline.index, ROW, ROW, roles
        self.keep, self.use = outline.keep, outline.use
        self._before = outline.rates.first * outline.rates.steps_per_epoch  # steps in which it does not learn yet
        self.register_buffer("weight", torch.tensor([0, first_chain(outline.index)]))  # updates, chain

    def score(self, x: Tensor, *kept: Tensor) -> tuple[Tensor, Tensor]:
        chain, out, seen = int(self.weight[1]), torch.empty_like(x), list(_rows(x, kept))
        self.pass_on(x, Step(0), out, kept)
        if self.roles == PLAIN:
            return out, torch.tensor([[float(logit) for logit in logits_of(chain, row)] for row in seen])
        return out, torch.tensor([float(small(mix(GOODNESS, chain, *row))) for row in seen])

    def learn(
        self, x: Tensor, layout: RowLayout, labels: Tensor | None, step: Step, out: Tensor, kept: Sequence[Tensor] = ()
    ) -> Learned:
        assert layout.learning == self.roles
        assert len(x) in (layout.learning_rows, layout.rows)
        self.pass_on(x, step, out, kept)
        updates, chain = self.weight.tolist()
        rows = layout.learning_rows
        seen = [number for row in _rows(x[:rows], [each[:rows] for each in kept]) for number in row]
        if self.roles == PLAIN:
            assert labels is not None
            seen += labels.tolist()
        made = mix(STEP, chain, *seen)
        if step.factor is not None:
            assert step.index == self._before + updates
            self.weight += torch.tensor([1, made - chain])  # in place, as a real one
        return Learned(torch.tensor(float(small(made))), torch.tensor(made % 2))

    def pass_on(self, x: Tensor, step: Step, out: Tensor, kept: Sequence[Tensor] = ()) -> None:
        chain = int(self.weight[1])
        out[:, 0] = torch.tensor([float(mix(OUT, chain, *row)) for row in _rows(x, kept)])

    def state(self) -> dict[str, Tensor]:
        return self.weights()

    def restore(self, state: dict[str, Tensor]) -> None:
        self.set_weights(state)


class ChainHead(Head):
    """A read-out with steps and chain in the place of the weights (1, CLASSES) of each block that it sees."""

    def __init__(self, training: Training, widths: Mapping[int, int], classes: int, workspace: Workspace) -> None:
        super().__init__(training, widths, classes, workspace)
        self._put(0, first_chain(-1))

    def _put(self, steps: int, chain: int) -> None:
        for weight in self.weights().values():
            weight.copy_(torch.tensor([[steps, chain]]))

    def _steps_and_chain(self) -> tuple[int, int]:
        ((steps, chain),) = {tuple(weight.flatten().tolist()) for weight in self.weights().values()}
        return int(steps), int(chain)

    def logits(self, activities: Sequence[Tensor]) -> Tensor:
        _, chain = self._steps_and_chain()
        seen = _rows(activities[0], activities[1:])
        return torch.tensor([[float(small(mix(LOGIT, chain, c, *row))) for c in range(CLASSES)] for row in seen])

    def step(self, step: int, activities: Sequence[Tensor], labels: Tensor, factor: float) -> HeadStep:
        steps, before = self._steps_and_chain()
        assert step == steps
        seen = [*(int(activity.item()) for activity in activities), int(labels.item())]
        chain = mix(STEP, before, *seen)
        self._put(steps + 1, chain)
        belief = torch.tensor([[float(mix(BELIEF, before, *seen)), 0.0]])
        return HeadStep(belief, torch.tensor(float(small(chain))), torch.tensor(chain % 2))


class ChainFeeder(Feeder):
    """Rows that tell minibatch, role and prediction. Holds every prediction that it is given against the model's."""

    inputs, labels = ROW, LABEL

    def __init__(self, training: Training) -> None:
        self._training = training
        self._expected = Model.of(training)

    def learning(self, step: int, prediction: NDArray[np.float32] | None, out: Tensor) -> Tensor:
        belief = 0 if prediction is None else int(prediction[0, 0])
        assert belief == self._expected.beliefs[step], f"minibatch {step} got another prediction than its own"
        out[:, 0] = torch.tensor(self._expected.learning(step), dtype=torch.float32)
        return torch.tensor([label_of(step)])

    def passing(self, step: int, out: Tensor) -> Tensor:
        out[0, 0] = mix(NEUTRAL, step)
        return torch.tensor([label_of(step)])

    def evaluation(self, split: Examples, first: int, count: int) -> tuple[Tensor, Tensor]:
        examples, training = range(first, first + count), self._training
        rows = [example_row(len(split), i, label) for i in examples for label in range(CLASSES * training.labelled)]
        rows += [example_row(len(split), i, CLASSES) for i in examples if training.head or not training.contrasts]
        return torch.tensor(rows, dtype=torch.float32).unsqueeze(1), torch.tensor([label_of(i) for i in examples])


def _rows(x: Tensor, beside: Sequence[Tensor]) -> Iterator[tuple[int, ...]]:
    """Return the numbers of each row of x (n, 1), and of the same rows of others."""
    return zip(*(map(int, each.flatten().tolist()) for each in (x, *beside)), strict=True)

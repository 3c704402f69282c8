"""Layers whose state says what they were trained on, and what it must be: for simulations of a run.

A layer is a count of its steps and a chain: a number mixed, at each step, from the one before and from the rows of
that step. So is the head, and what it believes is such a number too. Two chains agree only if every step came
once, in order, on the right rows, with negatives from the right prediction. Numbers have 24 bits: a float32 keeps them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ffpipe.config.schema import Training
from ffpipe.data.examples import Examples
from ffpipe.data.splits import Splits
from ffpipe.learn.dense import StepLoss
from ffpipe.learn.readout import HeadStep
from ffpipe.pipeline.contents import PREDICTION
from ffpipe.storage import checkpoint
from ffpipe.storage.checkpoint import HEAD, Contents, Input, Kept, layer_file
from ffpipe.telemetry.metrics import METER, METER_STEPS
from ffpipe.telemetry.report import Evaluation, LayerRow

CLASSES = 2
# What a number was mixed for.
POSITIVE, NEGATIVE, NEUTRAL, EXAMPLE, OUT, STEP, GOODNESS, BELIEF, LOGIT = range(9)


def mix(*numbers: int) -> int:
    """24 bits that depend on every number and on their order."""
    return hash(numbers) & 0xFFFFFF


def small(number: int) -> int:
    """As a loss, a goodness or a logit: sums of a few are exact in float32."""
    return number & 0xFFFFF


@dataclass(frozen=True)
class Few:
    """Stands for the examples of a split, of which only the number matters, and for the file that they are in."""

    count: int
    features: int = 1
    classes: int = CLASSES
    shape: tuple[int, ...] = (1,)
    path: str = "the only file"

    def __len__(self) -> int:
        return self.count

    @property
    def stored(self) -> Few:
        return self

    @property
    def fingerprint(self) -> str:
        return str(self.count)


def splits(training: Training) -> Splits:
    """As many training examples as a config says, 3 to validate where it wants any, and 5 to test."""
    counts = (training.data.train_limit, 3 if training.data.validation else 0, 5)
    return Splits(*(cast(Examples, Few(count)) for count in (*counts, 0)))


def chain_contents(training: Training, takes: Input, step: int) -> dict[str, Contents]:
    """In the place of contents.snapshot_contents."""
    lag = training.lookahead or 0
    chain = {
        "weight": Kept((2,), torch.int64),
        METER: Kept((2,), torch.float64),
        METER_STEPS: Kept((), torch.int64, largest=step),
    }
    owed = {f"{PREDICTION}{s}": Kept((1, CLASSES), torch.float32) for s in range(max(step, lag), step + lag)}
    files: dict[str, Contents] = {layer_file(index): chain for index in range(len(training.dims) - 1)}
    return files | ({HEAD: chain | owed} if training.head else {})


class ChainLayer:
    """In the place of ff.layer.Layer; rows are (n, 1)."""

    def __init__(self, index: int, fan_in: int, width: int, training: Training, device: torch.device) -> None:
        self.index = index
        self.width = width
        self.weight = torch.tensor([0, mix(index)])  # steps, chain

    def forward(self, rows: Tensor, out: Tensor) -> Tensor:
        chain = int(self.weight[1])
        values = _ints(rows)
        out[:, 0] = torch.tensor([mix(OUT, chain, value) for value in values])
        return torch.tensor([float(small(mix(GOODNESS, chain, value))) for value in values])

    def pass_neutral(self, step: int, rows: Tensor, out: Tensor) -> None:
        self.forward(rows, out)

    def step(self, step: int, rows: Tensor, pairs: int, factor: float, out: Tensor) -> StepLoss:
        assert step == int(self.weight[0])
        self.forward(rows, out)
        chain = mix(STEP, int(self.weight[1]), *_ints(rows[: 2 * pairs]))
        self.weight += torch.tensor([1, chain - int(self.weight[1])])  # in place, as a real one
        return StepLoss(torch.tensor(float(small(chain))), torch.tensor(chain % 2))

    def weights(self) -> dict[str, Tensor]:
        return {"weight": self.weight}

    state = weights

    def load(self, state: dict[str, Tensor]) -> None:
        self.weight.copy_(state["weight"])


class ChainHead:
    """In the place of ff.head.Head; minibatches have one example."""

    def __init__(self, training: Training, classes: int, device: torch.device) -> None:
        self.layers = range(training.head_from, len(training.dims) - 1)
        self.weight = torch.tensor([0, mix(-1)])

    def logits(self, activities: Sequence[Tensor]) -> Tensor:
        chain = int(self.weight[1])
        seen = zip(*(_ints(activity) for activity in activities), strict=True)
        return torch.tensor([[float(small(mix(LOGIT, chain, c, *values))) for c in range(CLASSES)] for values in seen])

    def step(self, step: int, activities: Sequence[Tensor], labels: Tensor, factor: float) -> HeadStep:
        assert step == int(self.weight[0])
        seen = [*(int(activity.item()) for activity in activities), int(labels.item())]
        before = int(self.weight[1])
        chain = mix(STEP, before, *seen)
        self.weight += torch.tensor([1, chain - before])
        belief = torch.tensor([[float(mix(BELIEF, before, *seen)), 0.0]])
        return HeadStep(belief, torch.tensor(float(small(chain))), torch.tensor(chain % 2))

    def weights(self) -> dict[str, Tensor]:
        return {"weight": self.weight}

    state = weights

    def load(self, state: dict[str, Tensor]) -> None:
        self.weight.copy_(state["weight"])


@dataclass(frozen=True)
class Labels:
    """What the feed asks a source's label code."""

    width: int = 1
    classes: int = CLASSES


class ChainSource:
    """In the place of ff.source.Source. Holds every prediction that it is given against the model's."""

    batch = 1

    def __init__(self, training: Training, splits: Splits) -> None:
        self._head = training.head
        self.labels = Labels()
        self._expected = Model.of(training)

    def pairs(self, step: int, prediction: NDArray[np.float32] | None, out: Tensor) -> Tensor:
        belief = 0 if prediction is None else int(prediction[0, 0])
        assert belief == self._expected.beliefs[step], f"minibatch {step} got another prediction than its own"
        out[:, 0] = torch.tensor([mix(POSITIVE, step), mix(NEGATIVE, step, belief)])
        return torch.tensor([step % CLASSES])

    def neutral(self, step: int, out: Tensor) -> Tensor:
        out[0, 0] = mix(NEUTRAL, step)
        return torch.tensor([step % CLASSES])

    def evaluation(self, split: Examples, first: int, count: int) -> tuple[Tensor, Tensor]:
        examples = range(first, first + count)
        rows = [example_row(len(split), i, label) for i in examples for label in range(CLASSES)]
        rows += [example_row(len(split), i, CLASSES) for i in examples] if self._head else []
        return torch.tensor(rows, dtype=torch.float32).unsqueeze(1), torch.tensor([i % CLASSES for i in examples])


def example_row(split: int, example: int, label: int) -> int:
    """The row of an example of the split of that size under a label; the neutral one is the last."""
    return mix(EXAMPLE, split, example, label)


def _ints(rows: Tensor) -> list[int]:
    return [int(value) for value in rows.flatten().tolist()]


class Model:
    """The undisturbed run, by a program that knows no stages, chunks or files: what every step must have made.

    layers[t], head[t]: the chains after t steps. beliefs[t]: what the negatives of minibatch t come from, 0 for none.
    """

    def __init__(self, training: Training) -> None:
        self.training = training
        self.steps = training.epochs * training.data.train_limit
        self.lag = training.lookahead
        self.layers = [[mix(index) for index in range(len(training.dims) - 1)]]
        self.head = [mix(-1)]
        self.beliefs = [0] * (self.steps + (self.lag or 0))
        for step in range(self.steps):
            self._step(step)

    @staticmethod
    def of(training: Training) -> Model:
        key = repr(training)
        if key not in _MODELS:
            _MODELS[key] = Model(training)
        return _MODELS[key]

    def _step(self, step: int) -> None:
        chains, of_head = list(self.layers[step]), self.head[step]
        predicted = step + (self.lag or 0)
        rows = [mix(NEUTRAL, predicted)]
        for chain in chains:
            rows.append(mix(OUT, chain, rows[-1]))
        if self.training.head:
            seen = [*rows[1:][self.training.head_from :], predicted % CLASSES]
            if self.lag is not None:
                self.beliefs[predicted] = mix(BELIEF, of_head, *seen)
            of_head = mix(STEP, of_head, *seen)
        # Only now: with a lag of 0 the prediction of this very step is used.
        pair = [mix(POSITIVE, step), mix(NEGATIVE, step, self.beliefs[step])]
        for index, chain in enumerate(chains):
            chains[index] = mix(STEP, chain, *pair)
            pair = [mix(OUT, chain, row) for row in pair]
        self.layers.append(chains)
        self.head.append(of_head)

    def weights(self, step: int) -> dict[str, list[int]]:
        """Steps and chain in each file of the snapshot of a step."""
        files = {checkpoint.layer_file(index): [step, chain] for index, chain in enumerate(self.layers[step])}
        return files | ({checkpoint.HEAD: [step, self.head[step]]} if self.training.head else {})

    def owed(self, step: int) -> dict[int, int]:
        """What the source still has to draw from after a step, by minibatch."""
        return {t: self.beliefs[t] for t in range(max(step, self.lag), step + self.lag)} if self.lag else {}

    def rows(self, log_steps: int) -> list[LayerRow]:
        """Of metrics.parquet, in its order."""
        found, begun = [], 0
        ends = sorted({*range(log_steps, self.steps, log_steps), self.steps})
        for end in ends:
            of_head = [(-1, self.head[begun + 1 : end + 1])] if self.training.head else []
            of_layers = [(i, [at[i] for at in self.layers[begun + 1 : end + 1]]) for i in range(len(self.layers[0]))]
            for layer, chains in [*of_head, *of_layers]:
                loss, errors = sum(map(small, chains)), sum(chain % 2 for chain in chains)
                found.append(LayerRow(end, layer, loss / len(chains), errors / len(chains)))
            begun = end
        return found

    def evaluations(self, every: int) -> list[Evaluation]:
        """All of a run that validates every so many epochs (0: never) and tests at its end."""
        sizes = splits(self.training)
        due = range(every * self.training.data.train_limit, self.steps, every * self.training.data.train_limit or 1)
        found = [self._evaluation(step, "validation", len(sizes.validation)) for step in due if every]
        found += [self._evaluation(self.steps, "validation", len(sizes.validation))] if len(sizes.validation) else []
        return [*found, self._evaluation(self.steps, "test", len(sizes.test))]

    def _evaluation(self, step: int, split: str, examples: int) -> Evaluation:
        wrong = [0, 0]
        for example in range(examples):
            goodness = [0] * CLASSES
            seen: list[int] = []
            for label in range(CLASSES + 1):
                row = example_row(examples, example, label)
                for index, chain in enumerate(self.layers[step]):
                    if label < CLASSES and index >= self.training.goodness_from:
                        goodness[label] += small(mix(GOODNESS, chain, row))
                    row = mix(OUT, chain, row)
                    if label == CLASSES and index >= self.training.head_from:
                        seen.append(row)
            logits = [small(mix(LOGIT, self.head[step], label, *seen)) for label in range(CLASSES)]
            wrong[0] += goodness.index(max(goodness)) != example % CLASSES
            wrong[1] += logits.index(max(logits)) != example % CLASSES
        by_softmax = wrong[1] / examples if self.training.head else None
        return Evaluation(step, split, examples, wrong[0] / examples, by_softmax)


_MODELS: dict[str, Model] = {}

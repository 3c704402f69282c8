"""The results that a simulated run must come to, by a program that knows no stages, chunks, messages or files.

Every number is mixed from all that it depends on (chains.py): it is right only if each of these was.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from ffpipe.config.schema import BlockConfig, Training
from ffpipe.data.examples import Examples
from ffpipe.data.splits import Splits
from ffpipe.storage import checkpoint
from ffpipe.telemetry.report import Evaluation, LayerRow

CLASSES = 2
# The purposes of mixed numbers.
POSITIVE, NEGATIVE, NEUTRAL, UNPAIRED, EXAMPLE, OUT, STEP, GOODNESS, BELIEF, LOGIT = range(10)
# Logits that are this far apart have a cross-entropy in whole numbers, of which sums are exact.
APART = 1024


def mix(*numbers: int) -> int:
    """Mix 24 bits that depend on every number and on their order."""
    return hash(numbers) & 0xFFFFFF


def small(number: int) -> int:
    """Return a loss, a goodness or a logit: sums of a few are exact in float32."""
    return number & 0xFFFFF


def first_chain(index: int) -> int:
    """Return where the chain of a block begins; -1: that of the read-out."""
    return mix(index)


def label_of(number: int) -> int:
    """Return the label of a minibatch or of an example."""
    return number % CLASSES


def example_row(split: int, example: int, label: int) -> int:
    """Return the row of an example of the split of that size under a label; CLASSES: without one."""
    return mix(EXAMPLE, split, example, label)


def logits_of(chain: int, seen: Sequence[int]) -> list[int]:
    """Return what a block that learns without negatives says of a row."""
    number = mix(LOGIT, chain, *seen)
    return [(APART + small(number)) * (label == label_of(number)) for label in range(CLASSES)]


@dataclass(frozen=True)
class Few:
    """A stand-in for the examples of a split, of which only the number matters, and for the file that they are in."""

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
    """Make as many training examples as a config says, 3 to validate where it wants any, and 5 to test."""
    counts = (training.data.train_limit, 3 if training.data.validation else 0, 5)
    training_part, validation, test, others = (cast(Examples, Few(count)) for count in (*counts, 0))
    return Splits(training_part, validation, test, others)


def blocks_of(training: Training) -> Sequence[BlockConfig]:
    """Return what a config says of each block."""
    return training.blocks or [BlockConfig(kind="chain") for _ in training.dims[1:]]


@dataclass(frozen=True)
class Passage:
    """One row on its way through all blocks: what each sees, and what it makes of that."""

    seen: list[tuple[int, ...]]
    made: list[int]


class Model:
    """The undisturbed run of a config.

    layers[t], head[t]: the chains after t steps. beliefs[t]: what the negatives of minibatch t come from, 0 for none.
    """

    def __init__(self, training: Training) -> None:
        self.training = training
        self.blocks = blocks_of(training)
        self.epoch = training.data.train_limit
        self.steps = training.epochs * self.epoch
        self.lag = training.lookahead
        self.layers = [[first_chain(index) for index in range(len(self.blocks))]]
        self.head = [first_chain(-1)]
        self.beliefs = [0] * (self.steps + (self.lag or 0))
        self._judged: list[list[int]] = []  # of each step: losses and errors of each block come from it
        for step in range(self.steps):
            self._step(step)

    @staticmethod
    def of(training: Training) -> Model:
        key = repr(training)
        if key not in _MODELS:
            _MODELS[key] = Model(training)
        return _MODELS[key]

    def learning(self, step: int) -> list[int]:
        """Return the rows of a minibatch that blocks learn from."""
        if not self.training.contrasts:
            return [mix(UNPAIRED, step)]
        return [mix(POSITIVE, step), mix(NEGATIVE, step, self.beliefs[step])]

    def _step(self, step: int) -> None:
        chains, training = self.layers[step], self.training
        if training.head:
            ahead = step + (self.lag or 0)
            self._step_head(step, mix(NEUTRAL, ahead) if training.labelled else self.learning(step)[0], ahead)
        # Only now: with a lag of 0 the prediction of this very step is used.
        passages = [self._passage(chains, row) for row in self.learning(step)]
        labels = [] if training.contrasts else [label_of(step)]
        judged = [
            mix(STEP, chain, *(number for passage in passages for number in passage.seen[index]), *labels)
            for index, chain in enumerate(chains)
        ]
        self._judged.append(judged)
        self.layers.append([new if self._learns(index, step) else chains[index] for index, new in enumerate(judged)])

    def _step_head(self, step: int, row: int, predicted: int) -> None:
        made = self._passage(self.layers[step], row).made
        seen = [*made[self.training.head_from :], label_of(predicted)]
        if self.lag is not None:
            self.beliefs[predicted] = mix(BELIEF, self.head[step], *seen)
        self.head.append(mix(STEP, self.head[step], *seen))

    def _learns(self, index: int, step: int) -> bool:
        block = self.blocks[index]
        return block.first_epoch <= step // self.epoch < (block.last_epoch or self.training.epochs)

    def _passage(self, chains: Sequence[int], row: int) -> Passage:
        passage, kept = Passage([], []), dict[str, int]()
        for block, chain in zip(self.blocks, chains, strict=True):
            passage.seen.append((row, *(kept[name] for name in block.use)))
            row = mix(OUT, chain, *passage.seen[-1])
            passage.made.append(row)
            if block.keep:
                kept[block.keep] = row
        return passage

    def weights(self, step: int) -> dict[str, dict[str, list[list[float]] | list[int]]]:
        """Return the weights in each file of the snapshot of a step: updates and chain."""
        files: dict[str, dict[str, list[list[float]] | list[int]]] = {
            checkpoint.layer_file(index): {"weight": [sum(self._learns(index, t) for t in range(step)), chain]}
            for index, chain in enumerate(self.layers[step])
        }
        if self.training.head:
            seen = range(self.training.head_from, len(self.blocks))
            files[checkpoint.HEAD] = {f"weight.{index}": [[float(step), float(self.head[step])]] for index in seen}
        return files

    def owed(self, step: int) -> dict[int, int]:
        """Return the predictions that the feed still has to draw from after a step, by minibatch."""
        return {t: self.beliefs[t] for t in range(max(step, self.lag), step + self.lag)} if self.lag else {}

    def rows(self, log_steps: int) -> list[LayerRow]:
        """Return all of metrics.parquet, in its order."""
        found, begun = [], 0
        ends = sorted({*range(log_steps, self.steps, log_steps), self.steps})
        for end in ends:
            of_head = [(-1, self.head[begun + 1 : end + 1])] if self.training.head else []
            of_layers = [(i, [at[i] for at in self._judged[begun:end]]) for i in range(len(self.blocks))]
            for layer, numbers in [*of_head, *of_layers]:
                loss, errors = sum(map(small, numbers)), sum(number % 2 for number in numbers)
                found.append(LayerRow(end, layer, loss / len(numbers), errors / len(numbers)))
            begun = end
        return found

    def evaluations(self, every: int) -> list[Evaluation]:
        """Return all of a run that validates every so many epochs (0: never) and tests at its end."""
        sizes = splits(self.training)
        due = range(every * self.epoch, self.steps, every * self.epoch or 1)
        found = [self._evaluation(step, "validation", len(sizes.validation)) for step in due if every]
        found += [self._evaluation(self.steps, "validation", len(sizes.validation))] if len(sizes.validation) else []
        return [*found, self._evaluation(self.steps, "test", len(sizes.test))]

    def _evaluation(self, step: int, split: str, count: int) -> Evaluation:
        training, examples = self.training, range(count)
        bare = [self._passage(self.layers[step], example_row(count, example, CLASSES)) for example in examples]
        by_goodness = by_softmax = None
        if training.labelled:
            by_goodness = _errors([self._goodness(step, count, example) for example in examples])
        if training.head:
            logits = [
                [
                    small(mix(LOGIT, self.head[step], label, *passage.made[training.head_from :]))
                    for label in range(CLASSES)
                ]
                for passage in bare
            ]
            by_softmax = _errors(logits)
        if training.contrasts:
            return Evaluation(step, split, count, by_goodness, by_softmax)
        said = [
            [logits_of(chain, passage.seen[index]) for passage in bare] for index, chain in enumerate(self.layers[step])
        ]
        summed = [
            [sum(each) for each in zip(*of_example, strict=True)]
            for of_example in zip(*said[training.goodness_from :], strict=True)
        ]
        errors = {"last": _errors(said[-1]), "sum": _errors(summed)}
        errors |= {f"block.{index}": _errors(logits) for index, logits in enumerate(said)}
        losses = {f"block.{index}": _loss(logits) for index, logits in enumerate(said)}
        return Evaluation(step, split, count, by_goodness, by_softmax, dict(errors), dict(losses))

    def _goodness(self, step: int, count: int, example: int) -> list[int]:
        """Return the goodness of an example under each label."""
        chains, found = self.layers[step], []
        for label in range(CLASSES):
            seen = self._passage(chains, example_row(count, example, label)).seen
            counted = range(self.training.goodness_from, len(chains))
            found.append(sum(small(mix(GOODNESS, chains[index], *seen[index])) for index in counted))
        return found


def _errors(said: Sequence[Sequence[int]]) -> float:
    """Return the share of examples of which the greatest of what is said of each label is not that of theirs."""
    wrong = sum(each.index(max(each)) != label_of(example) for example, each in enumerate(said))
    return wrong / len(said)


def _loss(said: Sequence[Sequence[int]]) -> float:
    """Return the mean cross-entropy of logits as `logits_of` makes them."""
    return sum(max(each) - each[label_of(example)] for example, each in enumerate(said)) / len(said)


_MODELS: dict[str, Model] = {}

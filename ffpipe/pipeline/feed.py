"""The feed: what enters the pipeline for each item of the schedule. Each replica of the first stage has one."""

from __future__ import annotations

import torch
from torch import Tensor

from ffpipe.data.splits import Splits
from ffpipe.learn.blueprint import Blueprint
from ffpipe.learn.negatives import Predictions, Probabilities
from ffpipe.learn.precision import PRECISIONS
from ffpipe.learn.workspace import Workspace
from ffpipe.pipeline.packet import LABELS, Tensors, X
from ffpipe.pipeline.schedule import Evaluate, Item, Predict, Train


class Feed:
    """The maker of what enters with an item, from the data and from the predictions that have come back."""

    def __init__(self, network: Blueprint, splits: Splits, device: torch.device, shards: range | None = None) -> None:
        """shards: those whose rows it returns for training; None: all."""
        self.feeder = network.make_feeder(splits)
        self._splits = {"train": splits.train, "validation": splits.validation, "test": splits.test}
        self._network = network
        self._shards = shards or range(network.training.shards)
        self._device = device
        # Rows are made in the format of the weights, and sent in that of the products.
        weights, sent = PRECISIONS[network.training.precision].weights, network.inputs.dtype
        self._dtype = weights if sent.is_floating_point else sent
        # On the CPU, whatever the stage computes on: rows are made from memory-mapped files.
        self._workspace = Workspace(torch.device("cpu"))
        self._predictions: Predictions = {}

    def take_predictions(self, made: Predictions) -> None:
        """Take what the read-out made of later minibatches, as `Stage.predictions` gives it."""
        self._predictions.update(made)

    def tensors(self, item: Item) -> Tensors | None:
        """Return what a replica of the first stage gets with this item, good until the next. Raises KeyError if its
        predictions are not back: the window lets no such item leave."""
        match item:
            case Train():
                return self._train(item)
            case Predict():
                rows = torch.empty(1, self._network.layout.batch, *self._network.inputs.shape, dtype=self._dtype)
                labels = self.feeder.passing(item.step, rows[0])
                return self._send(self._own({X: rows, LABELS: labels.unsqueeze(0)}))
            case Evaluate():
                rows, labels = self.feeder.evaluation(self._splits[item.split], item.first, item.count)
                return self._send({X: rows.unsqueeze(0), LABELS: labels.unsqueeze(0)})
        return None

    def _train(self, item: Train) -> Tensors:
        """Return the rows of `item.count` minibatches. Labels are of the rows that the read-out sees: the neutral ones,
        in lock step of the next minibatch, or where there are none those of the examples."""
        network, layout = self._network, self._network.layout
        lead = item.lead(network.training.lookahead)
        count = layout.learning_rows if lead is None else layout.rows
        rows = self._workspace.take("rows", (item.count, count, *network.inputs.shape), self._dtype)
        labelled = network.has_head or not network.training.contrasts
        labels: list[Tensor] = []
        for minibatch, step in enumerate(range(item.first, item.end)):
            of_examples = self.feeder.learning(step, self._prediction(step), rows[minibatch, : layout.learning_rows])
            if labelled and lead is not None:
                passing = rows[minibatch, layout.learning_rows :]
                labels.append(self.feeder.passing(step + lead, passing) if len(passing) else of_examples)
        return self._send(self._own({X: rows, LABELS: torch.stack(labels)} if labels else {X: rows}))

    def _prediction(self, step: int) -> Probabilities | None:
        """Return the prediction for a minibatch; None where the rule is not to draw from one."""
        lag = self._network.training.lookahead
        # Neutral rows of the first `lag` minibatches never pass, so that their negatives are drawn without.
        if lag is None or step < lag:
            return None
        # Each is used once; kept, they would add up over a run.
        return self._predictions.pop(step)

    def _own(self, tensors: Tensors) -> Tensors:
        training = self._network.training
        return {
            name: by_shards(tensor, training.batch_size, training.shards, self._shards)
            for name, tensor in tensors.items()
        }

    def _send(self, tensors: Tensors) -> Tensors:
        dtypes = {X: self._network.inputs.dtype}  # labels keep their own
        return {name: tensor.to(self._device, dtypes.get(name)) for name, tensor in tensors.items()}


def by_shards(rows: Tensor, batch: int, shards: int, own: range) -> Tensor:
    """Put rows (minibatches, roles x batch, ...), which lie role by role, into the order of shards: of each its rows of
    every role. own: the shards whose rows are returned."""
    if shards == 1:
        return rows
    cut = rows.unflatten(1, (rows.shape[1] // batch, shards, batch // shards))[:, :, own.start : own.stop]
    return torch.flatten(cut.transpose(1, 2), 1, 3)

"""The feed: what enters the pipeline for each item of the schedule. It lives where the first stage lives."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from ffpipe.config.schema import Training
from ffpipe.data.examples import Examples
from ffpipe.data.splits import Splits
from ffpipe.learn.precision import PRECISIONS
from ffpipe.learn.source import Source
from ffpipe.learn.workspace import Workspace
from ffpipe.pipeline.schedule import Evaluate, Item, Predict, Train
from ffpipe.pipeline.streams import Streams


class Feed:
    """Makes the streams of an item, from the data and from the predictions that have come back."""

    def __init__(self, training: Training, splits: Splits, device: torch.device) -> None:
        self.source = Source(training, splits)
        self._splits: dict[str, Examples] = {"validation": splits.validation, "test": splits.test}
        self._training = training
        self._device = device
        self._dtype, self._products = PRECISIONS[training.precision]
        self._workspace = Workspace(torch.device("cpu"))
        self._predictions: dict[int, NDArray[np.float32]] = {}

    def predictions(self, made: Mapping[int, NDArray[np.float32]]) -> None:
        """Take what the head made of later minibatches, as `Stage.predictions` gives it."""
        self._predictions.update(made)

    def streams(self, item: Item) -> Streams | None:
        """What the first stage gets with this item, good until the next. Raises KeyError if its predictions are not
        back: the window lets no such item leave."""
        match item:
            case Train():
                return self._train(item)
            case Predict():
                rows = torch.empty(1, self.source.batch, self.source.labels.width, dtype=self._dtype)
                labels = self.source.neutral(item.step, rows[0])
                return self._send(Streams(rows, labels.unsqueeze(0)))
            case Evaluate():
                rows, labels = self.source.evaluation(self._splits[item.split], item.first, item.count)
                of_labels = torch.zeros(item.count * self.source.labels.classes, dtype=self._dtype)
                goodness = of_labels if self._training.labelled else None
                return self._send(Streams(rows.unsqueeze(0), labels.unsqueeze(0), goodness))
        return None

    def _train(self, item: Train) -> Streams:
        """The head's rows are the neutral ones, in lock step of the next minibatch, or where there are no labels the
        positive ones."""
        training, batch = self._training, self.source.batch
        lead = item.lead(training.lookahead)
        roles = 2 if lead is None else training.roles
        rows = self._workspace.take("rows", (item.count, roles * batch, self.source.labels.width), self._dtype)
        labels = torch.empty(item.count, batch, dtype=torch.int64) if training.head and lead is not None else None
        for minibatch, step in enumerate(range(item.first, item.end)):
            right = self.source.pairs(step, self._prediction(step), rows[minibatch, : 2 * batch])
            if labels is not None and lead is not None:
                neutral = rows[minibatch, 2 * batch :]
                labels[minibatch] = self.source.neutral(step + lead, neutral) if len(neutral) else right
        return self._send(Streams(rows, labels))

    def _prediction(self, step: int) -> NDArray[np.float32] | None:
        """The prediction for a minibatch; None where the rule is not to draw from one."""
        lag = self._training.lookahead
        if lag is None or step < lag:
            return None
        return self._predictions.pop(step)

    def _send(self, streams: Streams) -> Streams:
        labels, goodness = streams.labels, streams.goodness
        return Streams(
            streams.rows.to(self._device, self._products),
            None if labels is None else labels.to(self._device),
            None if goodness is None else goodness.to(self._device),
        )

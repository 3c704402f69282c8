"""One stage: a contiguous group of layers, and what it does with each item of the schedule.

The first stage also holds the source, the last one the head and the predictions still owed to the
source. A stage is called with one item at a time, in order; who calls it, and on what machine, it does
not know.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ffpipe.config.schema import Training
from ffpipe.learn.dense import Layer
from ffpipe.learn.rates import rate_factor
from ffpipe.learn.readout import Head
from ffpipe.learn.workspace import Outputs, Workspace
from ffpipe.pipeline.contents import PREDICTION
from ffpipe.pipeline.saver import Saved, State
from ffpipe.pipeline.schedule import Evaluate, Item, Predict, Snapshot, Stop, Train
from ffpipe.pipeline.streams import Features, Streams
from ffpipe.storage import checkpoint
from ffpipe.system.errors import Diverged
from ffpipe.system.memory import peak_bytes
from ffpipe.telemetry.metrics import LayerMeter
from ffpipe.telemetry.report import Evaluation, StageReport

Save = Callable[[int, Mapping[str, Saved]], None]
# Smaller tensors stay where they are: they are not worth a place in a file.
PARKED_BYTES = 1024


@dataclass(frozen=True)
class StageSpec:
    """What a stage is made from: plain data that can be sent to any host.

    layers: of the whole network, counted from 0. width: features of an input row of layer 0, with labels.
    """

    index: int
    stages: int
    layers: range
    training: Training
    width: int
    classes: int
    steps: int
    steps_per_epoch: int
    log_steps: int
    device: str

    @property
    def is_last(self) -> bool:
        return self.index == self.stages - 1

    @property
    def features(self) -> range:
        """Layers here that the head sees and that do not reach the last stage as the rows of a message."""
        if not self.training.head:
            return range(0)
        stop = self.layers.stop - (self.index == self.stages - 2)
        return range(max(self.layers.start, self.training.head_from), stop)


class Stage:
    """Layers `spec.layers`; the head too where it is the last stage."""

    def __init__(
        self, spec: StageSpec, save: Save, workspace: Workspace | None = None, outputs: Outputs | None = None
    ) -> None:
        """workspace: where others compute in turn with this one; None: one of its own."""
        self.spec = spec
        self._outputs = outputs or Outputs()
        self.device = torch.device(spec.device)
        self.workspace = workspace or Workspace(self.device)
        training = spec.training
        widths = (spec.width, *training.dims[1:])
        self.layers = [Layer(i, widths[i], widths[i + 1], training, self.workspace) for i in spec.layers]
        self.head = Head(training, spec.classes, self.workspace) if training.head and spec.is_last else None
        self.owed: dict[int, NDArray[np.float32]] = {}
        self.step = 0
        self._save = save
        self._tally = [0, 0, 0]  # examples, errors by goodness, errors by softmax
        self._meters = [LayerMeter(i, spec.log_steps, spec.steps, training.batch_size) for i in spec.layers]
        self._head_meter = LayerMeter(-1, spec.log_steps, spec.steps, training.batch_size)
        self._report = StageReport(spec.index, tuple(spec.layers))

    def handle(self, item: Item, streams: Streams | None) -> Streams | None:
        """Do one item. Returns what the next stage gets with it (None after the last, and with a snapshot)."""
        match item:
            case Train():
                assert streams is not None
                return self._train(item, streams)
            case Predict():
                assert streams is not None
                return self._predict(item, streams)
            case Evaluate():
                assert streams is not None
                return self._evaluate(item, streams)
            case Snapshot():
                self._save(item.step, self._files(item.step))
                return None
            case Stop():
                return None

    def predictions(self, item: Item) -> dict[int, NDArray[np.float32]]:
        """What the head made of the neutral rows of this item, by minibatch; the source needs it back."""
        if self.head is None or self.spec.training.lookahead is None:
            return {}
        match item:
            case Train() if lead := item.lead(self.spec.training.lookahead):
                return {s + lead: self.owed[s + lead] for s in range(item.first, item.end)}
            case Predict():
                return {item.step: self.owed[item.step]}
        return {}

    def report(self) -> StageReport:
        """What happened since the last call."""
        report, self._report = self._report, StageReport(self.spec.index, tuple(self.spec.layers))
        for meter in (*self._meters, self._head_meter):
            report.rows += meter.drain()
        report.step = self.step
        report.peak_rss_bytes = peak_bytes()
        if self.device.type == "cuda":
            report.peak_device_bytes = torch.cuda.max_memory_allocated(self.device)
        return report

    def _factor(self, step: int) -> float:
        training = self.spec.training
        return rate_factor(training.schedule, step // self.spec.steps_per_epoch, training.epochs)

    def _train(self, item: Train, streams: Streams) -> Streams | None:
        rows, pairs = streams.rows, self.spec.training.batch_size
        seen = self._features_in(streams)
        # In lock step neutral rows pass when the layer has trained.
        trained = slice(2 * pairs) if item.ahead else slice(None)
        for layer, meter in zip(self.layers, self._meters, strict=True):
            out = self._output(layer, rows)
            losses = []
            for minibatch in range(item.count):
                step = item.first + minibatch
                made = layer.step(step, rows[minibatch, trained], pairs, self._factor(step), out[minibatch, trained])
                if item.ahead:
                    layer.pass_neutral(item.end, rows[minibatch, 2 * pairs :], out[minibatch, 2 * pairs :])
                meter.add(step, *made)
                losses.append(made.loss)
            _refuse_infinite(f"layer {layer.index}", item.first, losses)
            rows = out
            self._keep_features(seen, layer.index, rows, streams.labels)
        if self.head is not None and streams.labels is not None:
            lead = item.lead(self.spec.training.lookahead) or 0
            first = item.end if item.ahead else item.first
            losses = [
                self._step_head(first + minibatch, item.first + minibatch + lead, seen, minibatch, streams.labels)
                for minibatch in range(item.count)
            ]
            _refuse_infinite("the head", first, losses)
        self.step = item.end
        return self._pass_on(rows, streams, seen)

    def _predict(self, item: Predict, streams: Streams) -> Streams | None:
        rows, seen = streams.rows, self._features_in(streams)
        for layer in self.layers:
            out = self._output(layer, rows)
            layer.pass_neutral(item.step, rows[0], out[0])
            rows = out
            self._keep_features(seen, layer.index, rows, streams.labels)
        if self.head is not None:
            assert streams.labels is not None
            loss = self._step_head(item.step, item.step, seen, 0, streams.labels)
            _refuse_infinite("the head", item.step, [loss])
        return self._pass_on(rows, streams, seen)

    def _step_head(self, step: int, predicted: int, seen: Features, minibatch: int, labels: Tensor) -> Tensor:
        """The head's step `step`, on the neutral rows of minibatch `predicted`; returns its loss."""
        assert self.head is not None
        activities = [seen[layer][minibatch] for layer in self.head.layers]
        made = self.head.step(step, activities, labels[minibatch], self._factor(step))
        self._head_meter.add(step, made.loss, made.errors)
        if (lookahead := self.spec.training.lookahead) is not None:
            self.owed[predicted] = made.probabilities.float().cpu().numpy()
            self.owed.pop(predicted - max(lookahead, 1), None)
        return made.loss

    def _evaluate(self, item: Evaluate, streams: Streams) -> Streams | None:
        rows, goodness, seen = streams.rows, streams.goodness, self._features_in(streams)
        labelled = 0 if goodness is None else len(goodness)
        for layer in self.layers:
            rows, of_layer = self._forward(layer, rows)
            if goodness is not None and layer.index >= self.spec.training.goodness_from:
                goodness = goodness + of_layer[:labelled]
            self._keep_features(seen, layer.index, rows, streams.labels)
        if self.spec.is_last:
            self._count(item, goodness, seen, streams.labels)
            return None
        return self._pass_on(rows, Streams(rows, streams.labels, goodness), seen)

    def _count(self, item: Evaluate, goodness: Tensor | None, seen: Features, labels: Tensor | None) -> None:
        """Add one batch to the tally of the evaluation, and close it with its last batch."""
        assert labels is not None
        self._tally[0] += item.count
        if goodness is not None:
            self._tally[1] += int((goodness.view(item.count, -1).argmax(1) != labels[0]).sum())
        if self.head is not None:
            logits = self.head.logits([seen[layer][0] for layer in self.head.layers])
            self._tally[2] += int((logits.argmax(1) != labels[0]).sum())
        if item.last:
            examples, by_goodness, by_softmax = self._tally
            self._tally = [0, 0, 0]
            self._report.evaluations.append(
                Evaluation(
                    item.step,
                    item.split,
                    examples,
                    None if goodness is None else by_goodness / examples,
                    None if self.head is None else by_softmax / examples,
                )
            )

    def _forward(self, layer: Layer, rows: Tensor) -> tuple[Tensor, Tensor]:
        """rows (1, n, features) through one layer: normalised activities (1, n, width) and goodness (n,)."""
        out = self._output(layer, rows)
        block = self.spec.training.roles * self.spec.training.batch_size  # no larger buffers than training has
        goodness = [layer.forward(r, o) for r, o in zip(rows[0].split(block), out[0].split(block), strict=True)]
        return out, torch.cat(goodness)

    def _output(self, layer: Layer, rows: Tensor) -> Tensor:
        """Memory for what a layer makes of rows (minibatches, n, features): what leaves the stage or what the head is
        yet to see is not to be overwritten by the next layers."""
        shape = (*rows.shape[:2], layer.width)
        if layer.index == self.spec.layers[-1]:
            return self._outputs.take(shape, rows.dtype, rows.device)
        of_head = self.spec.is_last and layer.index in self.spec.features
        name = f"of layer {layer.index}" if of_head else f"between layers {layer.index % 2}"
        return self.workspace.take(name, shape, rows.dtype)

    def _features_in(self, streams: Streams) -> Features:
        """The head's features that came with a message; the last layer of the stage before is its rows."""
        seen = dict(streams.features)
        before = self.spec.layers.start - 1
        if self.spec.is_last and before >= self.spec.training.head_from and streams.labels is not None:
            seen[before] = self._head_rows(streams.rows, streams.labels)
        return seen

    def _keep_features(self, seen: Features, layer: int, rows: Tensor, labels: Tensor | None) -> None:
        """Keep what the head is to see of a layer, where the message has something for it."""
        if layer in self.spec.features and labels is not None:
            features = self._head_rows(rows, labels)
            seen[layer] = features if self.spec.is_last else features.clone(memory_format=torch.contiguous_format)

    def _head_rows(self, rows: Tensor, labels: Tensor) -> Tensor:
        """Those of rows (minibatches, n, width) that labels (minibatches, B) are of: neutral ones come last; where
        rows carry no labels, the positive ones, or in an evaluation all, come first."""
        count = labels.shape[1]
        return rows[:, rows.shape[1] - count :] if self.spec.training.labelled else rows[:, :count]

    def _pass_on(self, rows: Tensor, streams: Streams, seen: Features) -> Streams | None:
        return None if self.spec.is_last else Streams(rows, streams.labels, streams.goodness, seen)

    def _files(self, step: int) -> dict[str, Saved]:
        """What a snapshot after `step` keeps of this stage, by file."""
        files = {}
        for layer, meter in zip(self.layers, self._meters, strict=True):
            state = {**layer.state(), **meter.state()}
            files[checkpoint.layer_file(layer.index)] = Saved(state, tuple(layer.weights()))
        if self.head is not None:
            owed = {f"{PREDICTION}{s}": torch.from_numpy(p) for s, p in sorted(self.owed.items()) if s >= step}
            state = {**self.head.state(), **self._head_meter.state(), **owed}
            files[checkpoint.HEAD] = Saved(state, tuple(self.head.weights()))
        return files

    def kept(self) -> list[Tensor]:
        """Large tensors whose contents make the stage what it is (parking.py)."""
        return [tensor for part in self._parts() for tensor in part.state().values() if tensor.nbytes >= PARKED_BYTES]

    def scratch(self) -> list[Tensor]:
        """Large tensors whose contents can be made anew."""
        return [tensor for layer in self.layers for tensor in layer.scratch()]

    def renew(self) -> None:
        """Make what `scratch` lost."""
        for layer in self.layers:
            layer.renew()

    def _parts(self) -> list[Layer | Head]:
        return [*self.layers, *([self.head] if self.head else [])]

    def restore(self, step: int, read: Callable[[str], State]) -> None:
        """Go on after `step` from what `_files` gave, read file by file; the tensors are those of contents.py."""
        for layer, meter in zip(self.layers, self._meters, strict=True):
            state = read(checkpoint.layer_file(layer.index))
            layer.load(state)
            meter.load(state)
        if self.head is not None:
            state = read(checkpoint.HEAD)
            self.head.load(state)
            self._head_meter.load(state)
            self.owed = owed_predictions(state)
        self.step = step


def _refuse_infinite(who: str, first: int, losses: list[Tensor]) -> None:
    """losses: of the minibatches from `first` on. One look a chunk, so that a GPU is not waited for at each step."""
    finite = torch.isfinite(torch.stack(losses)).tolist()
    if not all(finite):
        step = first + finite.index(False)
        raise Diverged(f"the loss of {who} is {losses[step - first].item()} at step {step}: try a lower learning rate")


def owed_predictions(head: State) -> dict[int, NDArray[np.float32]]:
    """The predictions in the head's file that the source has not used yet, by minibatch."""
    return {
        int(key.removeprefix(PREDICTION)): value.numpy() for key, value in head.items() if key.startswith(PREDICTION)
    }

"""One stage: a contiguous group of blocks, and what it does with each item of the schedule.

The first stage also holds the source, the last one the read-out and the predictions still owed to the source. A stage
is called with one item at a time, in order; who calls it, and on what machine, it does not know.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ffpipe.config.schema import Training
from ffpipe.learn.block import Block, Step
from ffpipe.learn.blueprint import Blueprint
from ffpipe.learn.readout import Head
from ffpipe.learn.user_model import describe_error
from ffpipe.learn.workspace import Outputs, Workspace
from ffpipe.pipeline.contents import PREDICTION
from ffpipe.pipeline.packet import KEPT, LABELS, LOSS, SCORE, TAP, WRONG, Tensors, X
from ffpipe.pipeline.routes import Routes
from ffpipe.pipeline.saver import Saved, State
from ffpipe.pipeline.schedule import Evaluate, Item, Predict, Snapshot, Stop, Train
from ffpipe.pipeline.tally import Tally, judged
from ffpipe.storage import checkpoint
from ffpipe.system.errors import Diverged, RunFailed
from ffpipe.system.memory import peak_bytes
from ffpipe.telemetry.metrics import LayerMeter
from ffpipe.telemetry.report import StageReport

Save = Callable[[int, Mapping[str, Saved]], None]
# Smaller tensors stay where they are: they are not worth a place in a file.
PARKED_BYTES = 1024


@dataclass(frozen=True)
class StageSpec:
    """What a stage is made from: plain data that can be sent to any host.

    groups: the blocks of every stage, counted from 0. steps: of the whole run. log_steps: between rows of metrics.
    """

    index: int
    groups: tuple[range, ...]
    network: Blueprint
    steps: int
    log_steps: int
    device: str

    @property
    def stages(self) -> int:
        return len(self.groups)

    @property
    def layers(self) -> range:
        """The blocks of this stage."""
        return self.groups[self.index]

    @property
    def training(self) -> Training:
        return self.network.training

    @property
    def is_last(self) -> bool:
        return self.index == self.stages - 1

    @cached_property
    def routes(self) -> Routes:
        """What goes from which stage to which."""
        return routes_of(self.network, self.groups)


def routes_of(network: Blueprint, groups: tuple[range, ...]) -> Routes:
    """The routes of a network that is cut so."""
    users = [(name, outline.index) for outline in network.outlines for name in outline.use]
    used = {name: tuple(index for each, index in users if each == name) for name in network.kept}
    return Routes(groups, frozenset(network.taps), network.kept, used)


class Stage:
    """Blocks `spec.layers`; the read-out too where it is the last stage."""

    def __init__(
        self, spec: StageSpec, save: Save, workspace: Workspace | None = None, outputs: Outputs | None = None
    ) -> None:
        """workspace: where others compute in turn with this one; None: one of its own."""
        self.spec = spec
        self._outputs = outputs or Outputs()
        self.device = torch.device(spec.device)
        if self.device.type == "cuda":
            _have_one_order()
        self.workspace = workspace or Workspace(self.device)
        training, network = spec.training, spec.network
        self.blocks: list[Block] = [network.make(index, self.workspace) for index in spec.layers]
        self.head = None
        if network.has_head and spec.is_last:
            widths = {index: network.outlines[index].outputs.size for index in network.taps}
            self.head = Head(training, widths, network.takes.classes, self.workspace)
        self._rates = {index: network.outlines[index].rates for index in spec.layers}
        self._leaving = spec.routes.leaving(spec.index)
        self.owed: dict[int, NDArray[np.float32]] = {}
        self.step = 0
        self._save = save
        self._tally = Tally()
        self._meters = [LayerMeter(i, spec.log_steps, spec.steps, training.batch_size) for i in spec.layers]
        self._head_meter = LayerMeter(-1, spec.log_steps, spec.steps, training.batch_size)
        self._report = StageReport(spec.index, tuple(spec.layers))

    @torch.no_grad()
    def handle(self, item: Item, tensors: Tensors | None) -> Tensors | None:
        """Do one item. Returns what leaves with it (None after the last stage, and with a snapshot)."""
        match item:
            case Train():
                assert tensors is not None
                return self._train(item, tensors)
            case Predict():
                assert tensors is not None
                return self._predict(item, tensors)
            case Evaluate():
                assert tensors is not None
                return self._evaluate(item, tensors)
            case Snapshot():
                self._save(item.step, self._files(item.step))
                return None
            case Stop():
                return None

    def predictions(self, item: Item) -> dict[int, NDArray[np.float32]]:
        """The probabilities of the neutral rows of this item, by minibatch; the source needs them back."""
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

    def _train(self, item: Train, tensors: Tensors) -> Tensors | None:
        x, labels, layout = tensors[X], tensors.get(LABELS), self.spec.network.layout
        passage = _Passage(self, tensors)
        # In lock step neutral rows pass when the block has trained.
        trained = slice(layout.learning_rows) if item.ahead else slice(None)
        for block, meter in zip(self.blocks, self._meters, strict=True):
            out = self._output(block, x)
            kept, losses = passage.kept_for(block), []
            for minibatch in range(item.count):
                step = Step(item.first + minibatch, self._rates[block.index].factor(item.first + minibatch))
                with self._blaming(block, step.index):
                    made = block.learn(
                        x[minibatch, trained],
                        layout,
                        None if labels is None else labels[minibatch],
                        step,
                        out[minibatch, trained],
                        [each[minibatch, trained] for each in kept],
                    )
                if item.ahead:
                    rest = slice(layout.learning_rows, None)
                    after = [each[minibatch, rest] for each in kept]
                    block.pass_on(x[minibatch, rest], Step(item.end), out[minibatch, rest], after)
                meter.add(step.index, *made)
                losses.append(made.loss)
            _refuse_infinite(f"layer {block.index}", item.first, losses)
            x = out
            passage.put(block, out)
        if self.head is not None and labels is not None:
            lead = item.lead(self.spec.training.lookahead) or 0
            first = item.end if item.ahead else item.first
            losses = [
                self._step_head(first + minibatch, item.first + minibatch + lead, passage.taps, minibatch, labels)
                for minibatch in range(item.count)
            ]
            _refuse_infinite("the head", first, losses)
        self.step = item.end
        return passage.leaving(x, tensors)

    @contextmanager
    def _blaming(self, block: Block, step: int) -> Iterator[None]:
        """Say of an error which block it came from, and where in the user's code."""
        try:
            yield
        except (MemoryError, RunFailed):
            raise
        except Exception as error:  # a user's code has as many ways to fail as there are
            network = self.spec.network
            if network.code is None and network.function is None:
                raise
            name = network.outlines[block.index].name
            why = describe_error(error, network.code)
            raise RunFailed(f"block {block.index} ({name}) failed at step {step}: {why}") from error

    def _predict(self, item: Predict, tensors: Tensors) -> Tensors | None:
        x, passage = tensors[X], _Passage(self, tensors)
        for block in self.blocks:
            out = self._output(block, x)
            block.pass_on(x[0], Step(item.step), out[0], [each[0] for each in passage.kept_for(block)])
            x = out
            passage.put(block, out)
        if self.head is not None:
            loss = self._step_head(item.step, item.step, passage.taps, 0, tensors[LABELS])
            _refuse_infinite("the head", item.step, [loss])
        return passage.leaving(x, tensors)

    def _step_head(
        self, step: int, predicted: int, taps: Mapping[int, Tensor], minibatch: int, labels: Tensor
    ) -> Tensor:
        """The read-out's step `step`, on the neutral rows of minibatch `predicted`; returns its loss."""
        assert self.head is not None
        activities = [taps[block][minibatch] for block in self.head.layers]
        factor = self.spec.network.head_rates.factor(step)
        made = self.head.step(step, activities, labels[minibatch], 0.0 if factor is None else factor)
        self._head_meter.add(step, made.loss, made.errors)
        if (lookahead := self.spec.training.lookahead) is not None:
            self.owed[predicted] = made.probabilities.float().cpu().numpy()
            self.owed.pop(predicted - max(lookahead, 1), None)
        return made.loss

    def _evaluate(self, item: Evaluate, tensors: Tensors) -> Tensors | None:
        network = self.spec.network
        x, labels, passage = tensors[X], tensors[LABELS], _Passage(self, tensors)
        labelled = item.count * network.takes.classes if network.training.labelled else 0
        said = dict(tensors)
        for block in self.blocks:
            if block.training:
                block.eval()
            out = self._output(block, x)
            scores = self._score(block, x[0], out[0], [each[0] for each in passage.kept_for(block)])
            if network.training.contrasts:
                scores = scores[:labelled] if labelled and scores is not None else None
            else:
                judged(said, scores, labels[0])
            if scores is not None and labels.dim() == 2 and block.index >= network.training.goodness_from:
                said[SCORE] = said[SCORE] + scores if SCORE in said else scores
            x = out
            passage.put(block, out)
        said = {name: said[name] for name in (LABELS, SCORE, WRONG, LOSS) if name in said}
        if not self.spec.is_last:
            return passage.leaving(x, said)
        logits = None if self.head is None else self.head.logits([passage.taps[i][0] for i in self.head.layers])
        self._tally.add(item.count, said, logits, network.training)
        if item.last:
            self._report.evaluations.append(self._tally.close(item.step, item.split))
        return None

    def _score(self, block: Block, x: Tensor, out: Tensor, kept: list[Tensor]) -> Tensor | None:
        """Rows x (n, ...) through one block into out, and what each says; no more at once than training has."""
        at_once, found = self.spec.network.layout.rows, []
        for first in range(0, len(x), at_once):
            some = slice(first, first + at_once)
            made, scores = block.score(x[some], *(each[some] for each in kept))
            out[some] = made
            found.append(scores)
        present = [scores for scores in found if scores is not None]
        return torch.cat(present) if present else None

    def _output(self, block: Block, x: Tensor) -> Tensor:
        """Memory for what a block makes of rows x (minibatches, n, ...): what leaves the stage or what later blocks and
        the read-out are yet to see is not to be overwritten by the next blocks."""
        shape, dtype = (*x.shape[:2], *block.outputs.shape), block.outputs.dtype
        if block.index == self.spec.layers[-1]:
            return self._outputs.take(shape, dtype, x.device)
        stays = block.keep or (self.spec.is_last and block.index in self.spec.network.taps)
        name = f"of layer {block.index}" if stays else f"between layers {block.index % 2}"
        return self.workspace.take(name, shape, dtype)

    def _files(self, step: int) -> dict[str, Saved]:
        """What a snapshot after `step` keeps of this stage, by file."""
        files = {}
        for block, meter in zip(self.blocks, self._meters, strict=True):
            state = {**block.state(), **meter.state()}
            files[checkpoint.layer_file(block.index)] = Saved(state, tuple(block.weights()))
        if self.head is not None:
            owed = {f"{PREDICTION}{s}": torch.from_numpy(p) for s, p in sorted(self.owed.items()) if s >= step}
            state = {**self.head.state(), **self._head_meter.state(), **owed}
            files[checkpoint.HEAD] = Saved(state, tuple(self.head.weights()))
        return files

    def kept(self) -> list[Tensor]:
        """Large tensors whose contents make the stage what it is (parking.py)."""
        found = [tensor for part in self._parts() for tensor in part.state().values() if tensor.nbytes >= PARKED_BYTES]
        return list({id(tensor): tensor for tensor in found}.values())  # a weight may have two names

    def scratch(self) -> list[Tensor]:
        """Large tensors whose contents can be made anew."""
        return [tensor for block in self.blocks for tensor in block.scratch()]

    def renew(self) -> None:
        """Make what `scratch` lost."""
        for block in self.blocks:
            block.renew()

    def _parts(self) -> list[Block | Head]:
        return [*self.blocks, *([self.head] if self.head else [])]

    def restore(self, step: int, read: Callable[[str], State]) -> None:
        """Go on after `step` from what `_files` gave, read file by file; the tensors are those of contents.py."""
        for block, meter in zip(self.blocks, self._meters, strict=True):
            state = read(checkpoint.layer_file(block.index))
            block.restore(state)
            meter.load(state)
        if self.head is not None:
            state = read(checkpoint.HEAD)
            self.head.load(state)
            self._head_meter.load(state)
            self.owed = owed_predictions(state)
        self.step = step


class _Passage:
    """What one message brings along beside its rows, and what blocks here add for those that come later."""

    def __init__(self, stage: Stage, tensors: Tensors) -> None:
        spec, x = stage.spec, tensors[X]
        self._spec, self._leaving_names, self._labels = spec, stage._leaving, tensors.get(LABELS)
        self._kept = {name.removeprefix(KEPT): t for name, t in tensors.items() if name.startswith(KEPT)}
        self.taps = {int(name.removeprefix(TAP)): t for name, t in tensors.items() if name.startswith(TAP)}
        self._made: Tensors = {}
        for name, block in spec.network.kept.items():
            if spec.routes.is_x(block, spec.index):
                self._kept[name] = x
        before = spec.layers.start - 1
        if spec.is_last and before in spec.network.taps and self._labels is not None:
            self.taps[before] = self._seen(x, self._labels)

    def kept_for(self, block: Block) -> list[Tensor]:
        """Outputs that a block gets as further arguments, (minibatches, n, ...) each."""
        return [self._kept[name] for name in block.use]

    def put(self, block: Block, out: Tensor) -> None:
        """Take down what a block made, where others are to see it."""
        if block.index in self._spec.network.taps and self._labels is not None:
            seen = self._seen(out, self._labels)
            self.taps[block.index] = seen
            self._hand_out(f"{TAP}{block.index}", seen)
        if block.keep:
            self._kept[block.keep] = out
            self._hand_out(f"{KEPT}{block.keep}", out)

    def leaving(self, x: Tensor, tensors: Tensors) -> Tensors | None:
        """All that leaves the stage. tensors: with the labels and sums that go on with the rows."""
        if self._spec.is_last:
            return None
        going = {name: tensors[name] for name in (LABELS, SCORE, WRONG, LOSS) if name in tensors}
        return {X: x, **going, **self._made}

    def _hand_out(self, name: str, tensor: Tensor) -> None:
        if name in self._leaving_names:  # a copy, since the next message's takes the same memory
            self._made[name] = tensor.clone(memory_format=torch.contiguous_format)

    def _seen(self, rows: Tensor, labels: Tensor) -> Tensor:
        """Those of rows (minibatches, n, ...) that labels (minibatches, B) are of: neutral ones come last; where rows
        carry no labels, the positive ones, or in an evaluation all, come first."""
        count = labels.shape[1]
        return rows[:, rows.shape[1] - count :] if self._spec.training.labelled else rows[:, :count]


def _have_one_order() -> None:
    """Have torch use the algorithms on GPUs alone that sum in one order, or raise where there is none."""
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # the module has it
    torch.backends.cudnn.benchmark = False


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

"""One stage: a contiguous group of blocks, and what it does with each item of the schedule.

The last stage also holds the read-out and the latest predictions. A stage is called with one item at a time, in order;
who calls it, and on what machine, it does not know. The feed, which makes rows of examples, is beside the first stage
(worker.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

from ffpipe.learn.blame import blaming
from ffpipe.learn.block import Block, Step
from ffpipe.learn.local import LocalBlock, seeded_in_evaluation
from ffpipe.learn.negatives import Predictions
from ffpipe.learn.objectives import as_learned
from ffpipe.learn.readout import Head
from ffpipe.learn.returned import scored
from ffpipe.learn.rows import at_line
from ffpipe.learn.shards import Exchange, Shards
from ffpipe.learn.spec import NEGATIVE
from ffpipe.learn.workspace import OutputsInTurn, Workspace
from ffpipe.pipeline.minibatches import Cut, Rows, Whole, sizes_of
from ffpipe.pipeline.packet import PREDICTION, Tensors
from ffpipe.pipeline.passage import Passage
from ffpipe.pipeline.saver import FileState, State
from ffpipe.pipeline.schedule import Evaluate, Item, Predict, Snapshot, Stop, Train
from ffpipe.pipeline.snapshot_schema import predictions_in
from ffpipe.pipeline.stage_spec import StageSpec
from ffpipe.pipeline.state_shapes import refuse_other_shapes, shapes_of
from ffpipe.pipeline.tally import Tally, add_block
from ffpipe.storage import checkpoint
from ffpipe.system.errors import Diverged
from ffpipe.system.memory import peak_bytes
from ffpipe.telemetry.metrics import LayerMeter
from ffpipe.telemetry.report import StageReport

Save = Callable[[int, Mapping[str, FileState]], None]
# Takes what leaves with an item.
Leave = Callable[[Tensors], None]
# Smaller tensors stay where they are: they are not worth a place in a file.
PARKED_BYTES = 1024


class Stage:
    """Blocks `spec.layers`; the read-out too where it is the last stage."""

    def __init__(
        self, spec: StageSpec, save: Save, workspace: Workspace | None = None, outputs: OutputsInTurn | None = None
    ) -> None:
        """workspace: where others compute in turn with this one; None: one of its own. outputs: of the last block;
        None: in fresh memory, since whoever gets them may keep them."""
        self.spec = spec
        self._outputs = outputs
        self.device = torch.device(spec.device)
        if self.device.type == "cuda":
            _have_one_order()
        self.workspace = workspace or Workspace(self.device)
        training, network = spec.training, spec.network
        self.blocks: list[Block] = [network.make(index, self.workspace) for index in spec.layers]
        # Held against what there is later, so that no snapshot is written that nobody can read.
        self._shapes = [shapes_of(block) for block in self.blocks]
        self.head = network.make_head(self.workspace) if network.has_head and spec.is_last else None
        self._shards = Shards(training.shards, spec.shards)
        self._minibatches: Cut | Whole = Cut(network, self._shards) if training.shards > 1 else Whole(network)
        # Predictions for the last `lookahead` minibatches, by minibatch: they are sent, and a snapshot keeps them.
        self.latest: Predictions = {}
        self.step = 0
        self._save = save
        self._tally = Tally()
        self._meters = [LayerMeter(i, spec.log_steps, spec.steps, training.batch_size) for i in spec.layers]
        self._head_meter = LayerMeter(-1, spec.log_steps, spec.steps, training.batch_size)
        self._report = StageReport(spec.index, tuple(spec.layers))

    @torch.no_grad()
    def handle(self, item: Item, tensors: Tensors | None, leave: Leave | None = None) -> Tensors | None:
        """Do one item. Returns what leaves with it (None after the last stage, and with a snapshot).

        leave: takes that while the last block still learns, where it may; it is then not returned.
        """
        if isinstance(item, Snapshot):
            self._save(item.step, self._files(item.step))
        if isinstance(item, (Snapshot, Stop)):
            return None
        assert tensors is not None
        passage = Passage(self.spec, tensors, tests=isinstance(item, Evaluate))
        match item:
            case Train():
                if self._train(item, passage, None if self.spec.is_last else leave):
                    return None
            case Predict():
                self._predict(item, passage)
            case Evaluate():
                self._evaluate(item, passage)
        return None if self.spec.is_last else passage.leaving()

    def join(self, exchange: Exchange) -> None:
        """Learn together with the other replicas of the stage from now on."""
        self._shards.exchange = exchange

    def predictions(self, item: Item) -> Predictions:
        """Return the probabilities of the neutral rows of this item, by minibatch; the feed needs them back."""
        if self.head is None or self.spec.training.lookahead is None:
            return {}
        match item:
            case Train() if lead := item.lead(self.spec.training.lookahead):
                return {s + lead: self.latest[s + lead] for s in range(item.first, item.end)}
            case Predict():
                return {item.step: self.latest[item.step]}
        return {}

    def report(self) -> StageReport:
        """Return what happened since the last call."""
        report = self._report
        # A test may last over many reports, and the view shows how far the latest one says that it is.
        self._report = StageReport(report.stage, report.layers, testing=report.testing, tested=report.tested)
        for meter in (*self._meters, self._head_meter):
            report.rows += meter.drain()
        report.step = self.step
        report.peak_rss_bytes = peak_bytes()
        if self.device.type == "cuda":
            report.peak_device_bytes = torch.cuda.max_memory_allocated(self.device)
        return report

    def _train(self, item: Train, passage: Passage, leave: Leave | None) -> bool:
        """Train block after block, each on all minibatches of an item, then the head on these. Returns whether what
        leaves has left."""
        left = False
        # Those that come with pairs are of the rows that the read-out sees, perhaps of a later minibatch.
        of_examples = None if self.spec.training.contrasts else passage.labels
        for block, meter in zip(self.blocks, self._meters, strict=True):
            x, kept = passage.x, passage.kept_for(block)
            out, losses = self._output(block, x), []

            def leave_now(block: Block = block, out: Tensor = out) -> None:
                nonlocal left
                assert leave is not None
                if not left:  # a block of a user's own may call it again
                    passage.put(block, out)
                    left = True
                    leave(passage.leaving())

            for minibatch, index in enumerate(range(item.first, item.end)):
                labels = None if of_examples is None else of_examples[minibatch]
                factor = self.spec.network.outlines[block.index].rates.factor(index)
                step = Step(index, factor, role=self.spec.network.turns.role(index))
                # Rows of earlier minibatches are there by now; in lock step neutral ones are yet to come behind these.
                if leave is not None and block is self.blocks[-1] and index == item.end - 1 and not item.ahead:
                    step = replace(step, leave=leave_now)
                rows = Rows(x[minibatch], labels, out[minibatch], [each[minibatch] for each in kept])
                with blaming(self.spec.network, block.index, "at step", index):
                    behind = item.end if item.ahead else None
                    made = as_learned(self._minibatches.learn(block, rows, step, behind), "learn")
                sizes = partial(self._minibatches.sizes, block, step.factor, rows.out)
                # Those of a user's own block too are in snapshots where the config asks for them alone.
                counted = made if self.spec.training.pair_errors == "logistic" else made[:2]
                meter.add(index, *counted, sizes=sizes)
                losses.append(made.loss)
            _refuse_infinite(f"layer {block.index}", range(item.first, item.end), losses)
            if not left:
                passage.put(block, out)
        lead = item.lead(self.spec.training.lookahead) or 0
        # Rows behind pairs are those of the next minibatch, and so is the step that the read-out makes on them.
        self._train_head(item.end if item.ahead else item.first, item.first + lead, passage)
        if not self.step:  # at once, and not when hours have been trained
            self._refuse_other_shapes(item.end)
        self.step = item.end
        return left

    def _predict(self, item: Predict, passage: Passage) -> None:
        for block in self.blocks:
            x, out = passage.x, self._output(block, passage.x)
            rows = Rows(x[0], None, out[0], [each[0] for each in passage.kept_for(block)])
            with blaming(self.spec.network, block.index, "in the prediction for step", item.step):
                self._minibatches.pass_on(block, rows, Step(item.step))
            passage.put(block, out)
        self._train_head(item.step, item.step, passage)

    def _train_head(self, first: int, predicted: int, passage: Passage) -> None:
        """Do the read-out's steps from `first` on, where it is here, on the neutral rows of minibatches `predicted` and
        on, whose probabilities the feed gets back."""
        if self.head is None or passage.labels is None:
            return
        steps, losses, lookahead = list[int](), list[Tensor](), self.spec.training.lookahead
        for minibatch, labels in enumerate(passage.labels):
            factor = self.spec.network.rates.factor(first + minibatch)
            sizes = partial(sizes_of, self.head, factor)
            if self.spec.network.turns.role(first + minibatch) == NEGATIVE:  # from which nothing is to be told
                self._head_meter.end(first + minibatch, sizes)
                continue
            activities = [passage.taps[block][minibatch] for block in self.head.layers]
            made = self._minibatches.read_out(self.head, first + minibatch, activities, labels, factor or 0.0)
            self._head_meter.add(first + minibatch, made.loss, made.errors, sizes=sizes)
            if lookahead is not None:
                # In float32 whatever the precision: NumPy has no bfloat16, and a snapshot keeps them so (contents.py).
                self.latest[predicted + minibatch] = made.probabilities.float().cpu().numpy()
                # In lock step the one just made is still needed: `predictions` gives it out after this.
                self.latest.pop(predicted + minibatch - max(lookahead, 1), None)
            steps.append(first + minibatch)
            losses.append(made.loss)
        if losses:
            _refuse_infinite("the head", steps, losses)

    def _evaluate(self, item: Evaluate, passage: Passage) -> None:
        training, said = self.spec.training, passage.said
        labelled = item.count * self.spec.network.takes.classes if training.reads_goodness else 0
        for block in self.blocks:
            x, out = passage.x, self._output(block, passage.x)
            with blaming(self.spec.network, block.index, "in the evaluation after step", item.step):
                # Unlike `learn`, `score` leaves the mode as it is: a loaded network calls it too.
                was = block.training
                block.eval()
                kept = [each[0] for each in passage.kept_for(block)]
                scores = self._score(block, x[0], out[0], kept, labelled, item.first)
                add_block(said, block, scores, labelled, self.spec.network)
                block.train(was)  # a block of the user's need not set it in `learn`
            passage.put(block, out)
        if self.spec.is_last:
            logits = None if self.head is None else self._read_out(self.head, passage)
            self._tally.add(item.count, said, logits, training)
            self._report.testing, self._report.tested = item.split, item.first + item.count
            if item.last:
                self._report.testing = ""
                self._report.evaluations.append(self._tally.close(item.step, item.split))
                self._tally = Tally()

    def _score(
        self, block: Block, x: Tensor, out: Tensor, kept: list[Tensor], labelled: int, example: int
    ) -> Tensor | None:
        """Pass rows x (n, ...) through one block into out, and return what each says. labelled: how many of them, the
        first, carry a label. example: the number of the first example in its split."""
        examples, found, classes = self.spec.network.examples_at_once, [], self.spec.network.takes.classes
        # The bits of a product may depend on how many rows it has: the same ones go together, whatever a chunk is.
        cuts = [*range(0, labelled, examples * classes), *range(labelled, len(x), examples)]
        for first, end in pairwise([*cuts, len(x)]):
            some, passes = slice(first, end), first >= labelled
            # By the number of an example, so that what is drawn does not depend on how many an item has.
            place = (passes, example + (first - labelled if passes else first // classes))
            with seeded_in_evaluation(self.spec.training, self.device, block.index, *place):
                made = block.score(at_line(x[some]), *(at_line(each[some]) for each in kept))
            out[some], scores = scored(made, block, len(x[some]), self.spec.network)
            found.append(scores)
        present = [scores for scores in found if scores is not None]
        return torch.cat(present) if present else None

    def _read_out(self, head: Head, passage: Passage) -> Tensor:
        """Return the read-out's logits of an evaluation's rows, of as many at a time as in `_score`."""
        at_once = self.spec.network.examples_at_once
        pieces = zip(*(passage.taps[index][0].split(at_once) for index in head.layers), strict=True)
        return torch.cat([head.logits(list(map(at_line, piece))) for piece in pieces])

    def _output(self, block: Block, x: Tensor) -> Tensor:
        """Return memory for what a block makes of rows x (minibatches, n, ...): what leaves the stage or what later
        blocks and the read-out are yet to see is not to be overwritten by the next blocks."""
        shape, dtype = (*x.shape[:2], *block.outputs.shape), block.outputs.dtype
        if block.index == self.spec.layers[-1]:
            if self._outputs is None:
                return torch.empty(shape, dtype=dtype, device=x.device)
            return self._outputs.take(shape, dtype)
        # In earlier stages what the read-out sees need not stay: it is copied when it is handed out (passage.py).
        stays = block.keep or (self.spec.is_last and block.index in self.spec.network.taps)
        # Two buffers take turns for all others: a block reads the one while it writes the other.
        name = f"of layer {block.index}" if stays else f"between layers {block.index % 2}"
        after = self.blocks[self.spec.layers.index(block.index) + 1]
        # By blocks that do not mind: one of a user's own may view `out`, or go by its strides.
        orders = isinstance(block, LocalBlock) and after.reads_channels_last
        # Not where channels or pixels are one: torch takes either order for the other then, yet computes some things
        # otherwise, and what comes from another stage has the plain one.
        if orders and len(shape) == 5 and not stays and min(shape[2], shape[3] * shape[4]) > 1:
            # In the order in which that block reads it: else every minibatch would be copied twice.
            minibatches, rows, channels, height, width = shape
            return self.workspace.take(name, (minibatches, rows, height, width, channels), dtype).permute(0, 1, 4, 2, 3)
        return self.workspace.take(name, shape, dtype)

    def _files(self, step: int) -> dict[str, FileState]:
        """Return the tensors that a snapshot after `step` keeps of this stage, by file."""
        self._refuse_other_shapes(step)
        files = {}
        for block, meter in zip(self.blocks, self._meters, strict=True):
            state = {**block.state(), **meter.state()}
            files[checkpoint.layer_file(block.index)] = FileState(state, tuple(block.weights()))
        if self.head is not None:
            # Their neutral rows have passed and do not come again: who goes on has no other way to these predictions.
            unused = {f"{PREDICTION}{s}": torch.from_numpy(p) for s, p in sorted(self.latest.items()) if s >= step}
            state = {**self.head.state(), **self._head_meter.state(), **unused}
            files[checkpoint.HEAD] = FileState(state, tuple(self.head.weights()))
        return files

    def _refuse_other_shapes(self, step: int) -> None:
        for block, shapes in zip(self.blocks, self._shapes, strict=True):
            refuse_other_shapes(self.spec.network.outlines[block.index], shapes, shapes_of(block), step)

    def parked(self) -> list[Tensor]:
        """Return large tensors whose contents make the stage what it is (parking.py)."""
        states = [block.state() for block in self.blocks] + ([self.head.state()] if self.head else [])
        found = [tensor for state in states for tensor in state.values() if tensor.nbytes >= PARKED_BYTES]
        return list({id(tensor): tensor for tensor in found}.values())  # a weight may have two names

    def scratch(self) -> list[Tensor]:
        """Return large tensors whose contents can be made anew."""
        return [tensor for block in self.blocks for tensor in block.scratch()]

    def renew(self) -> None:
        """Make what `scratch` lost."""
        for block in self.blocks:
            block.renew()

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
            self.latest = predictions_in(state)
        self.step = step


def _have_one_order() -> None:
    """Have torch use the algorithms on GPUs alone that sum in one order, or raise where there is none."""
    torch.use_deterministic_algorithms(True)
    # Else torch fills all new memory first, which takes time; buffers here are written before they are read.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # the module has it
    # Algorithms would be chosen by how fast they are at the moment, and round in their own ways.
    torch.backends.cudnn.benchmark = False


def _refuse_infinite(who: str, steps: Sequence[int], losses: Sequence[Tensor]) -> None:
    """Refuse losses of steps that are not finite. One look a chunk, so that a GPU is not waited for at each step."""
    finite = torch.isfinite(torch.stack(list(losses))).tolist()
    if not all(finite):
        at = finite.index(False)
        raise Diverged(f"the loss of {who} is {losses[at].item()} at step {steps[at]}: try a lower learning rate")

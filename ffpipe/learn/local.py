"""A block that is any module with a local objective, trained by autograd inside the block.

    h = body(x);  loss = objective(h, labels);  one step of the block's own optimiser;  hands on objective.hand_on(h)

What is handed on carries no graph, so that memory does not grow with depth. Nothing but the arguments decides the
bits: the generators that torch, NumPy and Python share are set for every step from (seed, block, step), and the
arithmetic has a fixed number of threads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.instancenorm import _InstanceNorm

from ffpipe.config.schema import Training
from ffpipe.learn.batchnorm import Shared
from ffpipe.learn.block import Block, Step
from ffpipe.learn.denormals import is_due
from ffpipe.learn.objectives import Learned, Objective, as_learned
from ffpipe.learn.optim import NamedOptimizer
from ffpipe.learn.precision import PRECISIONS, Formats, wide
from ffpipe.learn.spec import RowLayout, RowSpec
from ffpipe.learn.state_tensors import refuse_changed
from ffpipe.learn.thread_count import threads_of_block
from ffpipe.system.errors import UserError
from ffpipe.system.rng import generator, process_seeded


@contextmanager
def seeded(device: torch.device, seed: int, purpose: str, *index: int, own: bool = True) -> Iterator[None]:
    """Set the generators of torch, NumPy and Python for what is drawn inside, and put them back as they were. own: code
    of a user's may draw; else by torch alone, since the others take a fifth of a millisecond."""
    # Named, since fork_rng would keep the state of every GPU that there is.
    devices = [device] if device.type == "cuda" else []
    number = int(generator(seed, purpose, *index).integers(2**63))  # 63 bits, as torch takes them
    with torch.random.fork_rng(devices=devices), process_seeded(number) if own else nullcontext():
        # torch.manual_seed would seed all kinds of devices, which takes longer than a step of a small block.
        torch.default_generator.manual_seed(number)
        if devices:
            torch.cuda.manual_seed_all(number)
        yield


def seeded_in_evaluation(training: Training, device: torch.device, *place: int) -> AbstractContextManager[None]:
    """Set the generators for what a block of a user's draws in evaluation mode, where no other draws. place: its index,
    and which of the rows there are."""
    return seeded(device, training.seed, "score", *place) if training.model else nullcontext()


def sum_of(values: Sequence[Tensor]) -> Tensor:
    """Add up numbers, or give the one that there is, to the bit."""
    return values[0] if len(values) == 1 else torch.stack(list(values)).sum()


def undivided_part(body: nn.Module, objective: Objective) -> str:
    """Explain why minibatches cannot be cut into shards, in words that follow the block's name; "" where they can."""
    for part in (body, objective):
        for name, module in part.named_modules():
            # Instance normalisation is of each example by itself; its running statistics alone are of a minibatch.
            tracks = isinstance(module, _InstanceNorm) and module.track_running_stats
            if (isinstance(module, _BatchNorm) and not isinstance(module, Shared)) or tracks:
                where = f"{name}, " if name else ""
                return f"has statistics over the minibatch ({where}{type(module).__name__})"
    return objective.undivided


class LocalBlock(Block):
    """A block of a body and a local objective (see the module). body: maps (n, *inputs.shape) to any tensor of n rows;
    it gets kept outputs as further arguments.

    Body and objective keep their weights in the precision's format of weights; with another format of products they
    compute under autocast.
    """

    # Autocast rounds a weight once in a pass, however often it is used.
    caches_rounded = True

    def __init__(
        self,
        index: int,
        inputs: RowSpec,
        outputs: RowSpec,
        body: nn.Module,
        objective: Objective,
        training: Training,
        keep: str = "",
        use: Sequence[str] = (),
    ) -> None:
        """training: with the optimiser and the hand_on of this block."""
        super().__init__()
        self.index, self.inputs, self.outputs = index, inputs, outputs
        self.keep, self.use, self.roles = keep, tuple(use), objective.roles
        self.body, self.objective, self.config = body, objective, training
        self.reads_channels_last = training.memory_format == "channels-last"
        self._groups = self.reads_channels_last and any(isinstance(each, nn.GroupNorm) for each in self.modules())
        self._formats = Formats(PRECISIONS[training.precision])
        parameters = {name: p for name, p in self.named_parameters() if p.requires_grad}
        self.optimizer: NamedOptimizer | None = NamedOptimizer(parameters, training.optimizer) if parameters else None
        self.rate = training.optimizer.learning_rate if parameters else None
        self.undivided = undivided_part(body, objective)
        # A user's may draw by any generator. To set generators takes half a millisecond; ffpipe's own kinds draw for
        # modules of dropout alone: that of attention, which is a function, has the share of one beside it (kinds.py).
        self._own = bool(training.model)
        self._draws = self._own or any(isinstance(each, _DropoutNd) and each.p > 0 for each in self.modules())

    def score(self, x: Tensor, *kept: Tensor) -> tuple[Tensor, Tensor | None]:
        """Score as `Block.score`, by the body in evaluation mode where `eval()` was called."""
        with self._threads(x.device), self._format(x.device):
            h = self._run(x, kept)
            scores = self.objective.score(h)
            # In training `out` rounds what is handed on to this; evaluations are of the same rows.
            dtype = self._formats.now.products if self.outputs.dtype.is_floating_point else self.outputs.dtype
            return self.objective.hand_on(h).to(dtype), None if scores is None else wide(scores)

    def positive_loss(self, scores: Tensor) -> Tensor | None:
        return self.objective.positive_loss(scores)

    def learn(
        self, x: Tensor, layout: RowLayout, labels: Tensor | None, step: Step, out: Tensor, kept: Sequence[Tensor] = ()
    ) -> Learned:
        rows = layout.learning_rows
        rest = [each[:rows] for each in kept]
        self._mode(training=True)
        size = layout.batch // self.config.accumulation
        # Pairs have two rows for each of `batch`; examples alone are cut into parts (config/rules.py).
        parts = [slice(0, rows)] if size == layout.batch else [slice(i, i + size) for i in range(0, layout.batch, size)]
        found: list[Learned] = []
        with self._threads(x.device), self._drawing(x.device, step):
            learns = step.factor is not None and self.optimizer is not None
            for part in parts:
                with torch.set_grad_enabled(learns), self._format(x.device):
                    some = [each[part] for each in rest]
                    judged = None if labels is None else labels[part]
                    h, learned = self._passed(x[part], some, replace(layout, batch=size), judged)
                    mean = learned.loss / layout.batch
                self._put(h.detach(), out[part])  # from before the update, so that it need not wait for that
                del h  # the graph keeps what the backward pass needs of it
                # If there are passing rows, `out` is not whole before these are in it.
                if part is parts[-1] and len(x) == rows and self.config.hand_on == "before":
                    step.leave()
                if learns:
                    mean.backward()
                # Else the graph of this part would be there beside that of the next one.
                found.append(Learned(learned.loss.detach(), learned.errors.detach()))
                del learned, mean
            if step.factor is not None and self.optimizer is not None:
                self.optimizer.step(step.factor)
                if is_due(step.index):
                    self.optimizer.flush_denormals()
                if self.config.hand_on == "after":
                    with self._format(x.device), self._tracking_nothing():
                        self._put(self._run(x[:rows], rest), out[:rows])
        if len(x) > rows:
            self.pass_on(x[rows:], step, out[rows:], [each[rows:] for each in kept])
        return Learned(sum_of([each.loss for each in found]), sum_of([each.errors for each in found]))

    @contextmanager
    def _tracking_nothing(self) -> Iterator[None]:
        """Keep running statistics as they are: those of a step come from the pass that was learned from."""
        was = [buffer.clone() for buffer in self.buffers()]
        yield
        for buffer, value in zip(self.buffers(), was, strict=True):
            buffer.copy_(value)

    def _drawing(self, device: torch.device, step: Step) -> AbstractContextManager[None]:
        """Have the generators give what is drawn in a step on some rows."""
        if not self._draws:
            return nullcontext()
        return seeded(device, self.config.seed, "block", self.index, *step.key, own=self._own)

    def pass_on(self, x: Tensor, step: Step, out: Tensor, kept: Sequence[Tensor] = ()) -> None:
        """Pass on as `Block.pass_on`, in evaluation mode: rows that are not learned from move no running statistics.
        They come after the update of a step, also where `hand_on` is "before"."""
        self._mode(training=False)
        # In evaluation mode nothing draws but a user's own.
        drawing = self._drawing(x.device, step) if self._own else nullcontext()
        with self._threads(x.device), drawing, self._format(x.device):
            self._put(self._run(x, kept), out)

    def _passed(
        self, x: Tensor, kept: Sequence[Tensor], layout: RowLayout, labels: Tensor | None
    ) -> tuple[Tensor, Learned]:
        """Return what the body makes of rows from which the block learns, and the loss. Raises UserError where body or
        objective writes into rows or labels that others read, where the latter returns something else than Learned, and
        for a loss from which no weight can learn."""
        taken = (x, *kept)
        versions = [each._version for each in taken]
        h = self._run(x, kept)
        refuse_changed(taken, versions, f"block {self.index}")
        taken = (h, *taken) if labels is None else (h, labels, *taken)
        versions = [each._version for each in taken]
        judge = f"the objective of block {self.index}"
        learned = as_learned(self.objective(h, layout, labels), judge)
        refuse_changed(taken, versions, judge)
        # In a step in which the block does not learn there is no graph.
        if torch.is_grad_enabled() and not learned.loss.requires_grad:
            raise UserError(
                f"the loss of block {self.index} depends on none of its weights: compute it from them by torch, "
                "without detach, and of floating-point numbers"
            )
        return h, learned

    def _run(self, x: Tensor, kept: Sequence[Tensor]) -> Tensor:
        if self.reads_channels_last and x.dim() == 4:
            x = x.contiguous(memory_format=torch.channels_last)
        if not self._autocast and x.is_floating_point():
            x = x.to(self._formats.now.weights)
        if self._groups and x.is_floating_point() and torch.is_grad_enabled():
            # torch 2.13 crashes where it goes back through group normalisation, in this order, to rows that have no
            # gradient of their own.
            x = x.detach().requires_grad_()
        h: Tensor = self.body(x, *kept)
        return h

    def _put(self, h: Tensor, out: Tensor) -> None:
        # As in `pass_on`, where the body's own format is on.
        with self._format(h.device):
            out.copy_(self.objective.hand_on(h))

    @property
    def _autocast(self) -> bool:
        """Products are made in another format than that of the weights."""
        formats = self._formats.now
        return formats.products != formats.weights

    def _mode(self, *, training: bool) -> None:
        # To set the mode goes through all modules within, in every step.
        if self.training != training:
            self.train(training)

    def _threads(self, device: torch.device) -> AbstractContextManager[None]:
        return threads_of_block(self.config.threads if device.type == "cpu" else None)

    def _format(self, device: torch.device) -> AbstractContextManager[None]:
        if not self._autocast:
            return nullcontext()
        return torch.autocast(device.type, self._formats.now.products, cache_enabled=self.caches_rounded)

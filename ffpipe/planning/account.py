"""What a stage takes of memory, as arithmetic on the sizes of a config: nothing is made, measured or started here.

    parameters   weights, biases, running means; in bfloat16 the rounded copies that products read
    optimizer    what it keeps between steps
    buffers      what a step computes in: one set for all layers of a process
    messages     the streams that a stage reads, makes and is about to send
    snapshot     the copy that is written while training goes on, or a file that is read at a resume

Messages that wait between two stages are not in a stage: they are in Ray's object store (footprint.py) or on disk.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from functools import cached_property

from ffpipe.config.schema import Optimizer, Training
from ffpipe.learn.precision import PRECISIONS
from ffpipe.learn.updates import MixedAveraging
from ffpipe.pipeline.contents import OPTIMIZER, snapshot_contents
from ffpipe.pipeline.stage import StageSpec
from ffpipe.storage import checkpoint
from ffpipe.storage.checkpoint import Contents
from ffpipe.storage.tensorfile import Entry

# Of a result on its way to the next actor: one waits to be published and one is being published (publisher.py).
ON_THEIR_WAY = 2
# Most of torch's optimisers, if they are not fused: a square root, and a quotient.
TEMPORARIES = 2
# Of a file that is read: its bytes, and the tensors made from them.
READ_TWICE = 2


@dataclass(frozen=True)
class Holding:
    """Bytes that a process holds for its stage, at the worst moment of each kind."""

    parameters: int
    optimizer: int
    buffers: int
    messages: int
    snapshot: int

    @property
    def total(self) -> int:
        return sum(getattr(self, field.name) for field in fields(self))


@dataclass(frozen=True)
class Sizes:
    """What the bytes of every stage of a run follow from.

    takes: shape, row width and classes of the network's input.
    """

    training: Training
    takes: checkpoint.Input
    chunk: int

    @cached_property
    def widths(self) -> tuple[int, ...]:
        """Features of a row before each layer, and after the last."""
        return (self.takes.width, *self.training.dims[1:])

    @property
    def rows(self) -> int:
        """Of a minibatch, which is what a layer computes at once."""
        return self.training.roles * self.training.batch_size

    @property
    def rows_of_message(self) -> int:
        """Of the largest: a chunk, or one image of an evaluation under every label."""
        return max(self.chunk * self.rows, self.takes.classes * self.training.labelled + self.training.head)

    @cached_property
    def files(self) -> Mapping[str, tuple[int, int]]:
        """Bytes of each file of a snapshot, and of those its optimiser's."""
        # Optimisers have some state only after their first step, and all predictions are owed after as many as the lag.
        contents = snapshot_contents(self.training, self.takes, max(1, self.training.lookahead or 0))
        return {name: (file_bytes(kept), file_bytes(_of_optimizer(kept))) for name, kept in contents.items()}


def sizes(spec: StageSpec, shape: tuple[int, ...], chunk: int) -> Sizes:
    """Of the run that a stage belongs to. shape: of an image."""
    return Sizes(spec.training, checkpoint.Input(shape, spec.width, spec.classes), chunk)


def holding(of: Sizes, layers: range, *, sends: bool, receives: bool) -> Holding:
    """Of a process with these layers.

    sends, receives: whether messages go to, and come from, other processes or the disk. Those that come lie in shared
    memory or in a file.
    """
    training, last = of.training, layers.stop == len(of.widths) - 1
    files = [checkpoint.layer_file(i) for i in layers] + ([checkpoint.HEAD] if training.head and last else [])
    state = [of.files[name][0] for name in files]
    optimizer = sum(of.files[name][1] for name in files)
    leaving = ON_THEIR_WAY * outgoing(of, layers) if sends else 0
    messages = leaving + _streams(of, layers, last=last, receives=receives)
    return Holding(
        parameters=sum(state) - optimizer + _rounded(of, layers),
        optimizer=optimizer,
        buffers=_buffers(of, layers),
        messages=messages + (0 if receives else _source(of)),
        snapshot=max(sum(state), READ_TWICE * max(state)),
    )


def incoming(of: Sizes, layers: range) -> int:
    """Bytes of the largest message that comes to a process: rows, and features for the head, if it is here."""
    if not layers.start:
        return 0
    last, before = layers.stop == len(of.widths) - 1, layers.start - 1  # whose activities are the rows
    return _message(of, layers.start, [i for i in of.training.head_layers if i < before] if last else [])


def outgoing(of: Sizes, layers: range) -> int:
    """Bytes of the largest message that leaves it: rows, and features for the head, which is elsewhere."""
    if layers.stop == len(of.widths) - 1:
        return 0
    return _message(of, layers.stop, [i for i in of.training.head_layers if i in layers])


def _message(of: Sizes, end: int, seen: Iterable[int]) -> int:
    """end: after how many layers. seen: layers whose features go with the rows."""
    features = sum(of.widths[i + 1] for i in seen) * of.chunk * of.training.batch_size
    return (of.rows_of_message * of.widths[end] + features) * PRECISIONS[of.training.precision].products.itemsize


def file_bytes(contents: Contents) -> int:
    """Of the tensors of a file of a snapshot."""
    return sum(Entry(kept.dtype, kept.shape).size for kept in contents.values())


def _of_optimizer(contents: Contents) -> Contents:
    return {name: kept for name, kept in contents.items() if name.startswith(OPTIMIZER)}


def _rounded(of: Sizes, layers: range) -> int:
    """Copies of the weights in the format of the products, where that is another."""
    dtypes = PRECISIONS[of.training.precision]
    if dtypes.products == dtypes.weights:
        return 0
    return sum(of.widths[i] * of.widths[i + 1] for i in layers) * dtypes.products.itemsize


def _buffers(of: Sizes, layers: range) -> int:
    """The workspace, and what comes and goes within one step of the largest layer."""
    training = of.training
    weight, product = (dtype.itemsize for dtype in PRECISIONS[training.precision])
    mixed = weight != product
    widest = max(of.widths[i + 1] for i in layers)
    largest = max(of.widths[i] * of.widths[i + 1] for i in layers)
    # Activities, their squares, and in bfloat16 what they were rounded from.
    taken = of.rows * widest * (2 * weight + product * mixed)
    if training.dropout:
        taken += of.rows * widest * (weight + 2 + 1)
    if training.local_steps > 1 and training.hand_on == "before":
        taken += of.rows * widest * product
    if training.optimizer.kind != "averaging":
        return taken + largest * (weight * (1 + _temporaries(training.optimizer)) + product * mixed)
    if mixed:
        taken += 2 * training.batch_size * widest * product + MixedAveraging.BLOCK * widest * (weight + product)
    return taken


def _temporaries(settings: Optimizer) -> int:
    """What an optimiser of torch makes during a step, in tensors of the size of a weight."""
    if settings.options.get("fused"):
        return 0
    return int(settings.weight_decay > 0) if settings.kind == "SGD" else TEMPORARIES


def _streams(of: Sizes, layers: range, *, last: bool, receives: bool) -> int:
    """Activations of the largest message (stage.py): the input, the last layer's output, and of those before what the
    head of the last stage is yet to see, and two in turn of the others."""
    row = [width * PRECISIONS[of.training.precision].products.itemsize * of.rows_of_message for width in of.widths]
    entry = 0 if receives else row[layers.start]
    *inner, end = layers
    seen = [i for i in inner if last and i in of.training.head_layers]
    in_turn = [max((row[i + 1] for i in inner if i not in seen and i % 2 == turn), default=0) for turn in (0, 1)]
    return entry + sum(in_turn) + sum(row[i + 1] for i in seen) + row[end + 1]


def _source(of: Sizes) -> int:
    """Images on their way into the first message, and its rows before they are in the format of the products."""
    weight, product = (dtype.itemsize for dtype in PRECISIONS[of.training.precision])
    rows = of.rows_of_message * of.takes.width * weight
    return rows + (rows if weight != product else 0) + 3 * of.training.batch_size * of.training.dims[0] * 4

"""What a stage takes of memory, as arithmetic on the sizes of a config: nothing is made, measured or started here.

    parameters   weights, biases, running means; in bfloat16 the rounded copies that products read
    optimizer    what it keeps between steps
    buffers      what a step computes in: one set for all layers of a process
    messages     the streams that a stage reads, makes and is about to send
    snapshot     the copy that is written while training goes on, or a file that is read at a resume

On more threads than one, the first step tries its products on operands of their own (learn/trials.py): a weight and its
rows at a time, which is less than the copy that is not there yet.

Messages that wait between two stages are not in a stage: they are in Ray's object store (footprint.py) or on disk.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields
from functools import cached_property

from ffpipe.learn.blueprint import Blueprint
from ffpipe.learn.precision import PRECISIONS
from ffpipe.pipeline.contents import OPTIMIZER, contents_bytes, head_contents, meter_contents
from ffpipe.pipeline.packet import KEPT, TAP
from ffpipe.pipeline.routes import Routes
from ffpipe.pipeline.stage import routes_of
from ffpipe.planning.cost import BlockCost, costs_of
from ffpipe.storage.checkpoint import Contents

# Of a result on its way to the next actor: one waits to be published and one is being published (publisher.py).
ON_THEIR_WAY = 2
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
    """What the bytes of every stage of a run follow from. chunk: minibatches in a message."""

    network: Blueprint
    chunk: int

    @property
    def rows_of_message(self) -> int:
        """Rows of the largest: a chunk, or one example of an evaluation."""
        return max(self.chunk * self.network.layout.rows, self.network.rows_of_example)

    @cached_property
    def costs(self) -> tuple[BlockCost, ...]:
        return costs_of(self.network)

    @cached_property
    def head(self) -> Contents:
        """What the file of the read-out has; nothing where there is none."""
        network = self.network
        # Optimisers have some state only after their first step, and all predictions are owed after as many as the lag.
        return head_contents(network, max(1, network.training.lookahead or 0)) if network.has_head else {}

    def state(self, layers: range) -> list[tuple[int, int]]:
        """Bytes of each file of a snapshot that a stage with these blocks writes, and of those its optimiser's."""
        meter = contents_bytes(meter_contents(1))
        files = [
            (cost.parameters - cost.scratch + cost.optimizer + meter, cost.optimizer)
            for cost in self.costs[layers.start : layers.stop]
        ]
        if self.head and layers.stop == len(self.network):
            optimizer = {name: kept for name, kept in self.head.items() if name.startswith(OPTIMIZER)}
            files.append((contents_bytes(self.head), contents_bytes(optimizer)))
        return files

    @property
    def whole_state(self) -> int:
        """Bytes of all files of a snapshot."""
        return sum(size for size, _ in self.state(range(len(self.network))))


def holding(of: Sizes, layers: range, *, sends: bool, receives: bool) -> Holding:
    """The memory of a process with these blocks.

    sends, receives: whether messages go to, and come from, other processes or the disk. Those that come lie in shared
    memory or in a file.
    """
    network, last = of.network, layers.stop == len(of.network)
    files = of.state(layers)
    state, optimizer = [size for size, _ in files], sum(size for _, size in files)
    scratch = sum(cost.scratch for cost in of.costs[layers.start : layers.stop])
    leaving = ON_THEIR_WAY * outgoing(of, layers) if sends else 0
    messages = leaving + _streams(of, layers, last=last, receives=receives)
    return Holding(
        parameters=sum(state) - optimizer + scratch,
        optimizer=optimizer,
        buffers=max(cost.step for cost in of.costs[layers.start : layers.stop]),
        messages=messages + (0 if receives else _source(network, of.rows_of_message)),
        snapshot=max(sum(state), READ_TWICE * max(state)),
    )


def incoming(of: Sizes, layers: range) -> int:
    """Bytes of the largest message that comes to a process: rows, what read-out and blocks here see of earlier ones."""
    if not layers.start:
        return 0
    before, routes = range(layers.start), _routes_around(of, layers)
    stage = 1
    names = [name for sender in routes.senders(stage) for name in routes.names(sender, stage)] if before else []
    return _message(of, layers.start, names)


def outgoing(of: Sizes, layers: range) -> int:
    """Bytes of the largest message that leaves it: rows, and what later stages see beside them."""
    if layers.stop == len(of.network):
        return 0
    routes = _routes_around(of, layers)
    return _message(of, layers.stop, routes.leaving(1 if layers.start else 0))


def _routes_around(of: Sizes, layers: range) -> Routes:
    """The routes where the blocks before these are in one stage, the next one alone in another, and the rest in a
    third: no other cut of them makes more go past a neighbour."""
    end = len(of.network)
    following = min(layers.stop + 1, end)
    groups = (range(layers.start), layers, range(layers.stop, following), range(following, end))
    return routes_of(of.network, tuple(group for group in groups if group))


def _message(of: Sizes, end: int, names: Iterable[str]) -> int:
    """end: after how many blocks. names: of what goes with the rows."""
    network = of.network
    return of.rows_of_message * network.edges[end].nbytes + sum(
        beside_bytes(network, name, of.chunk * network.layout.rows, of.chunk * network.layout.batch) for name in names
    )


def beside_bytes(network: Blueprint, name: str, rows: int, seen: int) -> int:
    """Bytes of what goes beside the rows. rows: of the message. seen: those of them that the read-out sees."""
    if name.startswith(TAP):
        return seen * network.outlines[int(name.removeprefix(TAP))].outputs.nbytes
    return rows * network.outlines[network.kept[name.removeprefix(KEPT)]].outputs.nbytes


def _streams(of: Sizes, layers: range, *, last: bool, receives: bool) -> int:
    """Rows of the largest message (stage.py): the input, the last block's output, and of those before what the
    read-out and later blocks are yet to see, and two in turn of the others."""
    network = of.network
    row = [edge.nbytes * of.rows_of_message for edge in network.edges]
    entry = 0 if receives else row[layers.start]
    *inner, end = layers
    stay = [i for i in inner if network.outlines[i].keep or (last and i in network.taps)]
    in_turn = [max((row[i + 1] for i in inner if i not in stay and i % 2 == turn), default=0) for turn in (0, 1)]
    return entry + sum(in_turn) + sum(row[i + 1] for i in stay) + row[end + 1]


def _source(network: Blueprint, rows_of_message: int) -> int:
    """Images on their way into the first message, its rows in the format of the weights, and in an evaluation as many
    from which these are put together, while those of training are kept."""
    rows = rows_of_message * network.inputs.size * PRECISIONS[network.training.precision].weights.itemsize
    return 2 * rows + 3 * network.training.batch_size * math.prod(network.takes.shape) * 4

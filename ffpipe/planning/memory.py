"""Bytes of a process and of Ray's object store, as arithmetic on the sizes of a config: nothing is made or measured.

    parameters   weights, biases, running means; in bfloat16 the rounded copies that products read
    optimizer    what it keeps between steps
    buffers      what a step computes in: one set for all layers of a process
    messages     the streams that a stage reads, makes and is about to send
    snapshot     the copy that is written while training goes on, or a file that is read at a resume

On more threads than one, the first step tries its products on operands of their own (learn/trials.py): a weight and its
rows at a time, which is less than the copy that is not there yet.

Messages that wait between two stages are on disk or in Ray's object store, which belongs to the host. A minibatch in
flight is in one message at a time; while a stage computes, what it makes is its own memory. Features for the head that
go past the stages between wait at the last one, beside it:

    stage 0 ──rows──► stage 1 ──rows──► stage 2 ──rows──► stage 3       of a minibatch on the second edge the store
       └──features──────┼─────────────────┼─────────────────►           holds its rows there, and the features of
                        └──features───────┼─────────────────►           stages 0 and 1

On one node an array is put once and read in place. Each of several holds what its stages send and what they get.
All of the window may be on the widest edge at once, if the stage behind it is the slowest.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from ffpipe.learn.blueprint import Blueprint
from ffpipe.learn.precision import PRECISIONS
from ffpipe.pipeline.packet import KEPT, TAP
from ffpipe.pipeline.publisher import PUBLISH_AHEAD
from ffpipe.pipeline.routes import Routes
from ffpipe.pipeline.snapshot_schema import contents_bytes, snapshot_schema
from ffpipe.pipeline.stage_spec import StageSpec
from ffpipe.planning.cost import costs_of, optimizer_bytes
from ffpipe.storage.checkpoint import HEAD, layer_file
from ffpipe.system.errors import UserError

# Results on their way to the next actor: those that wait to be published, and one that is being published.
ON_THEIR_WAY = PUBLISH_AHEAD + 1
# A file that is read is there as its bytes, and as the tensors made from them.
READ_TWICE = 2
# Ray begins to spill when 0.8 of a store is taken; the rest is for reports and for the gaps between arrays.
USABLE = 0.75
# Whatever the precision, probabilities go back in float32 (stage.py).
PREDICTION_BYTES = 4


class MemoryBreakdown(NamedTuple):
    """Bytes that a process holds for its stage, at the worst moment of each kind."""

    parameters: int
    optimizer: int
    buffers: int
    messages: int
    snapshot: int

    @property
    def total(self) -> int:
        return sum(self)


@dataclass(frozen=True)
class NetworkSizes:
    """Sizes from which the bytes of every stage of a run follow. chunk: minibatches in a message. replicas: of the
    stage in question, of which the first is judged: it has the evaluations, whole."""

    network: Blueprint
    chunk: int
    replicas: int = 1

    @property
    def rows_of_message(self) -> int:
        """Rows of the largest: a chunk, or one example of an evaluation."""
        return max(self.chunk * self.network.layout.rows, self.network.rows_of_example)

    @property
    def seen_of_message(self) -> int:
        """Rows that the read-out sees of the largest: one of each example."""
        tested = evaluation_batch(self.network, self.chunk) * self.network.has_head
        return max(self.chunk * self.network.layout.batch, tested)

    def state(self, layers: range) -> list[tuple[int, int]]:
        """Return the bytes of each file of a snapshot that a stage with these blocks writes, and its optimiser's."""
        head = [HEAD] if self.network.has_head and layers.stop == len(self.network) else []
        return [_files(self.network)[name] for name in (*map(layer_file, layers), *head)]

    @property
    def whole_state(self) -> int:
        """Bytes of all files of a snapshot."""
        return sum(size for size, _ in self.state(range(len(self.network))))


@lru_cache(maxsize=16)
def _files(network: Blueprint) -> dict[str, tuple[int, int]]:
    """Return the bytes of each file of a snapshot, and of those its optimiser's, by name."""
    # Optimisers have some state only after their first step, and all predictions are there after as many as the lag.
    files = snapshot_schema(network, max(1, network.training.lookahead or 0))
    return {name: (contents_bytes(contents), optimizer_bytes(contents)) for name, contents in files.items()}


def evaluation_batch(network: Blueprint, chunk: int) -> int:
    """Return the examples in a message of an evaluation: as many as have no more rows than a chunk, but for a single
    example. A stage scores them in portions that do not depend on chunks (stage.py)."""
    rows, of_example = network.layout.rows, network.rows_of_example
    whole = chunk * network.examples_at_once
    return whole if of_example <= rows else max(1, chunk * rows // of_example)


def breakdown(of: NetworkSizes, layers: range, *, sends: bool, receives: bool) -> MemoryBreakdown:
    """Return the memory of a process with these blocks.

    sends, receives: whether messages go to, and come from, other processes or the disk. Those that come lie in shared
    memory or in a file.
    """
    costs, (state, optimizer) = costs_of(of.network)[layers.start : layers.stop], zip(*of.state(layers), strict=True)
    messages = _streams(of, layers, receives=receives)
    messages += ON_THEIR_WAY * outgoing(of, layers) if sends else 0
    messages += 0 if receives else _source(of)
    return MemoryBreakdown(
        parameters=sum(state) - sum(optimizer) + sum(cost.scratch for cost in costs),
        optimizer=sum(optimizer),
        buffers=max(cost.step for cost in costs) + sums_bytes(of, layers),
        messages=messages,
        snapshot=max(sum(state), READ_TWICE * max(state)),
    )


def gradient_bytes(of: NetworkSizes, layers: range) -> int:
    """Return the bytes of the largest of these blocks' gradients, which are those of its weights."""
    return max(size - optimizer for size, optimizer in of.state(layers))


def sums_bytes(of: NetworkSizes, layers: range) -> int:
    """Return the bytes of gradients that are there at once where minibatches are cut into shards: one for each level of
    the tree below, and those of the other replicas with their sums."""
    shards = of.network.training.shards
    if shards == 1:
        return 0
    own, others = shards // of.replicas, of.replicas - 1
    return (own.bit_length() + others + others.bit_length()) * gradient_bytes(of, layers)


def incoming(of: NetworkSizes, layers: range) -> int:
    """Return the bytes of the largest message that comes: rows, and what read-out and blocks here see of others."""
    return _message(of, layers.start, _routes_around(of, layers).names(0, 1)) if layers.start else 0


def outgoing(of: NetworkSizes, layers: range) -> int:
    """Return the bytes of the largest message that leaves it: rows, and what later stages see beside them."""
    if layers.stop == len(of.network):
        return 0
    return _message(of, layers.stop, _routes_around(of, layers).leaving(1 if layers.start else 0))


def _routes_around(of: NetworkSizes, layers: range) -> Routes:
    """Return the routes where the blocks before these are in one stage, the next one alone in another, and the rest in
    a third: no other cut of them makes more go past a neighbour."""
    # The real cut is not there yet: it is chosen by what its stages would take.
    end = len(of.network)
    following = min(layers.stop + 1, end)
    groups = (range(layers.start), layers, range(layers.stop, following), range(following, end))
    return Routes.of(of.network, tuple(group for group in groups if group))


def _message(of: NetworkSizes, end: int, names: Iterable[str]) -> int:
    """Return the bytes of a message. end: after how many blocks. names: of what goes with the rows."""
    network = of.network
    return of.rows_of_message * network.edges[end].nbytes + sum(
        beside_bytes(network, name, of.rows_of_message, of.seen_of_message) for name in names
    )


def beside_bytes(network: Blueprint, name: str, rows: int, seen: int) -> int:
    """Return the bytes of what goes beside so many rows. seen: those of them that the read-out sees."""
    if name.startswith(TAP):
        return seen * network.outlines[int(name.removeprefix(TAP))].outputs.nbytes
    return rows * network.outlines[network.kept[name.removeprefix(KEPT)]].outputs.nbytes


def _streams(of: NetworkSizes, layers: range, *, receives: bool) -> int:
    """Return the rows of the largest message (stage.py): the input, the last block's output, and of those before what
    the read-out and later blocks are yet to see, and two in turn of the others."""
    network = of.network
    row = [edge.nbytes * of.rows_of_message for edge in network.edges]
    entry = 0 if receives else row[layers.start]
    *inner, end = layers
    last = layers.stop == len(network)
    stay = [i for i in inner if network.outlines[i].keep or (last and i in network.taps)]
    # Two buffers, since a block reads the one while it writes the other (`Stage._output`).
    in_turn = [max((row[i + 1] for i in inner if i not in stay and i % 2 == turn), default=0) for turn in (0, 1)]
    return entry + sum(in_turn) + sum(row[i + 1] for i in stay) + row[end + 1]


def _source(of: NetworkSizes) -> int:
    """Return the images on their way into the first message, its rows in the format of the weights, and in an
    evaluation as many from which these are put together, while those of training are kept."""
    training, network = of.network.training, of.network
    rows = of.rows_of_message * network.inputs.size * PRECISIONS[training.precision].weights.itemsize
    return 2 * rows + 3 * training.batch_size * math.prod(network.takes.shape) * 4


@dataclass(frozen=True)
class Footprint:
    """Bytes in the store of one node: `fixed`, and `each` for every minibatch in flight."""

    fixed: int
    each: int

    def most(self, capacity: int) -> int:
        """Return the minibatches that may be in flight with a store of this size."""
        # Replicas of a single stage may send no more than sums, however many minibatches are in flight.
        return max(0, (int(capacity * USABLE) - self.fixed) // max(1, self.each))

    def held(self, minibatches: int) -> int:
        """Return the bytes held at most."""
        return self.fixed + minibatches * self.each

    def capacity(self, minibatches: int) -> int:
        """Return the size of a store that is large enough, in whole megabytes."""
        # Messages name megabytes, which are to be enough.
        return math.ceil(self.held(minibatches) / USABLE / 1e6) * 10**6


@dataclass(frozen=True)
class StoreCapacity:
    """The stores that a run finds: each stage's node, each node's bytes. larger: how to come by one of so many."""

    nodes: Sequence[str]
    capacities: Mapping[str, int]
    larger: Callable[[int], str]


class _Message(NamedTuple):
    """Numbers of what a message has for one minibatch: rows; those for the head; labels; sums of goodness."""

    rows: int
    neutral: int
    labels: int
    scores: int


def footprints(specs: Sequence[StageSpec], nodes: Sequence[str]) -> dict[str, Footprint]:
    """Work out what a run of these stages takes, by node; nothing where a single stage of one replica sends nothing."""
    counts = specs[0].replicas.counts
    if counts == (1,):
        return {}
    training, network = specs[0].training, specs[0].network
    predictions = 0 if training.lookahead is None else training.batch_size * network.takes.classes * PREDICTION_BYTES
    found = {}
    for node in dict.fromkeys(nodes):
        cells = itertools.product(range(len(specs) - 1), _loads(specs[0]))
        each = max((_on_edge(specs, nodes, node, edge, load) for edge, load in cells), default=0)
        returns = predictions if node in (nodes[0], nodes[-1]) else 0
        # The first replica passes them on to each of the others.
        copies = counts[0] if node == nodes[0] else 1
        # Predictions stay in the memory in which they came until the feed makes their minibatches, a lag later.
        owed = (training.lookahead or 0) * returns * copies
        found[node] = Footprint(owed + _exchanged(specs, nodes, node), each + returns * copies)
    return found


def _exchanged(specs: Sequence[StageSpec], nodes: Sequence[str], node: str) -> int:
    """Return the bytes of the sums that replicas of the stages of a node have under way: of two rounds at most, since
    none begins a third before all have read the first. It is a bound: on one host as many lie beside the store."""
    of = NetworkSizes(specs[0].network, 1)
    each = zip(specs, specs[0].replicas.counts, nodes, strict=True)
    return sum(2 * count * gradient_bytes(of, spec.layers) for spec, count, at in each if count > 1 and at == node)


def least_store(specs: Sequence[StageSpec], nodes: Sequence[str], window: int) -> int:
    """Return the bytes that the largest of the stores needs with such a window."""
    return max((footprint.capacity(window) for footprint in footprints(specs, nodes).values()), default=0)


def fitting(specs: Sequence[StageSpec], room: StoreCapacity, window: int = 0, chunk: int = 0) -> int | None:
    """Return the minibatches that may be in flight in these stores; None where none is ever in one.

    Raises UserError where the window or chunk given (0: none) does not fit, or not even one minibatch does.
    """
    of_nodes = footprints(specs, room.nodes)
    if not of_nodes:
        return None
    most = {node: footprint.most(room.capacities[node]) for node, footprint in of_nodes.items()}
    node = min(most, key=lambda each: most[each])
    fits, wanted = most[node], max(window, chunk, 1)
    if wanted <= fits:
        return fits
    need, held = of_nodes[node].capacity(wanted), of_nodes[node].held(wanted)
    given = (("window", window), ("chunk", chunk))
    fewer = "--stages 1" if len(specs) > 1 else "--execution.replicas 1"
    smaller = " ".join(f"--execution.{name} {fits}" for name, value in given if value > fits)
    raise UserError(
        f"{wanted} minibatch(es) in flight hold up to {held / 1e6:,.0f} MB of Ray's object store, which must have "
        f"{need / 1e6:,.0f} MB for that and has {room.capacities[node] / 1e6:,.0f} MB: "
        f"give {smaller if fits else fewer}, or {room.larger(need)}"
    )


def _on_edge(specs: Sequence[StageSpec], nodes: Sequence[str], node: str, edge: int, load: _Message) -> int:
    """Return a minibatch's bytes on a node, between stages `edge` and `edge` + 1, and of what went ahead of it."""
    network, routes = specs[0].network, specs[0].routes
    held = sum(
        beside_bytes(network, name, load.rows, load.neutral)
        for sender in range(edge + 1)
        for receiver in routes.receivers(sender)
        if receiver > edge and node in (nodes[sender], nodes[receiver])
        for name in routes.names(sender, receiver)
    )
    if node in nodes[edge : edge + 2]:
        held += load.rows * network.edges[specs[edge].layers.stop].nbytes
        # A stage hands on the very labels that it got: for a moment they are in two messages.
        weights = PRECISIONS[network.training.precision].weights
        held += 2 * load.labels * network.labels.nbytes + load.scores * weights.itemsize
    return held


def _loads(spec: StageSpec) -> list[_Message]:
    """Return the messages with minibatches to train on, and with their like of an evaluation."""
    network, training = spec.network, spec.training
    examples = network.examples_at_once
    seen = training.batch_size if network.has_head else 0
    labels = training.batch_size if network.has_head or not training.contrasts else 0
    scores = network.takes.classes * (training.reads_goodness or (not training.contrasts and not network.labels.shape))
    return [
        _Message(network.layout.rows, seen, labels, 0),
        _Message(examples * network.rows_of_example, examples * network.has_head, examples, examples * scores),
    ]

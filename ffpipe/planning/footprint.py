"""What the messages of a run take of Ray's object store, as arithmetic on sizes. Ray itself is not known here.

A minibatch in flight is in one message at a time, between two stages; while a stage computes, what it makes is its own
memory. Features for the head that go past the stages between wait at the last one, beside it:

    stage 0 ──rows──► stage 1 ──rows──► stage 2 ──rows──► stage 3       of a minibatch on the second edge the store
       └──features──────┼─────────────────┼─────────────────►           holds its rows there, and the features of
                        └──features───────┼─────────────────►           stages 0 and 1

On one node an array is put once and read in place. Of several, each holds what its stages send and what they get.
All of the window may be on the widest edge at once, if the stage behind it is the slowest.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ffpipe.learn.blueprint import Blueprint
from ffpipe.learn.precision import PRECISIONS
from ffpipe.pipeline.stage import StageSpec
from ffpipe.planning.account import beside_bytes
from ffpipe.system.errors import UserError

# Ray begins to spill when 0.8 of a store is taken; the rest is for reports and for the gaps between arrays.
USABLE = 0.75
PREDICTION_BYTES = 4


@dataclass(frozen=True)
class Footprint:
    """Bytes in the store of one node: `fixed`, and `each` for every minibatch in flight."""

    fixed: int
    each: int

    def most(self, capacity: int) -> int:
        """Minibatches that may be in flight with a store of this size."""
        return max(0, (int(capacity * USABLE) - self.fixed) // self.each)

    def held(self, minibatches: int) -> int:
        """Bytes held at most."""
        return self.fixed + minibatches * self.each

    def capacity(self, minibatches: int) -> int:
        """Size of a store that is large enough, in whole megabytes."""
        return math.ceil(self.held(minibatches) / USABLE / 1e6) * 10**6


@dataclass(frozen=True)
class Room:
    """The stores that a run finds. nodes: where each stage is. capacities: bytes, by node.

    larger: how to come by a store of so many bytes, for messages.
    """

    nodes: Sequence[str]
    capacities: Mapping[str, int]
    larger: Callable[[int], str]


@dataclass(frozen=True)
class _Load:
    """Of the kind of message that it is, what goes with one minibatch: rows; those for the head; labels; sums
    of goodness."""

    rows: int
    neutral: int
    labels: int
    scores: int


def footprints(specs: Sequence[StageSpec], nodes: Sequence[str]) -> dict[str, Footprint]:
    """By node, what a run of these stages takes there. Empty for a single stage, which sends nothing."""
    if len(specs) == 1:
        return {}
    training, classes = specs[0].training, specs[0].network.takes.classes
    lead = training.lookahead or 0
    predictions = 0 if training.lookahead is None else training.batch_size * classes * PREDICTION_BYTES
    found = {}
    for node in dict.fromkeys(nodes):
        cells = itertools.product(range(len(specs) - 1), _loads(specs[0]))
        each = max(_on_edge(specs, nodes, node, edge, load) for edge, load in cells)
        returns = predictions if node in (nodes[0], nodes[-1]) else 0
        found[node] = Footprint(lead * returns, each + returns)
    return found


def fitting(specs: Sequence[StageSpec], room: Room) -> int | None:
    """Minibatches that may be in flight in these stores; None where none is ever in one."""
    return min((f.most(room.capacities[node]) for node, f in footprints(specs, room.nodes).items()), default=None)


def least_store(specs: Sequence[StageSpec], nodes: Sequence[str], window: int) -> int:
    """Bytes that the largest of the stores needs with such a window."""
    return max((footprint.capacity(window) for footprint in footprints(specs, nodes).values()), default=0)


def refuse_unfit(specs: Sequence[StageSpec], room: Room, window: int, chunk: int) -> None:
    """Raise UserError where the window or chunk given (0: none) does not fit, or not even one minibatch does."""
    fits, wanted = fitting(specs, room), max(window, chunk, 1)
    if fits is None or wanted <= fits:
        return
    of_nodes = footprints(specs, room.nodes)
    node = min(of_nodes, key=lambda n: of_nodes[n].most(room.capacities[n]))
    footprint, have = of_nodes[node], room.capacities[node]
    need = footprint.capacity(wanted)
    given = (("window", window), ("chunk", chunk))
    smaller = " ".join(f"--execution.{name} {fits}" for name, value in given if value > fits)
    raise UserError(
        f"{wanted} minibatch(es) in flight hold up to {_megabytes(footprint.held(wanted))} of Ray's object store, "
        f"which must have {_megabytes(need)} for that and has {_megabytes(have)}: "
        f"give {smaller if fits else '--stages 1'}, or {room.larger(need)}"
    )


def _on_edge(specs: Sequence[StageSpec], nodes: Sequence[str], node: str, edge: int, load: _Load) -> int:
    """Bytes on a node of a minibatch between the stages `edge` and `edge` + 1, and of what went ahead of it."""
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


def _loads(spec: StageSpec) -> list[_Load]:
    """Messages with minibatches to train on, and with their like of an evaluation."""
    network, training = spec.network, spec.training
    examples, classes = evaluated(network), network.takes.classes
    seen = training.batch_size if network.has_head else 0
    labels = training.batch_size if network.has_head or not training.contrasts else 0
    scores = classes * (training.labelled or (not training.contrasts and not network.labels.shape))
    train = _Load(network.layout.rows, seen, labels, 0)
    evaluate = _Load(examples * network.rows_of_example, examples * network.has_head, examples, examples * scores)
    return [train, evaluate]


def evaluated(network: Blueprint) -> int:
    """Examples that are evaluated in the place of one minibatch: as many as have no more rows, but one at least."""
    return max(1, math.ceil(network.layout.rows / network.rows_of_example))


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.0f} MB"

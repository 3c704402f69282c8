"""The delivery of a message to replicas: what goes to which, and how it is put together there. It does not know
who carries it.

Rows to train on go to those who have their shards; each replica of the first stage makes all and keeps its own, from
the data and the predictions that the first one passes on with an item. All else, evaluations above all, is the first
replicas' alone: the others get packets with nothing in them, by which their items stay in order.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ffpipe.learn.negatives import Predictions
from ffpipe.pipeline.packet import PREDICTION, Array, Arrays, Packet, predictions_among
from ffpipe.pipeline.schedule import Item, Predict, Train
from ffpipe.pipeline.stage_spec import StageSpec


def is_shared(item: Item) -> bool:
    """Tell whether all replicas of a stage work an item."""
    return isinstance(item, (Train, Predict))


class Delivery:
    """The messages of one replica of a stage. Senders and receivers have numbers among the replicas of all stages."""

    def __init__(self, spec: StageSpec) -> None:
        self._spec, self._replicas = spec, spec.replicas
        others = self._replicas.others(spec.index, spec.replica)
        self.others = [self._replicas.number(spec.index, other) for other in others]

    @property
    def senders(self) -> list[int]:
        """Those who send a part of every message. The first replica of the first stage, who chooses the items, gets
        none."""
        spec, replicas = self._spec, self._replicas
        if spec.index == 0:
            return [0] if spec.replica else []
        return [
            replicas.number(stage, sender)
            for stage in spec.routes.senders(spec.index)
            for sender in replicas.senders(spec.index, spec.replica, stage)
        ]

    def parts(self, item: Item, made: Arrays) -> dict[int, Arrays]:
        """Return what each receiver gets of the output of this replica; the part may be empty."""
        spec, replicas, found = self._spec, self._replicas, {}
        for receiver, part in spec.routes.parts(spec.index, made).items():
            for other, shards in replicas.sent(spec.index, spec.replica, receiver).items():
                number = replicas.number(receiver, other)
                if is_shared(item):
                    found[number] = rows_of(part, spec.shards, shards)
                else:
                    # An empty packet all the same: its item is to be worked, or passed over, in its turn.
                    found[number] = part if spec.replica == other == 0 else {}
        return found

    def joined(self, packets: Mapping[int, Packet]) -> Arrays:
        """Put one message together from its packets, by sender."""
        pieces: dict[str, list[Array]] = {}
        # In order of numbers, which is that of the shards: each array's pieces then lie as those of one sender would.
        for number in sorted(packets):
            for name, array in packets[number].arrays.items():
                pieces.setdefault(name, []).append(array)
        return {name: _side_by_side(each) for name, each in pieces.items()}


def with_predictions(item: Item, predictions: Predictions) -> Packet:
    """Return the packet with an item, and with what came back, for another replica of the first stage."""
    return Packet(item, {f"{PREDICTION}{step}": Array("float32", made) for step, made in predictions.items()})


def predictions_of(packet: Packet) -> Predictions:
    """Reverse `with_predictions`."""
    return {step: array.data for step, array in predictions_among(packet.arrays).items()}


def rows_of(arrays: Arrays, have: range, wanted: range) -> Arrays:
    """Cut out the rows of some shards, of arrays (minibatches, rows, ...) that have those of others too."""
    if have == wanted:
        return arrays
    found = {}
    for name, array in arrays.items():
        each = array.data.shape[1] // len(have)
        some = slice((wanted.start - have.start) * each, (wanted.stop - have.start) * each)
        found[name] = Array(array.dtype, np.ascontiguousarray(array.data[:, some]))
    return found


def _side_by_side(pieces: list[Array]) -> Array:
    """Join rows of neighbouring shards."""
    if len(pieces) == 1:
        return pieces[0]
    return Array(pieces[0].dtype, np.concatenate([piece.data for piece in pieces], axis=1))

"""The rules between the fields of a config that need no data and no cluster."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

from ffpipe.config.blocks import FF_DENSE
from ffpipe.config.limits import LARGEST_FLOAT, LARGEST_INTEGER
from ffpipe.config.optimizer import check_optimizer
from ffpipe.config.schema import Config, Execution, Training, of_stage
from ffpipe.system.errors import UserError


def check(config: Config) -> None:
    """Check the rules between fields that need no data and no cluster. Raises UserError."""
    training, execution = config.training, config.execution
    layers = training.depth
    if 0 in training.dims[1:]:
        raise UserError("training.dims has a layer of width 0: only the first number, of features, may be 0")
    # Early: what follows does arithmetic that infinity and integers without end would break.
    _check_values(dataclasses.asdict(config))
    # A model's function has not been called yet: learn/refusals.py asks the same once it has.
    if layers is not None:
        refuse_late_read_outs(
            training, layers, f"training.{'blocks' if training.blocks else 'dims'} gives {layers} layer"
        )
    for name, optimizer in (("optimizer", training.optimizer), ("head_optimizer", training.head_optimizer)):
        check_optimizer(f"training.{name}", optimizer)
    _check_rule(training)
    stages = execution.stages or execution.listed
    # Backpropagation is of one stage, whatever the recipe has for its blocks.
    if layers is not None and stages > layers and training.method != "backprop":
        raise UserError(f"execution.stages is {stages}, but there are {layers} layers: give 1 to {layers}")
    execution.check()
    _check_shards(training, execution)
    _check_lag(training, execution)
    if execution.evaluate_every and not (training.data.validation or execution.evaluate_train):
        raise UserError(
            "execution.evaluate_every needs a validation split: set training.data.validation, or evaluate_every 0"
        )


def refuse_late_read_outs(training: Training, layers: int, there: str) -> None:
    """Refuse a read-out that begins behind the last of so many layers. there: how many there are, in words."""
    readouts = (
        ("head_from", training.head_from, training.head and training.method != "backprop"),
        ("goodness_from", training.goodness_from, training.reads_goodness or training.readout == "sum"),
    )
    for name, start, used in readouts:
        if used and start >= layers:
            raise UserError(f"training.{name} is {start}, but {there}(s), counted from 0: give 0 to {layers - 1}")


def _check_shards(training: Training, execution: Execution) -> None:
    """Check what minibatches, shards and replicas ask of each other."""
    shards = training.shards
    # Only 1, 2, 4, 8, ... shards make a balanced tree of sums (learn/shards.py).
    if shards & (shards - 1):
        raise UserError(f"training.shards is {shards}: give a power of 2, as {1 << shards.bit_length() - 1}")
    if training.batch_size % shards:
        raise UserError(
            f"training.shards is {shards}, which does not divide training.batch_size {training.batch_size}: give "
            f"{math.gcd(shards, training.batch_size)}, or another batch size"
        )
    if shards > 1 and training.accumulation > 1:
        raise UserError(
            "training.shards and training.accumulation both cut minibatches: give one of them, and 1 for the other"
        )
    for stage in range(execution.listed or 1):
        replicas = of_stage(execution.replicas, stage)
        if shards % replicas:
            # Shards are a power of 2 that divides a minibatch.
            fits = replicas & (replicas - 1) == 0 and training.batch_size % replicas == 0
            raise UserError(
                f"execution.replicas is {replicas}, which does not divide training.shards {shards}: give "
                f"{math.gcd(replicas, shards)}{f', or training.shards {replicas}' if fits else ''}"
            )


def check_text(tree: Mapping[str, Any]) -> None:
    """Hold every word of a tree, and every name of a field, against what text can be a path. Raises UserError."""
    for name, value in _values(tree):
        # Bytes of a command line that are not UTF-8 come as what cannot be encoded.
        if isinstance(value, str) and ("\0" in value or value != value.encode("utf-8", "replace").decode()):
            raise UserError(f"{name} is {value!r}, which has a character that no name can have: give another")


def _check_values(tree: Mapping[str, Any]) -> None:
    """Hold every field against what numbers can be counted with."""
    for name, value in _values(tree):
        if isinstance(value, int) and abs(value) > LARGEST_INTEGER:
            raise UserError(f"{name} is beyond {LARGEST_INTEGER}: give a smaller number")
        # Not "abs(value) > LARGEST_FLOAT", which is false for NaN.
        if isinstance(value, float) and not abs(value) <= LARGEST_FLOAT:
            raise UserError(f"{name} is {value}: give a finite number, at most {LARGEST_FLOAT:.3g}")


def _values(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values in a tree by their dotted names, and each key by the name of the table that it is in."""
    match value:
        case Mapping():
            for key, inner in value.items():
                yield name, key
                yield from _values(inner, f"{name}.{key}" if name else str(key))
        case list() | tuple():
            for index, inner in enumerate(value):
                yield from _values(inner, f"{name}[{index}]")
        case _:
            yield name, value


def _check_rule(training: Training) -> None:
    """Check what labels, negatives and objective ask of each other."""
    negatives = training.negatives
    training.data.check()
    if training.readout == "softmax" and not (training.labelled and training.head):
        raise UserError(
            "training.readout 'softmax' leaves goodness out, which takes negatives with labels in their rows and a "
            "head that is read in its place: set training.readout last"
        )
    if training.schedule == "steps" and not training.milestones:
        raise UserError("training.schedule 'steps' needs training.milestones: name the epochs after which rates fall")
    if training.batch_size % training.accumulation:
        raise UserError(
            f"training.accumulation is {training.accumulation}, which does not divide training.batch_size "
            f"{training.batch_size}: give one that does"
        )
    if training.accumulation > 1 and training.contrasts:
        raise UserError(
            "training.accumulation cuts minibatches of examples, not of pairs: set training.negatives none, or 1"
        )
    if training.data.source == "text" and training.inputs != "tokens":
        raise UserError("training.data.source 'text' has rows of ids: set training.inputs tokens")
    if training.inputs == "tokens" and training.head and training.method != "backprop":
        raise UserError(
            "training.inputs 'tokens' have a label at each place, and the softmax head tells one an example: set "
            "training.head false"
        )
    if negatives == "none" or training.method == "backprop":
        return
    if training.inputs == "tokens":
        raise UserError("training.inputs 'tokens' have no label to be wrong: set training.negatives none")
    if training.lookahead is not None and not training.head:
        raise UserError(f"training.negatives {negatives!r} come from the head's predictions: set training.head true")
    if training.takes_others != bool(training.data.positive_classes):
        raise UserError(
            f"training.negatives is {negatives!r} and training.data.positive_classes {training.data.positive_classes}: "
            "'others' takes its images from the classes beyond the positive ones, so give both or neither"
        )
    training.check_labels()
    training.check_phases()
    if not training.labelled and not training.head:
        raise UserError("training.labels 'none' leaves only the head to tell classes apart: set training.head true")
    if training.in_turns:
        _check_turns(training)


def _check_turns(training: Training) -> None:
    """Check what steps of one role ask of negatives and blocks."""
    if training.lookahead is not None:
        raise UserError(
            f"training.phases 'by-epoch' has no pairs, for which training.negatives {training.negatives!r} are made of "
            "predictions: set training.negatives random or fixed"
        )
    if training.shards > 1:
        raise UserError(f"training.shards is {training.shards}, but training.phases 'by-epoch' takes 1")
    others = [block.kind for block in training.blocks if block.kind != FF_DENSE]
    if training.model or others:
        raise UserError(
            f"training.phases 'by-epoch' is for dense Forward-Forward layers, but the network has "
            f"{training.model or others[0]!r}: give training.dims, or blocks of kind {FF_DENSE}"
        )


def _check_lag(training: Training, execution: Execution) -> None:
    # Minibatch t + lag leaves once the prediction made beside minibatch t is back: more are never in flight.
    longest = training.most_in_flight
    if longest is None:
        return
    for name, value in (("chunk", execution.chunk), ("window", execution.window), ("chapter", execution.chapter)):
        if value > longest:
            raise UserError(
                f"execution.{name} is {value}, but negatives with training.negative_lag {training.negative_lag} allow "
                f"at most {longest}: give a smaller {name} or a larger lag"
            )

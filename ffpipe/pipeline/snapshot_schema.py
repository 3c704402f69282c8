"""The schema of the files of a snapshot: names, shapes and dtypes of tensors, as a function of the network and the
step.

Stages write and restore these tensors, and every reader checks a file against this schema. Each block lists its own
tensors; for that it is made on torch's meta device.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ffpipe.learn.block import OPTIMIZER
from ffpipe.learn.blueprint import Blueprint
from ffpipe.learn.items import META
from ffpipe.learn.negatives import Predictions
from ffpipe.learn.workspace import Workspace
from ffpipe.pipeline.packet import PREDICTION, predictions_among
from ffpipe.storage import checkpoint
from ffpipe.storage.checkpoint import TensorSpec, TensorSpecs
from ffpipe.telemetry.metrics import METER, METER_LOGISTIC, METER_STEPS


def snapshot_schema(network: Blueprint, step: int) -> Mapping[str, TensorSpecs]:
    """Return what a snapshot has, by file. step: after which the snapshot was made."""
    files: dict[str, TensorSpecs] = {}
    for outline in network.outlines:
        block = network.make(outline.index, Workspace(META))
        contents = block.contents(step)
        if step <= outline.rates.first * network.steps_per_epoch:  # its optimiser has made no step yet
            contents = {
                name: kept._replace(optional=kept.optional or name.startswith(OPTIMIZER))
                for name, kept in contents.items()
            }
        logistic = network.training.pair_errors == "logistic"
        files[checkpoint.layer_file(outline.index)] = {**contents, **meter_contents(step, logistic)}
    return files | ({checkpoint.HEAD: head_contents(network, step)} if network.has_head else {})


def contents_bytes(contents: TensorSpecs) -> int:
    """Return the bytes of the tensors of a file."""
    return sum(kept.nbytes for kept in contents.values())


def head_contents(network: Blueprint, step: int) -> dict[str, TensorSpec]:
    """Return what the file of the linear read-out has."""
    # Minibatch s was predicted `lag` steps before it, and its prediction is kept until it has been trained on.
    training, lag = network.training, network.training.lookahead or 0
    prediction = TensorSpec((training.batch_size, network.takes.classes), torch.float32)
    unused = {f"{PREDICTION}{s}": prediction for s in range(max(step, lag), step + lag)}
    return network.make_head(Workspace(META)).contents(step) | unused | meter_contents(step)


def meter_contents(step: int, logistic: bool = False) -> dict[str, TensorSpec]:
    """Return what every file has of the losses since the last row of metrics. logistic: it may count errors by logistic
    probabilities too."""
    counted = {METER_LOGISTIC: TensorSpec((1,), torch.float64, optional=True)} if logistic else {}
    return {
        METER: TensorSpec((2,), torch.float64),
        METER_STEPS: TensorSpec((), torch.int64, largest=step),
    } | counted


def predictions_in(head: Mapping[str, Tensor]) -> Predictions:
    """Return the predictions in the head's file that the feed has not used yet, by minibatch."""
    return {step: tensor.numpy() for step, tensor in predictions_among(head).items()}

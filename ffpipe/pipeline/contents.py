"""The schema of the files of a snapshot: names, shapes and dtypes of tensors, as a function of the network and the
step.

Stages write it and go on from it; whoever reads a file holds it against this first. Blocks tell it themselves, made
without memory.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ffpipe.learn.blueprint import Blueprint
from ffpipe.learn.items import META
from ffpipe.learn.workspace import Workspace
from ffpipe.storage import checkpoint
from ffpipe.storage.checkpoint import Contents, TensorSpec
from ffpipe.telemetry.metrics import METER, METER_STEPS

PREDICTION = "prediction."


def snapshot_contents(network: Blueprint, step: int) -> Mapping[str, Contents]:
    """Return what a snapshot has, by file. step: after which the snapshot was made."""
    files: dict[str, Contents] = {}
    for outline in network.outlines:
        block = network.make(outline.index, Workspace(META))
        files[checkpoint.layer_file(outline.index)] = block.contents(step) | meter_contents(step)
    return files | ({checkpoint.HEAD: head_contents(network, step)} if network.has_head else {})


def contents_bytes(contents: Contents) -> int:
    """Return the bytes of the tensors of a file."""
    return sum(kept.nbytes for kept in contents.values())


def head_contents(network: Blueprint, step: int) -> dict[str, TensorSpec]:
    """Return what the file of the linear read-out has."""
    # Minibatch s was predicted `lag` steps before it, and its prediction is kept until it has been trained on.
    training, lag = network.training, network.training.lookahead or 0
    prediction = TensorSpec((training.batch_size, network.takes.classes), torch.float32)
    owed = {f"{PREDICTION}{s}": prediction for s in range(max(step, lag), step + lag)}
    return network.make_head(Workspace(META)).contents(step) | owed | meter_contents(step)


def meter_contents(step: int) -> dict[str, TensorSpec]:
    """Return what every file has of the losses since the last row of metrics."""
    return {METER: TensorSpec((2,), torch.float64), METER_STEPS: TensorSpec((), torch.int64, largest=step)}


def owed_predictions(head: Mapping[str, Tensor]) -> dict[int, NDArray[np.float32]]:
    """Return the predictions in the head's file that the source has not used yet, by minibatch."""
    return {
        int(key.removeprefix(PREDICTION)): value.numpy() for key, value in head.items() if key.startswith(PREDICTION)
    }

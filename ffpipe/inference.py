"""After training: load, evaluate, predict and export a finished run. No Ray."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import safetensors
import safetensors.torch
import torch

from ffpipe import checkpoint
from ffpipe.config import Training
from ffpipe.contents import snapshot_contents
from ffpipe.data.images import read_image
from ffpipe.data.splits import load_splits
from ffpipe.errors import UserError
from ffpipe.ff.labels import LabelCode
from ffpipe.ff.network import LayerWeights, Network
from ffpipe.ff.precision import PRECISIONS
from ffpipe.memory import refuse_beyond_host
from ffpipe.runs import open_run

# Rows that pass through the network at once; bounds the memory of an evaluation.
ROWS_AT_ONCE = 4096


class Errors(NamedTuple):
    """Fractions of a split that each read-out got wrong; None where there is no head."""

    examples: int
    goodness: float
    softmax: float | None


@dataclass(frozen=True)
class Prediction:
    """What the network makes of one image. scores: (classes,), of the read-out in use."""

    path: str
    label: int
    scores: tuple[float, ...]


def load(run: str | Path, readout: str | None = None) -> Network:
    """The network of a run's newest snapshot, as a torch module in evaluation mode on the CPU.

    readout: "softmax" (the default where a head was trained) or "goodness". Raises UserError where the
    folder is no run, has no whole snapshot, or a file of it is damaged.
    """
    folder, config = open_run(run)
    training = config.training
    if readout not in (None, "softmax", "goodness"):
        raise UserError(f"readout is {readout!r}: give 'softmax' or 'goodness'")
    if readout == "softmax" and not training.head:
        raise UserError(f"run {run} trained no softmax head: give readout 'goodness'")
    store = folder.store(config)
    snapshot = folder.newest_snapshot(store)
    manifest = checkpoint.read_manifest(store, snapshot)
    takes = manifest.input
    _check_input(training, takes, store.place(snapshot))
    layers: list[LayerWeights] = []
    head = None
    for name, contents in snapshot_contents(training, takes, manifest.step).items():
        state = checkpoint.read_tensors(store, snapshot, manifest, name, contents)
        if name == checkpoint.HEAD:
            head = state
        else:
            layers.append((state["weight"], state["bias"]))
    readout = readout or ("softmax" if training.head else "goodness")
    return Network(training, takes.shape, takes.classes, layers, head, readout).eval()


def _check_input(training: Training, takes: checkpoint.Input, where: str) -> None:
    """Raises UserError where a manifest tells of a network that the config does not make, or that does not fit here."""
    features = training.dims[0]
    width = LabelCode(training.labels, features, takes.classes, training.label_strength).width
    if math.prod(takes.shape) != features or takes.width != width or takes.classes > width:
        raise UserError(
            f"checkpoint {where} is of a network for {takes}, but the config has {features} features "
            f"and labels {training.labels!r}"
        )
    rows = (takes.classes + 1) * max(width, *training.dims[1:])
    weights = sum(a * b for a, b in pairwise((width, *training.dims[1:])))
    needed = (rows + weights) * PRECISIONS[training.precision].weights.itemsize
    refuse_beyond_host(needed, f"the network in {where}", "use a larger one")


def evaluate(run: str | Path, split: str = "test", data_dir: str = "") -> Errors:
    """Both errors of a run on its "test", "validation" or "train" split. Raises UserError."""
    network = load(run)
    _, config = open_run(run)
    data_dir = data_dir or config.execution.data_dir or os.environ.get("FFPIPE_DATA", "")
    splits = load_splits(config.training.data, data_dir)
    parts = {"test": splits.test, "validation": splits.validation, "train": splits.train}
    if split not in parts:
        raise UserError(f"split is {split!r}: give {', '.join(parts)}")
    examples = parts[split]
    if not len(examples):
        raise UserError(f"the {split} split of run {run} is empty")
    if (examples.features, examples.classes) != (network.features, network.classes):
        raise UserError(
            f"the data have {examples.features} features and {examples.classes} classes, "
            f"run {run} was trained on {network.features} and {network.classes}"
        )
    wrong = [0, 0]
    size = max(1, ROWS_AT_ONCE // network.classes)
    for first in range(0, len(examples), size):
        rows = np.arange(first, min(first + size, len(examples)))
        images, labels = torch.from_numpy(examples.images(rows)), torch.from_numpy(examples.labels(rows))
        wrong[0] += int((network.goodness_scores(images).argmax(1) != labels).sum())
        if network.has_head:
            wrong[1] += int((network.softmax_scores(images).argmax(1) != labels).sum())
    count = len(examples)
    return Errors(count, wrong[0] / count, wrong[1] / count if network.has_head else None)


def predict(run: str | Path, images: Sequence[str | Path], readout: str | None = None) -> list[Prediction]:
    """Classify PNG, JPEG or .npy images of the size that the run was trained on. Raises UserError."""
    network = load(run, readout)
    pixels = [read_image(path, network.shape) for path in images]
    scores = network(torch.from_numpy(np.stack(pixels)))
    return [
        Prediction(str(path), int(row.argmax()), tuple(row.tolist())) for path, row in zip(images, scores, strict=True)
    ]


def export(run: str | Path, out: str | Path) -> Path:
    """All weights of a run in one safetensors file: layer0.weight (width, fan_in) as in torch.nn.Linear,
    layer0.bias (width,), ..., head1.weight (classes, width), ...; how to use them in its metadata.

    Raises UserError where `out` exists or can't be written.
    """
    network = load(run)
    _, config = open_run(run)
    path = Path(out)
    if path.exists():
        raise UserError(f"{path} exists: give a new file")
    tensors = {}
    for name, buffer in network.named_buffers():
        place, kind = name.split("_")
        tensors[f"{place}.{kind}"] = buffer.t().contiguous() if kind == "weight" else buffer
    metadata = {
        "format": "ffpipe",
        "config": config.to_toml(),
        "shape": " ".join(map(str, network.shape)),
        "classes": str(network.classes),
    }
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        safetensors.torch.save_file(tensors, temporary, metadata)
        os.replace(temporary, path)
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(f"cannot write {path}: {error}") from None
    finally:
        temporary.unlink(missing_ok=True)
    return path

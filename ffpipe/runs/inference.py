"""After training: load, evaluate, predict and export a finished run. No Ray."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ffpipe.storage import tensorfile
from ffpipe.data.images import read_image
from ffpipe.data.splits import load_splits
from ffpipe.system.errors import UserError
from ffpipe.learn.network import Network, StreamedNetwork
from ffpipe.config.fields import to_toml
from ffpipe.system.memory import host_bytes, refuse_beyond_host
from ffpipe.runs.folder import open_run
from ffpipe.runs.saved import Saved
from ffpipe.storage.tensorfile import Entry

# Rows that pass through the network at once; bounds the memory of an evaluation.
ROWS_AT_ONCE = 4096
# Of memory, what weights may take that are loaded for an evaluation, or rows where weights are not.
LOADED_SHARE = 0.25


class Errors(NamedTuple):
    """Fractions of a split that each read-out got wrong; None where there is no label in the rows, or no head."""

    examples: int
    goodness: float | None
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
    folder is no run, has no whole snapshot, a file of it is damaged, or all of it does not fit into memory.
    """
    saved = Saved.of(run, readout)
    refuse_beyond_host(saved.bytes_of_weights, f"the network in {saved.where}", "use a larger one")
    layers = [saved.layer(index) for index in range(saved.layers)]
    training, takes = saved.config.training, saved.manifest.input
    return Network(training, takes.shape, takes.classes, layers, saved.head(), saved.readout).eval()


def open_network(run: str | Path, readout: str | None = None) -> Network:
    """The same, whatever its size: where it would take more than a share of memory, layers are read one at a time."""
    saved = Saved.of(run, readout)
    if saved.bytes_of_weights <= host_bytes() * LOADED_SHARE:
        return load(run, readout)
    training, takes = saved.config.training, saved.manifest.input
    return StreamedNetwork(training, takes.shape, takes.classes, saved.layer, saved.head(), saved.readout).eval()


def evaluate(run: str | Path, split: str = "test", data_dir: str = "") -> Errors:
    """Both errors of a run on its "test", "validation" or "train" split.

    data_dir: folder with local copies of the data; empty: that of the run, else $FFPIPE_DATA. Raises UserError where
    the folder is no run, has no whole snapshot or a damaged one, and where the split is unknown, empty or of data with
    other features or classes.
    """
    network = open_network(run)
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
    size = _images_at_once(network)
    for first in range(0, len(examples), size):
        rows = np.arange(first, min(first + size, len(examples)))
        images, labels = torch.from_numpy(examples.images(rows)), torch.from_numpy(examples.labels(rows))
        if config.training.labelled:
            wrong[0] += int((network.goodness_scores(images).argmax(1) != labels).sum())
        if network.has_head:
            wrong[1] += int((network.softmax_scores(images).argmax(1) != labels).sum())
    count = len(examples)
    goodness = wrong[0] / count if config.training.labelled else None
    return Errors(count, goodness, wrong[1] / count if network.has_head else None)


def predict(run: str | Path, images: Sequence[str | Path], readout: str | None = None) -> list[Prediction]:
    """Classify PNG, JPEG or .npy images of the size that the run was trained on.

    A .npy is one image, of the shape trained on or flat: uint8, or floats as in training (0 to 1). readout: "goodness"
    or "softmax"; None: softmax where the run has a head. Raises UserError where the folder is no run, has no whole
    snapshot, a damaged one or not that readout, and where an image cannot be read or is of another size.
    """
    network = open_network(run, readout)
    size = _images_at_once(network)
    found = []
    for some in (images[first : first + size] for first in range(0, len(images), size)):
        pixels = [read_image(path, network.shape) for path in some]
        scores = network(torch.from_numpy(np.stack(pixels)))
        found += [
            Prediction(str(path), int(row.argmax()), tuple(row.tolist()))
            for path, row in zip(some, scores, strict=True)
        ]
    return found


def export(run: str | Path, out: str | Path) -> Path:
    """All weights of a run in one safetensors file: layer0.weight (width, fan_in) as in torch.nn.Linear,
    layer0.bias (width,), ..., head1.weight (classes, width), ...; how to use them in its metadata.

    float32, or float64 where the run has that precision. Raises UserError where `out` exists or can't be written, and
    where the folder is no run, has no whole snapshot or a damaged one.
    """
    saved = Saved.of(run)
    takes, widths = saved.manifest.input, saved.widths
    path = Path(out)
    if path.exists():
        raise UserError(f"{path} exists: give a new file")
    of = {}
    for index in range(saved.layers):
        of[f"layer{index}.weight"] = Entry(saved.dtype, (widths[index + 1], widths[index]))
        of[f"layer{index}.bias"] = Entry(saved.dtype, (widths[index + 1],))
    for index in saved.config.training.head_layers:
        of[f"head{index}.weight"] = Entry(saved.dtype, (takes.classes, widths[index + 1]))
    metadata = {
        "format": "ffpipe",
        "config": to_toml(saved.config),
        "shape": " ".join(map(str, takes.shape)),
        "classes": str(takes.classes),
    }
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(tensorfile.header(of, metadata))
            for tensor in _exported(saved, tensorfile.order(of)):
                file.write(tensorfile.data(tensor))
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error}") from None
    finally:
        temporary.unlink(missing_ok=True)
    return path


def _exported(saved: Saved, names: Sequence[str]) -> Iterator[Tensor]:
    """The tensors by their names in an exported file; a layer's file is read once where its names follow each other."""
    head = saved.head() or {}
    layer = functools.lru_cache(maxsize=1)(saved.layer)
    for name in names:
        place, kind = name.split(".")
        if place.startswith("head"):
            yield head[f"weight.{place.removeprefix('head')}"].t()
        else:
            weight, bias = layer(int(place.removeprefix("layer")))
            yield weight.t() if kind == "weight" else bias


def _images_at_once(network: Network) -> int:
    """Images that pass through the network at once, each with every label."""
    rows = ROWS_AT_ONCE
    if isinstance(network, StreamedNetwork):
        # As many as a share of memory holds: what goes into a layer and comes out of it, and a copy on the way.
        widest = max(network.training_config.dims)
        rows = max(rows, int(host_bytes() * LOADED_SHARE) // (3 * widest * 8))
    return max(1, rows // network.classes)

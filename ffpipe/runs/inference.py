"""After training: load, evaluate, predict and export a finished run. No Ray."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ffpipe.config.fields import to_toml
from ffpipe.data.images import read_image
from ffpipe.data.splits import load_splits
from ffpipe.learn.block import Block
from ffpipe.learn.dense import FFDense
from ffpipe.learn.items import META
from ffpipe.learn.network import Network, Silent, StreamedNetwork, readouts_of
from ffpipe.learn.precision import PRECISIONS
from ffpipe.learn.workspace import Workspace
from ffpipe.runs import places
from ffpipe.runs.model import Given
from ffpipe.runs.saved import Saved
from ffpipe.storage import tensorfile
from ffpipe.system.errors import UserError
from ffpipe.system.files import replacing
from ffpipe.system.memory import host_bytes, refuse_beyond_host

# Rows that pass through the network at once; bounds the memory of an evaluation.
ROWS_AT_ONCE = 4096
# Of memory, what weights may take that are loaded for an evaluation, or rows where weights are not.
LOADED_SHARE = 0.25


class Errors(NamedTuple):
    """Fractions of a split that each read-out got wrong; None where there is no label in the rows, or no head.

    others: of the read-outs of networks without negatives, and of each of their blocks, by name.
    """

    examples: int
    goodness: float | None
    softmax: float | None
    others: dict[str, float]


@dataclass(frozen=True)
class Prediction:
    """What the network makes of one image. scores: (classes,), of the read-out in use."""

    path: str
    label: int
    scores: tuple[float, ...]


def load(
    run: str | Path,
    readout: str | None = None,
    *,
    model: Given | None = None,
    allow_code: Iterable[str] = (),
    changes: Mapping[str, Any] | None = None,
) -> Network:
    """The network of a run's newest snapshot, as a torch module in evaluation mode on the CPU.

    readout: "softmax" (the default where a head was trained) or "goodness"; of networks without negatives "last" or
    "sum". model, allow_code: consent to import the code that the run names. changes: where its snapshots are
    (`execution.checkpoints`). Raises UserError where the folder is no run, names a store without the user's word, has
    no whole snapshot, a file of it is damaged, or all of it does not fit into memory.
    """
    return _loaded(Saved.of(run, readout, model, allow_code, changes))


def _loaded(saved: Saved) -> Network:
    refuse_beyond_host(saved.bytes_of_weights, f"the network in {saved.where}", "use a larger one")
    blocks = [saved.block(index) for index in range(len(saved.network))]
    network = Network(saved.network, blocks, saved.head(), saved.readout).eval()
    return network.requires_grad_()


def _opened(saved: Saved) -> Network:
    """The network whatever its size: where it would take more than a share of memory, blocks are read one at a time."""
    if saved.bytes_of_weights <= host_bytes() * LOADED_SHARE:
        return _loaded(saved)
    return StreamedNetwork(saved.network, saved.block, saved.head(), saved.readout).eval()


def evaluate(
    run: str | Path,
    split: str = "test",
    data_dir: str = "",
    *,
    model: Given | None = None,
    allow_code: Iterable[str] = (),
    changes: Mapping[str, Any] | None = None,
    progress: Callable[[int, int], None] = lambda tested, examples: None,
) -> Errors:
    """All errors of a run on its "test", "validation" or "train" split.

    data_dir: folder with local copies of the data; empty: that of the run, else $FFPIPE_DATA. model, allow_code,
    changes: as for `load`, and where the data are (`training.data.train`, `.test`). progress: takes how many
    examples are tested, of how many. Raises UserError where the folder is no run, has no whole snapshot or a damaged
    one, and where the split is unknown, empty or of other data than the run's.
    """
    saved = Saved.of(run, None, model, allow_code, changes)
    network, config = _opened(saved), places.followed(saved.config, saved.run, saved.past.place)
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
    places.refuse_other_data(saved.past.data, splits.fingerprint, config.training.data.source)
    wrong = dict.fromkeys(readouts_of(saved.network), 0.0)
    size, tokens = _images_at_once(network), config.training.inputs == "tokens"
    for first in range(0, len(examples), size):
        rows = np.arange(first, min(first + size, len(examples)))
        if tokens:
            ids = torch.from_numpy(examples.raw(rows)).to(torch.int64)
            images, labels = ids[:, :-1], ids[:, 1:]
        else:
            images, labels = torch.from_numpy(examples.images(rows)), torch.from_numpy(examples.labels(rows))
        for readout in tuple(wrong):
            try:
                with torch.no_grad():
                    missed = network.scores(images, readout).argmax(-1) != labels
            except Silent:
                del wrong[readout]
                continue
            wrong[readout] += float(missed.double().flatten(1).mean(1).sum() if tokens else missed.sum())
        progress(int(rows[-1]) + 1, len(examples))
    shares = {readout: count / len(examples) for readout, count in wrong.items()}
    return Errors(len(examples), shares.pop("goodness", None), shares.pop("softmax", None), shares)


def predict(
    run: str | Path,
    images: Sequence[str | Path],
    readout: str | None = None,
    *,
    model: Given | None = None,
    allow_code: Iterable[str] = (),
    changes: Mapping[str, Any] | None = None,
) -> list[Prediction]:
    """Classify PNG, JPEG or .npy images of the size that the run was trained on.

    A .npy is one image, of the shape trained on or flat: uint8, or floats as in training (0 to 1). readout, model,
    allow_code, changes: as for `load`. Raises UserError where the folder is no run, has no whole
    snapshot, a damaged one or not that readout, and where an image cannot be read or is of another size.
    """
    saved = Saved.of(run, readout, model, allow_code, changes)
    if saved.config.training.inputs == "tokens":
        raise UserError(f"run {run} was trained on tokens, not on images: use ffpipe.load from Python")
    network = _opened(saved)
    size = _images_at_once(network)
    found = []
    for some in (images[first : first + size] for first in range(0, len(images), size)):
        pixels = [read_image(path, network.shape) for path in some]
        try:
            with torch.no_grad():
                scores = network(torch.from_numpy(np.stack(pixels)))
        except Silent as error:
            raise UserError(f"run {run}: {error}") from None
        found += [
            Prediction(str(path), int(row.argmax()), tuple(row.tolist()))
            for path, row in zip(some, scores, strict=True)
        ]
    return found


def export(
    run: str | Path,
    out: str | Path,
    *,
    model: Given | None = None,
    allow_code: Iterable[str] = (),
    changes: Mapping[str, Any] | None = None,
) -> Path:
    """All weights of a run in one safetensors file: layer0.weight (width, fan_in) as in torch.nn.Linear,
    layer0.bias (width,), ..., head1.weight (classes, width), ...; how to use them in its metadata.

    Blocks that were trained by autograd are in it as block0.NAME, by the names of their state_dict. float32, or float64
    where the run has that precision. model, allow_code, changes: as for `load`. Raises UserError where `out` exists or
    can't be written, and where the folder is no run, has no whole snapshot or a damaged one.
    """
    saved = Saved.of(run, None, model, allow_code, changes)
    takes = saved.network.takes
    path = Path(out)
    if path.exists():
        raise UserError(f"{path} exists: give a new file")
    outlines: dict[str, Tensor] = {}
    for index in range(len(saved.network)):
        outlines |= _named(saved.network.make(index, Workspace(META)))
    dtype = PRECISIONS[saved.config.training.precision].weights
    for index in saved.network.taps:
        shape = (takes.classes, saved.network.outlines[index].outputs.size)
        outlines[f"head{index}.weight"] = torch.empty(shape, dtype=dtype, device=META)
    metadata = {
        "format": "ffpipe",
        "config": to_toml(saved.config),
        "shape": " ".join(map(str, takes.shape)),
        "classes": str(takes.classes),
    }
    try:
        with replacing(path, f".{os.getpid()}") as file:
            file.write(tensorfile.header(outlines, metadata))
            for tensor in _exported(saved, tensorfile.order(outlines)):
                file.write(tensorfile.data(tensor))
    except OSError as error:
        raise UserError(f"cannot write {path}: {error}") from None
    return path


def _named(block: Block) -> dict[str, Tensor]:
    """The weights of a block by their names in an exported file."""
    if isinstance(block, FFDense):
        return {f"layer{block.index}.weight": block.weight.t(), f"layer{block.index}.bias": block.bias}
    return {f"block{block.index}.{name}": tensor for name, tensor in block.weights().items()}


def _exported(saved: Saved, names: Sequence[str]) -> Iterator[Tensor]:
    """The tensors by their names in an exported file; a block's file is read once where its names follow each other."""
    head = saved.head()
    block = functools.lru_cache(maxsize=1)(lambda index: _named(saved.block(index)))
    for name in names:
        place = re.match(r"(head|layer|block)(\d+)", name)
        assert place is not None
        index = int(place[2])
        if place[1] == "head":
            assert head is not None
            yield head.weights()[f"weight.{index}"].t()
        else:
            yield block(index)[name]


def _images_at_once(network: Network) -> int:
    """Images that pass through the network at once, each with every label."""
    rows = ROWS_AT_ONCE
    if isinstance(network, StreamedNetwork):
        # As many as a share of memory holds: what goes into a layer and comes out of it, and a copy on the way.
        widest = max(edge.size for edge in network.blueprint.edges)
        rows = max(rows, int(host_bytes() * LOADED_SHARE) // (3 * widest * 8))
    return max(1, rows // (network.classes if network.training_config.contrasts else 4))

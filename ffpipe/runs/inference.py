"""Use of a finished run: load, evaluate and predict. No Ray."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ffpipe.data.inputs import Inputs, files_of
from ffpipe.data.labelled import labelled
from ffpipe.data.labels import Classes
from ffpipe.data.splits import load_splits
from ffpipe.learn.blame import blaming
from ffpipe.learn.block import Block
from ffpipe.learn.local import LocalBlock, seeded_in_evaluation
from ffpipe.learn.network import NO_ANSWER, Network, Silent, StreamedNetwork, readouts_of
from ffpipe.learn.returned import scored
from ffpipe.runs import places
from ffpipe.runs.model import Given
from ffpipe.runs.saved import SavedRun
from ffpipe.storage.checkpoint import name_of
from ffpipe.system.errors import UserError, one_line, refuse_other
from ffpipe.system.files import PATH, names_of
from ffpipe.system.memory import host_bytes, refuse_beyond_host

# Rows that pass through the network at once; bounds the memory of an evaluation.
ROWS_AT_ONCE = 4096
# Bytes of what one block makes of these.
BYTES_AT_ONCE = 256 << 20
# The advice where images in memory are given for files.
FILES = "paths of files, or call ffpipe.load(run)(images)"
# The share of memory that weights may take that are kept for an evaluation or a report, or rows where weights are not.
LOADED_SHARE = 0.25


class Errors(NamedTuple):
    """Fractions of a split that each read-out got wrong; None where there is no label in the rows, or no head. others:
    of the read-outs of networks without negatives, and of each of their blocks, by name."""

    examples: int
    goodness: float | None
    softmax: float | None
    others: dict[str, float]


@dataclass(frozen=True)
class Prediction:
    """The network's answer for one image. scores: (classes,), of the read-out in use. name: of the class. index: place
    in a file of several images; None where the file is one image. names: of the classes; empty where they are numbers.
    """

    path: str
    label: int
    scores: tuple[float, ...]
    name: str
    index: int | None = None
    readout: str = ""
    names: tuple[str, ...] = field(default=(), repr=False)

    @property
    def where(self) -> str:
        """The image by its file, and its place in it."""
        return self.path if self.index is None else f"{self.path}[{self.index}]"

    @property
    def probabilities(self) -> tuple[float, ...]:
        """The softmax of the scores: what a head was trained to give; of goodness only a share, which nothing has
        trained to be a probability."""
        return tuple(torch.tensor(self.scores, dtype=torch.float64).softmax(0).tolist())

    def top(self, count: int) -> list[tuple[str, float]]:
        """Return the likeliest classes by name, with their probabilities; of equals the first class comes first."""
        probabilities = self.probabilities
        order = sorted(range(len(probabilities)), key=lambda label: (-probabilities[label], label))
        return [(name_of(label, self.names), probabilities[label]) for label in order[:count]]


def load(
    run: str | Path,
    readout: str | None = None,
    *,
    model: Given | None = None,
    allow_code: Iterable[str] = (),
    changes: Mapping[str, Any] | None = None,
) -> Network:
    """Return the network of a run's newest snapshot, as a torch module in evaluation mode on the CPU.

    readout: "softmax" (the default where a head was trained) or "goodness"; of networks without negatives "last" or
    "sum". model, allow_code: consent to import the code that the run names. changes: where its snapshots are
    (`execution.checkpoints`). Raises UserError where the folder is not a run, names a store without the user's word,
    has no whole snapshot, a file of it is damaged, or all of it does not fit into memory.
    """
    return loaded(SavedRun.of(run, readout, model, allow_code, changes))


def loaded(saved: SavedRun, kind: type[Network] = Network) -> Network:
    """Return the network of what a run has saved, as `load` gives it. Raises UserError."""
    refuse_beyond_host(saved.bytes_of_weights, f"the network in {saved.where}", "use a larger one")
    blocks = [saved.block(index) for index in range(len(saved.network))]
    # All blocks at once: callers may train the module on, or send it elsewhere, when the run folder is gone.
    network = kind(saved.network, blocks, saved.head(), saved.readout).eval()
    for block in network.blocks:
        if not isinstance(block, LocalBlock):  # whose body tells what of it is frozen
            block.requires_grad_()
    if network.head is not None:
        network.head.requires_grad_()
    return network


class _Blaming(Network):
    """A network that raises RunFailed, which names the block, for what a user's block raises."""

    def _score(self, block: Block, x: Tensor, kept: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
        drawing = seeded_in_evaluation(self.blueprint.training, x.device, block.index)
        on_host = "use a host with more memory"
        with blaming(self.blueprint, block.index, "in evaluation mode", less_memory=on_host), drawing:
            return scored(super()._score(block, x, kept), block, len(x), self.blueprint)


class _BlamingInTurn(_Blaming, StreamedNetwork):
    """The same, of blocks that are read in turn."""


def _opened(saved: SavedRun) -> Network:
    """Return the network whatever its size: blocks are read one at a time if all would take more than a share."""
    if saved.bytes_of_weights <= host_bytes() * LOADED_SHARE:
        return loaded(saved, _Blaming)
    return _BlamingInTurn(saved.network, saved.block, saved.head(), saved.readout).eval()


def evaluate(
    run: str | Path,
    split: str = "test",
    data_dir: str = "",
    *,
    data: str | Path | Sequence[str | Path] = (),
    model: Given | None = None,
    allow_code: Iterable[str] = (),
    changes: Mapping[str, Any] | None = None,
    progress: Callable[[int, int], None] = lambda tested, examples: None,
) -> Errors:
    """Return all errors of a run on its "test", "validation" or "train" split, or on other labelled images.

    data_dir: folder with local copies of the data; empty: that of the run, else $FFPIPE_DATA. data: files or a folder
    of labelled images in the place of the run's own; all of them are tested, or their test part where they have one.
    model, allow_code, changes: as for `load`, and where the run's data are (`training.data.train`, `.test`). progress:
    takes how many examples are tested, of how many. Raises UserError where the folder is not a run, has no whole
    snapshot or a damaged one, where the split is unknown, empty or of other data than the run's, and where other images
    have other classes or another shape; RunFailed where a user's block fails.
    """
    saved = SavedRun.of(run, None, model, allow_code, changes)
    network = _opened(saved)
    names = names_of(data, "data", FILES)
    count, batches = _of_files(saved, network, run, names) if names else _of_run(saved, network, run, split, data_dir)
    wrong, tested = dict.fromkeys(readouts_of(saved.network), 0.0), 0
    for images, labels in batches:
        for readout in tuple(wrong):
            try:
                with torch.no_grad():
                    missed = network.scores(images, readout).argmax(-1) != labels
            except Silent:
                del wrong[readout]
                continue
            # A text is one example, of which a part may be wrong.
            wrong[readout] += float(missed.double().flatten(1).mean(1).sum() if missed.dim() > 1 else missed.sum())
        tested += len(labels)
        progress(tested, count)
    if not wrong:
        raise UserError(f"run {run}: {NO_ANSWER}")
    shares = {readout: each / count for readout, each in wrong.items()}
    return Errors(count, shares.pop("goodness", None), shares.pop("softmax", None), shares)


# How many examples there are to test on, and one pass over them, as the network takes them, with their labels.
_Examples = tuple[int, Iterator[tuple[Tensor, Tensor]]]


def _of_run(saved: SavedRun, network: Network, run: str | Path, split: str, data_dir: str) -> _Examples:
    """Find a split of a run's own data. Raises UserError."""
    # Followed here and not where a run is opened: its data may be gone for those who predict or export.
    config = places.followed(saved.config, saved.run, saved.past.place)
    splits = load_splits(config.training.data, data_dir or config.execution.data_dir)
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
    size = _images_at_once(network)

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        for first in range(0, len(examples), size):
            yield saved.examples(examples, np.arange(first, min(first + size, len(examples))))

    return len(examples), batches()


def _of_files(saved: SavedRun, network: Network, run: str | Path, names: Sequence[str]) -> _Examples:
    """Find labelled images that are not the run's own. Raises UserError."""
    training, takes = saved.config.training, saved.network.takes
    if training.inputs == "tokens":
        raise UserError(f"run {run} was trained on tokens, not on images: it is tested on its own data alone")
    # Labels of classes with names are found by these, others are the numbers of classes.
    classes = Classes(takes.classes, takes.names, mapped=bool(takes.names))
    found = labelled(names, Inputs(network.shape, takes.scale, training.data), classes)
    if found.found.startswith("warning"):
        print(one_line(found.found), file=sys.stderr, flush=True)

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        while some := list(islice(found.pairs, _images_at_once(network))):
            yield torch.from_numpy(np.stack([row for row, _ in some])), torch.tensor([label for _, label in some])

    return found.count, batches()


def _raise(error: UserError) -> None:
    raise error


def predict(
    run: str | Path,
    images: str | Path | Iterable[str | Path],
    readout: str | None = None,
    *,
    model: Given | None = None,
    allow_code: Iterable[str] = (),
    refused: Callable[[UserError], object] = _raise,
    changes: Mapping[str, Any] | None = None,
) -> list[Prediction]:
    """Classify images of the size that the run was trained on, in files or in folders.

    Files are pictures (PNG, JPEG, BMP, GIF, WebP), .npy of one image or of many, and .npz, Parquet, Arrow and CSV, with
    labels or without; a folder stands for the pictures and .npy below it, in sorted order. A .npy is one image, of the
    shape trained on or flat, or n of them: whole numbers from 0 to 255, bools, floats from 0 to 1, or numbers of the
    kind that the run was trained on. readout, model, allow_code, changes: as for `load`. refused: gets the error of
    each image that cannot be read or is of another size, which is left out. Raises UserError for these where `refused`
    does, as it does by default, and where the folder is not a run, has no whole snapshot, a damaged one or not that
    readout; RunFailed where a user's block fails.
    """
    return list(predictions(run, images, readout, model=model, allow_code=allow_code, refused=refused, changes=changes))


def predictions(
    run: str | Path,
    images: str | Path | Iterable[str | Path],
    readout: str | None = None,
    *,
    model: Given | None = None,
    allow_code: Iterable[str] = (),
    refused: Callable[[UserError], object] = _raise,
    changes: Mapping[str, Any] | None = None,
) -> Iterator[Prediction]:
    """Do as `predict`, one image after the other, of which only some are in memory at once."""
    saved = SavedRun.of(run, readout, model, allow_code, changes)
    if saved.config.training.inputs == "tokens":
        raise UserError(f"run {run} was trained on tokens, not on images: use ffpipe.load from Python")
    network = _opened(saved)
    size, takes = _images_at_once(network), saved.network.takes
    inputs = Inputs(network.shape, takes.scale, saved.config.training.data)
    paths = [images] if isinstance(images, (str, Path)) else images
    rows, named = _images(paths, inputs, refused), (saved.readout, takes.names)
    while some := list(islice(rows, size)):
        try:
            with torch.no_grad():
                scores = network(torch.from_numpy(np.stack([row for _, _, row in some])))
        except Silent as error:
            raise UserError(f"run {run}: {error}") from None
        for (path, index, _), each in zip(some, scores, strict=True):
            label = int(each.argmax())
            yield Prediction(path, label, tuple(each.tolist()), takes.name(label), index, *named)


def _images(
    paths: Iterable[str | Path], inputs: Inputs, refused: Callable[[UserError], object]
) -> Iterator[tuple[str, int | None, NDArray[np.float32]]]:
    """Yield each image of each file: the file's path, the place in it where there are several, and the row."""
    for path in paths:
        refuse_other(path, PATH, "what images has", FILES)
        try:
            for file in files_of(path):
                try:
                    for index, row in inputs.images(file):
                        if isinstance(row, UserError):
                            refused(row)
                        else:
                            yield str(file), index, row
                except UserError as error:
                    refused(error)
        except UserError as error:  # of a folder
            refused(error)


def _images_at_once(network: Network) -> int:
    """Return the images that pass through the network at once, each with every label."""
    rows = ROWS_AT_ONCE
    if isinstance(network, StreamedNetwork):
        # As many as a share of memory holds: what goes into a layer and comes out of it, and a copy on the way.
        widest = max(edge.size for edge in network.blueprint.edges)
        rows = max(rows, int(host_bytes() * LOADED_SHARE) // (3 * widest * 8))
    else:
        # Fewer of large images, but no fewer than a run's own tests take.
        widest = max(max(each.hidden.size, each.outputs.size) for each in network.blueprint.outlines)
        rows = max(network.blueprint.layout.rows, min(rows, BYTES_AT_ONCE // (4 * widest)))
    return max(1, rows // (network.classes if network.training_config.contrasts else 4))

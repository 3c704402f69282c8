"""A saved run, read file by file: its blocks, its read-out, and what they were trained on."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ffpipe.config.schema import Config
from ffpipe.data.examples import Examples
from ffpipe.learn.block import Block
from ffpipe.learn.blueprint import Blueprint, make_blueprint
from ffpipe.learn.feeder import row_specs
from ffpipe.learn.items import CPU, META
from ffpipe.learn.network import readouts_of
from ffpipe.learn.readout import Head
from ffpipe.learn.workspace import Workspace
from ffpipe.pipeline.job import Model
from ffpipe.pipeline.snapshot_schema import snapshot_schema
from ffpipe.runs import places
from ffpipe.runs.folder import open_run
from ffpipe.runs.model import Given, with_model
from ffpipe.storage import checkpoint
from ffpipe.storage.store import Store
from ffpipe.system.errors import UserError
from ffpipe.system.memory import refuse_beyond_host
from ffpipe.telemetry.report import LAST, History


@dataclass(frozen=True)
class SavedRun:
    """A run's newest snapshot, read file by file as they are asked for. Every file is checked whenever it is read."""

    config: Config
    store: Store
    folder: str
    manifest: checkpoint.Manifest
    network: Blueprint
    readout: str
    run: Path
    past: History

    @staticmethod
    def of(
        run: str | Path,
        readout: str | None = None,
        model: Given | None = None,
        allow_code: Iterable[str] = (),
        changes: Mapping[str, Any] | None = None,
    ) -> SavedRun:
        """Open a run. model, allow_code: consent to import the code that it names. changes: places of its snapshots and
        data, by field. Raises UserError."""
        folder, config = open_run(run)
        past = folder.known_past()
        config, of_user = with_model(config, model, allow_code, f"run {run}", past.code)
        config = places.of_run(config, folder.path, changes or {}, writes=False)
        training = config.training
        store = folder.store(config)
        snapshot = folder.newest_snapshot(store)
        manifest = checkpoint.read_manifest(store, snapshot)
        network = _network(config, of_user, manifest, store.place(snapshot))
        known = readouts_of(network)
        if readout is not None and readout not in known and known:
            if readout == "softmax":
                raise UserError(f"run {run} trained no softmax head: give readout {known[0]!r}")
            if readout == "goodness" and training.contrasts:
                why = "leaves goodness out" if training.labelled else "was trained without labels in its rows"
                raise UserError(f"run {run} {why}: give readout 'softmax'")
            raise UserError(f"readout is {readout!r}: give {' or '.join(map(repr, known))}")
        readout = readout or next(iter(known), LAST)  # the weights of a network without answers can be had
        return SavedRun(config, store, snapshot, manifest, network, readout, folder.path, past)

    @property
    def where(self) -> str:
        return self.store.place(self.folder)

    @property
    def bytes_of_weights(self) -> int:
        blocks = (self.network.make(index, Workspace(META)) for index in range(len(self.network)))
        return sum(tensor.nbytes for block in blocks for tensor in block.weights().values())

    def block(self, index: int) -> Block:
        """Make block `index` with its trained weights, in evaluation mode on the CPU."""
        block = self.network.make(index, Workspace(CPU))
        block.set_weights(self._read(checkpoint.layer_file(index)))
        return block.eval()

    def head(self) -> Head | None:
        """Return the trained linear read-out; None where there is none."""
        if not self.network.has_head:
            return None
        head = self.network.make_head(Workspace(CPU))
        head.load(self._read(checkpoint.HEAD))
        return head.eval()

    def examples(self, split: Examples, rows: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Read examples of a split and their labels, as the network takes them."""
        if self.config.training.inputs == "tokens":
            ids = torch.from_numpy(split.raw(rows)).to(torch.int64)
            return ids[:, :-1], ids[:, 1:]
        return torch.from_numpy(split.images(rows)), torch.from_numpy(split.labels(rows))

    def _read(self, name: str) -> dict[str, Tensor]:
        return checkpoint.read_tensors(self.store, self.folder, self.manifest, name, self._contents[name])

    @cached_property
    def _contents(self) -> Mapping[str, checkpoint.TensorSpecs]:
        return snapshot_schema(self.network, self.manifest.step)


def _network(config: Config, model: Model, manifest: checkpoint.Manifest, where: str) -> Blueprint:
    """Make the network that a config makes on this input. Raises UserError where a manifest is of another one, or of
    one whose largest block does not fit here."""
    training, takes = config.training, manifest.input
    dense = not (training.model or training.blocks)
    size = math.prod(takes.shape)
    inputs, labels = row_specs(training, takes.shape, takes.classes)
    overlaid = training.labelled and training.labels == "overlay" and takes.classes > size
    if (dense and training.dims[0] != size) or inputs.size != takes.width or overlaid:
        raise UserError(
            f"snapshot {where} is of a network for {takes}, but the config has {training.dims[0]} features "
            f"and labels {training.labels!r}"
        )
    if dense:
        widths = (takes.width, *training.dims[1:])
        largest = max(fan_in * width for fan_in, width in pairwise(widths))
        # The least, in float32: an image under each label and under none, and the largest layer.
        needed = ((takes.classes + 1) * max(widths) + largest) * 4
        refuse_beyond_host(needed, f"the network in {where}", "use a larger one")
    # How many steps an epoch had is not known here: with as many as the run has made, no block that may not have begun
    # is asked for an optimiser's state.
    steps = max(1, manifest.step)
    return make_blueprint(training, takes, inputs, labels, steps, model.code, model.function)

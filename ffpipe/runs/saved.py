"""What a run has saved, read file by file: weights of a layer, of the head, and what they were trained on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from ffpipe.storage import checkpoint
from ffpipe.config.schema import Config, Training
from ffpipe.pipeline.contents import snapshot_contents
from ffpipe.system.errors import UserError
from ffpipe.learn.labels import LabelCode
from ffpipe.learn.network import LayerWeights
from ffpipe.learn.precision import PRECISIONS
from ffpipe.system.memory import refuse_beyond_host
from ffpipe.runs.folder import open_run
from ffpipe.storage.store import Store


@dataclass(frozen=True)
class Saved:
    """A run's newest snapshot, read file by file as they are asked for. Every file is checked whenever it is read."""

    config: Config
    store: Store
    folder: str
    manifest: checkpoint.Manifest
    readout: str

    @staticmethod
    def of(run: str | Path, readout: str | None = None) -> Saved:
        """Raises UserError."""
        folder, config = open_run(run)
        training = config.training
        if readout not in (None, "softmax", "goodness"):
            raise UserError(f"readout is {readout!r}: give 'softmax' or 'goodness'")
        if readout == "softmax" and not training.head:
            raise UserError(f"run {run} trained no softmax head: give readout 'goodness'")
        if readout == "goodness" and not training.labelled:
            raise UserError(f"run {run} was trained without labels in its rows: give readout 'softmax'")
        store = folder.store(config)
        snapshot = folder.newest_snapshot(store)
        manifest = checkpoint.read_manifest(store, snapshot)
        _check_input(training, manifest.input, store.place(snapshot))
        return Saved(config, store, snapshot, manifest, readout or ("softmax" if training.head else "goodness"))

    @property
    def where(self) -> str:
        return self.store.place(self.folder)

    @property
    def layers(self) -> int:
        return len(self.config.training.dims) - 1

    @property
    def widths(self) -> tuple[int, ...]:
        """Features of a row before each layer, and after the last."""
        return (self.manifest.input.width, *self.config.training.dims[1:])

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return PRECISIONS[self.config.training.precision].weights

    @property
    def bytes_of_weights(self) -> int:
        return sum(a * b for a, b in pairwise(self.widths)) * self.dtype.itemsize

    def layer(self, index: int) -> LayerWeights:
        """Weight (fan_in, width) and bias (width,)."""
        state = self._read(checkpoint.layer_file(index))
        return state["weight"], state["bias"]

    def head(self) -> dict[str, Tensor] | None:
        """weight.INDEX (width, classes) of each layer that the head sees; None where there is no head."""
        return self._read(checkpoint.HEAD) if self.config.training.head else None

    def _read(self, name: str) -> dict[str, Tensor]:
        return checkpoint.read_tensors(self.store, self.folder, self.manifest, name, self._contents[name])

    @cached_property
    def _contents(self) -> Mapping[str, checkpoint.Contents]:
        return snapshot_contents(self.config.training, self.manifest.input, self.manifest.step)


def _check_input(training: Training, takes: checkpoint.Input, where: str) -> None:
    """Raises UserError where a manifest tells of a network that the config does not make, or no layer of which fits
    here."""
    features = training.dims[0]
    width = LabelCode(training.labels, features, takes.classes, training.label_strength).width
    if math.prod(takes.shape) != features or takes.width != width or takes.classes > width:
        raise UserError(
            f"checkpoint {where} is of a network for {takes}, but the config has {features} features "
            f"and labels {training.labels!r}"
        )
    rows = (takes.classes + 1) * max(width, *training.dims[1:])
    largest = max(a * b for a, b in pairwise((width, *training.dims[1:])))
    needed = (rows + largest) * PRECISIONS[training.precision].weights.itemsize
    refuse_beyond_host(needed, f"the network in {where}", "use a larger one")

"""The trained network of a run together with its data, for what a report computes anew.

Weights are read file by file, block after block, so that a network of any depth passes through; examples come in
bounded numbers. The user's code is imported only with consent, and nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ffpipe.config.schema import Training
from ffpipe.data.examples import Examples
from ffpipe.data.splits import load_splits
from ffpipe.learn.feeder import Feeder
from ffpipe.learn.network import StreamedNetwork
from ffpipe.pipeline.job import Job, make_job
from ffpipe.reports.gather import Record
from ffpipe.runs import places
from ffpipe.runs.inference import LOADED_SHARE, ROWS_AT_ONCE
from ffpipe.runs.model import Given, with_model
from ffpipe.runs.saved import SavedRun
from ffpipe.system.errors import UserError
from ffpipe.system.memory import host_bytes
from ffpipe.telemetry.report import GOODNESS

# Bytes that rows which pass through the network, and copies on the way, may take.
BYTES_AT_ONCE = 512 << 20
EXAMPLES = 2000
# Parts of a report that need both.
OF_NETWORK = "confusions, wrong answers, spread of scores, rows that are trained on, weights"


@dataclass(frozen=True)
class Asked:
    """The user's words on a run: consent to code, and where things are. examples: of the test split, at most."""

    model: Given | None = None
    allow_code: Iterable[str] = ()
    changes: Mapping[str, Any] | None = None
    data_dir: str = ""
    examples: int = EXAMPLES

    def __post_init__(self) -> None:
        object.__setattr__(self, "allow_code", tuple(self.allow_code))  # which is asked more than once

    def user_code(self, record: Record) -> bool:
        """Tell whether code of the user's takes part."""
        return bool(self.model or record.config.training.model)


def open_job(record: Record, asked: Asked) -> Job:
    """Find the data of a run and work out its network, without weights. Raises UserError."""
    folder, where = record.folder, f"run {record.folder.path}"
    past = folder.known_past()
    config, of_user = with_model(record.config, asked.model, asked.allow_code, where, past.code)
    config = places.of_run(config, folder.path, asked.changes or {}, writes=False)
    config = places.followed(config, folder.path, past.place)
    data_dir = asked.data_dir or config.execution.data_dir
    splits = load_splits(config.training.data, data_dir, progress=_no_download)
    places.refuse_other_data(past.data, splits.fingerprint, config.training.data.source)
    # So that whatever else of the data is read later is looked for in the same folder.
    execution = replace(config.execution, data_dir=data_dir)
    return make_job(replace(config, execution=execution), of_user)


def _no_download(line: str) -> None:
    # Every download begins with a line of progress, which comes here.
    raise UserError("the data are not on this machine, and a report downloads nothing: name them with --data-dir")


class Trained:
    """The weights of a run's newest snapshot and its data."""

    def __init__(self, saved: SavedRun, job: Job) -> None:
        """Join the two. Raises UserError where they do not belong together."""
        if saved.network.takes != job.input:
            raise UserError(f"the snapshot is of a network for {saved.network.takes}, but the data are {job.input}")
        self.saved, self.job = saved, job
        # Several sections pass rows through all blocks, which are read from their files and checked each time.
        keeps = saved.bytes_of_weights <= host_bytes() * LOADED_SHARE
        self.block = cache(saved.block) if keeps else saved.block

    @property
    def training(self) -> Training:
        """The training half of the config, with all that the data decide filled in."""
        return self.job.config.training

    @cached_property
    def feeder(self) -> Feeder:
        return self.job.network.make_feeder(self.job.splits)

    @cached_property
    def network(self) -> StreamedNetwork:
        """The network whose blocks are read when it is their turn."""
        network = StreamedNetwork(self.saved.network, self.block, self.saved.head(), self.saved.readout)
        return network.eval()

    @property
    def rows_at_once(self) -> int:
        """Rows that may pass through the network at once."""
        widest = max(edge.size for edge in self.saved.network.edges)
        return max(1, min(ROWS_AT_ONCE, BYTES_AT_ONCE // (3 * 4 * widest)))

    def scores(self, images: Tensor) -> Tensor:
        """Compute scores (n, ..., classes) of examples by the run's own read-out, a few at a time. Raises Silent."""
        # Goodness takes a row of each example under every label.
        per_example = self.saved.network.takes.classes if self.saved.readout == GOODNESS else 1
        some = max(1, self.rows_at_once // per_example)
        with torch.no_grad():
            return torch.cat([self.network(part).cpu() for part in images.split(some)])

    @torch.no_grad()
    def learning_rows(self, step: int) -> tuple[Tensor, Tensor]:
        """Make the rows that blocks learn from at a step, (rows, *inputs.shape), and the labels of the examples.

        If negatives follow the model they are those that the network of the snapshot makes. If a step has rows of
        one role, they are of two steps of its epoch, positive ones first.
        """
        layout, inputs = self.job.network.layout, self.job.network.inputs
        prediction = None
        if self.training.lookahead is not None:
            passed = self.network.passed(self.neutral_rows(step))
            taps = [x for block, x, _ in passed if block.index in self.saved.network.taps]
            assert self.network.head is not None
            prediction = self.network.head.logits(taps).float().softmax(1).numpy()
        parts, labels = [], []
        for each in self.feeder.turns.of_all_roles(step):
            parts.append(torch.empty(layout.learning_rows, *inputs.shape, dtype=inputs.dtype))
            labels.append(self.feeder.learning(each, prediction, parts[-1]))
        return torch.cat(parts), labels[0]

    def neutral_rows(self, step: int) -> Tensor:
        """Make the rows of a step under the neutral label, (B, *inputs.shape)."""
        inputs = self.job.network.inputs
        out = torch.empty(self.training.batch_size, *inputs.shape, dtype=inputs.dtype)
        self.feeder.passing(step, out)
        return out


def chosen(split: Examples, most: int) -> NDArray[np.int64]:
    """Choose at most so many examples of a split, always the same ones, spread over all of it."""
    return np.unique(np.linspace(0, len(split) - 1, min(len(split), most)).astype(np.int64))

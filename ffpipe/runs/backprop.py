"""The yardstick: the architecture of a recipe trained by backpropagation on the same data, batch and epochs.

ReLU layers of `training.dims` and a linear softmax layer on the last, Adam, images without labels. It shares with the
trainer what has nothing to do with the algorithm: data, order of examples, jitter, schedule of rates. One process,
no stages, no snapshots; what it needs of memory grows with depth, which is the point.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ffpipe.config.schema import Config, Training
from ffpipe.data.examples import Examples
from ffpipe.data.sampler import Sampler
from ffpipe.system.errors import Diverged, Interrupted
from ffpipe.learn.denormals import is_due, settle_optimizer
from ffpipe.learn.jitter import jittered
from ffpipe.learn.dense import initial_weight
from ffpipe.learn.precision import PRECISIONS
from ffpipe.learn.rates import rate_factor
from ffpipe.system.memory import peak_bytes, refuse_beyond_host
from ffpipe.engines.in_process import refuse_without_gpu, with_reason
from ffpipe.pipeline.job import Job, make_job
from ffpipe.system.rng import generator
from ffpipe.runs.controller import Interrupt, Result
from ffpipe.runs.folder import RunFolder, new_run, versions
from ffpipe.telemetry.metrics import write_metrics
from ffpipe.telemetry.report import LayerRow
from ffpipe.runs.view import QuietView, View

# Adam's own default; it serves every recipe here.
LEARNING_RATE = 0.001
EVALUATED_AT_ONCE = 1000
SMALLER = "give smaller training.dims or training.batch_size"


def train_backprop(config: Config, view: View | None = None, interrupt: Interrupt | None = None) -> Result:
    """What `train` does with a checked config whose `training.method` is backprop.

    The run folder gets no checkpoints; `execution.device` is all that is taken of how to run. Raises UserError before
    anything is written, Diverged where the loss is not finite, Interrupted where it was asked to end.
    """
    # What it does not have is not to be read in its config either.
    execution = replace(
        config.execution,
        engine="local",
        stages=1,
        chunk=0,
        window=0,
        chapter=0,
        snapshot_steps=0,
        cpus=0.0,
        gpus=0.0,
        memory="",
        resources={},
        labels={},
    )
    job = make_job(replace(config, execution=execution))
    _refuse_what_cannot_be(job)
    folder = new_run(job.config)
    with folder.lock() as warning:
        yardstick = _Yardstick(job, folder, view or QuietView(), interrupt or Interrupt())
        if warning:
            yardstick.view.note(warning)
        try:
            return with_reason(yardstick.go, "backpropagation")
        except BaseException as error:
            yardstick.write_summary("interrupted" if isinstance(error, Interrupted) else "failed")
            raise


def _refuse_what_cannot_be(job: Job) -> None:
    """Raises UserError."""
    refuse_without_gpu(job.config.execution)
    dims = job.config.training.dims
    weights = sum((fan_in + 1) * width for fan_in, width in pairwise((*dims, job.splits.classes)))
    size = PRECISIONS[job.config.training.precision].weights.itemsize
    activities = job.config.training.batch_size * sum(dims)
    # A weight, its gradient, and two averages of Adam.
    refuse_beyond_host((4 * weights + activities) * size, "backpropagation through this network", SMALLER)


class _Yardstick:
    """One run."""

    def __init__(self, job: Job, folder: RunFolder, view: View, interrupt: Interrupt) -> None:
        self.job = job
        self.folder = folder
        self.view = view
        self.interrupt = interrupt
        self.sampler = Sampler(len(job.splits.train), job.config.training.batch_size, job.config.training.seed)
        self.rows: list[LayerRow] = []
        self.started = time.perf_counter()

    def go(self) -> Result:
        training = self.job.config.training
        network = Mlp(training, self.job.splits.classes).to(self.job.config.execution.first_device)
        optimizer = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE)
        self.interrupt.goes_to(lambda: None)
        for epoch in range(training.epochs):
            for group in optimizer.param_groups:
                group["lr"] = LEARNING_RATE * rate_factor(training.schedule, epoch, training.epochs)
            self._train_epoch(network, optimizer, epoch)
            write_metrics(self.folder.metrics, self.rows, self.job.steps_per_epoch)
            if not np.isfinite(self.rows[-1].loss):
                raise Diverged(f"the loss of backpropagation is {self.rows[-1].loss} in epoch {epoch + 1}")
            self._evaluate(network, epoch)
        seconds = time.perf_counter() - self.started
        error = error_rate(network, self.job.splits.test)
        digest = _digest(network)
        summary = self.write_summary("finished", train_seconds=seconds, test_error_softmax=error, weights_sha256=digest)
        self.view.note(f"trained by backpropagation, {self.job.steps / seconds:,.1f} minibatches a second")
        self.view.finish(self.folder.path, None, error, seconds)
        return Result(self.folder.path, None, error, digest, summary)

    def _train_epoch(self, network: Mlp, optimizer: torch.optim.Optimizer, epoch: int) -> None:
        """Adds a row of metrics: the epoch's mean loss and share of errors. Raises Interrupted."""
        training, train, steps = self.job.config.training, self.job.splits.train, self.job.steps_per_epoch
        device = next(network.parameters()).device
        network.train()
        torch.manual_seed(int(generator(training.seed, "backprop dropout", epoch).integers(2**63)))  # torch's own
        losses, wrong = torch.zeros((), device=device), torch.zeros((), device=device)
        for step in range(epoch * steps, (epoch + 1) * steps):
            if self.interrupt.wished:
                raise Interrupted(
                    "backpropagation keeps no snapshots; to begin again: "
                    f"ffpipe train {self.folder.config} --run-dir NEW"
                )
            rows = self.sampler.rows(step)
            images, labels = torch.from_numpy(train.images(rows)), torch.from_numpy(train.labels(rows)).to(device)
            if training.jitter:
                images = jittered(images, train.shape, training.jitter, training.seed, step)
            logits = network(images.to(device))
            loss = cross_entropy(logits, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if is_due(step):
                settle_optimizer(optimizer.state.values())
            losses += loss.detach()
            wrong += (logits.argmax(1) != labels).sum()
        errors = float(wrong) / (steps * training.batch_size)
        self.rows.append(LayerRow((epoch + 1) * steps, -1, float(losses) / steps, errors))

    def _evaluate(self, network: Mlp, epoch: int) -> None:
        """On the validation split, where it is time."""
        every, validation = self.job.config.execution.evaluate_every, self.job.splits.validation
        if every and (epoch + 1) % every == 0 and len(validation):
            error = error_rate(network, validation)
            self.view.note(f"after epoch {epoch + 1}: validation error {error:.2%} ({len(validation):,} examples)")

    def write_summary(self, status: str, **found: float | str | None) -> dict[str, Any]:
        """found: what a finished run has more."""
        steps = self.rows[-1].step if self.rows else 0
        seconds = time.perf_counter() - self.started
        summary = {
            "recipe": self.job.config.recipe,
            "status": status,
            "engine": "backprop",
            "stages": 1,
            "steps": steps,
            "epochs": self.job.config.training.epochs,
            "train_seconds": seconds,
            "examples_per_second": steps * self.job.config.training.batch_size / seconds,
            "test_error_goodness": None,
            "test_error_softmax": None,
            "weights_sha256": None,
            "recoveries": 0,
            "peak_rss_bytes": [peak_bytes()],
            "versions": versions(),
            **found,
        }
        self.folder.write_summary(summary)
        return summary


class Mlp(nn.Module):
    """ReLU layers and a linear one. Weights begin as the trainer's do, times sqrt(2) (He et al., arXiv 1502.01852)."""

    def __init__(self, training: Training, classes: int) -> None:
        super().__init__()
        self.dropout = nn.Dropout(training.dropout)
        self.products = PRECISIONS[training.precision].products
        self.dtype = PRECISIONS[training.precision].weights
        self.layers = nn.ModuleList()
        for index, (fan_in, width) in enumerate(pairwise((*training.dims, classes))):
            layer = nn.Linear(fan_in, width, dtype=self.dtype)
            weight = initial_weight(training.seed, index, fan_in, width).t() * 2**0.5
            nn.init.zeros_(layer.bias)
            with torch.no_grad():
                layer.weight.copy_(weight)
            self.layers.append(layer)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (n, classes) of images (n, features)."""
        rows = images.to(self.dtype)
        with torch.autocast(rows.device.type, torch.bfloat16, enabled=self.products == torch.bfloat16):
            for layer in self.layers[:-1]:
                rows = self.dropout(torch.relu(layer(rows)))
            logits: Tensor = self.layers[-1](rows).float()
        return logits


@torch.no_grad()
def error_rate(network: Mlp, split: Examples) -> float | None:
    """The fraction of a split that the network gets wrong; None of an empty one."""
    if not len(split):
        return None
    device = next(network.parameters()).device
    network.eval()
    wrong = 0
    for first in range(0, len(split), EVALUATED_AT_ONCE):
        rows = np.arange(first, min(first + EVALUATED_AT_ONCE, len(split)))
        answers = network(torch.from_numpy(split.images(rows)).to(device)).argmax(1).cpu()
        wrong += int((answers != torch.from_numpy(split.labels(rows))).sum())
    return wrong / len(split)


def _digest(network: Mlp) -> str:
    digest = hashlib.sha256()
    for tensor in network.state_dict().values():
        digest.update(tensor.cpu().contiguous().numpy().data)
    return digest.hexdigest()

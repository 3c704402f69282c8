"""The yardstick: the architecture of a recipe trained by backpropagation on the same data, batch and epochs.

ReLU layers of `training.dims` and a linear softmax layer on the last, Adam, images without labels. It shares with the
trainer what has nothing to do with the algorithm: data, order of examples, jitter, schedule of rates. One process,
no stages, no snapshots; what it needs of memory grows with depth, which is the point.
"""

from __future__ import annotations

import hashlib
import platform
import time
from collections.abc import Callable
from importlib.metadata import version
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ffpipe.config import Config, Training
from ffpipe.data.examples import Examples
from ffpipe.data.sampler import Sampler
from ffpipe.errors import Diverged, UserError
from ffpipe.ff.jitter import jittered
from ffpipe.ff.layer import initial_weight
from ffpipe.ff.precision import PRECISIONS
from ffpipe.ff.rates import rate_factor
from ffpipe.fields import checked
from ffpipe.memory import peak_bytes
from ffpipe.pipeline.job import Job, make_job
from ffpipe.run import Result
from ffpipe.runs import check_new, new_run
from ffpipe.telemetry.metrics import write_metrics
from ffpipe.telemetry.report import LayerRow

# Adam's own default; it serves every recipe here.
LEARNING_RATE = 0.001
EVALUATED_AT_ONCE = 1000


def train_backprop(config: Config, say: Callable[[str], None] = lambda line: None) -> Result:
    """Train, evaluate on the test split and write a run folder, which holds no checkpoints.

    say: takes a line of text after each evaluation. Raises UserError before anything is written, Diverged where the
    loss is not finite.
    """
    config = checked(config)
    check_new(config)
    job = make_job(config)
    device = torch.device(config.execution.first_device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError("execution.device is 'cuda', but torch finds no GPU here: give --device cpu")
    training = job.config.training
    folder = new_run(job.config)
    network = Mlp(training, job.splits.classes).to(device)
    optimizer = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE)
    sampler = Sampler(len(job.splits.train), training.batch_size, training.seed)
    rows: list[LayerRow] = []
    started = time.perf_counter()
    for epoch in range(training.epochs):
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * rate_factor(training.schedule, epoch, training.epochs)
        row = _train_epoch(network, optimizer, job, sampler, epoch)
        rows.append(row)
        write_metrics(folder.metrics, rows, job.steps_per_epoch)
        if not np.isfinite(row.loss):
            raise Diverged(f"the loss of backpropagation is {row.loss} in epoch {epoch + 1}")
        every = config.execution.evaluate_every
        if every and (epoch + 1) % every == 0:
            say(f"after epoch {epoch + 1}: validation error {error_rate(network, job.splits.validation):.2%}")
    seconds = time.perf_counter() - started
    error = error_rate(network, job.splits.test)
    digest = _digest(network)
    summary = {
        "recipe": config.recipe,
        "status": "finished",
        "engine": "backprop",
        "stages": 1,
        "steps": job.steps,
        "epochs": training.epochs,
        "train_seconds": seconds,
        "examples_per_second": job.steps * training.batch_size / seconds,
        "test_error_goodness": None,
        "test_error_softmax": error,
        "weights_sha256": digest,
        "recoveries": 0,
        "peak_rss_bytes": [peak_bytes()],
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "ray", "ffpipe")},
        },
    }
    folder.write_summary(summary)
    say(f"trained in {seconds:.1f} s by backpropagation\ntest error: {error:.2%}\nrun folder: {folder.path}")
    return Result(folder.path, None, error, digest, summary)


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


def _train_epoch(network: Mlp, optimizer: torch.optim.Optimizer, job: Job, sampler: Sampler, epoch: int) -> LayerRow:
    """One epoch; returns its mean loss and share of errors as a row of metrics."""
    training, train = job.config.training, job.splits.train
    device = next(network.parameters()).device
    network.train()
    torch.manual_seed(training.seed * 1_000_003 + epoch)  # dropout is torch's own here
    losses, wrong = torch.zeros((), device=device), torch.zeros((), device=device)
    for step in range(epoch * job.steps_per_epoch, (epoch + 1) * job.steps_per_epoch):
        rows = sampler.rows(step)
        images, labels = torch.from_numpy(train.images(rows)), torch.from_numpy(train.labels(rows)).to(device)
        if training.jitter:
            images = jittered(images, train.shape, training.jitter, training.seed, step)
        logits = network(images.to(device))
        loss = cross_entropy(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses += loss.detach()
        wrong += (logits.argmax(1) != labels).sum()
    steps = job.steps_per_epoch
    return LayerRow((epoch + 1) * steps, -1, float(losses) / steps, float(wrong) / (steps * training.batch_size))


@torch.no_grad()
def error_rate(network: Mlp, split: Examples) -> float:
    """The fraction of a split that the network gets wrong."""
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

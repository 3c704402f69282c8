"""The rows that a block trains on, taken from the run's own feeder and made pictures again."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ffpipe.config.schema import Training
from ffpipe.data.inputs import mode_of
from ffpipe.reports.network import Trained
from ffpipe.system.errors import UserError

# Pictures of each kind.
SHOWN = 12

Images = NDArray[np.float32]


class Kind(NamedTuple):
    """Rows of one kind. images: (n, height, width[, 3]), 0 to 1. captions: one for each."""

    title: str
    images: Images
    captions: tuple[str, ...]


def as_pictures(rows: NDArray[np.float32], shape: tuple[int, ...]) -> Images:
    """Make pictures (n, height, width[, 3]) from 0 to 1 of examples (n, features) of a shape. Raises UserError."""
    if not mode_of(shape):
        raise UserError(f"examples of shape {shape} are not pictures")
    pictures = rows.reshape(-1, *shape)
    if len(shape) == 3:
        pictures = pictures[..., 0] if shape[2] == 1 else pictures[..., :3]
    # By image, since rows may have been divided by their length.
    axes = tuple(range(1, pictures.ndim))
    low = np.minimum(pictures.min(axes, keepdims=True), 0.0)
    high = pictures.max(axes, keepdims=True)
    made: Images = (pictures - low) / np.maximum(high - low, 1e-12)
    return made


def trained_rows(trained: Trained) -> list[Kind]:
    """Take the first examples of the newest minibatch in every form that is learned from. Raises UserError."""
    training, job = trained.training, trained.job
    step = max(0, trained.saved.manifest.step - 1)
    split = job.splits.train
    which = trained.feeder.examples(trained.feeder.turns.of_all_roles(step)[0])[:SHOWN]
    name, shown = trained.saved.network.takes.name, len(which)
    stored = as_pictures(split.images(which), job.splits.shape)
    kinds = [Kind("as stored", stored, tuple(name(label) for label in split.labels(which).tolist()))]
    rows, labels = trained.learning_rows(step)
    if not training.contrasts:
        each = training.augmentation
        changes = each.crop or each.flip or each.cutout or training.jitter
        changed = "as trained on" if changes else "as trained on (unchanged)"
        return [*kinds, Kind(changed, _pictures(trained, rows[:shown]), tuple(map(name, labels[:shown].tolist())))]
    positive, negative = rows[:shown], rows[training.batch_size :][:shown]
    other = {"hybrid": " (hybrid)", "others": " (other class)", "others-fixed": " (other class)"}
    title = f"negative{other.get(training.negatives, '')}"
    kinds += [_labelled("positive", positive, trained), _labelled(title, negative, trained)]
    if job.network.layout.passing:
        neutral = trained.neutral_rows(step)[:shown]
        kinds.append(Kind("neutral", _pictures(trained, neutral), ("",) * shown))
    return kinds


def _labelled(title: str, rows: Tensor, trained: Trained) -> Kind:
    labels = labels_in(rows, trained.training, trained.job.splits.features, trained.job.splits.classes)
    captions = ("",) * len(rows) if labels is None else tuple(map(trained.saved.network.takes.name, labels.tolist()))
    return Kind(title, _pictures(trained, rows), captions)


def labels_in(rows: Tensor, training: Training, features: int, classes: int) -> Tensor | None:
    """Read the labels (n,) that rows (n, ...) carry; None where they carry none."""
    flat = rows.flatten(1).float()
    if training.labels == "none":
        return None
    place = flat[:, :classes] if training.labels == "overlay" else flat[:, features:]
    # A plane has the same number in all of its pixels; labels that are not planes have one each.
    found: Tensor = place.unflatten(1, (classes, -1)).mean(2).argmax(1)
    return found


def _pictures(trained: Trained, rows: Tensor) -> Images:
    """Make pictures of rows (n, *inputs.shape), as they come to the first block."""
    training, shape = trained.training, trained.job.splits.shape
    features = math.prod(shape)
    flat = rows.flatten(1).float()[:, :features]
    channels = shape[2] if len(shape) == 3 else 1
    if rows.dim() == 4 and channels > 1:  # channels first
        flat = flat.unflatten(1, (channels, -1)).transpose(1, 2).flatten(1)
    if training.standardize and not training.contrasts:
        each_channel = (training.mean, training.deviation)
        mean, deviation = (torch.tensor(each).repeat(features // channels) for each in each_channel)
        flat = (flat * deviation + mean).clamp(0.0, 1.0)
    return as_pictures(flat.numpy(), shape)

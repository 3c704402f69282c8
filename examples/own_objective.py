"""Train by a loss function of one's own, and by an objective with parameters (python examples/own_objective.py)."""

import torch
from torch import nn

import ffpipe


def near_own_class(h, labels):
    """Compute the cross-entropy of squared distances to the mean output of each class; the mean over the minibatch."""
    rows, classes = h.flatten(1), nn.functional.one_hot(labels, 10).to(h.dtype)
    means = classes.T @ rows / classes.sum(0).clamp(min=1)[:, None]
    return nn.functional.cross_entropy(-torch.cdist(rows, means).square(), labels)


class Centres(ffpipe.Objective):
    """The same with centres that are learned, so that a row has scores by itself and the network can answer."""

    def __init__(self, width):
        super().__init__()
        self.centres = nn.Parameter(torch.zeros(10, width))

    def score(self, h):
        return -torch.cdist(h.flatten(1), self.centres).square()

    def forward(self, h, layout, labels):
        logits = self.score(h)
        loss = nn.functional.cross_entropy(logits, labels, reduction="sum")  # also errors are summed
        return ffpipe.Learned(loss, errors=(logits.argmax(1) != labels).sum())


def blocks():
    conv = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))  # gives 16 x 4 x 4
    return [ffpipe.Local(conv, objective=near_own_class), ffpipe.Local(nn.Flatten(), objective=Centres(256))]


config = ffpipe.override(ffpipe.recipe("digits-cnn"), {"execution.engine": "local", "training.epochs": 10})
result = ffpipe.train(config, model=blocks)
print(f"test error: {result.test_errors['last']:.2%}")

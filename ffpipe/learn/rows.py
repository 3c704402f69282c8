"""Rows as layers get them: where they begin in memory, and their normalisation.

A layer hands on the direction of its activity, never its length. The length is the goodness; were it passed on,
the next layer could read the answer off it (Hinton, arXiv 2212.13345, section 2.1).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ffpipe.config.schema import Training
from ffpipe.learn.precision import wide
from ffpipe.learn.threads import sqrt, sum_of_squares
from ffpipe.learn.trials import LINE

# Keeps a row of zeros at zero; small enough to leave every other row alone (Hinton's program: exp(-100)).
TINY = 1e-20


def at_line(rows: Tensor) -> Tensor:
    """Return rows that begin at a line of the cache: these themselves, or a copy.

    Libraries choose by address how to multiply: narrow products (torch.nn.Linear of 10 units, say, by MKL on a CPU)
    have other bits where rows begin within a vector. A minibatch of a chunk begins anywhere, and so does a shard behind
    others.
    """
    return rows.clone() if rows.data_ptr() % LINE else rows


def row_scale(sum_of_squares: Tensor, features: int, kind: str, epsilon: float = TINY) -> Tensor:
    """Return the factor that normalises each row.

    sum_of_squares: (rows,), of `features` entries each. kind "rms" makes the mean square of a row 1
    (Hinton's program), "l2" its L2 norm (the Keras example). epsilon: added to the length. Returns (rows, 1).
    """
    # A row of zeros stays one whatever it is multiplied by, but the root has no finite slope at zero. Also where no
    # gradient is asked for: a row whose squares are too small for their format is handed on with the same bits. One
    # operation, since each layer does it in each step, where a mask takes two; NaN stays.
    sum_of_squares = torch.threshold(sum_of_squares, 0.0, 1.0)
    length = sqrt(sum_of_squares / features if kind == "rms" else sum_of_squares)
    return length.add(epsilon).reciprocal().unsqueeze(1)


def normalize_rows_(rows: Tensor, kind: str, epsilon: float = TINY) -> Tensor:
    """Normalise each row of (rows, features) in place and return it."""
    return rows.mul_(row_scale(sum_of_squares(wide(rows)), rows.shape[-1], kind, epsilon))


def normalize_inputs_(rows: Tensor, training: Training) -> Tensor:
    """Normalise rows (rows, features) before the first layer in place, where the config asks for it."""
    if not training.normalize_inputs:
        return rows
    return normalize_rows_(rows, training.normalization, training.normalization_epsilon)

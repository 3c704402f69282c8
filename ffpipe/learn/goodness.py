"""Contrast of goodness as a local objective: blocks with rows of any shape learn to tell positive from negative ones.

    g = sum or mean of squares over all values of a row,  L(g_pos, g_neg) of contrast.py,  hands on h / |h|

Here autograd carries the derivative on to the block. It knows nothing of what the block is made of; dense.py has the
same rule in closed form.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ffpipe.config.fields import leaves
from ffpipe.config.schema import Training
from ffpipe.learn.contrast import make_pair_loss, positive_loss
from ffpipe.learn.objectives import Learned, Objective
from ffpipe.learn.precision import wide
from ffpipe.learn.rows import TINY, row_scale
from ffpipe.learn.spec import NEGATIVE, PAIRS, POSITIVE, RowLayout, RowSpec
from ffpipe.learn.threads import mean, total
from ffpipe.system.errors import UserError, nearest

# The words of options that the config has too.
WORDS = {leaf.name: leaf.choices for leaf in leaves(Training) if leaf.choices}


class GoodnessContrast(Objective):
    """Loss of pairs of a positive and a negative row, whose goodness is a sum or mean of squares.

    It has no parameters. Computed in float32 at least, also under autocast.

    rectify: h is what a block has before its ReLU, which is made here. peer: strength of peer normalisation (Hinton's
    program, as in dense.py): a pull of each unit's mean activity on positive rows to that of all units, which acts on h
    as it comes, so with `rectify` also on units that are off.
    """

    roles = PAIRS

    def __init__(
        self,
        outputs: RowSpec,
        *,
        goodness: str = "sum",
        objective: str = "hinton",
        threshold: float | None = None,
        temperature: float = 1.0,
        normalization: str = "rms",
        normalization_epsilon: float = TINY,
        rectify: bool = False,
        peer: float = 0.0,
        peer_averaging: float = 0.9,
    ) -> None:
        """outputs: one row of the block's output. The other arguments are those of `contrast.make_pair_loss` and
        `rows.row_scale`; without a threshold it is what a mean square of 1 gives. Raises UserError for words that are
        not known and for a temperature that is not positive."""
        super().__init__()
        for name, given in (("goodness", goodness), ("objective", objective), ("normalization", normalization)):
            if given not in WORDS[name]:
                raise UserError(f"goodness contrast: {name} is {given!r}: {nearest(given, WORDS[name])}")
        # Not `<= 0`, which NaN passes; so below.
        if not temperature > 0:
            raise UserError(f"goodness contrast: temperature is {temperature:g}: give a positive number")
        if not (peer >= 0 and 0 <= peer_averaging < 1):
            raise UserError(
                f"goodness contrast: peer is {peer:g} and peer_averaging {peer_averaging:g}: give 0 (off) or more, and "
                "0 to less than 1"
            )
        self.size = outputs.size
        self.goodness = goodness
        self.rectify, self.peer, self.peer_averaging = rectify, peer, peer_averaging
        self.mean_activity: Tensor | None
        # A buffer, so that a run goes on with it. 0.5 is where Hinton's program starts the running mean.
        self.register_buffer("mean_activity", torch.full((outputs.size,), 0.5) if peer else None)
        if peer:
            self.undivided = "draws on the mean activities of a minibatch (peer)"
        self.normalization, self.normalization_epsilon = normalization, normalization_epsilon
        self.contrast = make_pair_loss(objective, goodness, outputs.size, threshold, temperature)

    def forward(self, h: Tensor, layout: RowLayout, labels: Tensor | None) -> Learned:
        """Judge the pairs in h (layout.learning_rows, ...); labels are not used.

        Sums over pairs; an error is a pair whose negative row has the higher goodness. Raises ValueError where the
        layout has no pairs.
        """
        goodness = self.score(h)
        positive, negative = goodness[layout[POSITIVE]], goodness[layout[NEGATIVE]]
        # The slopes that come with the loss are in closed form and cost nothing beside h: autograd makes its own.
        loss, errors = total(self.contrast(positive, negative).loss), (negative > positive).sum()
        # A block that does not learn in a step has no graph then, and its means stay (as in dense.py).
        if self.mean_activity is not None and torch.is_grad_enabled():
            loss = loss + self._peer_term(h, layout, self.mean_activity)
        return Learned(loss, errors)

    def _peer_term(self, h: Tensor, layout: RowLayout, means: Tensor) -> Tensor:
        """Return a term of value 0 whose gradient is the pull on each positive row; moves the running means."""
        with torch.no_grad():
            active = self._rows(h)[layout[POSITIVE]]
            means.mul_(self.peer_averaging).add_(mean(active, 0), alpha=1.0 - self.peer_averaging)
            pull = (means - mean(means)).mul_(self.peer)
        # Not of the rectified rows, through which no gradient comes to a unit that is off.
        taken = self._flat(h)[layout[POSITIVE]]
        return ((taken - taken.detach()) * pull).sum()

    def score(self, h: Tensor) -> Tensor:
        """Give the goodness of each row of h (n, ...): (n,), float32 or float64."""
        squares = _squares(self._rows(h))
        return squares if self.goodness == "sum" else squares / self.size

    def positive_loss(self, scores: Tensor) -> Tensor | None:
        return positive_loss(self.contrast, scores)

    def hand_on(self, h: Tensor) -> Tensor:
        """Normalise each row of h (n, ...) over all its values, so that its length cannot be read off.

        Gives the same numbers as `rows.normalize_rows_`, but for the order of sums. Can be differentiated, and keeps
        the shape and dtype of h.
        """
        rows = self._rows(h)
        scale = row_scale(_squares(rows), self.size, self.normalization, self.normalization_epsilon)
        return (rows * scale).to(h.dtype).view(h.shape)

    def _rows(self, h: Tensor) -> Tensor:
        """Flatten each row, in float32 at least, rectified where that is done here: (n, size)."""
        rows = self._flat(h)
        return rows.relu() if self.rectify else rows

    def _flat(self, h: Tensor) -> Tensor:
        return wide(h).reshape(h.shape[0], self.size)


def _squares(rows: Tensor) -> Tensor:
    """Sum the squares of each of (n, values): (n,). Not by a product, which autocast would round to bfloat16."""
    return total(rows.square(), 1)

"""A trial of an objective before training, on a few rows of zeros: what it hands on, and what it says of the answer.

The rows have no memory, or where the user's code does not run without that they are on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ffpipe.config.schema import Training
from ffpipe.learn.description import described
from ffpipe.learn.items import CPU, META, TRIED, made_on
from ffpipe.learn.objectives import Objective
from ffpipe.learn.precision import PRECISIONS
from ffpipe.learn.spec import RowSpec
from ffpipe.learn.user_model import of_users
from ffpipe.system.errors import UserError


@dataclass(frozen=True)
class Trial:
    """Trials of one objective. where: names the block. hidden: one row of its body. dtype: of what the body makes
    without autocast. objective: makes it on a device."""

    where: str
    hidden: RowSpec
    dtype: torch.dtype
    training: Training
    objective: Callable[[torch.device], Objective]

    def outputs(self) -> RowSpec:
        """Return one row of what the next block gets. Raises UserError where `hand_on` fails or makes no rows."""
        made = self._made(lambda objective, rows: objective.hand_on(rows), "hand on")
        if not isinstance(made, Tensor) or made.dim() == 0 or len(made) != TRIED:
            raise UserError(
                f"hand_on of the objective of {self.where} returned {described(made)} for {TRIED} rows: return one "
                "tensor, of as many rows as it gets"
            )
        if made.is_nested or made.layout != torch.strided:
            raise UserError(f"hand_on of the objective of {self.where} returned no dense tensor: return one")
        return RowSpec(tuple(made.shape[1:]), self._dtype(made.dtype))

    def _dtype(self, made: torch.dtype) -> torch.dtype:
        """Return the body's dtype, or that of what is made of its rows where the former would cut numbers off, as
        whole numbers do with fractions."""
        body = self.hidden.dtype
        fits = made == body or (made.itemsize < body.itemsize and made.is_signed <= body.is_signed)
        if torch.can_cast(made, body) and (body.is_floating_point or fits):
            return body
        return PRECISIONS[self.training.precision].products if made.is_floating_point else made

    def check_score(self, of_row: tuple[int, ...]) -> None:
        """Raise UserError where `score` fails, or returns something else than None or a tensor for each row. of_row:
        the shape of what is said of a row, () for goodness."""
        # Evaluations alone take scores, so the objective is in that mode.
        said, right = self._made(lambda objective, rows: objective.eval().score(rows), "score"), (TRIED, *of_row)
        if said is None or (isinstance(said, Tensor) and said.shape == right):
            return
        what = "a number for each class" if of_row else "the goodness of each row"
        more = isinstance(said, Tensor) and said.dim() > len(right)
        raise UserError(
            f"score of the objective of {self.where} returned {described(said)} for {TRIED} rows: return {right}, "
            f"{what}, or None{'; the body makes several positions a row: flatten or average them' if more else ''}"
        )

    def _made(self, call: Callable[[Objective, Tensor], Any], what: str) -> Any:
        """Return what a call makes of the rows. Raises UserError for its exceptions."""
        # Weights take no rows in another format than theirs, unless autocast converts these, as all but float64.
        weights, products = PRECISIONS[self.training.precision]
        converts = weights != products and self.dtype.is_floating_point and self.dtype != torch.float64
        dtype = weights if converts else self.dtype
        rows = RowSpec(self.hidden.shape, dtype)
        failing = f"the objective of {self.where} cannot {what} rows of {rows}"
        if dtype.is_floating_point and dtype != weights:
            failing += f": have its body return {str(weights).removeprefix('torch.')}, as training.precision says"

        def tried() -> Any:
            # META, or the CPU where code looks at numbers: as `made_on` has set it.
            device = torch.get_default_device()
            with of_users(failing), torch.no_grad():
                return call(self.objective(device), torch.zeros(TRIED, *self.hidden.shape, dtype=dtype))

        # Without numbers torch does not look at the dtypes of products.
        return made_on(tried, META if dtype == weights else CPU, self.training.seed, "shapes")

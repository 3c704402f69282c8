"""Metrics by layer: summed where they arise, written as metrics.parquet at the end of a log interval."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from ffpipe.system.files import replacing
from ffpipe.telemetry.report import READOUTS, Evaluation, LayerRow

# Columns of errors on training examples, by read-out.
TRAIN_ERRORS = {name: f"train_error_{name}" for name in READOUTS}
OF_ROWS = ("loss", "pair_errors", "rate", "weight_rms", "output_rms", "factor", "logistic_pair_errors")
SCHEMA = pa.schema(
    [("step", pa.int64()), ("epoch", pa.float64()), ("layer", pa.int32()),
     *((name, pa.float64()) for name in (*OF_ROWS, *TRAIN_ERRORS.values()))]
)  # fmt: skip
# Names of what a snapshot keeps.
METER = "meter"
METER_STEPS = "meter_steps"
METER_LOGISTIC = "meter_logistic"


class LastStep(NamedTuple):
    """The fields of a `LayerRow` that are of its last step alone."""

    rate: float | None = None
    weight_rms: float | None = None
    output_rms: float | None = None
    factor: float | None = None


class LayerMeter:
    """Sums a layer's losses on its own device; makes a row every `log_steps` steps and after the last of `steps`."""

    def __init__(self, layer: int, log_steps: int, steps: int, batch: int) -> None:
        self.layer, self.log_steps, self.steps, self.batch = layer, log_steps, steps, batch
        self._sums: Tensor | None = None
        self._steps = 0
        self._rows: list[LayerRow] = []

    def add(self, step: int, *figures: Tensor | None, sizes: Callable[[], LastStep] = LastStep) -> None:
        """Count a step. figures: loss, errors, and errors by logistic probabilities if they are counted, sums over
        minibatch `step`, 0-dimensional. sizes: called where a row is made."""
        here = torch.stack([each.double() for each in figures if each is not None])
        # On the device of the losses: reading a number of a GPU at each step would wait for all that is queued there.
        if self._sums is not None and len(self._sums) < len(here):
            # A snapshot of before: it counted errors by probabilities alone, in the place of those by goodness.
            self._sums[1] = math.nan
        self._sums = here if self._sums is None else self._sums.to(here.device).add_(here[: len(self._sums)])
        self._steps += 1
        self.end(step, sizes)

    def end(self, step: int, sizes: Callable[[], LastStep] = LastStep) -> None:
        """Make a row where an interval ends with a step, counted or not."""
        if self._sums is not None and ((step + 1) % self.log_steps == 0 or step + 1 == self.steps):
            mean_loss, mean_errors, *logistic = (self._sums / (self._steps * self.batch)).tolist()
            # NaN stands for unknown while errors are summed (user_objective.py).
            counted = None if math.isnan(mean_errors) else mean_errors
            # The stage ends the run for such a loss. JSON has no word for it, and past.json could not be read again.
            if math.isfinite(mean_loss):
                self._rows.append(LayerRow(step + 1, self.layer, mean_loss, counted, *sizes(), *logistic))
            # None, not zeros: an interval in which no step is counted makes no row.
            self._sums, self._steps = None, 0

    def state(self) -> dict[str, Tensor]:
        """Return the sums of loss and errors (2,) float64 and steps () int64 of the interval that is open, and the sum
        of logistic errors (1,) float64 if it has one: a snapshot keeps them."""
        sums = torch.zeros(2, dtype=torch.float64) if self._sums is None else self._sums.cpu()
        logistic = {METER_LOGISTIC: sums[2:].clone()} if len(sums) > 2 else {}
        return {METER: sums[:2].clone(), METER_STEPS: torch.tensor(self._steps)} | logistic

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Go on with the interval that `state` returned."""
        self._steps = int(state[METER_STEPS])
        kept = [state[name] for name in (METER, METER_LOGISTIC) if name in state]
        self._sums = torch.cat(kept) if self._steps else None

    def drain(self) -> list[LayerRow]:
        """Return the rows finished since the last call."""
        rows, self._rows = self._rows, []
        return rows


def write_metrics(
    path: Path, rows: Sequence[LayerRow], steps_per_epoch: int, evaluations: Sequence[Evaluation] = ()
) -> None:
    """Write metrics.parquet: one row per layer and log point, the head as layer -1, in order of step and layer.

    evaluations: on any splits, in order. The errors on training examples stand in all rows of the first log point from
    their step on.
    """
    ordered = sorted(rows, key=lambda r: (r.step, r.layer))
    points = sorted({row.step for row in rows})
    errors: dict[int, dict[str, float]] = {}
    for each in evaluations:
        if each.split == "train" and points and each.step <= points[-1]:
            errors[points[bisect_left(points, each.step)]] = each.readouts
    columns = {name: [getattr(row, name) for row in ordered] for name in ("step", "layer", *OF_ROWS)}
    columns["epoch"] = [row.step / steps_per_epoch for row in ordered]
    for readout, name in TRAIN_ERRORS.items():
        columns[name] = [errors.get(row.step, {}).get(readout) for row in ordered]
    with replacing(path) as file:
        pq.write_table(pa.table(columns, schema=SCHEMA), file)

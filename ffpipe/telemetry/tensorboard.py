"""Event files for TensorBoard, written by the package of that name (extra `tensorboard`)."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import Any

from ffpipe.system.errors import UserError
from ffpipe.telemetry.callbacks import Callback, RunStart, Speed
from ffpipe.telemetry.report import Evaluation, LayerRow

FOLDER = "tensorboard"


class TensorBoard(Callback):
    """A callback that writes event files into the folder `tensorboard` of the run, for `tensorboard --logdir RUN`.

    Tags: loss, errors, rate, factor (the schedule's), weights (root mean square) and outputs, each with /block 0, ...
    and /read-out; SPLIT error/READOUT; speed/examples per second; busy/stage 0, .... A run that goes on replaces what
    came after its snapshot. Nothing is written where that folder is a link. Raises UserError where the package is not
    there.
    """

    def __init__(self) -> None:
        if importlib.util.find_spec("tensorboard") is None:
            raise UserError(
                "execution.tensorboard needs the package tensorboard: pip install 'ffpipe[tensorboard]', or set false"
            )
        self._writer: Any = None

    def on_start(self, run: RunStart) -> None:
        # Here and not above: it takes a second, and most runs write no events.
        from torch.utils.tensorboard import SummaryWriter

        folder = run.run_dir / FOLDER
        # In a stranger's run it may lead anywhere.
        if folder.is_symlink():
            raise UserError(f"{folder} is a link, which is not written through: remove it")
        # A killed run has written events beyond its snapshot, if it had one, which would show beside those to come.
        purged = run.first_step + 1 if folder.exists() else None
        self._writer = SummaryWriter(str(folder), purge_step=purged)

    def on_row(self, row: LayerRow) -> None:
        block = "read-out" if row.layer < 0 else f"block {row.layer}"
        values = {
            "loss": row.loss, "errors": row.pair_errors, "rate": row.rate, "weights": row.weight_rms,
            "outputs": row.output_rms, "factor": row.factor, "logistic errors": row.logistic_pair_errors,
        }  # fmt: skip
        for name, value in values.items():
            self._write(f"{name}/{block}", value, row.step)

    def on_evaluation(self, evaluation: Evaluation) -> None:
        for readout, error in evaluation.readouts.items():
            self._write(f"{evaluation.split} error/{readout}", error, evaluation.step)
        for index, of_block in enumerate(evaluation.blocks):
            self._write(f"{evaluation.split} error/block {index}", of_block, evaluation.step)

    def on_speed(self, speed: Speed) -> None:
        self._write("speed/examples per second", speed.examples_per_second, speed.step)
        for stage, busy in enumerate(speed.busy):
            self._write(f"busy/stage {stage}", busy, speed.step)

    def on_end(self, summary: Mapping[str, Any]) -> None:
        if self._writer is not None:
            self._writer.close()

    def _write(self, tag: str, value: float | None, step: int) -> None:
        # None where on_start has failed: that was said once, and the run went on.
        if value is not None and self._writer is not None:
            self._writer.add_scalar(tag, value, step)

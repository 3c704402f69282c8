"""Rows of metrics are means over log intervals, however the steps came in chunks."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pyarrow.parquet as pq
import torch

from ffpipe.telemetry.metrics import LayerMeter, Sizes, write_metrics
from ffpipe.telemetry.report import LayerRow


def test_a_row_is_the_mean_over_the_examples_of_its_interval() -> None:
    meter = LayerMeter(2, log_steps=3, steps=5, batch=10)
    for step, (loss, errors) in enumerate([(10.0, 1), (20.0, 2), (30.0, 3), (99.0, 9)]):
        meter.add(step, torch.tensor(loss), torch.tensor(errors))
    assert meter.drain() == [LayerRow(3, 2, 2.0, 0.2)]
    assert meter.drain() == []
    meter.add(4, torch.tensor(1.0), torch.tensor(1))
    assert meter.drain() == [LayerRow(5, 2, 5.0, 0.5)], "the last step closes its interval"


def test_sizes_are_asked_for_where_a_row_is_made() -> None:
    meter, asked = LayerMeter(0, log_steps=2, steps=4, batch=1), list[int]()

    def sizes(step: int) -> Sizes:
        asked.append(step)
        return Sizes(0.1, 0.2, 0.3)

    for step in range(4):
        meter.add(step, torch.tensor(1.0), torch.tensor(0), partial(sizes, step))
    assert asked == [1, 3]
    assert meter.drain() == [LayerRow(step, 0, 1.0, 0.0, 0.1, 0.2, 0.3) for step in (2, 4)]


def test_the_file_is_in_order_of_step_and_layer(tmp_path: Path) -> None:
    rows = [LayerRow(20, 1, 0.5, 0.1), LayerRow(10, -1, 0.7, 0.3), LayerRow(20, 0, 0.6, 0.2)]
    write_metrics(tmp_path / "metrics.parquet", rows, steps_per_epoch=10)
    table = pq.read_table(tmp_path / "metrics.parquet")
    assert table.column_names == [
        "step", "epoch", "layer", "loss", "pair_errors", "rate", "weight_rms", "output_rms"
    ]  # fmt: skip
    assert table["step"].to_pylist() == [10, 20, 20]
    assert table["layer"].to_pylist() == [-1, 0, 1]
    assert table["epoch"].to_pylist() == [1.0, 2.0, 2.0]

"""Rows of metrics are means over log intervals, however the steps came in chunks."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq
import torch

from ffpipe.runs.inspection import read_past
from ffpipe.telemetry.metrics import METER_LOGISTIC, LastStep, LayerMeter, write_metrics
from ffpipe.telemetry.report import Evaluation, LayerRow


def test_a_row_is_the_mean_over_the_examples_of_its_interval() -> None:
    meter = LayerMeter(2, log_steps=3, steps=5, batch=10)
    for step, (loss, errors) in enumerate([(10.0, 1), (20.0, 2), (30.0, 3), (99.0, 9)]):
        meter.add(step, torch.tensor(loss), torch.tensor(errors))
    assert meter.drain() == [LayerRow(3, 2, 2.0, 0.2)]
    assert meter.drain() == []
    meter.add(4, torch.tensor(1.0), torch.tensor(1))
    assert meter.drain() == [LayerRow(5, 2, 5.0, 0.5)], "the last step closes its interval"


def test_errors_by_another_measure_have_a_sum_of_their_own() -> None:
    def counted(*steps: int, begun: LayerMeter | None = None) -> LayerMeter:
        meter = begun or LayerMeter(0, log_steps=4, steps=8, batch=10)
        for step in steps:
            meter.add(step, torch.tensor(10.0), torch.tensor(step), torch.tensor(2 * step))
        return meter

    whole = counted(*range(8)).drain()
    assert [(row.pair_errors, row.logistic_pair_errors) for row in whole] == [(0.15, 0.3), (0.55, 1.1)]
    state = counted(0, 1).state()
    unknown = replace(whole[0], pair_errors=None, logistic_pair_errors=None)
    for keeps, first in ((True, whole[0]), (False, unknown)):
        meter = LayerMeter(0, log_steps=4, steps=8, batch=10)
        # A snapshot of before has no such sum, and counted otherwise.
        meter.load({name: kept for name, kept in state.items() if keeps or name != METER_LOGISTIC})
        assert counted(*range(2, 8), begun=meter).drain() == [first, whole[1]]


def test_sizes_are_asked_for_where_a_row_is_made() -> None:
    meter, asked = LayerMeter(0, log_steps=2, steps=4, batch=1), list[int]()

    def sizes(step: int) -> LastStep:
        asked.append(step)
        return LastStep(0.1, 0.2, 0.3, 0.4)

    for step in range(4):
        meter.add(step, torch.tensor(1.0), torch.tensor(0), sizes=partial(sizes, step))
    assert asked == [1, 3]
    assert meter.drain() == [LayerRow(step, 0, 1.0, 0.0, 0.1, 0.2, 0.3, 0.4) for step in (2, 4)]


def test_the_file_is_in_order_of_step_and_layer(tmp_path: Path) -> None:
    rows = [LayerRow(20, 1, 0.5, 0.1), LayerRow(10, -1, 0.7, 0.3), LayerRow(20, 0, 0.6, 0.2)]
    write_metrics(tmp_path / "metrics.parquet", rows, steps_per_epoch=10)
    table = pq.read_table(tmp_path / "metrics.parquet")
    assert table.column_names == [
        "step", "epoch", "layer", "loss", "pair_errors", "rate", "weight_rms", "output_rms", "factor",
        "logistic_pair_errors",
        "train_error_goodness", "train_error_softmax", "train_error_last", "train_error_sum",
    ]  # fmt: skip
    assert table["step"].to_pylist() == [10, 20, 20]
    assert table["layer"].to_pylist() == [-1, 0, 1]
    assert table["epoch"].to_pylist() == [1.0, 2.0, 2.0]


def test_errors_on_training_examples_stand_at_the_log_point_from_their_step_on(tmp_path: Path) -> None:
    rows = [LayerRow(step, layer, 0.5, 0.1) for step in (10, 20, 30) for layer in (-1, 0)]
    tests = [
        Evaluation(8, "train", 9, 0.4, 0.3),
        Evaluation(8, "validation", 9, 0.9, 0.9),
        Evaluation(20, "train", 9, None, None, {"last": 0.2, "sum": 0.1, "block.0": 0.2}),
        Evaluation(31, "train", 9, 0.8, 0.8),  # before its row has come
    ]
    write_metrics(tmp_path / "metrics.parquet", rows, 10, tests)
    table = pq.read_table(tmp_path / "metrics.parquet")
    by_readout = {name: table[f"train_error_{name}"].to_pylist() for name in ("goodness", "softmax", "last", "sum")}
    assert by_readout == {
        "goodness": [0.4, 0.4, None, None, None, None],
        "softmax": [0.3, 0.3, None, None, None, None],
        "last": [None, None, 0.2, 0.2, None, None],
        "sum": [None, None, 0.1, 0.1, None, None],
    }


def test_a_past_whose_rows_have_less_is_read(tmp_path: Path) -> None:
    (tmp_path / "past.json").write_text('{"rows":[{"step":3,"layer":0,"loss":1.5,"pair_errors":0.5,"rate":0.1}]}')
    past = read_past(tmp_path / "past.json", 1000)
    assert past.rows == [LayerRow(3, 0, 1.5, 0.5, 0.1)]
    write_metrics(tmp_path / "metrics.parquet", past.rows, 10)
    (row,) = pq.read_table(tmp_path / "metrics.parquet").to_pylist()
    assert (row["rate"], row["factor"], row["train_error_softmax"]) == (0.1, None, None)

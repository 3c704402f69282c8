"""Spans add up, and a trace is what Perfetto reads: a JSON array of events with times in microseconds."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from threading import Thread

import pytest

from ffpipe import override, recipe, train
from ffpipe.telemetry.spans import Span, Spans, TraceFile


def test_totals_are_always_kept_and_spans_when_asked() -> None:
    for keep in (False, True):
        spans = Spans(keep)
        for label in ("a", "b"):
            with spans.span("compute", label):
                pass
        kept = spans.drain()
        assert [span.label for span in kept] == (["a", "b"] if keep else [])
        assert spans.drain() == []
        assert spans.totals["compute"] > 0
        assert spans.totals["input"] == 0
        assert spans.elapsed >= spans.totals["compute"]


def test_a_span_within_another_interrupts_it() -> None:
    spans = Spans(keep=True)
    with spans.span("compute", "outer"):
        with spans.span("blocked"):
            pass
        with spans.span("exchange"):
            pass
    kept = spans.drain()
    assert [(span.kind, span.label) for span in kept] == [
        *(("compute", "outer"), ("blocked", ""), ("compute", "outer"), ("exchange", ""), ("compute", "outer"))
    ]
    assert all(one.start + one.seconds <= other.start for one, other in pairwise(kept))
    for kind, seconds in spans.totals.items():
        assert seconds == sum(span.seconds for span in kept if span.kind == kind)


def test_an_exchange_in_the_thread_of_a_forward_pass_interrupts_too() -> None:
    spans = Spans(keep=True)

    def exchange() -> None:
        with spans.span("exchange"):
            pass

    with spans.span("compute", "outer"):
        for work in (exchange, lambda: spans.span("publish").__enter__()):  # publishing is not over when they go on
            thread = Thread(target=work)
            thread.start()
            thread.join()
    assert [span.kind for span in spans.drain()] == ["compute", "exchange", "compute"]


def test_a_span_that_raises_leaves_none_open() -> None:
    spans = Spans(keep=True)
    for _ in range(2):
        with pytest.raises(KeyError), spans.span("compute"):
            raise KeyError
    with spans.span("input"):
        pass
    assert [span.kind for span in spans.drain()] == ["input"]


def test_a_trace_file_is_an_array_of_events(tmp_path: Path) -> None:
    trace = TraceFile(tmp_path / "trace.json")
    trace.add(0, "stage 0", [Span("compute", "Train", 100.0, 0.25)])
    trace.add(0, "stage 0", [Span("publish", "", 100.25, 0.5)])
    trace.close()
    events = json.loads((tmp_path / "trace.json").read_text())
    assert [event["ph"] for event in events] == ["M", "X", "X"]
    assert events[1] == {
        "ph": "X", "name": "compute Train", "cat": "compute", "pid": 0, "tid": 0, "ts": 100e6, "dur": 0.25e6,
    }  # fmt: skip
    assert events[2]["tid"] == 1


def test_stages_that_are_others_after_a_recovery_are_processes_of_their_own(tmp_path: Path) -> None:
    trace = TraceFile(tmp_path / "trace.json")
    for stage, name in ((0, "stage 0: layers 0"), (1, "stage 1: layers 1"), (1, "stage 1: layers 1, 2")):
        trace.add(stage, name, [Span("compute", name, 1.0, 0.25)])
    trace.close()
    events = json.loads((tmp_path / "trace.json").read_text())
    named = {event["pid"]: event["args"]["name"] for event in events if event["ph"] == "M"}
    assert list(named) == [0, 1, 2]
    assert all(event["name"] == f"compute {named[event['pid']]}" for event in events if event["ph"] == "X")


def test_a_run_writes_one_when_asked(tmp_path: Path) -> None:
    fields = {"training.epochs": 2, "training.dims": [64, 30, 20], "execution.engine": "local"}
    more = {"execution.trace": "true", "execution.run_dir": str(tmp_path / "run")}
    summary = train(override(recipe("digits"), {**fields, **more})).summary
    events = json.loads((tmp_path / "run" / "trace.json").read_text())
    assert {event["pid"] for event in events} == {0, 1}
    assert len(summary["time_shares"]) == 2
    assert 0 < summary["efficiency"] <= 1
    assert 0 < summary["start_seconds"] < 60

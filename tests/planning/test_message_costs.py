"""Costs of messages: kept for a machine, read by forecasts, and measured."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ffpipe.planning.message_costs import FITTED, MessageCosts, keep_costs, kept_costs
from ffpipe.runs.calibrate import calibrate
from ffpipe.system.errors import UserError

OURS = MessageCosts(item=0.001, call=0.002, copy=3e9, answer=0.004, origin="measured by nobody")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FFPIPE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_what_was_measured_is_what_forecasts_take() -> None:
    assert kept_costs() == FITTED
    keep_costs(OURS)
    assert kept_costs() == OURS


@pytest.mark.parametrize("text", ["", "{", "[]", '{"item": 1}', "\xff", " " * 5000])
def test_a_file_that_is_damaged_is_not_missed(text: str) -> None:
    keep_costs(OURS).write_text(text, encoding="latin-1")
    assert kept_costs() == FITTED


def test_a_named_pipe_is_not_waited_for() -> None:
    path = keep_costs(OURS)
    path.unlink()
    os.mkfifo(path)
    assert kept_costs() == FITTED


@pytest.mark.parametrize("costs", [OURS, None], ids=["written", "tried before they are measured"])
def test_a_cache_that_cannot_be_written_is_named(costs: MessageCosts | None, cache: Path) -> None:
    cache.write_text("no folder")
    with pytest.raises(UserError, match="FFPIPE_CACHE"):
        keep_costs(costs)


@pytest.mark.long
def test_costs_can_be_measured() -> None:
    found = calibrate()
    assert min(found.item, found.call, found.copy, found.answer) > 0
    assert kept_costs() == found

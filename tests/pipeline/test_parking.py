"""A parked stage holds no memory, and comes back to the bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from ffpipe import Training
from ffpipe.config.schema import Optimizer
from ffpipe.engines.layerwise.parking import fetch, leave, park
from ffpipe.pipeline.schedule import Train
from ffpipe.pipeline.stage import Stage, StageSpec
from ffpipe.pipeline.streams import Streams
from ffpipe.system.errors import StageLost

BATCH = 4


def make_stage(**fields: Any) -> Stage:
    training = Training(dims=(20, 64, 48), batch_size=BATCH, **fields)
    return Stage(StageSpec(0, 1, range(2), training, 20, 10, 100, 10, 10, "cpu"), lambda *_: None)


def work(stage: Stage, first: int) -> None:
    chance = torch.Generator().manual_seed(first)
    rows = torch.randn(2, 3 * BATCH, 20, generator=chance).to(stage.layers[0].weight.dtype)
    if stage.spec.training.precision == "bfloat16":
        rows = rows.to(torch.bfloat16)
    labels = torch.randint(0, 10, (2, BATCH), generator=chance)
    stage.handle(Train(first, 2), Streams(rows, labels))


def bytes_held(stage: Stage) -> int:
    return sum(tensor.untyped_storage().nbytes() for tensor in (*stage.kept(), *stage.scratch()))


@pytest.mark.parametrize("precision", ["float32", "float64", "bfloat16"])
@pytest.mark.parametrize("kind", ["averaging", "SGD", "Adam", "Adagrad"])
def test_parked_and_fetched_it_goes_on_as_if_it_had_not_been(kind: str, precision: Any, tmp_path: Path) -> None:
    fields: dict[str, Any] = {"precision": precision, "optimizer": Optimizer(kind=kind), "head_from": 0}
    parked, other = make_stage(**fields), make_stage(**fields)
    for first in range(0, 8, 2):
        slip = park(parked, tmp_path / "stage")
        assert bytes_held(parked) == 0
        fetch(parked, slip)
        work(parked, first)
        work(other, first)
    for mine, theirs in zip(parked.kept(), other.kept(), strict=True):
        assert torch.equal(mine, theirs)
    assert parked.layers[0].update.state().keys() == other.layers[0].update.state().keys()


def test_a_stage_that_did_not_change_is_left_and_comes_back_from_the_same_file(tmp_path: Path) -> None:
    stage, other = make_stage(), make_stage()
    slip = park(stage, tmp_path / "stage")
    for _ in range(2):
        fetch(stage, slip)
        leave(stage)
        assert bytes_held(stage) == 0
    fetch(stage, slip)
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(stage.kept(), other.kept(), strict=True))


@pytest.mark.parametrize("harm", ["flip", "cut", "absent"])
def test_a_file_that_is_not_what_was_written_is_refused(harm: str, tmp_path: Path) -> None:
    stage, path = make_stage(), tmp_path / "stage"
    slip = park(stage, path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 16
    path.unlink()
    if harm != "absent":
        path.write_bytes(data if harm == "flip" else data[:-10])
    with pytest.raises(StageLost, match=str(path)):
        fetch(stage, slip)


def test_without_room_nothing_is_lost() -> None:
    stage = make_stage()
    held = bytes_held(stage)
    with pytest.raises(OSError, match="No space left"):
        park(stage, Path("/dev/full"))
    assert bytes_held(stage) == held

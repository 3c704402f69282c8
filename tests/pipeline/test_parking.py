"""A parked stage holds no memory, and comes back to the bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from blueprints import blueprint_of, make_stages

from ffpipe import Training
from ffpipe.config.schema import BlockConfig, Optimizer
from ffpipe.engines.layerwise.parking import fetch, leave, park
from ffpipe.pipeline.packet import LABELS, X
from ffpipe.pipeline.schedule import Train
from ffpipe.pipeline.stage import Stage
from ffpipe.system.errors import StageLost

BATCH = 4
# The same widths by autograd: with running statistics beside weights, and a class head in each block.
PLAIN = {
    "negatives": "none",
    "blocks": tuple(BlockConfig(kind="dense", options={"width": width, "norm": True}) for width in (64, 48)),
}


def make_stage(**fields: Any) -> Stage:
    training = Training(dims=(20, 64, 48), batch_size=BATCH, **fields)
    (stage,) = make_stages(blueprint_of(training), [range(2)])
    return stage


def work(stage: Stage, first: int) -> None:
    chance = torch.Generator().manual_seed(first)
    network = stage.spec.network
    rows = torch.randn(2, network.layout.rows, 20, generator=chance).to(network.inputs.dtype)
    labels = torch.randint(0, 10, (2, BATCH), generator=chance)
    stage.handle(Train(first, 2), {X: rows, LABELS: labels})


def bytes_held(stage: Stage) -> int:
    return sum(tensor.untyped_storage().nbytes() for tensor in (*stage.parked(), *stage.scratch()))


@pytest.mark.parametrize("network", [{}, PLAIN], ids=["closed form", "autograd"])
@pytest.mark.parametrize("precision", ["float32", "float64", "bfloat16"])
@pytest.mark.parametrize("kind", ["averaging", "SGD", "Adam", "Adagrad"])
def test_parked_and_fetched_it_goes_on_as_if_it_had_not_been(
    kind: str, precision: Any, network: dict[str, Any], tmp_path: Path
) -> None:
    fields: dict[str, Any] = {"precision": precision, "optimizer": Optimizer(kind=kind), "head_from": 0, **network}
    parked, other = make_stage(**fields), make_stage(**fields)
    for first in range(0, 8, 2):
        parked_stage = park(parked, tmp_path / "stage")
        assert bytes_held(parked) == 0
        fetch(parked, parked_stage)
        work(parked, first)
        work(other, first)
    for mine, theirs in zip(parked.parked(), other.parked(), strict=True):
        assert torch.equal(mine, theirs)
    for block, its in zip(parked.blocks, other.blocks, strict=True):
        assert block.state().keys() == its.state().keys()
        assert all(torch.equal(tensor, its.state()[name]) for name, tensor in block.state().items())


def test_a_stage_that_did_not_change_is_left_and_comes_back_from_the_same_file(tmp_path: Path) -> None:
    stage, other = make_stage(), make_stage()
    parked_stage = park(stage, tmp_path / "stage")
    for _ in range(2):
        fetch(stage, parked_stage)
        leave(stage)
        assert bytes_held(stage) == 0
    fetch(stage, parked_stage)
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(stage.parked(), other.parked(), strict=True))


@pytest.mark.parametrize("harm", ["flip", "cut", "absent"])
def test_a_file_that_is_not_what_was_written_is_refused(harm: str, tmp_path: Path) -> None:
    stage, path = make_stage(), tmp_path / "stage"
    parked_stage = park(stage, path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 16
    path.unlink()
    if harm != "absent":
        path.write_bytes(data if harm == "flip" else data[:-10])
    with pytest.raises(StageLost, match=str(path)):
        fetch(stage, parked_stage)


def test_without_room_nothing_is_lost() -> None:
    stage = make_stage()
    held = bytes_held(stage)
    with pytest.raises(OSError, match="No space left"):
        park(stage, Path("/dev/full"))
    assert bytes_held(stage) == held

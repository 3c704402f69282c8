"""Blocks whose weights or buffers have other shapes, dtypes or names than they began with: no snapshot has these."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from failing_blocks import config
from torch import Tensor, nn

from ffpipe import RunFailed, evaluate, train
from ffpipe.storage import checkpoint
from ffpipe.storage.store import Store


class Changing(nn.Module):
    """A layer that changes itself at a step, which a buffer counts."""

    seen: Tensor
    past: Tensor | None
    mean: Tensor | None

    def __init__(self, change: Callable[[Changing], object], at: int) -> None:
        super().__init__()
        self.layer, self.change, self.at = nn.Linear(64, 10), change, at
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self.register_buffer("past", torch.zeros(2))
        self.register_buffer("mean", None)

    def forward(self, x: Tensor) -> Tensor:
        if self.training and not x.is_meta:
            self.seen += 1
            if self.seen == self.at:
                self.change(self)
        made: Tensor = self.layer(x.flatten(1))
        return made


def grow(block: Changing) -> None:
    block.past = torch.ones(3)


def widen(block: Changing) -> None:
    block.past = torch.zeros(2, dtype=torch.float64)


def appear(block: Changing) -> None:
    block.mean = torch.zeros(())


def vanish(block: Changing) -> None:
    block.past = None


def set_anew(block: Changing) -> None:
    block.past, block.seen = torch.ones(2), block.seen.clone()


def run(change: Callable[[Changing], object], at: int, run_dir: Path) -> Path:
    """Train with a snapshot every second step."""
    fields = {"execution.stages": 1, "execution.chunk": 1, "execution.snapshot_steps": 2}
    return train(config(run_dir, **fields), model=model(change, at)).run_dir


def model(change: Callable[[Changing], object], at: int) -> Callable[[], list[nn.Module]]:
    return lambda: [Changing(change, at)]


@pytest.mark.parametrize(
    ("change", "was", "found"),
    [
        (grow, r"'body.past' as float32 \(2,\)", r"'body.past' as float32 \(3,\)"),
        (widen, r"'body.past' as float32 \(2,\)", r"'body.past' as float64 \(2,\)"),
        (appear, "no 'body.mean'", r"'body.mean' as float32 \(\)"),
        (vanish, r"'body.past' as float32 \(2,\)", "no 'body.past'"),
    ],
)
@pytest.mark.parametrize(("at", "after", "left"), [(1, 1, []), (3, 4, [2])], ids=["at once", "later"])
def test_other_tensors_end_the_run_and_leave_the_snapshot_before(
    change: Callable[[Changing], object], was: str, found: str, at: int, after: int, left: list[int], tmp_path: Path
) -> None:
    line = rf"^block 0 \(Changing\) had {was} when it was made and has {found} after step {after}: a snapshot is"
    with pytest.raises(RunFailed, match=line):
        run(change, at, tmp_path / "run")
    store = Store(str(tmp_path / "run" / "checkpoints"))
    assert checkpoint.whole_snapshots(store) == [checkpoint.folder_of(step) for step in left]


def test_other_tensors_of_the_same_shape_are_right(tmp_path: Path) -> None:
    assert evaluate(run(set_anew, 3, tmp_path / "run"), model=model(set_anew, 3)).examples

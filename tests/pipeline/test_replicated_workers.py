"""Workers without Ray: replicas of stages in threads, whose messages arrive late and out of order, have the bits of one
process; and what cannot be right is noticed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from threaded_workers import run_workers
from torch import nn

from ffpipe import override, recipe
from ffpipe.learn.batchnorm import over_minibatch
from ffpipe.pipeline.job import Job, Model, make_job
from ffpipe.pipeline.packet import Array
from ffpipe.pipeline.reducer import Reducer
from ffpipe.pipeline.stage import Stage
from ffpipe.pipeline.worker import Worker
from ffpipe.planning.layout import make_layout
from ffpipe.storage import checkpoint

FIELDS = {
    "training.epochs": 1,
    "training.batch_size": 100,
    "training.shards": 4,
    "training.dims": [64, 40, 30, 20, 10],
    "training.negative_lag": 6,
}
IMAGES = {"training.negatives": "none", "training.labels": "none", "training.head_from": 0}
# The third block sees what the first makes.
CONVOLUTIONS = [
    {"kind": "conv", "options": {"channels": 6, "norm": False}, "keep": "early"},
    {"kind": "conv", "options": {"channels": 6, "norm": False}},
    {"kind": "conv", "options": {"channels": 6, "pool": 2}, "use": ["early"]},
    {"kind": "dense", "options": {"width": 12}},
]
NARROW = [*({"kind": "dense", "options": {"width": width}} for width in (15, 11, 9)), {"kind": "readout"}]
KINDS: dict[str, dict[str, Any]] = {
    "hard negatives": {},
    "lock step": {"training.negative_lag": 0},
    "evaluations": {"execution.evaluate_every": 1, "execution.snapshot_steps": 5, "execution.chunk": 2},
    "convolutions": {"training.blocks": CONVOLUTIONS, "training.optimizer.kind": "Adam", **IMAGES},
    # Shards behind others do not begin at a multiple of 16 bytes.
    "narrow products": {"training.blocks": NARROW, "training.optimizer.kind": "Adam", **IMAGES},
    # Fused steps take gradients and weights as they lie in memory.
    "fused steps, channels last": {
        "training.blocks": CONVOLUTIONS, "training.optimizer.kind": "Adam", "training.memory_format": "channels-last",
        "training.optimizer.options": {"fused": True}, **IMAGES,
    },
}  # fmt: skip


class Branches(nn.Module):
    """Three branches from one tensor, whose gradients meet there: their sum depends on the order of additions."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.one, self.two, self.three = (nn.Conv2d(4, 4, 3, padding=1) for _ in range(3))
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.trunk(x.reshape(-1, 1, 8, 8))
        made: torch.Tensor = self.one(h) + self.two(h) + self.norm(self.three(h))
        return made


def branches() -> list[nn.Module]:
    """Make the blocks of a network with branches."""
    return [over_minibatch(Branches())]


LONG = ("lock step", "evaluations", "hard negatives")


def job(model: Model | None = None, **fields: Any) -> Job:
    return make_job(override(recipe("digits"), {**FIELDS, **fields}), model or Model())


def stage_of(worker: Worker) -> Stage:
    assert isinstance(worker.stage, Stage)
    return worker.stage


def weights(workers: list[Worker], replica: int) -> dict[str, torch.Tensor]:
    """Return the weights of the replica of that number, or of the last one of a stage with fewer."""
    found: dict[str, torch.Tensor] = {}
    for worker in workers:
        spec = worker.spec
        if spec.replica == min(replica, spec.replicas.counts[spec.index] - 1):
            for block in stage_of(worker).blocks:
                found |= {f"{block.index}.{name}": tensor for name, tensor in block.state().items()}
            if (head := stage_of(worker).head) is not None:
                found |= {f"head.{name}": tensor for name, tensor in head.state().items()}
    return found


@pytest.mark.parametrize("kind", [pytest.param(k, marks=pytest.mark.long if k in LONG else ()) for k in KINDS])
def test_any_numbers_of_replicas_have_the_bits_of_one(kind: str, tmp_path: Path) -> None:
    check_replicas(job(**KINDS[kind]), ((2,), (1, 4), (4, 2, 1), (2, 2)), tmp_path)


def test_gradients_that_meet_are_added_up_in_one_order(tmp_path: Path) -> None:
    network = job(Model(function=branches), **IMAGES, **{"training.optimizer.kind": "Adam", "execution.stages": 1})
    check_replicas(network, ((2,), (4,)), tmp_path)


def check_replicas(network: Job, cuts: Sequence[tuple[int, ...]], tmp_path: Path) -> None:
    """Hold runs of several replicas to one of one process. cuts: replicas of each stage."""
    alone, expected_reports = run_workers(network, make_layout(network, 1), tmp_path / "one")
    expected = weights(alone, 0)
    rows = sorted((row for report in expected_reports for row in report.rows), key=lambda row: (row.step, row.layer))
    for counts in cuts:
        layout = make_layout(network, len(counts), counts=counts)
        workers, reports = run_workers(network, layout, tmp_path / "-".join(map(str, counts)))
        for replica in range(max(counts)):
            found = weights(workers, replica)
            assert found.keys() == expected.keys()
            assert all(torch.equal(found[name], tensor) for name, tensor in expected.items()), (counts, replica)
        made = sorted((row for report in reports for row in report.rows), key=lambda row: (row.step, row.layer))
        assert made == rows
        assert sum(len(report.evaluations) for report in reports) == sum(
            len(report.evaluations) for report in expected_reports
        )
        files = {file.name: file.weights_sha256 for report in expected_reports for file in report.files}
        seen = [file for report in reports for file in report.files if file.step == network.steps]
        assert all(file.weights_sha256 == files[file.name] for file in seen)
        held = [counts[stage] for stage, spec in enumerate(layout.stages) for _ in spec.layers]
        assert len(seen) == sum(held) + (len(files) - len(held)) * counts[-1]


def test_files_of_snapshots_are_those_of_one_replica(tmp_path: Path) -> None:
    network = job()
    run_workers(network, make_layout(network, 1), tmp_path / "one")
    run_workers(network, make_layout(network, 2, counts=(2, 4)), tmp_path / "six")
    names = [checkpoint.layer_file(index) for index in range(4)] + [checkpoint.HEAD]
    folder = checkpoint.folder_of(network.steps)
    for name in names:
        assert (tmp_path / "six" / folder / name).read_bytes() == (tmp_path / "one" / folder / name).read_bytes()


def test_a_replica_that_is_at_something_else_is_noticed() -> None:
    reducer = Reducer(0, 2, lambda number, name, sums: None)
    sums, threes = [torch.ones(2)], Array("float32", np.full(2, 3.0, dtype=np.float32))
    reducer.put(0, 1, "block 0", {"0": threes})
    assert torch.equal(reducer("block 0", sums)[0], torch.tensor([4.0, 4.0]))
    reducer.put(1, 1, "block 1", {"0": threes})
    with pytest.raises(ValueError, match="replica 0 is at 'block 0', another one at 'block 1'"):
        reducer("block 0", sums)

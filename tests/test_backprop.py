"""The yardstick, the same blocks as one, trained end to end: it learns as a plain loop of torch does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from blueprints import blueprint_of
from end_to_end import BLOCKS, CPU, config, evaluations, of_blocks, summary_of
from torch import Tensor, nn
from wrong_items import Around

from ffpipe import (
    Local,
    UserError,
    load,
    override,
    train,
)
from ffpipe.config.fields import read_config
from ffpipe.config.schema import BlockConfig, Optimizer, Training
from ffpipe.data.sampler import Sampler
from ffpipe.data.splits import load_splits
from ffpipe.learn.augmentation import Augmentation
from ffpipe.learn.block import Block, Step
from ffpipe.learn.chained import Chained
from ffpipe.learn.class_head import ClassHead
from ffpipe.learn.local import LocalBlock, seeded
from ffpipe.learn.objectives import Learned, Objective
from ffpipe.learn.rates import rate_factor
from ffpipe.learn.spec import RowSpec
from ffpipe.learn.user_objective import FunctionObjective
from ffpipe.learn.workspace import Workspace
from ffpipe.pipeline.job import make_job


def test_it_learns_and_comes_out_the_same_twice(tmp_path: Path) -> None:
    first = train(config(tmp_path / "a"))
    found = evaluations(first)
    assert [(step, split) for step, split, _ in found] == [
        *((28 * epoch, "validation") for epoch in (2, 4, 6)),
        (28 * 6, "test"),
    ]
    assert found[-1][2] < 0.1
    assert first.test_errors == {"last": found[-1][2]}
    summary = summary_of(tmp_path / "a")
    assert (summary["engine"], summary["stages"], summary["stage_layers"]) == ("local", 1, [[0]])
    assert summary["steps"] == 6 * 28
    kept = override(read_config(tmp_path / "a" / "config.toml"), {"execution.run_dir": str(tmp_path / "d")})
    assert train(kept).weights_sha256 == first.weights_sha256


@pytest.mark.long
def test_what_of_the_training_half_it_knows(tmp_path: Path) -> None:
    each: dict[str, dict[str, object]] = {
        "plain": {},
        "seed": {"training.seed": 2**53 - 1},
        "jitter": {"training.jitter": 1},
        "crop": {"training.augmentation.crop": 1},
        "standardize": {"training.standardize": True},
        "dropout": {"training.dropout": 0.1},
        "precision": {"training.precision": "bfloat16"},
        "schedule": {"training.schedule": "constant"},
        "five": {"training.data.positive_classes": 5, "training.negatives": "others"},
        "optimizer": {"training.negatives": "none", "training.optimizer.kind": "SGD"},
    }
    some = {"training.epochs": 2, "training.dims": [64, 40, 30]}
    digests = {name: train(config(tmp_path / name, **some, **fields)).weights_sha256 for name, fields in each.items()}
    assert len(set(digests.values())) == len(each)
    assert summary_of(tmp_path / "five")["steps"] < summary_of(tmp_path / "plain")["steps"]
    # Fields of Forward-Forward alone change nothing: rows have no labels in them, and there are no pairs.
    forward_forward: dict[str, object] = {
        "training.labels": "overlay",
        "training.negatives": "random",
        "training.goodness": "mean",
        "training.objective": "symba",
        "training.threshold": 1.0,
        "training.normalization": "l2",
        "training.peer": 0.0,
        "training.optimizer.learning_rate": 0.5,  # of pairs of rows: the yardstick has one of its own
        "training.head": False,
    }
    assert train(config(tmp_path / "other", **some, **forward_forward)).weights_sha256 == digests["plain"]


def test_the_architecture_is_that_of_the_recipe() -> None:
    network = make_job(config(Path("none"), **{"execution.stages": 1})).network
    assert network.inputs == RowSpec((1, 8, 8), torch.float32)  # without labels
    block = network.make(0, Workspace(CPU))
    shapes = [tuple(weight.shape) for weight in block.parameters() if weight.ndim == 2]
    assert shapes == [(500, 64), (500, 500), (500, 500), (10, 500)]
    out, scores = block.score(torch.zeros(3, 1, 8, 8))
    assert out.shape == (3, 500)
    assert scores is not None
    assert scores.shape == (3, 10)


FIELDS: list[dict[str, Any]] = [
    {"dims": (64, 40, 30)},
    {"blocks": BLOCKS},
    {"dims": (64, 30), "readout": "last"},
    {"blocks": BLOCKS, "precision": "float64", "memory_format": "channels-last"},
]


@pytest.mark.parametrize("fields", FIELDS)
def test_its_blocks_are_those_that_learn_alone(fields: dict[str, Any]) -> None:
    """They have the bodies of a run without negatives, with their first weights, and the last one's class head."""
    training = Training(batch_size=50, method="backprop", **fields)
    whole = blueprint_of(training, (8, 8)).make(0, Workspace(CPU))
    forward = replace(training, method="forward-forward", negatives="none", head=False)
    network = blueprint_of(forward, (8, 8))
    parts = [network.make(index, Workspace(CPU)) for index in range(len(network))]
    assert isinstance(whole, LocalBlock)
    assert isinstance(whole.body, Chained)
    assert len(whole.body.bodies) == len(parts)
    for body, part in zip(whole.body.bodies, parts, strict=True):
        assert isinstance(part, LocalBlock)
        assert str(body) == str(part.body)
        state = body.state_dict()
        assert state.keys() == part.body.state_dict().keys()
        assert all(torch.equal(tensor, state[name]) for name, tensor in part.body.state_dict().items())
    last = parts[-1]
    assert isinstance(last, LocalBlock)
    assert str(whole.objective) == str(last.objective)


def test_options_of_a_class_head_are_the_yardsticks_whatever_the_negatives() -> None:
    head: dict[str, Any] = {"objective": "class-head", "objective_options": {"temperature": 0.5}}
    block = BlockConfig(kind="dense", options={"width": 30}, **head)
    whole = blueprint_of(Training(batch_size=50, method="backprop", blocks=(block,)), (8, 8)).make(0, Workspace(CPU))
    assert isinstance(whole, LocalBlock)
    assert isinstance(whole.objective, ClassHead)
    assert whole.objective.temperature == 0.5


def test_the_yardstick_has_adam_where_the_config_has_the_optimiser_of_pairs() -> None:
    block = BlockConfig(kind="dense", options={"width": 30}, optimizer=Optimizer(kind="AdamW", learning_rate=0.1))
    training = Training(negatives="none", blocks=(block,), head=False)
    assert training.optimizer.kind == "averaging"
    assert training.yardstick == Optimizer(kind="Adam", learning_rate=0.001)
    own = Optimizer(kind="SGD", learning_rate=0.1)
    assert Training(negatives="none", blocks=(block,), head=False, optimizer=own).yardstick == own


class Doubled(Objective):
    """An objective that hands on twice what it judges."""

    def score(self, h: Tensor) -> Tensor:
        return h[:, :10]

    def hand_on(self, h: Tensor) -> Tensor:
        return 2 * h


class Own(Block):
    """A block of the user's own, which is not a body with an objective beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.index, self.inputs, self.outputs = 1, RowSpec((30,), torch.float32), RowSpec((20,), torch.float32)
        self.linear = nn.Linear(30, 20)

    def score(self, x: Tensor, *kept: Tensor) -> tuple[Tensor, Tensor | None]:
        return torch.relu(self.linear(x)), None

    def learn(self, *_: Any) -> Learned:
        raise AssertionError("backpropagation needs none of it")

    def pass_on(self, *_: Any) -> None:
        raise AssertionError("backpropagation needs none of it")


@pytest.mark.parametrize("checkpointing", [False, True])
def test_what_is_handed_on_and_blocks_of_ones_own_are_in_it(checkpointing: bool) -> None:
    def model() -> list[Any]:
        first = Local(nn.Sequential(nn.Flatten(), nn.Linear(64, 30)), objective=Doubled(), keep="a")
        return [first, Own(), Local(Ending(), use=("a",))]

    training = Training(batch_size=50, method="backprop", negatives="none", head=False, checkpointing=checkpointing)
    whole = blueprint_of(training, (8, 8), function=model).make(0, Workspace(CPU))
    assert isinstance(whole, LocalBlock)
    assert isinstance(whole.body, Chained)
    first, own, last = whole.body.bodies
    assert isinstance(own, Own)
    rows = torch.randn(7, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.enable_grad():
        handed = 2 * first(rows)
        right = last(torch.relu(own.linear(handed)), handed)
        found = whole.train().body(rows)
        assert torch.equal(found, right)
        found.sum().backward()
    assert all(parameter.grad is not None for parameter in whole.body.parameters())


class Ending(nn.Module):
    """A body that uses an output that was kept."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(20, 30)

    def forward(self, x: Tensor, kept: Tensor) -> Tensor:
        out: Tensor = self.linear(x) + kept
        return out


class Loop(nn.Module):
    """The same network in plain torch, from the same first weights."""

    def __init__(self, state: dict[str, Tensor]) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)
        )
        self.first, self.norm = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.second, self.last = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.dense, self.head = nn.Linear(8 * 4 * 4, 30), nn.Linear(30, 10)
        self.double()
        mine = list(self.state_dict().values())
        assert [tuple(tensor.shape) for tensor in mine] == [tuple(tensor.shape) for tensor in state.values()]
        for tensor, first in zip(mine, state.values(), strict=True):
            tensor.copy_(first)

    def forward(self, images: Tensor) -> Tensor:
        kept = self.conv(images)
        x = kept + kept  # the second block gets its input, and what the first has kept
        x = torch.relu(self.last(self.second(torch.relu(self.norm(self.first(x))))) + x)
        x = torch.dropout(torch.relu(self.dense(x.flatten(1))), 0.2, self.training)
        logits: Tensor = self.head(x)
        return logits


def test_it_is_a_plain_loop_of_torch(tmp_path: Path) -> None:
    """Four epochs of Adam: gradients through all blocks, dropout from the generator of each step."""
    made = of_blocks(tmp_path / "run", epochs=4, precision="float64", standardize=True)
    made = replace(made, training=replace(made.training, augmentation=replace(made.training.augmentation, crop=1)))
    job = make_job(replace(made, execution=replace(made.execution, stages=1)))
    training, splits = job.config.training, load_splits(made.training.data)
    loop = Loop(job.network.make(0, Workspace(CPU)).weights())
    decayed = [p for p in loop.parameters() if p.dim() > 1]
    assert len(decayed) < len(list(loop.parameters()))
    optimizer = torch.optim.Adam(loop.parameters(), lr=0.001)
    sampler = Sampler(len(splits.train), 50, training.seed)
    changes, losses = Augmentation(crop=1), []
    for step in range(4 * 28):
        optimizer.param_groups[0]["lr"] = 0.001 * rate_factor("hinton", step // 28, 4)
        rows = sampler.rows(step)
        images = torch.from_numpy(splits.train.images(rows)).double()
        images = (changes.moved(images, (8, 8), training.seed, step) - training.mean[0]) / training.deviation[0]
        labels = torch.from_numpy(splits.train.labels(rows))
        with seeded(CPU, training.seed, "block", 0, step):
            loss = nn.functional.cross_entropy(loop(images.view(50, 1, 8, 8)), labels, label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.7 * losses[0]
    result = train(made)
    theirs = load(tmp_path / "run").blocks[0].state_dict()
    for tensor, right in zip(theirs.values(), loop.state_dict().values(), strict=True):
        torch.testing.assert_close(tensor, right, rtol=1e-6, atol=1e-8)
    loop.eval()
    rows = np.arange(len(splits.test))
    images = (torch.from_numpy(splits.test.images(rows)).double() - training.mean[0]) / training.deviation[0]
    wrong = loop(images.view(-1, 1, 8, 8)).argmax(1) != torch.from_numpy(splits.test.labels(rows))
    assert result.test_errors == {"last": int(wrong.sum()) / len(rows)}


def by_function() -> list[Any]:
    """Give blocks of which the last is made by a function, with an objective of its own."""
    last = nn.Sequential(nn.Linear(20, 10))
    own = Local(last, objective=nn.functional.cross_entropy, score=lambda h: h)
    return [nn.Sequential(nn.Flatten(), nn.Linear(64, 20)), lambda: own]


def test_the_last_objective_is_the_yardsticks_however_it_is_given() -> None:
    training = Training(batch_size=50, method="backprop", model="x:by_function", negatives="none", labels="none")
    network = blueprint_of(training, (8, 8), function=by_function)
    whole = network.make(0, Workspace(CPU))
    assert isinstance(whole, LocalBlock)
    assert isinstance(whole.objective, FunctionObjective)
    assert not network.outlines[0].silent


class Unaided(Own):
    """A block that learns without autograd, so that its weights ask for no gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.linear.requires_grad_(False)


class Closed(Own):
    """A block whose score keeps autograd out."""

    @torch.no_grad()
    def score(self, x: Tensor, *kept: Tensor) -> tuple[Tensor, Tensor | None]:
        return super().score(x)


class Frozen(nn.Linear):
    """A body whose weights learn in no way."""

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flatten(1))


class Decided(Doubled):
    """An objective that hands on decisions."""

    def hand_on(self, h: Tensor) -> Tensor:
        return (h > 0).float()


def learned(*items: Any) -> dict[str, bool]:
    """Make a step of backpropagation through these items; return which parameters have changed."""
    training = Training(batch_size=50, method="backprop", model="x:y", negatives="none", labels="none", head=False)
    network = blueprint_of(training, (8, 8), function=lambda: list(items))
    whole, before = network.make(0, Workspace(CPU)), network.make(0, Workspace(CPU)).state_dict()
    rows, labels = torch.rand(50, 1, 8, 8, generator=torch.Generator().manual_seed(1)), torch.arange(50) % 10
    with torch.no_grad():
        whole.learn(rows, network.layout, labels, Step(0), torch.empty(50, *whole.outputs.shape))
    return {name: not torch.equal(weight, before[name]) for name, weight in whole.named_parameters()}


FIRST = nn.Sequential(nn.Flatten(), nn.Linear(64, 30), nn.ReLU())


def test_weights_of_a_block_that_learns_without_autograd_are_trained() -> None:
    made = learned(FIRST, Unaided(), nn.Linear(20, 10))
    assert made["body.bodies.1.linear.weight"]
    assert all(made.values())


@pytest.mark.parametrize(
    ("index", "items"),
    [
        (1, [FIRST, Closed(), nn.Linear(20, 10)]),
        (1, [FIRST, Closed()]),
        (0, [Local(FIRST, objective=Decided()), nn.Linear(30, 10)]),
        (1, [FIRST, Local(nn.Linear(30, 20), objective=Decided()), nn.Linear(20, 10)]),
        (1, [FIRST, Frozen(30, 20), nn.Linear(20, 10)]),
    ],
)
def test_weights_that_no_gradient_would_reach_are_refused(index: int, items: list[Any]) -> None:
    with pytest.raises(UserError, match=f"block {index} hands on what has no gradient, so that backpropagation would"):
        learned(*items)


def test_a_body_that_learns_nowhere_may_come_first() -> None:
    made = learned(Frozen(64, 30), nn.Linear(30, 10))
    assert [name for name, moved in made.items() if not moved] == ["body.bodies.0.weight", "body.bodies.0.bias"]


class Sharing(Doubled):
    """An objective that has a weight and a buffer of another module."""

    def __init__(self, weight: nn.Parameter | None = None, buffer: Tensor | None = None) -> None:
        super().__init__()
        self.weight = weight
        self.register_buffer("mean", buffer)


def test_what_body_and_objective_share_is_refused_where_it_would_not_stay_one() -> None:
    body = nn.BatchNorm1d(10)
    for shared, name in (
        (Local(body, objective=Sharing(weight=body.weight)), "weight"),
        (Local(body, objective=Sharing(buffer=body.running_mean)), "mean"),
        (Local(body, objective=nn.functional.cross_entropy, score=Around(body)), "inner.weight"),
    ):
        with pytest.raises(UserError, match=f"block 1: its objective shares '{name}' with its body, which backprop"):
            learned(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), shared)

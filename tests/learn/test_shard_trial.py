"""Blocks of a user's whose minibatches cannot be cut into shards are refused when a run is planned, and no others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import kinds_of_blocks
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm, dropout
from torch.utils.checkpoint import checkpoint

from ffpipe import Local, Optimizer, UserError, override, recipe
from ffpipe.learn.batchnorm import over_minibatch
from ffpipe.learn.class_head import HEAD_KINDS
from ffpipe.learn.local_item import of_config
from ffpipe.learn.objectives import Learned, Objective
from ffpipe.learn.spec import RowLayout
from ffpipe.learn.user_model import find
from ffpipe.pipeline.job import Model, make_job

FIELDS: dict[str, Any] = {
    "training.shards": 2,
    "training.negatives": "none",
    "training.labels": "none",
    "training.head": False,
    "training.goodness_from": 0,
    "execution.stages": 1,
}
WIDTH = 20


def planned(*blocks: object, **fields: Any) -> None:
    make_job(override(recipe("digits"), {**FIELDS, **fields}), Model(function=lambda: list(blocks)))


class Body(nn.Module):
    """A dense layer, and a function of what it makes. It has a buffer and an attribute beside."""

    def __init__(self, then: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        self.linear, self.norm, self.then = nn.Linear(64, WIDTH), nn.BatchNorm1d(WIDTH), then
        self.norm = over_minibatch(self.norm)
        self.register_buffer("mean", torch.zeros(WIDTH))
        self.scale, self.passes = nn.Parameter(torch.zeros(())), 0

    def forward(self, x: Tensor) -> Any:
        return self.then(self, self.linear(x.flatten(1)))


def averaged(body: Any, h: Tensor) -> Any:
    body.mean.mul_(0.9).add_(h.detach().mean(0), alpha=0.1)
    return h - body.mean


def replaced(body: Any, h: Tensor) -> Tensor:
    body.mean = 0.9 * body.mean + 0.1 * h.detach().mean(0)
    return h


def latest(body: Any, h: Tensor) -> Tensor:
    body.mean.copy_(h.detach().mean(0))
    return h


def begun(body: Any, h: Tensor) -> Any:
    """Take the first rows that come for all."""
    if not body.passes:
        body.scale.data.copy_(h.std())
    body.passes += 1
    return h * body.scale


def counted(body: Any, h: Tensor) -> Any:
    body.passes += 1
    return h / body.passes


def by_function(body: Any, h: Tensor) -> Tensor:
    return batch_norm(h, None, None, training=True)


def centred(body: Any, h: Tensor) -> Tensor:
    return (h - h.mean(0)) / (h.std(0) + 1e-3)


def without_slope(body: Any, h: Tensor) -> Tensor:
    return h - h.detach().mean(0)


def behind_a_zero(body: Any, h: Tensor) -> Any:
    return h + body.scale * (h - h.mean(0))


def mixed(body: Any, h: Tensor) -> Tensor:
    return h + h[torch.randperm(len(h))]


class Centring(Objective):
    """An objective that hands on rows whose mean over the minibatch is 0."""

    def forward(self, h: Tensor, layout: RowLayout, labels: Tensor | None) -> Learned:
        return Learned(h.square().mean(1).sum(), torch.zeros(()))

    def hand_on(self, h: Tensor) -> Tensor:
        return h - h.mean(0)


class Remembering(Objective):
    """An objective that keeps a mean of what it judges."""

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))

    def forward(self, h: Tensor, layout: RowLayout, labels: Tensor | None) -> Learned:
        self.mean.add_(h.detach().mean())
        return Learned((h - self.mean).square().mean(1).sum(), torch.zeros(()))


def spectral(begin: Callable[[Tensor], object] = lambda weight: None) -> nn.Module:
    linear = nn.Linear(64, WIDTH)
    begin(linear.weight)
    return nn.Sequential(nn.Flatten(), nn.utils.parametrizations.spectral_norm(linear))


CHANGES, OTHERS, PASSES = "changes {!r} in each forward", "depends on other rows", "after another forward pass"
REFUSED: dict[str, tuple[object, str]] = {
    "an average": (Body(averaged), CHANGES.format("body.mean")),
    "a buffer that is replaced": (Body(replaced), CHANGES.format("body.mean")),
    "the mean of the latest rows": (Body(latest), CHANGES.format("body.mean")),
    "begun by the first rows": (Body(begun), CHANGES.format("body.scale")),
    "spectral norm": (spectral(), CHANGES.format("body.1.parametrizations.weight.0._u")),
    "spectral norm at rest": (spectral(nn.init.orthogonal_), CHANGES.format("body.1.parametrizations.weight.0._u")),
    "of an objective": (Local(Body(lambda body, h: h), Remembering()), CHANGES.format("objective.mean")),
    "F.batch_norm": (Body(by_function), OTHERS),
    "centred": (Body(centred), OTHERS),
    "without a slope": (Body(without_slope), OTHERS),
    "behind a zero": (Body(behind_a_zero), OTHERS),
    "mixed rows": (Body(mixed), OTHERS),
    "what is handed on": (Local(Body(lambda body, h: h), Centring()), OTHERS),
    "an attribute": (Body(counted), PASSES),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_depends_on_the_number_of_replicas_is_refused(name: str) -> None:
    block, says = REFUSED[name]
    with pytest.raises(UserError) as caught:
        planned(block)
    message = str(caught.value)
    assert message.startswith("block 0 (")
    assert says in message
    assert message.endswith("so minibatches cannot be cut: give --training.shards 1")
    planned(block, **{"training.shards": 1})


PAIRS = {"training.negatives": "random", "training.labels": "overlay"}
WAYS: dict[str, dict[str, Any]] = {
    "bfloat16": {"training.precision": "bfloat16"},
    "float64": {"training.precision": "float64"},
    "channels last": {"training.memory_format": "channels-last"},
    "pairs": PAIRS,
    "one example a shard": {"training.batch_size": 4, "training.shards": 4},
}


@pytest.mark.parametrize("way", WAYS)
def test_it_is_seen_in_all_that_a_block_may_get(way: str) -> None:
    before = Local(Body(lambda body, h: h.view(-1, WIDTH // 4, 2, 2)), keep="early")
    with pytest.raises(UserError, match=r"block 1 \(Added\) makes of a row what depends on other rows"):
        planned(before, Local(Added(), use=("early",)), **WAYS[way])


class Added(nn.Module):
    """A body that sees what is kept, less its mean over the minibatch."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(WIDTH // 4, 4, 1)

    def forward(self, x: Tensor, kept: Tensor) -> Tensor:
        made: Tensor = self.conv(x) + self.conv(kept - kept.mean(0))
        return made


def test_it_is_seen_in_ids_of_symbols(tmp_path: Path) -> None:
    def blocks() -> list[nn.Module]:
        return [Symbols()]

    config = kinds_of_blocks.network("transformer on tokens", tmp_path)
    training = replace(config.training, blocks=(), model="symbols", shards=2)
    with pytest.raises(UserError, match=r"block 0 \(Symbols\) makes of a row what depends on other rows"):
        make_job(replace(config, training=training), Model(function=blocks))


class Symbols(nn.Module):
    """An embedding of ids that knows those of the whole minibatch."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(17, 8)

    def forward(self, ids: Tensor) -> Tensor:
        made: Tensor = self.table(ids) + self.table(ids).detach().amax(0)
        return made


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoints_around_batch_normalisation_are_refused(reentrant: bool) -> None:
    def again(body: Any, h: Tensor) -> Tensor:
        made: Tensor = checkpoint(body.norm, h, use_reentrant=reentrant) if h.requires_grad else body.norm(h)
        return made

    with pytest.raises(
        UserError, match=r"^block 0 \(Body\): batch normalisation over shards is made again in the back"
    ):
        planned(Body(again))


def test_checkpointing_of_the_yardstick_is_refused() -> None:
    blocks = [{"kind": "dense", "options": {"width": WIDTH, "norm": True}}]
    fields = {**FIELDS, "training.blocks": blocks, "training.method": "backprop", "training.checkpointing": True}
    del fields["training.goodness_from"]
    with pytest.raises(UserError, match="is made again in the backward pass"):
        make_job(override(recipe("digits"), fields))
    blocks[0]["options"] = {"width": WIDTH}
    make_job(override(recipe("digits"), fields))


def kept_between(body: Any, h: Tensor) -> Any:
    """Make a table when it is first wanted, whatever the rows are."""
    if not body.passes:
        body.passes, body.mean = 1, torch.arange(WIDTH) / WIDTH
    return h + body.mean


def by_experts(body: Any, h: Tensor) -> Tensor:
    """Have each row go through one of two products, with as many others as choose it."""
    made = torch.zeros_like(h)
    for number, choice in enumerate((h[:, 0] > 0, h[:, 0] <= 0)):
        made[choice] = h[choice] @ body.linear.weight[:, number * WIDTH : (number + 1) * WIDTH]
    return made


ACCEPTED: dict[str, Callable[[Any, Tensor], Any]] = {
    "dropout": lambda body, h: dropout(h, 0.5, body.training),
    "declared batch normalisation": lambda body, h: torch.relu(body.norm(h)),
    "layer norm": lambda body, h: nn.functional.layer_norm(h, (WIDTH,)),
    "groups": lambda body, h: nn.functional.group_norm(h, 4),
    "of each example": lambda body, h: nn.functional.instance_norm(h.view(-1, 4, WIDTH // 4)).flatten(1),
    "checkpoint": lambda body, h: checkpoint(torch.relu, h, use_reentrant=False),
    "a table": kept_between,
    "experts": by_experts,
    "a depth drawn for all": lambda body, h: h if float(torch.rand(())) < 0.5 else h.square(),
    "sorted values": lambda body, h: h.softmax(1).cumsum(1).sort(1).values,
}


@pytest.mark.parametrize("name", ACCEPTED)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_what_keeps_to_its_rows_is_accepted(name: str, precision: str) -> None:
    planned(Body(ACCEPTED[name]), **{"training.precision": precision})


def test_a_block_that_does_not_run_here_is_not_tried() -> None:
    """Its shapes are known, without numbers."""

    def elsewhere(body: Any, h: Tensor) -> Tensor:
        if h.device.type == "cpu":
            raise RuntimeError("for GPUs alone")
        return h - h.mean(0)

    planned(Body(elsewhere))


@pytest.mark.parametrize("kind", [kind for kind in kinds_of_blocks.KINDS if "closed form" not in kind])
def test_all_kinds_of_block_keep_to_their_rows(kind: str, tmp_path: Path) -> None:
    config = kinds_of_blocks.network(kind, tmp_path)
    model = Model(find(config.training.model)) if config.training.model else Model(function=lambda: made)
    made = [of_config(block) for block in config.training.blocks]
    training = replace(config.training, shards=2, blocks=(), model=config.training.model or "kinds")
    make_job(replace(config, training=training), model)


@pytest.mark.parametrize("kind", HEAD_KINDS)
def test_all_kinds_of_head_keep_to_their_rows(kind: str) -> None:
    planned(Local(Body(lambda body, h: h), options={"kind": kind}, optimizer=Optimizer(kind="SGD")))

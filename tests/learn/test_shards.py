"""Shards: one order of additions whoever makes them, and the rule of whole minibatches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from ffpipe import UserError, override, recipe
from ffpipe.config.schema import Optimizer, Training
from ffpipe.learn.batchnorm import over_minibatch, share
from ffpipe.learn.block import Block, Step
from ffpipe.learn.class_head import ClassHead
from ffpipe.learn.dense import FFDense
from ffpipe.learn.dense_shards import ShardedDense
from ffpipe.learn.goodness import GoodnessContrast
from ffpipe.learn.local import LocalBlock
from ffpipe.learn.local_shards import ShardedLocal
from ffpipe.learn.readout import Head
from ffpipe.learn.rows import normalize_rows_
from ffpipe.learn.shards import Shard, Shards, fold
from ffpipe.learn.spec import NEUTRAL, PAIRS, PLAIN, RowLayout, RowSpec
from ffpipe.learn.workspace import Workspace
from ffpipe.pipeline.feed import by_shards
from ffpipe.pipeline.job import Model, make_job

HandOn = Literal["before", "after"]
CPU = torch.device("cpu")
BATCH, COUNT = 24, 4
STEPS = 5


def words(*names: str) -> list[list[Any]]:
    return [[name] for name in names]


@pytest.mark.parametrize(
    ("names", "tree"),
    [("a", "a"), ("ab", "(ab)"), ("abcd", "((ab)(cd))"), ("abcdefgh", "(((ab)(cd))((ef)(gh)))")],
)
def test_the_tree_is_balanced(names: str, tree: str) -> None:
    assert fold(words(*names), lambda one, other: f"({one}{other})") == [tree]  # type: ignore[arg-type, return-value]


@given(st.integers(0, 5), st.data())
def test_replicas_add_up_as_one_process_does(height: int, data: st.DataObject) -> None:
    shards = 2**height
    replicas = 2 ** data.draw(st.integers(0, height))
    parts = [[torch.randn(3)] for _ in range(shards)]
    each = shards // replicas
    partial = [fold(parts[first : first + each]) for first in range(0, shards, each)]
    assert torch.equal(fold(partial)[0], fold(parts)[0])


def cut(rows: Tensor, labels: Tensor | None, out: Tensor, numbers: Sequence[int] = range(COUNT)) -> list[Shard]:
    """Return shards of rows that lie role by role; `out` lies shard by shard."""
    lying = by_shards(rows.unsqueeze(0), BATCH, COUNT, range(COUNT))[0].chunk(COUNT)
    of = [None] * COUNT if labels is None else labels.chunk(COUNT)
    return [Shard(n, lying[n], of[n], out.chunk(COUNT)[n]) for n in numbers]


def pairs(seed: int, features: int = 12) -> Tensor:
    chance = torch.Generator().manual_seed(seed)
    return normalize_rows_(torch.rand(3 * BATCH, features, generator=chance, dtype=torch.float64), "rms")


def dense(kind: type[FFDense], **fields: Any) -> FFDense:
    training = Training(batch_size=BATCH, precision="float64", peer=0.5, **fields)
    return kind(0, 12, 10, training, Workspace(CPU))


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"phases": "apart", "pair_errors": "logistic"},
        {"local_steps": 3, "pair_errors": "logistic"},
        {"local_steps": 2, "hand_on": "after"},
        {"optimizer": Optimizer(kind="Adam", learning_rate=0.01)},
    ],
    ids=str,
)
@torch.no_grad()
def test_a_dense_layer_learns_the_same_as_from_whole_minibatches(fields: dict[str, Any]) -> None:
    whole, sharded = dense(FFDense, **fields), dense(ShardedDense, **fields)
    layout = RowLayout(BATCH, PAIRS, (NEUTRAL,))
    for step in range(STEPS):
        rows = pairs(step)
        outs = torch.empty(3 * BATCH, 10, dtype=torch.float64), torch.empty(3 * BATCH, 10, dtype=torch.float64)
        learned = whole.learn(rows, layout, None, Step(step, 1.0 if step < 4 else None), outs[0])
        made = sharded.learn_shards(
            cut(rows, None, outs[1]),
            replace(layout, batch=BATCH // COUNT),
            Step(step, 1.0 if step < 4 else None),
            Shards(COUNT, range(COUNT)),
        )
        torch.testing.assert_close(by_shards(outs[0].unsqueeze(0), BATCH, COUNT, range(COUNT))[0], outs[1])
        counted = 3 if "pair_errors" in fields else 2
        torch.testing.assert_close(made[:counted], learned[:counted])
        assert (made[counted:], learned[counted:]) == ((None,) * (3 - counted),) * 2
        torch.testing.assert_close(sharded.state(), whole.state())


def local(
    kind: type[LocalBlock], objective: Callable[[RowSpec], Any], inputs: RowSpec, hidden: RowSpec, body: nn.Module
) -> LocalBlock:
    torch.manual_seed(3)
    for parameter in body.parameters():
        nn.init.normal_(parameter, std=0.3)
    training = Training(precision="float64", optimizer=Optimizer(kind="Adam", learning_rate=0.01))
    body, judge = body.to(torch.float64), objective(hidden).to(torch.float64)
    if kind is ShardedLocal:
        share(body, "body")
        share(judge, "objective")
    return kind(0, inputs, hidden, body, judge, training)


def convolution(kind: type[LocalBlock]) -> LocalBlock:
    inputs, hidden = RowSpec((1, 3, 4), torch.float64), RowSpec((4, 3, 4), torch.float64)
    body = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU())
    return local(kind, lambda rows: ClassHead(rows, classes=3), inputs, hidden, body)


def normalized(kind: type[LocalBlock]) -> LocalBlock:
    """Make a block with batch normalisation in its body, twice, and in its head."""
    inputs, hidden = RowSpec((1, 4, 3), torch.float64), RowSpec((4, 4, 3), torch.float64)
    layers = [nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.BatchNorm2d(4, momentum=None)]
    body = over_minibatch(nn.Sequential(*layers))
    return local(kind, lambda rows: ClassHead(rows, classes=3, kind="mlp", depth=1), inputs, hidden, body)


def contrast(kind: type[LocalBlock]) -> LocalBlock:
    inputs, hidden = RowSpec((12,), torch.float64), RowSpec((10,), torch.float64)
    return local(kind, GoodnessContrast, inputs, hidden, nn.Sequential(nn.Linear(12, 10), nn.ReLU()))


@pytest.mark.parametrize("make", [convolution, normalized, contrast])
@torch.no_grad()
def test_a_block_trained_by_autograd_learns_the_same(make: Callable[[type[LocalBlock]], LocalBlock]) -> None:
    whole, sharded = make(LocalBlock), make(ShardedLocal)
    assert not sharded.undivided
    roles, passing = (PAIRS, (NEUTRAL,)) if whole.roles == PAIRS else (PLAIN, ())
    layout = RowLayout(BATCH, roles, passing)
    for step in range(STEPS):
        rows = pairs(step)[: layout.rows].view(layout.rows, *whole.inputs.shape)
        labels = None if roles == PAIRS else (torch.arange(BATCH) * 7 % 3)
        outs = [torch.empty(layout.rows, *whole.outputs.shape, dtype=torch.float64) for _ in range(2)]
        learned = whole.learn(rows, layout, labels, Step(step), outs[0])
        shards = cut(rows, labels, outs[1])
        made = sharded.learn_shards(shards, replace(layout, batch=BATCH // COUNT), Step(step), Shards(COUNT, range(4)))
        torch.testing.assert_close(by_shards(outs[0].unsqueeze(0), BATCH, COUNT, range(COUNT))[0], outs[1])
        torch.testing.assert_close(made, learned)
        torch.testing.assert_close(sharded.weights(), whole.weights())


@pytest.mark.parametrize("kind", [LocalBlock, ShardedLocal])
@torch.no_grad()
def test_running_statistics_move_once_a_step(kind: type[LocalBlock]) -> None:
    """Also where rows are handed on from behind the update, and the body sees them twice."""
    found, layout, labels = [], RowLayout(BATCH, PLAIN), torch.zeros(BATCH, dtype=torch.int64)
    for hand_on in ("before", "after"):
        block = normalized(kind)
        block.config = replace(block.config, hand_on=hand_on)
        rows, out = pairs(0)[:BATCH].view(BATCH, 1, 4, 3), torch.empty(BATCH, 4, 4, 3, dtype=torch.float64)
        if isinstance(block, ShardedLocal):
            layout = replace(layout, batch=BATCH // COUNT)
            block.learn_shards(cut(rows, labels, out), layout, Step(0), Shards(COUNT, range(COUNT)))
        else:
            block.learn(rows, layout, labels, Step(0), out)
        found.append(dict(block.named_buffers()))
    assert all(torch.equal(buffer, found[1][name]) for name, buffer in found[0].items())


@torch.no_grad()
def test_sums_of_batch_normalisation_say_where_they_are_from() -> None:
    block, layout, names = normalized(ShardedLocal), RowLayout(BATCH // COUNT, PLAIN), list[str]()

    def exchange(name: str, sums: list[Tensor]) -> list[Tensor]:
        names.append(name)
        return sums

    rows, out = pairs(0)[:BATCH].view(BATCH, 1, 4, 3), torch.empty(BATCH, 4, 4, 3, dtype=torch.float64)
    shards = cut(rows, torch.zeros(BATCH, dtype=torch.int64), out)
    block.learn_shards(shards, layout, Step(0), Shards(COUNT, range(COUNT), exchange))
    assert names[:2] == ["batch normalisation body.1 (1)", "batch normalisation body.3 (2)"]
    assert "batch normalisation body.3 (2), backward" in names
    assert len(set(names)) == len(names)


@torch.no_grad()
def test_the_read_out_learns_the_same_and_gives_all_probabilities() -> None:
    training = Training(batch_size=BATCH, precision="float64")
    whole, sharded = (Head(training, {1: 12}, 3, Workspace(CPU)) for _ in range(2))
    for step in range(STEPS):
        rows, labels = pairs(step)[:BATCH], torch.arange(BATCH) * 7 % 3
        made = whole.step(step, [rows], labels, 1.0)
        shards = [([part], of) for part, of in zip(rows.chunk(COUNT), labels.chunk(COUNT), strict=True)]
        found = sharded.step_shards(step, shards, Shards(COUNT, range(COUNT)), 1.0)
        torch.testing.assert_close(found, made)
        torch.testing.assert_close(sharded.state(), whole.state())


class NoisySlope(torch.autograd.Function):
    """Rows as they are, whose slopes are dropped by chance in the backward pass."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        return rows.clone()

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> Tensor:
        return nn.functional.dropout(slopes[0])


class Noisy(nn.Module):
    """Rows as they are, with such slopes."""

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = NoisySlope.apply(x)  # type: ignore[no-untyped-call]
        return made


class Dropping(ClassHead):
    """A class head that drops some of what it hands on, behind batch normalisation or not."""

    def __init__(self, rows: RowSpec, *, normalizes: bool = False) -> None:
        super().__init__(rows, classes=3)
        handing = nn.Sequential(nn.BatchNorm1d(rows.size) if normalizes else nn.Identity(), nn.Dropout(0.5))
        self.handing = over_minibatch(handing)

    def hand_on(self, h: Tensor) -> Tensor:
        made: Tensor = self.handing(h)
        return made


def drawing(hand_on: HandOn, *, normalizes: bool = False) -> ShardedLocal:
    """Make a block of a user's own that draws for what is handed on and, but for batch normalisation, in the backward
    pass."""
    inputs, hidden = RowSpec((12,), torch.float32), RowSpec((10,), torch.float32)
    torch.manual_seed(3)
    body = nn.Sequential(nn.Linear(12, 10), nn.Identity() if normalizes else Noisy())
    objective = Dropping(hidden, normalizes=normalizes)
    share(objective, "objective")
    adam = Optimizer(kind="Adam", learning_rate=0.01)
    return ShardedLocal(0, inputs, hidden, body, objective, Training(model="blocks", hand_on=hand_on, optimizer=adam))


@pytest.mark.parametrize("hand_on", ["before", "after"])
@pytest.mark.parametrize("normalizes", [False, True])
@torch.no_grad()
def test_what_a_shard_hands_on_is_drawn_alike_whichever_others_are_here(normalizes: bool, hand_on: HandOn) -> None:
    rows, labels, found = pairs(0)[:BATCH].float(), torch.arange(BATCH) * 7 % 3, []
    for own in (range(COUNT), range(2, COUNT)):
        out = torch.empty(BATCH, 10)
        shards, layout = cut(rows, labels, out, own), RowLayout(BATCH // COUNT, PLAIN)
        # Sums leave out the shards of others, which changes no draw.
        drawing(hand_on, normalizes=normalizes).learn_shards(shards, layout, Step(0), Shards(COUNT, own))
        found.append(out.chunk(COUNT)[2:])
    for one, other in zip(*found, strict=True):
        assert 0 < (one == 0).sum() < one.numel()
        assert torch.equal(one == 0, other == 0)


@pytest.mark.parametrize("replicas", [2, 4])
@pytest.mark.parametrize("make", [lambda: dense(ShardedDense).float(), lambda: drawing("before")])
@torch.no_grad()
def test_replicas_have_the_bits_of_one(make: Callable[[], Block], replicas: int) -> None:
    """Each works its own shards; what they exchange is added up along the upper levels of the tree."""
    alone, crew = make(), [make() for _ in range(replicas)]
    layout = RowLayout(BATCH // COUNT, alone.roles, (NEUTRAL,) if alone.roles == PAIRS else ())
    labels = None if alone.roles == PAIRS else torch.arange(BATCH) * 7 % 3
    rows, out = pairs(1)[: layout.rows * COUNT].float(), torch.empty(layout.rows * COUNT, 10)
    alone.learn_shards(cut(rows, labels, out), layout, Step(0), Shards(COUNT, range(COUNT)))
    own = [range(n * COUNT // replicas, (n + 1) * COUNT // replicas) for n in range(replicas)]

    class Partial(Exception):
        """A stop of a replica where it would exchange."""

    partial: list[list[Tensor]] = []

    def give(name: str, sums: list[Tensor]) -> list[Tensor]:
        partial.append(sums)
        raise Partial

    for block, numbers in zip(crew, own, strict=True):
        with pytest.raises(Partial):
            block.learn_shards(cut(rows, labels, out, numbers), layout, Step(0), Shards(COUNT, numbers, give))
    for block, numbers in zip(crew, own, strict=True):
        of = Shards(COUNT, numbers, lambda name, sums: fold(partial))
        block.learn_shards(cut(rows, labels, out, numbers), layout, Step(0), of)
        assert all(torch.equal(tensor, alone.state()[name]) for name, tensor in block.state().items())


def test_a_block_of_ones_own_that_knows_no_shards() -> None:
    class Own(Block):
        """A block that learns in a way of its own."""

    assert "learn_shards" in Own().undivided


BLOCKS = [{"kind": "conv", "options": {"channels": 4, "norm": False}}]
TWO = {"training.shards": 2}
PEERS = {"kind": "dense", "options": {"width": 9}, "objective": "goodness", "objective_options": {"peer": 0.1}}
IMAGES = {"training.negatives": "none", "training.labels": "none", "training.head": False, "execution.stages": 1}


def refusal(**fields: Any) -> str:
    with pytest.raises(UserError) as caught:
        make_job(override(recipe("digits"), fields))
    return str(caught.value)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"training.shards": 3}, "training.shards is 3: give a power of 2, as 2"),
        ({"training.shards": 4}, "training.shards is 4, which does not divide training.batch_size 50: give 2"),
        ({"execution.replicas": 2}, "replicas is 2, which does not divide training.shards 1: give 1, or "),
        ({**TWO, "execution.replicas": 3}, "replicas is 3, which does not divide training.shards 2: give 1"),
        ({"execution.replicas": [2, 1], "execution.cpus": [1, 1, 1]}, "cpus has values for 3 stage(s)"),
        ({"execution.replicas": []}, "execution.replicas is an empty list: give one value for all stages"),
        ({"execution.device": []}, "execution.device is an empty list"),
        ({"execution.cpus": []}, "execution.cpus is an empty list"),
        ({"training.shards": 2, "execution.replicas": [2, 4]}, "replicas is 4, which does not divide training.shards"),
        ({"training.shards": 2, "execution.replicas": [2, 1], "execution.stages": 3}, "values for 2 stage(s)"),
        ({"training.shards": 2, "training.accumulation": 2, **IMAGES}, "both cut minibatches"),
        (
            {
                "training.shards": 2,
                "training.blocks": [{**BLOCKS[0], "objective_options": {"similarity": 0.5}}],
                **IMAGES,
            },
            "block 0 (conv) compares the examples of a minibatch with each other",
        ),
        (
            {"training.blocks": [PEERS] * 2, "training.head": False, "training.negatives": "random", **TWO},
            "block 0 (dense) draws on the mean activities of a minibatch",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_cut(fields: dict[str, Any], says: str) -> None:
    assert says in refusal(**fields)


def own_blocks() -> list[nn.Module]:
    return [nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8))]


def declared_blocks() -> list[nn.Module]:
    return [over_minibatch(block) for block in own_blocks()]


def test_batch_normalisation_of_ones_own_is_to_be_declared() -> None:
    config = override(recipe("digits"), {"training.shards": 2, "training.goodness_from": 0, **IMAGES})
    with pytest.raises(UserError, match=r"block 0 \(Sequential\) has statistics over the minibatch \(2, BatchNorm1d\)"):
        make_job(config, Model(function=own_blocks))
    assert len(make_job(config, Model(function=declared_blocks)).network) == 1

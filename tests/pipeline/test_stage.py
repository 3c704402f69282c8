"""Rows from which a stage's head learns, held against a head that is given them by hand; and stages that together are
the one that has all blocks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import combinations, pairwise
from typing import Any

import numpy as np
import pytest
import torch
from blueprints import Joined, blueprint_of, hand_through, make_stages
from torch import Tensor

from ffpipe.config.schema import BlockConfig, Training
from ffpipe.learn.block import Block, Step
from ffpipe.learn.blueprint import Blueprint
from ffpipe.learn.dense import FFDense
from ffpipe.learn.local_item import Local
from ffpipe.learn.readout import Head
from ffpipe.learn.workspace import Workspace
from ffpipe.pipeline.packet import LABELS, LOSS, SCORE, TAP, WRONG, Tensors, X
from ffpipe.pipeline.routes import Routes
from ffpipe.pipeline.schedule import Evaluate, Item, Predict, Train
from ffpipe.pipeline.stage import Stage
from ffpipe.planning.calibrate import measure_costs
from ffpipe.system.errors import Diverged

BATCH, FEATURES, CLASSES, STEP = 6, 5, 3, 0
LABELS_GIVEN = torch.tensor([0, 1, 2, 0, 1, 2])


def training(**fields: Any) -> Training:
    return Training(dims=(FEATURES, 7, 8), batch_size=BATCH, **fields)


def stage(training: Training) -> Stage:
    """Make a stage of both layers and the head."""
    (stage,) = make_stages(blueprint_of(training, classes=CLASSES, steps_per_epoch=5), [range(2)], steps=10)
    return stage


def parts(of: Stage) -> list[Block | Head]:
    assert of.head is not None
    return [*of.blocks, of.head]


def rows(count: int) -> Tensor:
    return torch.randn(count, FEATURES, generator=torch.Generator().manual_seed(1))


def message(rows: Tensor, labels: Tensor | None = LABELS_GIVEN) -> Tensors:
    """Make a message of one minibatch."""
    return {X: rows.unsqueeze(0)} | ({} if labels is None else {LABELS: labels.unsqueeze(0)})


def after_both_layers(training: Training, given: Tensor) -> Tensor:
    """Return the rows as they are behind two layers that make the first step on them."""
    layout = blueprint_of(training, classes=CLASSES).layout
    for i in range(2):
        layer = FFDense(i, FEATURES if not i else 7, 7 + i, training, Workspace(torch.device("cpu")))
        out = torch.empty(len(given), layer.width)
        layer.learn(given, layout, None, Step(STEP), out)
        given = out
    return given


def head_after(training: Training, activities: Tensor) -> dict[str, Tensor]:
    """Return the weights of a head on the second layer, which is what it sees, after a step."""
    head = Head(training, {1: 8}, CLASSES, Workspace(torch.device("cpu")))
    head.step(0, [activities], LABELS_GIVEN, 1.0)
    return head.weights()


@pytest.mark.parametrize(
    ("fields", "roles", "seen"),
    [
        ({"negatives": "random"}, 3, slice(2 * BATCH, None)),
        ({"negatives": "hybrid", "labels": "none"}, 2, slice(BATCH)),
        ({"negatives": "random", "dropout": 0.3}, 3, slice(2 * BATCH, None)),
    ],
    ids=["neutral rows", "positive rows where there are no labels", "neutral rows with dropout"],
)
def test_the_head_learns_from(fields: dict[str, Any], roles: int, seen: slice) -> None:
    made, of_stage = training(**fields), stage(training(**fields))
    given = rows(roles * BATCH)
    assert of_stage.spec.network.layout.rows == len(given)
    of_stage.handle(Train(STEP, 1), message(given))
    assert of_stage.head is not None
    expected = head_after(made, after_both_layers(made, given)[seen])
    assert all(torch.equal(weight, expected[name]) for name, weight in of_stage.head.weights().items())


def test_the_head_learns_from_the_examples_where_there_are_no_negatives() -> None:
    dense = tuple(BlockConfig(kind="dense", options={"width": width}) for width in (7, 8))
    made = training(negatives="none", blocks=dense)
    of_stage, given = stage(made), rows(BATCH)
    of_stage.handle(Train(STEP, 1), message(given))
    network = blueprint_of(made, classes=CLASSES, steps_per_epoch=5)
    for i in range(2):
        block = network.make(i, Workspace(torch.device("cpu")))
        out = torch.empty(BATCH, 7 + i)
        with torch.no_grad():
            block.learn(given, network.layout, LABELS_GIVEN, Step(STEP), out)
        given = out
    assert of_stage.head is not None
    expected = head_after(made, given)
    assert all(torch.equal(weight, expected[name]) for name, weight in of_stage.head.weights().items())


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_in_lock_step_neutral_rows_behind_the_pairs_of_the_minibatch_before_are_as_if_alone(dropout: float) -> None:
    made = training(negatives="hard", negative_lag=0, dropout=dropout)
    together, apart, given = stage(made), stage(made), rows(3 * BATCH)
    ahead = Train(STEP, 1, ahead=True)
    together.handle(ahead, message(given))
    apart.handle(Train(STEP, 1), message(given[: 2 * BATCH], None))
    apart.handle(Predict(STEP + 1), message(given[2 * BATCH :]))
    assert together.predictions(ahead).keys() == {STEP + 1}
    for one, other in zip(parts(together), parts(apart), strict=True):
        assert all(torch.equal(tensor, other.state()[name]) for name, tensor in one.state().items())
    assert np.array_equal(together.predictions(ahead)[STEP + 1], apart.predictions(Predict(STEP + 1))[STEP + 1])


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_in_lock_step_neutral_rows_go_ahead_and_are_dropped_as_they_would_be_behind_the_pairs(dropout: float) -> None:
    made = training(negatives="hard", negative_lag=0, dropout=dropout)
    of_stage, given = stage(made), rows(3 * BATCH)
    of_stage.handle(Predict(STEP), message(given[2 * BATCH :]))
    assert of_stage.head is not None
    # With the weights that these layers have: none of them has made its step.
    expected = head_after(made, after_both_layers(made, given)[2 * BATCH :])
    for name, weight in of_stage.head.weights().items():  # of six rows and of eighteen: their sums may differ in bits
        torch.testing.assert_close(weight, expected[name])


@pytest.mark.parametrize(
    ("fields", "item"),
    [
        ({"negatives": "hard", "negative_lag": 3}, Train(STEP, 1)),
        ({"negatives": "hard", "negative_lag": 3, "shards": 2}, Train(STEP, 1)),
        ({"negatives": "hard", "negative_lag": 0}, Train(STEP, 1, ahead=True)),
        ({"negatives": "random"}, Train(STEP, 1)),
        ({"negatives": "none"}, Train(STEP, 1)),
        ({"negatives": "none", "shards": 2}, Train(STEP, 1)),
    ],
)
def test_a_loss_of_ones_own_gets_labels_of_its_examples_or_with_pairs_none(fields: dict[str, Any], item: Item) -> None:
    """Labels beside pairs are of the rows that the read-out sees, perhaps of a later minibatch."""
    got: list[Tensor | None] = []

    def noting(h: Tensor, labels: Tensor | None) -> Tensor:
        got.append(labels)
        return h.square().mean()

    made = training(model="nets:noted", head_from=0, goodness_from=0, **fields)
    network = _blueprint(made, lambda: [Local(partial(Joined, FEATURES, 7), objective=noting)])
    (of_stage,) = make_stages(network, [range(1)])
    got.clear()
    of_stage.handle(item, message(rows(network.layout.rows)))
    shards = LABELS_GIVEN.split(BATCH // made.shards)
    assert len(got) == len(shards)
    for labels, right in zip(got, shards, strict=True):
        assert labels is None if made.contrasts else torch.equal(torch.as_tensor(labels), right)
    got.clear()
    measure_costs(network, torch.device("cpu"), lambda step, _: float(step() is None))
    assert got
    assert all((labels is None) == made.contrasts for labels in got)


def test_a_read_out_that_diverges_is_blamed_at_a_step_that_it_made() -> None:
    """A head passes over steps that have negative rows alone."""
    network = blueprint_of(training(negatives="random", phases="by-epoch"), classes=CLASSES, steps_per_epoch=5)
    (of_stage,) = make_stages(replace(network, positive_steps=3), [range(2)])
    assert of_stage.head is not None
    of_stage.head.load({name: tensor * float("nan") for name, tensor in of_stage.head.state().items()})
    given = rows(2 * of_stage.spec.network.layout.rows).unflatten(0, (2, -1))
    with pytest.raises(Diverged, match="the loss of the head is nan at step 5"):
        of_stage.handle(Train(4, 2), {X: given, LABELS: LABELS_GIVEN.expand(2, -1)})


def test_an_evaluation_has_one_result_however_many_examples_are_in_an_item() -> None:
    of_stage = stage(training(negatives="none", blocks=(BlockConfig(kind="dense", options={"width": 7}),) * 2))
    assert of_stage.head is not None
    at_once, seen = of_stage.spec.network.examples_at_once, list[list[Tensor]]()
    logits = of_stage.head.logits

    def noted(activities: Sequence[Tensor]) -> Tensor:
        seen[-1].append(activities[0].clone())
        return logits(activities)

    of_stage.head.logits = noted  # type: ignore[method-assign]
    given, labels = rows(2 * at_once), torch.zeros(2 * at_once, dtype=torch.int64)
    for items in ([range(2 * at_once)], [range(at_once), range(at_once, 2 * at_once)]):
        seen.append([])
        for item in items:
            part = slice(item.start, item.stop)
            last = item is items[-1]
            message = {X: given[part].unsqueeze(0), LABELS: labels[part].unsqueeze(0)}
            of_stage.handle(Evaluate(STEP, "test", item.start, len(item), last), message)
    assert [len(each) for each in seen] == [2, 2]
    assert all(torch.equal(one, other) for one, other in zip(*seen, strict=True))


def test_losses_whose_sum_no_double_holds_do_not_depend_on_items() -> None:
    of_stage = stage(training(negatives="none", blocks=(BlockConfig(kind="dense", options={"width": 7}),) * 2))
    at_once, found = of_stage.spec.network.examples_at_once, []
    given, labels = rows(40 * at_once + 1), torch.zeros(40 * at_once + 1, dtype=torch.int64)
    given[::3] *= 1e12
    for portions in (1, 3, 40, 41):
        for some in torch.arange(len(given)).split(portions * at_once):
            message = {X: given[some].unsqueeze(0), LABELS: labels[some].unsqueeze(0)}
            of_stage.handle(Evaluate(STEP, "test", int(some[0]), len(some), some[-1] == len(given) - 1), message)
        found += of_stage.report().evaluations
    assert (found[0].losses["block.0"] or 0.0) * len(given) > 2.0**31
    assert found[1:] == found[:1] * 3


def with_bypasses() -> list[Local]:
    """Return the outputs that later blocks use: the next one, some behind it, and several of them."""
    return [
        Local(partial(Joined, FEATURES, 6), keep="a"),
        Local(partial(Joined, 6 + 6, 7), use=("a",), keep="b"),
        Local(partial(Joined, 7, 8)),
        Local(partial(Joined, 8 + 7 + 6, 9), use=("b", "a"), keep="c"),
        Local(partial(Joined, 9 + 9 + 6, 5), use=("c", "a")),
    ]


BLOCKS = 5
OWN = partial(training, model="nets:with_bypasses")
LONG = ("lock step by autograd", "no head", "bfloat16", "closed form")
NETWORKS: dict[str, Callable[[], Blueprint]] = {
    "closed form": lambda: _blueprint(Training(dims=(FEATURES, 7, 8, 9, 6, 5), batch_size=BATCH, head_from=0)),
    "hard negatives": lambda: _blueprint(
        Training(dims=(FEATURES, 7, 8, 9, 6, 5), batch_size=BATCH, negative_lag=2, dropout=0.2)
    ),
    "pairs by autograd": lambda: _blueprint(OWN(negatives="random"), with_bypasses),
    "lock step by autograd": lambda: _blueprint(OWN(negative_lag=0), with_bypasses),
    "no negatives": lambda: _blueprint(OWN(negatives="none", readout="sum", head_from=2), with_bypasses),
    "no head": lambda: _blueprint(OWN(negatives="none", head=False), with_bypasses),
    "bfloat16": lambda: _blueprint(OWN(negatives="none", precision="bfloat16"), with_bypasses),
}
CUTS = [
    [range(a, b) for a, b in pairwise((0, *inner, BLOCKS))]
    for n in range(BLOCKS)
    for inner in combinations(range(1, BLOCKS), n)
]


def _blueprint(training: Training, function: Callable[[], list[Local]] | None = None) -> Blueprint:
    return blueprint_of(training, (FEATURES,), CLASSES, function=function)


def drawn(network: Blueprint, item: Item) -> Tensors:
    """Return a message of random rows, as many as the item has in this network."""
    layout, lookahead = network.layout, network.training.lookahead
    match item:
        case Train():
            alone = item.lead(lookahead) is None
            count, examples = (item.count, layout.learning_rows if alone else layout.rows), (item.count, BATCH)
            labelled = not alone and (network.has_head or not network.training.contrasts)
        case Predict():
            count, examples, labelled = (1, BATCH), (1, BATCH), True
        case Evaluate():
            count, examples, labelled = (1, item.count * network.rows_of_example), (1, item.count), True
        case _:
            raise AssertionError(item)
    chance = torch.Generator().manual_seed(ITEMS.index(item) if item in ITEMS else 100 + LOCK_STEP.index(item))
    labels = torch.randint(0, CLASSES, examples, generator=chance)
    rows = torch.randn(*count, FEATURES, generator=chance).to(network.inputs.dtype)
    return {X: rows} | ({LABELS: labels} if labelled else {})


EVALUATION: list[Item] = [Evaluate(3, "test", 0, 40, last=False), Evaluate(3, "test", 40, 9, last=True)]
ITEMS: list[Item] = [Train(0, 2), Train(2, 1), *EVALUATION, Train(3, 2)]
LOCK_STEP: list[Item] = [
    Predict(0),
    Train(0, 1, ahead=True),
    Train(1, 1, ahead=True),
    Train(2, 1),
    *EVALUATION,
    Predict(3),
    Train(3, 1),
]


def worked(network: Blueprint, groups: list[range]) -> tuple[dict[str, Tensor], list[Any], list[list[Tensors]]]:
    """Return the states after all items by name, evaluations, and what each stage got."""
    stages, lock_step = make_stages(network, groups), network.training.lookahead == 0
    got = [hand_through(stages, item, drawn(network, item)) for item in (LOCK_STEP if lock_step else ITEMS)]
    states = {str(block.index): block.state() for stage in stages for block in stage.blocks}
    if stages[-1].head is not None:
        states["head"] = stages[-1].head.state()
    found = {f"{place} {name}": tensor for place, state in states.items() for name, tensor in state.items()}
    return found, stages[-1].report().evaluations, got


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.long if n in LONG else ()) for n in NETWORKS])
def test_wherever_it_is_cut_a_network_is_the_same_and_messages_carry_what_the_routes_say(name: str) -> None:
    network = NETWORKS[name]()
    whole, evaluations, _ = worked(network, [range(BLOCKS)])
    assert len(evaluations) == 1
    for groups in CUTS[1:]:
        cut, of_cut, got = worked(network, groups)
        assert cut.keys() == whole.keys()
        assert [key for key, tensor in cut.items() if not torch.equal(tensor, whole[key])] == [], groups
        assert of_cut == evaluations, groups
        routes = Routes.of(network, tuple(groups))
        for of_item in got:
            for receiver, tensors in enumerate(of_item[1:], 1):
                straight = {each for sender in range(receiver) for each in routes.names(sender, receiver)}
                if LABELS not in tensors:  # there are no rows for the read-out either
                    straight = {each for each in straight if not each.startswith(TAP)}
                assert {X} | straight <= tensors.keys() <= {X, LABELS, SCORE, WRONG, LOSS} | straight, groups

"""Bodies that write where others read, tensors with gaps, modules that were there before: what a run makes of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, wraps
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from covering import in_turn
from torch import Tensor, nn
from wrong_items import Mine, Unbegun, loss

import ffpipe
from ffpipe import Learned, Local, UserError, override, recipe, train
from ffpipe.learn.block import Step
from ffpipe.learn.spec import PAIRS, PLAIN, RowLayout, RowSpec
from ffpipe.learn.state_tensors import give_own_memory

Items = Callable[[], list[Any]]
SMALL = {
    "training.epochs": 2,
    "training.data.train_limit": 150,
    "training.schedule": "constant",
    "execution.stages": 1,
    "execution.evaluate_every": 0,
}


def digest(model: Items, run: Path, **fields: Any) -> str:
    execution = {name if "." in name else f"execution.{name}": value for name, value in fields.items()}
    asked = {**SMALL, "execution.engine": "local", "execution.run_dir": str(run), **execution}
    return train(override(recipe("digits-cnn"), asked), model=model).weights_sha256


class Shifted(nn.Module):
    """A linear layer with one more tensor, which `make` makes."""

    def __init__(self, make: Callable[[], Tensor], kind: str = "buffer", fan_in: int = 64) -> None:
        super().__init__()
        self.linear = nn.Linear(fan_in, 12)
        if kind == "parameter":
            self.shift = nn.Parameter(make())
        else:
            self.register_buffer("shift", make())

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.linear(x.flatten(1))) + self.shift.real.mean()


SHARED: nn.Module = nn.Linear(64, 64)
LAST, LAST64 = Local(lambda: nn.Linear(12, 10)), Local(lambda: nn.Linear(64, 10))


def after(*bodies: Any) -> Items:
    return lambda: [nn.Flatten(), *bodies]


class Halves(nn.Module):
    """Two parameters whose numbers lie in one piece of memory. overlap: numbers that both have."""

    def __init__(self, overlap: int = 0) -> None:
        super().__init__()
        numbers = torch.linspace(-0.1, 0.1, 64 * 65)
        self.first = nn.Parameter(numbers[: 64 * 64].view(64, 64))
        self.second = nn.Parameter(numbers[64 * 64 - overlap :][:64])

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x.flatten(1) @ self.first + self.second)


class InPlace(ffpipe.Objective):
    """An objective that changes what the block hands on."""

    roles = PLAIN

    def forward(self, h: Tensor, layout: RowLayout, labels: Tensor | None) -> Learned:
        assert labels is not None
        return Learned(nn.functional.cross_entropy(h.mul_(2), labels, reduction="sum"), h.detach().sum())

    def score(self, h: Tensor) -> Tensor:
        return h


class Bits(nn.Linear):
    """A body that decides, which has no gradient."""

    def __init__(self) -> None:
        super().__init__(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return (super().forward(x) > 0).float()


class Sparse(nn.Linear):
    def __init__(self) -> None:
        super().__init__(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).to_sparse()


class Both(ffpipe.Objective):
    """An objective that judges by the last layer of the body."""

    roles = PLAIN

    def __init__(self, last: nn.Linear) -> None:
        super().__init__()
        self.last = last

    def score(self, h: Tensor) -> Tensor:
        return torch.as_tensor(h @ self.last.weight)

    def forward(self, h: Tensor, layout: RowLayout, labels: Tensor | None) -> Learned:
        assert labels is not None
        return Learned(nn.functional.cross_entropy(self.score(h), labels, reduction="sum"), h.detach().sum())


def aliased() -> Local:
    """Give an objective whose weight is another parameter in the memory of the body's."""
    body, last = nn.Linear(64, 10), nn.Linear(64, 10)
    last.weight = nn.Parameter(body.weight.detach())
    return Local(body, objective=Both(last))


def test_a_parameter_of_body_and_objective_stays_one(tmp_path: Path) -> None:
    def items() -> list[Any]:
        last = nn.Linear(10, 10)
        return [Local(nn.Sequential(nn.Flatten(), nn.Linear(64, 10), last), objective=Both(last))]

    digest(items, tmp_path / "run")
    (block,) = ffpipe.load(tmp_path / "run", model=items).blocks
    names = dict(block.named_parameters(remove_duplicate=False))
    assert names["body.2.weight"] is names["objective.last.weight"]


class Averaging(nn.Linear):
    """A body that keeps the mean of what it makes, under two names."""

    mean: Tensor

    def __init__(self) -> None:
        super().__init__(64, 10)
        self.register_buffer("mean", torch.zeros(10))
        self.register_buffer("centre", self.mean)

    def forward(self, x: Tensor) -> Tensor:
        h = super().forward(x)
        if self.training:
            self.mean.mul_(0.9).add_(0.1 * h.detach().mean(0))
        return h


class Centred(Both):
    """An objective that takes away a mean, which another module keeps."""

    mean: Tensor

    def __init__(self, mean: Tensor) -> None:
        super().__init__(nn.Linear(10, 10))
        self.register_buffer("mean", mean)

    def score(self, h: Tensor) -> Tensor:
        return super().score(h - self.mean)


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_a_buffer_of_body_and_objective_stays_one(precision: str, tmp_path: Path) -> None:
    def items() -> list[Any]:
        body = Averaging()
        return [nn.Flatten(), Local(body, objective=Centred(body.mean))]

    fields = {"training.precision": precision}
    local = digest(items, tmp_path / "local", **fields)
    assert local == digest(items, tmp_path / "layerwise", engine="layerwise", stages=2, chapter=2, **fields)
    block = ffpipe.load(tmp_path / "local", model=items).blocks[1]
    mean, *others = (tensor for name, tensor in block.state_dict().items() if name.endswith(("mean", "centre")))
    assert mean.any()
    assert len(others) == 2
    assert all(torch.equal(mean, other) for other in others)


def test_tensors_in_one_piece_of_memory_are_kept_by_every_engine(tmp_path: Path) -> None:
    local = digest(after(Halves(), LAST64), tmp_path / "local")
    assert local == digest(after(Halves(), LAST64), tmp_path / "layerwise", engine="layerwise", stages=3, chapter=4)


class Score(nn.Module):
    """A score function with weights of its own, made where the file is imported."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(12, 10)

    def forward(self, h: Tensor) -> Tensor:
        return torch.as_tensor(self.linear(h))


SCORE = Score().requires_grad_(False)


def test_a_score_function_that_is_a_module_is_left_as_it_was(tmp_path: Path) -> None:
    items = after(Local(lambda: nn.Linear(64, 12), objective=loss, score=SCORE))
    first = digest(items, tmp_path / "first")
    assert SCORE.linear.weight.device.type == "cpu"
    assert digest(items, tmp_path / "second") == first


class Added(nn.Module):
    def forward(self, x: Tensor, kept: Tensor) -> Tensor:
        return kept.add_(x)


class Views(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 10)
        self.register_buffer("column", self.linear.weight.detach()[:, 3])

    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.linear(x))


class Halving(Mine):
    """A block that computes its own update, and halves what comes: kept outputs where it gets any, else its rows."""

    def learn(self, x: Tensor, layout: RowLayout, labels: Any, step: Step, out: Tensor, kept: Any = ()) -> Learned:
        (kept[0] if kept else x).mul_(0.5)
        return super().learn(x, layout, labels, step, out, kept)


class Relabelling(Mine):
    """A block that computes its own update, and has no label above 7."""

    def learn(self, x: Tensor, layout: RowLayout, labels: Any, step: Step, out: Tensor, kept: Any = ()) -> Learned:
        labels.clamp_(max=7)
        return super().learn(x, layout, labels, step, out, kept)


def leaving_out(h: Tensor, labels: Tensor) -> Tensor:
    """Give a loss that leaves some labels out."""
    labels[labels > 7] = -100
    return nn.functional.cross_entropy(h, labels)


class Counting(nn.Module):
    """A running mean that also moves where rows are only tested."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 20)
        self.register_buffer("mean", torch.zeros(20))
        self.mean: Tensor

    def forward(self, x: Tensor) -> Tensor:
        h = self.linear(x.flatten(1)).relu()
        with torch.no_grad():
            self.mean.mul_(0.9).add_(h.mean(0), alpha=0.1)
        return torch.sub(h, self.mean)


class CountingTests(Mine):
    """An own block with such a count."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("tested", torch.zeros(()))
        self.tested: Tensor

    def score(self, x: Tensor, *kept: Tensor) -> tuple[Tensor, None]:
        self.tested = self.tested + len(x)
        return super().score(x)


class HalvingTests(Mine):
    """Halves the rows that it tests."""

    def score(self, x: Tensor, *kept: Tensor) -> tuple[Tensor, None]:
        return super().score(x.mul_(0.5), *kept)


class HalvingPasses(Mine):
    """Halves the rows that it passes on."""

    def pass_on(self, x: Tensor, step: Step, out: Tensor, kept: Any = ()) -> None:
        super().pass_on(x.mul_(0.5), step, out, kept)


FLAT = RowSpec((64,), torch.float32)


STRIDES: dict[str, Callable[[], Tensor]] = {
    "expanded": lambda: torch.ones(1).expand(2048),
    "with gaps": lambda: torch.ones(64, 80)[:, :40],
    "turned": lambda: torch.ones(60, 50).t(),
    "of NumPy": lambda: torch.from_numpy(np.ones(2048, np.float32)),
}


@pytest.mark.parametrize(("strides", "kind"), in_turn(STRIDES, ["buffer", "parameter"]))
def test_tensors_of_any_strides_are_kept_by_every_engine(strides: str, kind: str, tmp_path: Path) -> None:
    make = STRIDES[strides]
    items = after(Local(lambda: Shifted(make, kind)), LAST)
    plain = after(Local(lambda: Shifted(lambda: make().contiguous(), kind)), LAST)
    local = digest(items, tmp_path / "local")
    assert local == digest(plain, tmp_path / "plain")
    assert local == digest(items, tmp_path / "layerwise", engine="layerwise", stages=3, chapter=4)


@pytest.mark.parametrize("kind", ["buffer", "parameter"])
def test_what_a_program_keeps_is_not_what_blocks_train(kind: str, tmp_path: Path) -> None:
    """Bodies that begin with numbers of the user's program, two of them with the same."""
    table = torch.linspace(-1, 1, 2048)
    was = table.clone()

    def items(make: Callable[[], Tensor]) -> Items:
        return after(Local(lambda: Shifted(make, kind)), Local(lambda: Shifted(make, kind, 12)), LAST)

    local = digest(items(lambda: table), tmp_path / "local")
    assert local == digest(items(was.clone), tmp_path / "separate")
    assert local == digest(items(lambda: table), tmp_path / "layerwise", engine="layerwise", stages=3, chapter=4)
    assert torch.equal(table, was)


def test_one_copy_for_all_names_of_a_tensor() -> None:
    module = nn.Module()
    shown = torch.arange(3.0).expand(2, 3)
    module.register_buffer("a", shown)
    module.register_buffer("b", shown)
    give_own_memory(module)
    a, b = module.get_buffer("a"), module.get_buffer("b")
    assert a is b
    assert a.is_contiguous()
    assert torch.equal(a, shown)


def test_a_body_begins_in_training_mode_whatever_evaluations_there_are(tmp_path: Path) -> None:
    def items() -> list[Any]:
        return [nn.Sequential(nn.Flatten(), nn.Linear(64, 20), nn.BatchNorm1d(20)).eval(), nn.Linear(20, 10)]

    def usual() -> list[Any]:
        return [each.train() for each in items()]

    never = digest(items, tmp_path / "never")
    assert never == digest(items, tmp_path / "each", evaluate_every=1)
    assert never == digest(usual, tmp_path / "usual")


class Looking(nn.Module):
    """A body that looks at its numbers, and has a table of them beside its parameters."""

    places: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 10)
        self.register_buffer("places", torch.arange(64))
        self.table = torch.linspace(0, 1, 64)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        assert 0 <= x.max().item() < 1e6
        return torch.as_tensor(self.linear(x[:, self.places] * self.table))


@pytest.mark.parametrize("item", [Looking, lambda: Local(Looking), lambda: Local(Looking())])
def test_a_body_that_looks_at_numbers_is_tried_as_it_was_made(item: Callable[[], Any], tmp_path: Path) -> None:
    assert digest(lambda: [item(), nn.Linear(10, 10)], tmp_path / "run")


def wide(inputs: RowSpec, *, extra: int = 2) -> nn.Module:
    return nn.Linear(inputs.size, 10 + extra)


class Wide(nn.Linear):
    def __init__(self, *, inputs: RowSpec) -> None:
        super().__init__(inputs.size, 12)


@wraps(wide)
def wrapped(*arguments: Any, **named: Any) -> nn.Module:
    return wide(*arguments, **named)


@pytest.mark.parametrize("make", [wide, partial(wide, extra=2), Wide, wrapped, partial(wide, FLAT)])
def test_the_row_that_comes_reaches_whatever_makes_a_body(make: Callable[..., nn.Module], tmp_path: Path) -> None:
    assert digest(after(Local(make)), tmp_path / "run") == digest(after(Local(lambda: wide(FLAT))), tmp_path / "b")


@pytest.mark.parametrize(
    ("items", "says"),
    [
        (after(nn.Linear(64, 20), nn.Sequential(nn.ReLU(inplace=True), nn.Linear(20, 10))), "block 2 .* writes into"),
        (
            lambda: [Local(nn.Flatten(), keep="a"), Local(nn.Linear(64, 64)), Local(Added(), use=("a",))],
            "block 2 .* writes into the rows",
        ),
        (after(Halving(), LAST64), r"block 1 \(Halving\) writes into the rows that it gets"),
        (after(Counting()), r"block 1 \(Counting\) changes 'body.mean' by rows that it only tests or passes on"),
        (after(CountingTests(), LAST64), r"block 1 \(CountingTests\) changes 'tested' by rows that it only tests"),
        (after(HalvingTests(), LAST64), r"block 1 \(HalvingTests\) writes into the rows that it gets"),
        (
            lambda: [Local(nn.Flatten(), keep="a"), Halving(use=("a",)), LAST64],
            r"block 1 \(Halving\) writes into the rows that it gets",
        ),
        (after(Local(lambda: SHARED), Local(lambda: SHARED)), r"block 1 .* gives the same parameters again"),
        (after(Local(lambda: nn.Sequential(SHARED))), "gives the same parameters again"),
        (after(lambda: Local(SHARED), lambda: Local(SHARED)), "block 2 shares the parameter 'weight' with block 1"),
        (after(Shifted(lambda: torch.zeros(3, dtype=torch.cfloat))), "'shift' of torch.complex64"),
        (after(Shifted(lambda: torch.zeros(3, dtype=torch.cfloat), "parameter")), "'shift' of torch.complex64"),
        (after(Local(lambda: Views())), "'body.column' and 'body.linear.weight' have numbers in common"),
        (after(Local(lambda: Halves(3))), "'body.first' and 'body.second' have numbers in common"),
        (after(Halves(3)), "'body.first' and 'body.second' have numbers in common"),
        (after(nn.Linear(64, 10), Local(nn.Flatten(), objective=InPlace())), "objective of block 2 writes into the"),
        (after(Local(nn.Linear(64, 10), objective=leaving_out)), "objective of block 1 writes into .* their labels"),
        (after(Relabelling()), r"block 1 \(Relabelling\) writes into .* their labels"),
        (
            after(Local(Bits(), objective=nn.functional.cross_entropy)),
            "the loss of block 1 depends on none of its weights",
        ),
        (lambda: [nn.Flatten(), aliased()], "'body.weight' and 'objective.last.weight' have numbers in common"),
        (after(Sparse()), r"gives a sparse tensor: its body must return dense rows"),
        (after(nn.Embedding(20, 10, sparse=True)), "Embedding makes sparse gradients.* give sparse=False"),
        (after(Local(lambda: Unbegun())), r"__init__ of Unbegun does not call super\(\).__init__\(\)"),
        (after(Local(lambda: nn.Linear)), "the body of block 1 .* is the class Linear: give an instance"),
    ],
)
def test_what_is_refused(items: Items, says: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=says) as refused:
        digest(items, tmp_path / "run")
    assert "RunFailed" not in str(refused.value)  # a class of ours within our own words
    assert not (tmp_path / "run").exists()


def test_a_block_that_writes_into_rows_which_it_passes_on_is_refused(tmp_path: Path) -> None:
    def blocks() -> list[object]:
        contrast = ffpipe.GoodnessContrast
        first = Local(nn.Flatten(), objective=contrast(FLAT))
        last = Local(nn.Linear(64, 20), objective=contrast(RowSpec((20,), torch.float32)))
        return [first, HalvingPasses(roles=PAIRS), last]

    fields = {"negatives": "hard", "negative_lag": 0, "labels": "overlay", "head": True}
    asked = override(recipe("digits-cnn"), {f"training.{name}": value for name, value in fields.items()})
    with pytest.raises(UserError, match=r"block 1 \(HalvingPasses\) writes into the rows that it gets"):
        train(override(asked, {"execution.engine": "local", "execution.run_dir": str(tmp_path / "run")}), model=blocks)

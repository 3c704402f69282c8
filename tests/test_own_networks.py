"""Networks of users that are trained whole, each with something by which a run once went wrong."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor, nn
from wrong_items import Mine

import ffpipe
from ffpipe import UserError, override, recipe, train
from ffpipe.learn.block import Step
from ffpipe.learn.objectives import Learned
from ffpipe.learn.spec import RowLayout, RowSpec
from ffpipe.pipeline.job import make_job

FIELDS = {
    "training.epochs": 1,
    "training.negatives": "none",
    "training.labels": "none",
    "training.head": False,
    "training.goodness_from": 0,
    "training.optimizer.kind": "Adam",
    "training.data.train_limit": 300,
    "execution.engine": "local",
    "execution.stages": 1,
    "execution.evaluate_every": 0,
}
Blocks = Callable[[], list[Any]]


def run(folder: Path, blocks: Blocks, **fields: Any) -> ffpipe.Result:
    changes = {f"{part}.{name}": value for part, each in fields.items() for name, value in each.items()}
    return train(override(recipe("digits"), {**FIELDS, "execution.run_dir": str(folder), **changes}), model=blocks)


class Square(nn.Module):
    """Digits as images."""

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(-1, 1, 8, 8)


def two_convolutions() -> list[nn.Module]:
    """Make blocks of which the second begins with group normalisation."""
    first = nn.Sequential(Square(), nn.Conv2d(1, 32, 3, padding=1), nn.ReLU())
    return [first, nn.Sequential(nn.GroupNorm(4, 32), nn.ReLU(), nn.Conv2d(32, 8, 3))]


def test_group_normalisation_may_come_first_and_sizes_are_the_same_wherever_a_network_is_cut(tmp_path: Path) -> None:
    found = []
    for stages in (1, 2):
        result = run(
            tmp_path / str(stages), two_convolutions, training={"memory_format": "channels-last"},
            execution={"stages": stages, "log_steps": 1},
        )  # fmt: skip
        rows = pq.read_table(result.run_dir / "metrics.parquet").sort_by(
            [("step", "ascending"), ("layer", "ascending")]
        )
        found.append((result.weights_sha256, rows["output_rms"].to_pylist()))
    assert found[0] == found[1]


class Handing(ffpipe.Objective):
    """An objective whose weights make what is handed on."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(20, 10)

    def score(self, h: Tensor) -> Tensor:
        made: Tensor = self.linear(h)
        return made

    def hand_on(self, h: Tensor) -> Tensor:
        return self.score(h)

    def forward(self, h: Tensor, layout: RowLayout, labels: Tensor | None) -> Learned:
        assert labels is not None
        logits = self.score(h)
        loss = nn.functional.cross_entropy(logits.float(), labels, reduction="sum")
        return Learned(loss, (logits.argmax(1) != labels).sum())


def test_what_is_handed_on_may_have_weights_in_any_format(tmp_path: Path) -> None:
    def blocks() -> list[Any]:
        return [ffpipe.Local(nn.Sequential(nn.Flatten(), nn.Linear(64, 20)), Handing()), nn.Linear(10, 10)]

    result = run(tmp_path / "run", blocks, training={"precision": "bfloat16"})
    assert result.test_errors["last"] < 0.95


class Levels(nn.Module):
    """A body that makes whole numbers of pixels: each in eight levels."""

    def forward(self, x: Tensor) -> Tensor:
        return (x.flatten(1).clamp(0, 1) * 7).round().long()


class Embedding(Handing):
    """An objective that hands on what it embeds whole numbers as."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.linear = nn.Embedding(8, 2), nn.Linear(2 * 64, 10)

    def score(self, h: Tensor) -> Tensor:
        made: Tensor = self.linear(self.hand_on(h))
        return made

    def hand_on(self, h: Tensor) -> Tensor:
        made: Tensor = self.embedding(h).flatten(1)
        return made


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_fractions_may_be_handed_on_of_whole_numbers(precision: str, tmp_path: Path) -> None:
    def blocks() -> list[Any]:
        return [ffpipe.Local(Levels(), Embedding()), nn.Linear(128, 10)]

    network = ffpipe.load(run(tmp_path / "run", blocks, training={"precision": precision}).run_dir, model=blocks)
    first, second = network.blocks
    made = first(torch.rand(5, 64))
    assert (made != made.round()).any()
    assert first.outputs == second.inputs == RowSpec((128,), getattr(torch, precision))


class Deciding(Handing):
    """An objective that hands on decisions."""

    def hand_on(self, h: Tensor) -> Tensor:
        return h > 0


def test_decisions_are_handed_on_as_numbers(tmp_path: Path) -> None:
    def blocks() -> list[Any]:
        return [ffpipe.Local(nn.Sequential(nn.Flatten(), nn.Linear(64, 20)), Deciding()), nn.Linear(20, 10)]

    first, _ = ffpipe.load(run(tmp_path / "run", blocks).run_dir, model=blocks).blocks
    assert first.outputs == RowSpec((20,), torch.float32)


class Normal(ffpipe.Block):
    """A block whose `learn` leaves the mode of its modules as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.index, self.inputs, self.outputs = 0, RowSpec((1, 8, 8), torch.float32), RowSpec((64,), torch.float32)
        self.norm = nn.BatchNorm1d(64)

    def score(self, x: Tensor, *kept: Tensor) -> tuple[Tensor, None]:
        return self.norm(x.flatten(1)), None

    def learn(self, x: Tensor, layout: RowLayout, labels: Any, step: Step, out: Tensor, kept: Any = ()) -> Learned:
        out.copy_(self.score(x)[0].detach())
        return Learned(torch.zeros(()), torch.zeros(()))

    def pass_on(self, x: Tensor, step: Step, out: Tensor, kept: Any = ()) -> None:
        out.copy_(self.score(x)[0].detach())


def test_evaluations_change_no_mode(tmp_path: Path) -> None:
    def digest(every: int) -> str:
        fields = {"execution": {"evaluate_every": every}, "training": {"epochs": 2}}
        return run(tmp_path / str(every), lambda: [Normal(), nn.Linear(64, 10)], **fields).weights_sha256

    assert digest(0) == digest(1)


class Flat(nn.Module):
    """A body that takes rows as one piece of memory."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.linear = nn.Embedding(17, 8), nn.Linear(8, 17)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.linear(self.embedding(x.view(-1)))
        return made.view(*x.shape, 17)


class Placed(Flat):
    """The same with a vector for each place, of which there are fewer than symbols."""

    def __init__(self) -> None:
        super().__init__()
        self.places = nn.Embedding(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.linear(self.embedding(x) + self.places(torch.arange(x.shape[1], device=x.device)))
        return made


def of_text(folder: Path) -> dict[str, Any]:
    """Return fields of `char-lm` for a text of 15 symbols, in rows of 8."""
    (folder / "a.txt").write_text("to be or not to be, that is the question. " * 200)
    return {
        "training.data.train": [str(folder / "a.txt")], "training.data.length": 8, "training.epochs": 1,
        "training.data.train_limit": 64, "training.data.validation": 8, "execution.engine": "local",
        "execution.stages": 1, "execution.run_dir": str(folder / "run"), "training.blocks": [],
    }  # fmt: skip


@pytest.mark.parametrize("body", [Flat, Placed])
def test_networks_of_users_train_on_tokens(body: type[nn.Module], tmp_path: Path) -> None:
    """Rows lie in evaluations as in training; what embeds places may be smaller than what embeds symbols."""
    result = train(override(recipe("char-lm"), of_text(tmp_path)), model=lambda: [body()])
    assert 0 < result.test_errors["last"] <= 1


@pytest.mark.parametrize(
    ("changed", "part", "says"),
    [
        (17, "train", "the training part has the value 17: give whole numbers from 0 to 16, or --training.data.cl"),
        (-1, "test", "the test part has the value -1"),
        (0.5, "train", "the training part has the value 0.5"),
        (0, "train", ""),
    ],
)
def test_tokens_that_are_no_ids_of_symbols_are_refused(changed: float, part: str, says: str, tmp_path: Path) -> None:
    rows = {each: np.random.default_rng(1).integers(0, 17, (20, 9)).astype(float) for each in ("train", "test")}
    rows[part][0, -1] = changed
    labels = np.arange(20) % 3  # of which tokens make nothing
    np.savez(tmp_path / "tokens.npz", x_train=rows["train"], x_test=rows["test"], y_train=labels, y_test=labels)
    fields = {
        "training.data.source": "npz", "training.data.train": [str(tmp_path / "tokens.npz")],
        "training.data.classes": 17, "training.data.validation": 4, "training.data.test_count": 0,
        "training.batch_size": 4,
    }  # fmt: skip
    with pytest.raises(UserError, match=f"training.inputs is 'tokens', but {says}") if says else nullcontext():
        make_job(override(recipe("char-lm"), fields))


def test_the_softmax_head_does_not_read_tokens() -> None:
    with pytest.raises(UserError, match=r"the softmax head tells one an example: set training\.head false"):
        override(recipe("char-lm"), {"training.head": True})


def test_a_score_that_nothing_would_train_is_refused(tmp_path: Path) -> None:
    score = nn.Linear(20, 10)

    def blocks(loss: Any = lambda h, labels: h.square().mean()) -> list[Any]:
        return [ffpipe.Local(nn.Sequential(nn.Flatten(), nn.Linear(64, 20)), objective=loss, score=score)]

    with pytest.raises(UserError, match=r"the score of block 0 .* would not be trained: give an ffpipe.Objective"):
        run(tmp_path / "run", blocks)
    score.requires_grad_(False)
    run(tmp_path / "run", blocks)


class Converted(nn.Module):
    """A layer whose outputs are converted."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.layer, self.dtype = nn.Linear(64, 20), dtype

    def forward(self, x: Tensor) -> Tensor:
        h: Tensor = self.layer(x.flatten(1))
        return h.relu().to(self.dtype)


@pytest.mark.parametrize(
    ("precision", "other", "right"),
    [
        ("float32", torch.half, "float32"),
        ("float32", torch.double, "float32"),
        ("float64", torch.float, "float64"),
        ("bfloat16", torch.double, "float32"),
        ("bfloat16", torch.half, ""),  # which autocast converts
        ("float64", torch.double, ""),
    ],
)
def test_bodies_that_convert_what_they_return(precision: str, other: torch.dtype, right: str, tmp_path: Path) -> None:
    def trained(**fields: Any) -> ffpipe.Result:
        body = Converted(other)
        return run(tmp_path / "run", lambda: [ffpipe.Local(body, **fields)], training={"precision": precision})

    if right:
        with pytest.raises(UserError, match=rf"objective of block 0 .* cannot score .* have its body return {right}, "):
            trained()
        assert not (tmp_path / "run").exists()
        trained(objective=lambda h, labels: h.square().mean())  # which takes any
    else:
        trained()


def test_another_default_dtype_is_refused(tmp_path: Path) -> None:
    torch.set_default_dtype(torch.float64)
    try:
        with pytest.raises(UserError, match=r"torch.s default dtype is torch\.float64"):
            run(tmp_path / "run", lambda: [nn.Flatten(), nn.Linear(64, 10)])
    finally:
        torch.set_default_dtype(torch.float32)
    assert not (tmp_path / "run").exists()


def test_bytes_are_divided_as_in_training(tmp_path: Path) -> None:
    pixels = np.random.default_rng(1).integers(0, 17, (200, 8, 8), np.uint8)
    np.savez(tmp_path / "set.npz", x=pixels, y=np.arange(200) % 10)
    data = {
        "train": [str(tmp_path / "set.npz")],
        "source": "npz",
        "scale": 16.0,
        "train_limit": 0,
        "test_count": 20,
        "validation": 0,
    }
    changes = {f"training.data.{name}": value for name, value in data.items()}
    config = override(recipe("digits"), {**FIELDS, "execution.run_dir": str(tmp_path / "run"), **changes})
    network = ffpipe.load(train(config, model=lambda: [nn.Sequential(nn.Flatten(), nn.Linear(64, 10))]).run_dir,
                          model=lambda: [nn.Sequential(nn.Flatten(), nn.Linear(64, 10))])  # fmt: skip
    images = torch.from_numpy(pixels[:20])
    assert torch.equal(network(images), network(images / 16))


class Noisy(nn.Module):
    """Dropout by NumPy's generator."""

    def forward(self, x: Tensor) -> Tensor:
        drawn = np.random.random(x.shape)  # noqa: NPY002  # that very generator is what is tested
        return x * torch.from_numpy(drawn.astype(np.float32)).round()


def test_checkpointing_draws_the_same_again(tmp_path: Path) -> None:
    def blocks() -> list[Any]:
        return [nn.Sequential(nn.Flatten(), nn.Linear(64, 20), Noisy()), nn.Linear(20, 10)]

    def digest(checkpointing: bool) -> str:
        fields = {"method": "backprop", "checkpointing": checkpointing}
        return run(tmp_path / str(checkpointing), blocks, training=fields).weights_sha256

    assert digest(False) == digest(True)


class Counting(Mine):
    """A block of a user's own that fills in the figure that dense layers alone are asked for."""

    def learn(self, x: Tensor, layout: RowLayout, labels: Any, step: Step, out: Tensor, kept: Any = ()) -> Learned:
        return super().learn(x, layout, labels, step, out, kept)._replace(logistic_errors=torch.zeros(()))


def test_a_figure_that_nobody_asked_for_keeps_no_snapshot_from_being_read(tmp_path: Path) -> None:
    def items() -> list[Any]:
        return [nn.Flatten(), Counting(1), nn.Linear(64, 10)]

    whole = run(tmp_path / "run", items, execution={"snapshot_steps": 2})
    # The last one closes an interval of the log: the one before is in the midst of it.
    shutil.rmtree(max((tmp_path / "run" / "checkpoints").glob("step-*")))
    assert ffpipe.resume(tmp_path / "run", model=items).weights_sha256 == whole.weights_sha256

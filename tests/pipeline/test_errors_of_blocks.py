"""Errors of a user's block while a run is at work: one line that says which block, when and where."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from failing_blocks import CLASSES, STEPS, WIDTH, Does, config, error_of, fail, failing, model
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ffpipe import Block, Learned, Local, Objective, RowSpec, RunFailed, UserError, evaluate, load, predict, train
from ffpipe.commands.cli import main
from ffpipe.learn.block import Step
from ffpipe.learn.spec import RowLayout

# A line of a file of tests, as messages name it.
PLACE = r"\S+\.py:\d+: "


class Own(BaseException):
    """An error that `except Exception` does not catch."""


def leave() -> None:
    raise Own


@pytest.mark.parametrize(
    ("does", "says"),
    [
        (fail, "LookupError: not there"),
        (partial(sys.exit, 0), "SystemExit: 0"),
        (sys.exit, "SystemExit"),
        (leave, "Own"),
    ],
    ids=["error", "exit 0", "exit", "own"],
)
@pytest.mark.parametrize(
    ("at", "when"),
    [
        pytest.param(2, "at step 2", id="train"),
        pytest.param(None, f"in the evaluation after step {STEPS}", id="evaluate", marks=pytest.mark.long),
    ],
)
def test_whatever_a_block_raises_ends_the_run_with_its_name(
    does: Does, says: str, at: int | None, when: str, tmp_path: Path
) -> None:
    line = error_of(failing(does, at), tmp_path / "run")
    assert re.match(rf"block 1 \(Failing\) failed {when}: {PLACE}{says} \(the program failed a second time", line)


def allocate() -> None:
    torch.empty(1 << 50)  # which no address space has


def run_short() -> None:
    raise MemoryError


@pytest.mark.parametrize(
    ("does", "says"), [(allocate, "RuntimeError: .*DefaultCPUAllocator: "), (run_short, "MemoryError")]
)
def test_want_of_memory_is_not_the_fault_of_the_block(does: Does, says: str, tmp_path: Path) -> None:
    line = error_of(failing(does, 2), tmp_path / "run")
    instead = "--memory-budget or a smaller training.batch_size may help"
    assert re.match(rf"block 1 \(Failing\) ran out of memory at step 2: {instead} \({PLACE}{says}", line)


def test_an_exit_in_a_block_is_status_1_and_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "net.py").write_text(
        "import sys\nfrom torch import nn\nclass B(nn.Module):\n  def forward(self, x):\n"
        "    if self.training and not x.is_meta:\n      sys.exit()\n    return x\ndef blocks(): return [B()]\n"
    )
    given = ["--model", f"{tmp_path / 'net.py'}:blocks", "--engine", "local", "--execution.back-off", "0"]
    assert main(["train", "digits-cnn", *given, "--run-dir", str(tmp_path / "run")]) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
    assert line.startswith("ffpipe: the run failed: block 0 (B) failed at step 0: net.py:6: SystemExit (")


def test_rows_that_only_pass_are_under_the_same_blame(tmp_path: Path) -> None:
    fields = {"training.negatives": "hard", "training.negative_lag": 0, "training.labels": "overlay",
              "training.head": True}  # fmt: skip
    line = error_of(failing(at=None), tmp_path / "run", **fields)
    assert re.match(rf"block 1 \(Failing\) failed in the prediction for step 0: {PLACE}LookupError: not there", line)


RETURNED = "score returned a float32 tensor of shape "


@pytest.mark.parametrize(
    ("score", "says"),
    [
        (lambda h: h[:, :3], RETURNED + r"\(50, 3\) for 50 rows: return \(50, 10\), a number for each class, or None"),
        (lambda h: h[:1], RETURNED + r"\(1, 10\) for 50 rows: return \(50, 10\), a number for each class, or None"),
        (lambda h: h.nothing, PLACE + "AttributeError: "),
    ],
    ids=["width", "rows", "error"],
)
def test_what_a_score_function_returns_is_held_against_what_it_must(
    score: Callable[[Tensor], Any], says: str, tmp_path: Path
) -> None:
    def of_trained(h: Tensor) -> Any:
        return score(h) if (h != h[0]).any() else h  # rows of a trial before training are alike

    last = Local(nn.Linear(WIDTH, CLASSES), objective=cross_entropy, score=of_trained)
    line = error_of(lambda: model(last), tmp_path / "run")
    assert re.match(rf"block 1 \(Linear\) failed in the evaluation after step {STEPS}: {says}", line)


class Mine(Block):
    """A block of one's own, which learns nothing. made: what `learn` and `score` return of the rows that they make."""

    def __init__(self, learned: object, scored: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.index, self.inputs, self.outputs = 1, RowSpec((WIDTH,), torch.float32), RowSpec((WIDTH,), torch.float32)
        self.learned, self.scored = learned, scored

    def score(self, x: Tensor, *kept: Tensor) -> Any:
        return self.scored(x)

    def learn(
        self, x: Tensor, layout: RowLayout, labels: Tensor | None, step: Step, out: Tensor, kept: Sequence[Tensor] = ()
    ) -> Any:
        out.copy_(x)
        return self.learned

    def pass_on(self, x: Tensor, step: Step, out: Tensor, kept: Sequence[Tensor] = ()) -> None:
        raise AssertionError("all rows are learned from")


NOTHING = Learned(torch.zeros(()), torch.zeros(()))


@pytest.mark.parametrize(
    ("learned", "came"),
    [
        (None, "None"),
        (torch.zeros(()), "a float32 tensor of shape ()"),
        ((torch.zeros(()), torch.zeros(())), "a value of type tuple"),
        (Learned(torch.zeros(3), torch.zeros(())), "Learned of a float32 tensor of shape (3,) and a float32 tensor"),
        (Learned(torch.zeros(()), cast(Tensor, 3)), "Learned of a float32 tensor of shape () and a value of type int"),
    ],
    ids=["None", "a tensor", "a tuple", "a vector", "an int"],
)
def test_learn_returns_two_numbers(learned: object, came: str, tmp_path: Path) -> None:
    line = error_of(lambda: model(Mine(learned, lambda x: (x, None))), tmp_path / "run")
    assert line.startswith(f"block 1 (Mine) failed at step 0: learn returned {came}")
    assert ": return ffpipe.Learned(loss, errors), sums over the minibatch as 0-dimensional tensors (" in line


class Judge(Objective):
    """An objective that returns what a function makes of its loss and of its errors from step to step."""

    def __init__(self, returns: Callable[[Tensor, Tensor], object]) -> None:
        super().__init__()
        self.returns = returns

    def forward(self, h: Tensor, layout: RowLayout, labels: Tensor | None) -> Any:
        assert labels is not None
        return self.returns(cross_entropy(h, labels, reduction="none"), h.argmax(1) != labels)


@pytest.mark.parametrize(
    ("returns", "came"),
    [
        (lambda loss, wrong: None, "None"),
        (lambda loss, wrong: loss.sum(), "a float32 tensor of shape ()"),
        (lambda loss, wrong: (loss.sum(), wrong.sum()), "a value of type tuple"),
        (lambda loss, wrong: Learned(loss, wrong.sum()), "Learned of a float32 tensor of shape (50,) and a int64"),
        (lambda loss, wrong: Learned(loss.sum(), wrong), "Learned of a float32 tensor of shape () and a bool"),
        (lambda loss, wrong: Learned(loss.sum(), cast(Tensor, 3)), "Learned of a float32 tensor of shape () and a va"),
    ],
    ids=["None", "a tensor", "a tuple", "a vector", "a vector of errors", "an int"],
)
def test_an_objective_returns_two_numbers(
    returns: Callable[[Tensor, Tensor], object], came: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as raised:
        train(config(tmp_path / "run"), model=lambda: model(Local(nn.Linear(WIDTH, CLASSES), Judge(returns))))
    line = str(raised.value)
    assert line.startswith("block 1 (Linear) cannot make a step: ")
    assert f": the objective of block 1 returned {came}" in line
    assert line.endswith(": return ffpipe.Learned(loss, errors), sums over the minibatch as 0-dimensional tensors")


@pytest.mark.parametrize(
    ("scored", "says"),
    [
        (lambda x: x, "score returned a float32 tensor of shape (50, 12): return the rows"),
        (
            lambda x: (x[:1], None),
            "it makes a float32 tensor of shape (1, 12) of 50 rows in evaluation mode: make (50,",
        ),
        (lambda x: (None, None), "it makes None of 50 rows in evaluation mode: make (50, 12), as in training mode"),
        (
            lambda x: (x, 3.0),
            "score returned a value of type float for 50 rows: return (50, 10), a number for each class, or None",
        ),
    ],
    ids=["a tensor", "rows", "no rows", "a float"],
)
def test_a_block_scores_all_its_rows(scored: Callable[[Tensor], object], says: str, tmp_path: Path) -> None:
    line = error_of(lambda: model(Mine(NOTHING, scored)), tmp_path / "run")
    assert line.startswith(f"block 1 (Mine) failed in the evaluation after step {STEPS}: {says}")


def test_a_block_of_a_saved_run_is_named_too(tmp_path: Path) -> None:
    allowed = tmp_path / "allowed"
    allowed.touch()

    def unless_allowed() -> None:
        if not allowed.exists():
            fail()

    made = failing(unless_allowed, at=None)
    run = train(config(tmp_path / "run"), model=made).run_dir
    np.save(tmp_path / "image.npy", np.eye(8, dtype=np.float32))
    allowed.unlink()
    line = rf"^block 1 \(Failing\) failed in evaluation mode: {PLACE}LookupError: not there$"
    with pytest.raises(RunFailed, match=line):
        evaluate(run, model=made)
    with pytest.raises(RunFailed, match=line):
        predict(run, [tmp_path / "image.npy"], model=made)
    with pytest.raises(LookupError, match="not there"):  # to a caller from Python the network is a module as others are
        load(run, model=made)(torch.ones(1, 64) / 2)


class Measured(nn.Module):
    """A layer that raises an exception of its own where its step is measured, which is with gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            raise Own
        made: Tensor = self.layer(x.flatten(1))
        return made


def test_whatever_a_block_raises_before_training_is_a_refusal(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"block 0 \(Measured\) cannot make a step: .*Own"):
        train(
            config(tmp_path / "run", **{"execution.stages": 1, "execution.memory_budget": "1GiB"}),
            model=lambda: [Measured()],
        )
    assert not (tmp_path / "run").exists()

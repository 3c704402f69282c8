"""Items of a user's network that are wrong: each gets one line before training, which names its block."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from blueprints import blueprint_of
from strangers import refused
from torch import Tensor, nn
from wrong_items import (
    Alike,
    Around,
    Bare,
    Compared,
    Computed,
    Copying,
    Counting,
    CountingBlock,
    Forgetting,
    Graphed,
    Judge,
    Mine,
    Noisy,
    Shy,
    Staying,
    Unbegun,
    UnbegunBlock,
    Unlearning,
    Unscored,
    Whole,
    failing,
    loss,
    ten,
)

import ffpipe
from ffpipe import Local, RowSpec, UserError
from ffpipe.learn.blueprint import Blueprint

TRAINING = replace(ffpipe.recipe("digits-cnn").training, model="blocks", epochs=3)


def made(*items: Any) -> Blueprint:
    """Work out the network of these items after a first block that flattens its rows of 64 numbers."""
    return blueprint_of(TRAINING, (8, 8), function=lambda: [nn.Flatten(), *items])


def line(*items: Any) -> str:
    """Return the line with which these items are refused."""
    with pytest.raises(UserError) as caught:
        made(*items)
    return str(caught.value)


ADAM = "give an ffpipe.Optimizer, as ffpipe.Optimizer(kind='Adam', learning_rate=0.001)"
EPOCHS = "give the first epoch in which it learns and the one before which it ends, 0 for the end, as (0, 4) or (2, 0)"
NAMES = "give a tuple of names that earlier blocks keep, as ('early',)"
LINEAR, FLAT = "block 1 (Linear)", "block 1 (Flatten)"
BEGIN = "does not call super().__init__(): make that its first line"
EQUAL = "is compared by its values, as a dataclass is: give @dataclass(eq=False), or no __eq__"
EXTRA = "has extra state (get_extra_state), which is not saved: keep it in a buffer (register_buffer)"
DRAWS = (
    "keeps the generator 'noise', whose state is not saved: draw from torch's own, which is set at each step, or make "
    "one in each step"
)
KEEP = "leave state_dict as torch has it"
SCHEDULES = "there are: constant, hinton, ff-py, cosine, onecycle, steps"

CASES: dict[str, tuple[Callable[[], Any], str]] = {
    # Results of an item that is a function, and its body.
    "a function that makes a class": (
        lambda: lambda: nn.Flatten,
        "what item 1 makes is the class Flatten: give an instance, as Flatten(): add the parentheses",
    ),
    "a function that makes a function": (
        lambda: lambda: loss,
        "what item 1 makes is the function loss: give a torch module or an ffpipe.Local",
    ),
    "a body that is nothing": (
        lambda: Local(None),  # type: ignore[arg-type]
        "block 1 (NoneType): its body is None: give a torch module or a function that makes one",
    ),
    "a body in a Local in a Local": (
        lambda: Local(ten()),  # type: ignore[arg-type]
        "block 1 (Local): its body is a value of type Local: give a torch module or a function that makes one",
    ),
    # Modules.
    "a module without its beginning": (Unbegun, f"block 1 (Unbegun): __init__ of Unbegun {BEGIN}"),
    "one in a module": (lambda: Around(Unbegun()), f"block 1 (Around): __init__ of Unbegun (inner) {BEGIN}"),
    "one from a function": (lambda: lambda: Unbegun(), f"block 1 (Unbegun): __init__ of Unbegun {BEGIN}"),
    "one as an objective": (lambda: ten(objective=Unbegun()), f"{LINEAR}: __init__ of Unbegun {BEGIN}"),
    "one as a score": (lambda: ten(objective=loss, score=Unbegun()), f"{LINEAR}: __init__ of Unbegun {BEGIN}"),
    "a block without its beginning": (UnbegunBlock, f"block 1 (UnbegunBlock): __init__ of UnbegunBlock {BEGIN}"),
    "a dataclass": (Compared, f"block 1 (Compared): Compared {EQUAL}"),
    "a dataclass in a module": (lambda: Around(Compared()), f"block 1 (Around): Compared (inner) {EQUAL}"),
    "a dataclass with a hash": (Alike, f"block 1 (Alike): Alike {EQUAL}"),
    "extra state": (Counting, f"block 1 (Counting): Counting {EXTRA}"),
    "extra state within": (lambda: Around(Around(Counting())), f"block 1 (Around): Counting (inner.inner) {EXTRA}"),
    "extra state, from a function": (lambda: Local(lambda: Counting()), f"block 1 (<lambda>): Counting {EXTRA}"),
    "extra state of an objective": (lambda: ten(objective=Counting()), f"{LINEAR}: Counting {EXTRA}"),
    "extra state of a block": (CountingBlock, f"block 1 (CountingBlock): CountingBlock {EXTRA}"),
    "a generator": (lambda: Noisy(), f"block 1 (Noisy): Noisy {DRAWS}"),
    "a generator within, from a function": (
        lambda: Local(lambda: Around(Noisy())),
        f"block 1 (<lambda>): Noisy (inner) {DRAWS}",
    ),
    "a generator of an objective": (lambda: ten(objective=Noisy()), f"{LINEAR}: Noisy {DRAWS}"),
    "a generator of a block": (
        lambda: Mine(noise=np.random.default_rng(3)),
        f"block 1 (Mine): Mine {DRAWS}",
    ),
    "a tensor with a graph": (
        lambda: Around(Graphed()),
        "block 1 (Around): Graphed (inner) keeps 'weight', a tensor with a graph (as torch.nn.utils.weight_norm does): "
        "make it in forward, or give torch.nn.utils.parametrizations",
    ),
    "parameters that come later": (
        lambda: Around(nn.LazyLinear(10)),
        "block 1 (Around): LazyLinear (inner) makes its 'weight' when it is first called: give its sizes, as a "
        "function of a parameter `inputs` knows them",
    ),
    "buffers that come later": (
        lambda: Around(nn.LazyBatchNorm1d(affine=False)),
        "block 1 (Around): LazyBatchNorm1d (inner) makes its 'running_mean' when it is first called: give its sizes, "
        "as a function of a parameter `inputs` knows them",
    ),
    "a scripted module": (
        lambda: torch.jit.script(nn.Linear(64, 10)),
        "block 1 (RecursiveScriptModule): a scripted module cannot be copied: give ffpipe.Local a function that makes "
        "it",
    ),
    "copies in a state_dict": (
        lambda: Copying(64, 10),
        "block 1 (Copying): its state_dict has 'weight', a float32 tensor of shape (10, 64) that is none of its "
        f"parameters and buffers: {KEEP}",
    ),
    "a parameter left out of a state_dict": (
        lambda: Local(lambda: Forgetting(64, 10)),
        f"block 1 (<lambda>): its state_dict leaves out the parameter 'bias': {KEEP}",
    ),
    # Fields of a Local.
    "schedule misspelt": (lambda: ten(schedule="cosin"), f"{LINEAR}: schedule is 'cosin'; did you mean 'cosine'?"),
    "schedule a number": (lambda: ten(schedule=5), f"{LINEAR}: schedule is 5; {SCHEDULES}"),
    "schedule without its milestones": (
        lambda: ten(schedule="steps"),
        f"{LINEAR}: schedule 'steps' needs training.milestones: name the epochs after which rates fall",
    ),
    "hand_on unknown": (lambda: ten(hand_on="never"), f"{LINEAR}: hand_on is 'never'; there are: before, after"),
    "epochs a number": (lambda: ten(epochs=3), f"{LINEAR}: epochs is 3: {EPOCHS}"),
    "epochs words": (lambda: ten(epochs=("0", "1")), f"{LINEAR}: epochs is ('0', '1'): {EPOCHS}"),
    "epochs three": (lambda: ten(epochs=(0, 1, 2)), f"{LINEAR}: epochs is (0, 1, 2): {EPOCHS}"),
    "epochs below 0": (lambda: ten(epochs=(-1, 0)), f"{LINEAR}: epochs is (-1, 0): {EPOCHS}"),
    "epochs backwards": (lambda: ten(epochs=(2, 1)), f"{LINEAR}: epochs is (2, 1): {EPOCHS}"),
    "epochs beyond the run": (
        lambda: ten(epochs=(1, 9)),
        f"{LINEAR} learns in epochs 1 to 9, but the run has 3: give a first epoch below the last, within 0 to 3",
    ),
    "optimizer a word": (lambda: ten(optimizer="Adam"), f"{LINEAR}: optimizer is of type str: {ADAM}"),
    "a kind of optimizer misspelt": (
        lambda: ten(optimizer=ffpipe.Optimizer(kind="Adm")),
        f"{LINEAR}: optimizer.kind is 'Adm'; did you mean 'Adam'?",
    ),
    "learning_rate below 0": (
        lambda: ten(optimizer=ffpipe.Optimizer(learning_rate=-1.0)),
        f"{LINEAR}: optimizer.learning_rate: expected float > 0.0",
    ),
    "learning_rate no number": (
        lambda: ten(optimizer=ffpipe.Optimizer(learning_rate=float("nan"))),
        f"{LINEAR}: optimizer.learning_rate: expected float > 0.0",
    ),
    "learning_rate without end": (
        lambda: ten(optimizer=ffpipe.Optimizer(learning_rate=float("inf"))),
        f"{LINEAR}: optimizer has learning_rate inf: give a finite number, at most 3.4e+38",
    ),
    "averaging beyond 1": (
        lambda: ten(optimizer=ffpipe.Optimizer(averaging=7)),
        f"{LINEAR}: optimizer.averaging: expected float < 1.0",
    ),
    "options of an optimizer a list": (
        lambda: ten(optimizer=ffpipe.Optimizer(kind="Adam", options=["x"])),  # type: ignore[arg-type]
        f"{LINEAR}: optimizer.options: expected object, got array",
    ),
    "keep a number": (lambda: ten(keep=5), f"{LINEAR}: its keep is 5: give a text"),
    "name a number": (lambda: ten(name=7), "block 1 (7): its name is 7: give a text"),
    "use a word": (lambda: ten(use="early"), f"{LINEAR}: its use is 'early': {NAMES}"),
    "use numbers": (lambda: ten(use=(5,)), f"{LINEAR}: its use is (5,): {NAMES}"),
    "use unknown": (
        lambda: ten(use=("early",)),
        f"{LINEAR} uses 'early', which no block before it keeps; there are: none",
    ),
    "options a word": (
        lambda: ten(options="kind"),
        f"{LINEAR}: options is 'kind': give a dictionary, as {{'kind': 'groups'}}",
    ),
    "options of a function": (
        lambda: ten(objective=loss, options={"kind": "mlp"}),
        f"{LINEAR}: options go with the objectives 'class-head' and 'goodness': leave them out",
    ),
    "objective a class": (
        lambda: ten(objective=nn.CrossEntropyLoss),
        f"{LINEAR}: its objective is the class CrossEntropyLoss: give an instance, as CrossEntropyLoss(): add the "
        "parentheses",
    ),
    "objective a number": (
        lambda: ten(objective=5),
        f"{LINEAR}: loss function is a value of type int: give a function of (h, labels) or (h, labels, layout)",
    ),
    "score a number": (
        lambda: ten(objective=loss, score=5),
        f"{LINEAR}: its score is a value of type int: give a function of what the body makes",
    ),
    "score a class": (
        lambda: ten(objective=loss, score=nn.Identity),
        f"{LINEAR}: its score is the class Identity: give an instance, as Identity(): add the parentheses",
    ),
    # Objectives.
    "hand_on raises": (
        lambda: ten(objective=Judge(failing(KeyError("no")))),
        f"the objective of {LINEAR} cannot hand on rows of 10 float32: wrong_items.py:: KeyError: 'no'",
    ),
    "hand_on returns nothing": (
        lambda: ten(objective=Judge(lambda _: None)),
        f"hand_on of the objective of {LINEAR} returned None for 2 rows: return one tensor, of as many rows as it gets",
    ),
    "hand_on returns columns": (
        lambda: ten(objective=Judge(lambda h: h.t())),
        f"hand_on of the objective of {LINEAR} returned a float32 tensor of shape (10, 2) for 2 rows: return one "
        "tensor, of as many rows as it gets",
    ),
    "hand_on returns a number": (
        lambda: ten(objective=Judge(lambda h: h.sum())),
        f"hand_on of the objective of {LINEAR} returned a float32 tensor of shape () for 2 rows: return one tensor, "
        "of as many rows as it gets",
    ),
    "score raises": (
        lambda: ten(objective=loss, score=failing(ZeroDivisionError())),
        f"the objective of {LINEAR} cannot score rows of 10 float32: wrong_items.py:: ZeroDivisionError",
    ),
    "is_silent of an objective raises": (
        lambda: ten(objective=Shy()),
        f"the objective of {LINEAR} cannot tell whether it is silent: wrong_items.py:: ValueError: no",
    ),
    "score returns two": (
        lambda: ten(objective=loss, score=lambda h: (h, h)),
        f"score of the objective of {LINEAR} returned a value of type tuple for 2 rows: return (2, 10), a number "
        "for each class, or None",
    ),
    "score of too few classes": (
        lambda: ten(objective=loss, score=lambda h: h[:, :3]),
        f"score of the objective of {LINEAR} returned a float32 tensor of shape (2, 3) for 2 rows: return (2, 10), "
        "a number for each class, or None",
    ),
    "score of whole numbers": (
        lambda: Local(Whole()),
        "the objective of block 1 (Whole) cannot score rows of 64 int64: RuntimeError: mat1 and mat2 must have the "
        "same dtype, but got Long and Float",
    ),
    "roles unknown": (
        lambda: ten(objective=Judge(roles=("x",))),
        f"{LINEAR} learns from the roles ('x',), which do not exist: give ('examples',) or ('positive', 'negative')",
    ),
    "roles of pairs": (
        lambda: ten(objective=Judge(roles=("positive", "negative"))),
        f"{LINEAR} learns from positive and negative rows, but training.negatives is 'none': give "
        "--training.negatives random, or an objective without negatives",
    ),
    # Blocks.
    "a block without index": (
        lambda: Bare("inputs", "outputs"),
        "block 1 (Bare): it has no index: set self.index in __init__",
    ),
    "a block without inputs": (
        lambda: Bare("index", "outputs"),
        "block 1 (Bare): it has no inputs: set self.inputs in __init__",
    ),
    "a block without outputs": (
        lambda: Bare("index", "inputs"),
        "block 1 (Bare): it has no outputs: set self.outputs in __init__",
    ),
    "a block of another place": (
        lambda: Mine(0),
        "block 1 (Mine): its index is 0: give its place in the network, which is 1",
    ),
    "a block from a function, of another place": (
        lambda: lambda: Mine(7),
        "block 1 (Mine): its index is 7: give its place in the network, which is 1",
    ),
    "an index that is not a number": (
        lambda: Mine("1"),
        "block 1 (Mine): its index is '1': give its place in the network, which is 1",
    ),
    "inputs a shape": (
        lambda: Mine(inputs=(64,)),
        "block 1 (Mine): its inputs is a value of type tuple: give an ffpipe.RowSpec, as RowSpec((64,), torch.float32)",
    ),
    "outputs a number": (
        lambda: Mine(outputs=64),
        "block 1 (Mine): its outputs is a value of type int: give an ffpipe.RowSpec, as RowSpec((64,), torch.float32)",
    ),
    "inputs of other rows": (
        lambda: Mine(inputs=RowSpec((3,), torch.float32)),
        "block 1 (Mine) takes rows of 3 float32, but it gets 64 float32",
    ),
    "roles of a block": (
        lambda: Mine(roles=("x",)),
        "block 1 (Mine) learns from the roles ('x',), which do not exist: give ('examples',) or "
        "('positive', 'negative')",
    ),
    "keep of a block": (lambda: Mine(keep=3), "block 1 (Mine): its keep is 3: give a text"),
    "an attribute that fails": (
        Computed,
        "block 1 (Computed) cannot be read: wrong_items.py:: ValueError: no",
    ),
    "use of a block": (lambda: Mine(use="early"), f"block 1 (Mine): its use is 'early': {NAMES}"),
    "use of a block unknown": (
        lambda: Mine(use=("early",)),
        "block 1 (Mine) uses 'early', which no block before it keeps; there are: none",
    ),
    "optimizer of a block": (
        lambda: Mine(optimizer="Adam"),
        "block 1 (Mine): its optimizer is a value of type str: give an object with flush_denormals, state, load, "
        "contents, or None",
    ),
    "rate of a block": (
        lambda: Mine(rate="0.1"),
        "block 1 (Mine): its rate is a value of type str: give a number, or None",
    ),
    "no learn": (
        Unlearning,
        "block 1 (Unlearning): it has no learn of its own: write one, as ffpipe.Block.learn says",
    ),
    "no score": (Unscored, "block 1 (Unscored): it has no score of its own: write one, as ffpipe.Block.score says"),
    "no pass_on": (Staying, "block 1 (Staying): it has no pass_on of its own: write one, as ffpipe.Block.pass_on says"),
}


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
@pytest.mark.parametrize("name", CASES)
def test_a_wrong_item_gets_one_line(name: str) -> None:
    make, expected = CASES[name]
    assert re.sub(r"tests/learn/|(?<=\.py:)\d+", "", line(make())) == expected


def test_two_blocks_of_one_index() -> None:
    assert line(Mine(1), Mine(1)) == "block 2 (Mine): its index is 1: give its place in the network, which is 2"


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_right_items_stay_right() -> None:
    """Items beside those of the table that only look wrong."""
    bilinear = Local(nn.Bilinear(64, 64, 8), use=["early"], epochs=[1, 2])  # type: ignore[arg-type]
    network = made(Local(nn.Identity(), keep="early", schedule="cosine", hand_on="after"), bilinear, nn.Linear(8, 10))
    assert [outline.name for outline in network.outlines] == ["Flatten", "Identity", "Bilinear", "Linear"]
    traced = Local(lambda: torch.jit.trace(nn.Linear(64, 10), torch.zeros(1, 64)))
    scripted = Local(lambda: torch.jit.script(nn.Linear(10, 10)))
    assert len(made(traced, scripted)) == 3
    assert len(made(Mine(1), lambda: Mine(2, use=[]))) == 3


@pytest.mark.parametrize("method", ["hand_on", "score"])
def test_an_objective_that_needs_numbers_is_tried_on_some(method: str) -> None:
    """Rows of a trial without memory have no numbers to read."""

    def scaled(h: Tensor) -> Tensor:
        return h / (1.0 + float(h.abs().max()))

    assert made(ten(objective=Judge(**{method: scaled}))).outlines[1].outputs == RowSpec((10,), torch.float32)


def test_nothing_is_left_of_a_run_that_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "net.py").write_text("from torch import nn\ndef blocks(): return [lambda: nn.Flatten]\n")
    run = tmp_path / "run"
    model = f"{tmp_path / 'net.py'}:blocks"
    refused(
        ["train", "digits-cnn", "--model", model, "--engine", "local", "--run-dir", str(run)],
        "what item 0 makes is the class Flatten: give an instance",
        capsys,
    )
    assert not run.exists()

"""Blocks have and take what they are said to cost: by hand, and as torch's tensors come and go in a real step."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from covering import in_pairs, in_turn
from memory_tensors import peak_bytes
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import ffpipe
from ffpipe.config.optimizer import torch_optimizers
from ffpipe.config.schema import BlockConfig, Optimizer
from ffpipe.learn.blueprint import Blueprint
from ffpipe.learn.dense import FFDense
from ffpipe.learn.items import TRIED
from ffpipe.learn.local_item import Local
from ffpipe.learn.peak_memory import PeakMemory
from ffpipe.learn.workspace import Workspace
from ffpipe.pipeline.feed import Feed
from ffpipe.pipeline.job import Job, Model, make_job
from ffpipe.pipeline.schedule import Train
from ffpipe.pipeline.stage import Stage
from ffpipe.planning.calibrate import learning
from ffpipe.planning.cost import costs_of
from ffpipe.planning.layout import make_layout
from ffpipe.planning.memory import NetworkSizes
from ffpipe.system.errors import UserError

CPU, B = torch.device("cpu"), 50
PLAIN: dict[str, Any] = {"training.negatives": "none", "training.head": False, "training.goodness_from": 0}


@pytest.fixture(autouse=True)
def _little_garbage() -> Iterator[None]:
    """Each count of bytes begins with a collection of garbage, which takes long where it looks at all modules again."""
    gc.freeze()
    yield
    gc.unfreeze()


def job_of(fields: Mapping[str, Any], function: Callable[[], list[Any]] | None = None) -> Job:
    """Return a job on the digits: 8 x 8 pixels, 10 classes (in closed form 10 features more), minibatches of 50."""
    config = ffpipe.override(ffpipe.recipe("digits"), {"execution.stages": 0, **fields})
    return make_job(config, Model(function=function))


def plain(blocks: list[BlockConfig], **fields: Any) -> Blueprint:
    """Return the blocks that learn from the examples alone."""
    return job_of(PLAIN | {"training.blocks": blocks} | fields).network


def test_blocks_that_differ_by_their_optimiser_are_counted_apart() -> None:
    layer = {"kind": "ff-dense", "options": {"width": 64}}
    adam = {**layer, "optimizer": {"kind": "Adam", "learning_rate": 0.001}}
    costs = costs_of(job_of({"training.blocks": [layer, layer, adam, layer]}).network)
    assert costs[1].step == costs[3].step < costs[2].step


def tokens(folder: Path, blocks: list[BlockConfig], **fields: Any) -> Blueprint:
    """Return the same of rows of 32 tokens, of 17 kinds."""
    rows = np.random.default_rng(1).integers(0, 17, (200, 33))
    np.savez(folder / "tokens.npz", x_train=rows, y_train=np.arange(200) % 17)
    data = {"training.data.source": "npz", "training.data.train": [str(folder / "tokens.npz")]}
    counts = {"training.data.test_count": 20, "training.data.validation": 0, "execution.evaluate_every": 0}
    return plain(blocks, **{"training.inputs": "tokens", **data, **counts}, **fields)


def own(*bodies: Any) -> Blueprint:
    """Return a network that a user's function returns."""
    return job_of(PLAIN, lambda: [Local(body) for body in bodies]).network


def of_kind(optimizer: str) -> dict[str, Any]:
    """Return the fields of a config with such an optimiser. Rprop knows no weight decay."""
    decay = 0.0 if optimizer == "Rprop" else 0.0001
    return {"training.optimizer.kind": optimizer, "training.optimizer.weight_decay": decay}


# Operations and bytes by hand


@pytest.mark.parametrize(
    ("kind", "head", "precision"), in_pairs(("averaging", "Adam"), (True, False), ("float32", "bfloat16"))
)
def test_a_layer_in_closed_form_makes_a_product_of_every_role_and_two_gradients(
    kind: str, head: bool, precision: str
) -> None:
    fields: dict[str, Any] = {"training.dims": [64, 40, 300], "training.head": head, "training.negatives": "random"}
    optimizer = {"training.optimizer.kind": kind, "training.precision": precision}
    roles = 3 if head else 2
    costs = costs_of(job_of(fields | optimizer).network)
    assert [each.flops for each in costs] == [2 * (roles + 2) * B * a * b for a, b in ((74, 40), (40, 300))]


def test_a_dense_block_makes_three_products_and_those_of_its_head() -> None:
    """Forward, the gradient of the weights and, but for the rows that came in, that of what it reads."""
    (first,) = costs_of(plain([BlockConfig(kind="dense", options={"width": 40})]))
    assert first.flops == 2 * B * (2 * 64 * 40 + 3 * 40 * 10)


def test_attention_counts(tmp_path: Path) -> None:
    """torch counts all pairs of causal attention: two products forward, five in the fused backward pass."""
    width, inputs = 16, 32
    (found,) = costs_of(tokens(tmp_path, [BlockConfig(kind="transformer", options={"width": width, "heads": 2})]))
    linear = 3 * (3 * width**2 + width**2 + 8 * width**2) + 3 * width * 17
    assert found.flops == 2 * B * inputs * (linear + 7 * inputs * width)


class LinearRelu(nn.Module):
    """(n, 64) to (n, 100)."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 100)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.linear(x.view(len(x), 64)))


def mean(h: Tensor, labels: Tensor) -> Tensor:
    """Return a loss that makes nothing of the size of h, and whose derivative is of that size."""
    return h.mean()


@pytest.mark.parametrize("batch", [50, 5])
def test_the_step_of_a_body_by_hand(batch: int) -> None:
    """Linear and ReLU with SGD, where an activity is batch x 100 numbers.

    forward   t = linear(x); h = relu(t), after which t goes: 2 activities
    backward  h, which the ReLU needs, the derivative by h and that by t: 3 activities; then the last of these alone and
              the gradients of weight and bias, from which SGD makes its step with nothing more
    """
    sgd = Optimizer(kind="SGD", learning_rate=0.1)
    local = Local(LinearRelu, objective=mean, optimizer=sgd)
    network = job_of(PLAIN | {"training.batch_size": batch}, lambda: [local]).network
    (found,) = costs_of(network)
    weights, activity = 4 * (64 * 100 + 100), 4 * batch * 100
    assert (found.parameters, found.optimizer, found.scratch) == (weights, 0, 0)
    assert found.flops == 2 * batch * 2 * 64 * 100
    worst = max(3 * activity, activity + weights)
    assert worst <= found.step <= worst + 40  # the loss, and the few numbers that are made of it


@pytest.mark.parametrize(
    ("kind", "network"), in_turn(("averaging", *torch_optimizers()), ("closed form", "dense with norm"))
)
def test_bytes_are_those_of_what_a_stage_keeps(kind: str, network: str) -> None:
    fields = of_kind(kind)
    if network == "closed form":
        job = job_of(fields | {"training.dims": [64, 30, 20], "training.negatives": "random"})
    else:
        blocks = [BlockConfig(kind="dense", options={"width": width, "norm": True}) for width in (30, 20)]
        job = job_of(PLAIN | {"training.blocks": blocks} | fields)
    stage = Stage(make_layout(job, 1).stages[0], lambda *_: None)
    stage.handle(Train(0, 1), Feed(job.network, job.splits, CPU).tensors(Train(0, 1)))
    for block, said in zip(stage.blocks, costs_of(job.network), strict=True):
        state = block.state()
        kept = {name for name in state if name.startswith("optimizer.")}
        assert said.optimizer == sum(state[name].nbytes for name in kept)
        assert said.parameters - said.scratch == sum(state[name].nbytes for name in state.keys() - kept)
        assert said.scratch == sum(tensor.nbytes for tensor in block.scratch())


# The worst moment of a step, as real tensors come and go


class Alive(TorchDispatchMode):
    """A sum of the storages that live after every operation and were made inside it; a slow twin of PeakMemory."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch has no hints for it
        self.peak = 0
        self._made: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = {leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        made = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(made):
            if isinstance(leaf, Tensor) and (storage := leaf.untyped_storage())._cdata not in given:
                self._made.setdefault(storage._cdata, (StorageWeakRef(storage), storage.nbytes()))
        self._made = {key: each for key, each in self._made.items() if not each[0].expired()}
        self.peak = max(self.peak, sum(size for _, size in self._made.values()))
        return made


def really(network: Blueprint, index: int) -> tuple[int, int]:
    """Return the worst moment of a block's second step on the CPU: by the tensors that live, and by torch's
    allocator."""
    block = network.make(index, Workspace(CPU))
    step = learning(block, network, CPU)
    step(0)
    with Alive() as alive:
        step(1)
    # Only a layer in closed form has buffers that the first step made.
    held = sum(buffer.nbytes for buffer in block._workspace._buffers.values()) if isinstance(block, FFDense) else 0
    return alive.peak + held, peak_bytes(lambda: step(1)) + held


KINDS: dict[str, list[BlockConfig]] = {
    "dense": [BlockConfig(kind="dense", options={"width": 100, "dropout": 0.1})],
    "conv": [BlockConfig(kind="conv", options={"channels": 12, "pool": 2}, objective_options={"pool": 2})],
    "vgg": [BlockConfig(kind="vgg", options={"plan": "12 M 12"}, objective_options={"kind": "mlp", "depth": 1})],
    "residual": [
        BlockConfig(kind="residual", options={"channels": 8}, keep="early"),
        BlockConfig(kind="residual", options={"channels": 8}, objective_options={"kind": "mlp", "depth": 1}),
    ],
    "receptive-fields": [BlockConfig(kind="receptive-fields", options={"channels": 8, "kernel": 3})],
    "transformer": [BlockConfig(kind="transformer", options={"width": 16, "layers": 2, "symbols": 17})],
}


@pytest.mark.parametrize(
    ("kind", "how"), in_turn(KINDS, list(product(("averaging", "Adam"), ("float32", "bfloat16")))), ids=str
)
def test_a_step_takes_what_real_tensors_take(kind: str, how: tuple[str, str], tmp_path: Path) -> None:
    optimizer, precision = how
    fields = {"training.optimizer.kind": optimizer, "training.precision": precision}
    network = tokens(tmp_path, KINDS[kind], **fields) if kind == "transformer" else plain(KINDS[kind], **fields)
    for index, said in enumerate(costs_of(network)):
        alive, allocated = really(network, index)
        # A few numbers are made on the CPU where there are some and not where there are none.
        assert said.step == pytest.approx(alive, rel=0.01)
        # The memory that a kernel takes inside itself is unknown; it is small here, but for convolutions in bfloat16.
        if precision == "float32":
            assert said.step == pytest.approx(allocated, rel=0.1)


VARIANTS: list[dict[str, Any]] = [
    *({"kind": kind} for kind in ("averaging", *torch_optimizers())),
    {"phases": "apart"},
    {"phases": "by-epoch", "negatives": "random"},
    {"dropout": 0.1},
    {"local_steps": 2},
    {"hand_on": "after"},
    {"head": False, "negatives": "random"},
]


@pytest.mark.parametrize(("fields", "precision"), in_turn(VARIANTS, ("float32", "bfloat16")), ids=str)
def test_a_step_in_closed_form_takes_what_real_tensors_take(fields: dict[str, Any], precision: str) -> None:
    changes = of_kind(fields["kind"]) if "kind" in fields else {f"training.{name}": v for name, v in fields.items()}
    network = job_of({"training.dims": [64, 100, 80], "training.precision": precision, **changes}).network
    for index, said in enumerate(costs_of(network)):
        alive, allocated = really(network, index)
        # Dropout draws numbers of NumPy, of which torch does not know.
        drawn = 3 * network.layout.rows * network.outlines[index].outputs.size if "dropout" in fields else 0
        assert alive * 0.99 <= said.step <= alive * 1.01 + drawn
        assert allocated * 0.9 <= said.step <= allocated * 1.1 + drawn


def test_a_block_by_autograd_holds_the_rows_of_one_example_that_are_more_than_a_minibatch() -> None:
    """A block that makes much of little: neither its weights' gradients nor six rows of a step are as large."""
    wide = [BlockConfig(kind="dense", options={"width": width}) for width in (4, 4000)]
    random = {"training.negatives": "random", "training.batch_size": 2}
    network = job_of({"training.blocks": wide, **random}).network
    block = network.make(1, Workspace(CPU)).eval()
    rows = torch.ones(network.rows_of_example, 4)
    with torch.no_grad(), Alive() as alive:
        block.score(rows)
    before = len(rows) * network.edges[-1].nbytes
    assert costs_of(network)[1].step == pytest.approx(alive.peak + before, rel=0.01)


# The count itself


def test_a_view_is_no_memory_and_a_storage_counts_until_its_last_view_goes() -> None:
    with PeakMemory() as memory:
        whole = torch.ones(100)
        part = whole[:10].view(2, 5)
        del whole
        gc.collect()
        again = torch.ones(200)
        assert memory.peak == 4 * 300
        del part, again
        last = torch.ones(290)
        assert memory.peak == 4 * 300
        more = torch.ones(20)
    assert memory.peak == 4 * 310
    assert len(last) + len(more) == 310


def test_what_was_there_before_does_not_count() -> None:
    before = torch.ones(1000)
    with PeakMemory() as memory:
        before.add_(1.0)
        torch.add(before, 1.0, out=before)
        assert before[:5].numel() == 5
    assert memory.peak == 0


def test_what_a_gradient_needs_lives_until_the_backward_pass() -> None:
    weight = torch.ones(100, requires_grad=True)
    with PeakMemory() as memory:
        kept = (weight * 2.0).exp()  # exp needs its result
        loss = kept.sum()
        del kept
        other = torch.ones(50)
        assert memory.peak == 4 * (100 + 100)  # what goes into exp, and what comes out
        del other
        loss.backward()
        weight.grad = None
        del loss
        full = torch.ones(600)
    assert memory.peak == 4 * 600
    assert len(full) == 600


# Code that looks at numbers


class Looks(nn.Module):
    """A body that looks at numbers where it is made and where it computes."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.linear = nn.Linear(64, 100)
        self.scale = self.linear.weight.detach().abs().max().item()

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.linear(x.view(len(x), 64)))
        match self.kind:
            case "item":
                return h / max(self.scale, h.detach().max().item())
            case "numpy":
                return h * float(np.abs(h.detach().numpy()).max() + self.scale)
            case _:
                return h * self.scale if bool((h > 0).any()) else h + self.scale


@pytest.mark.parametrize("kind", ["item", "numpy", "branch"])
def test_a_body_that_looks_at_numbers_is_tried_with_some(kind: str) -> None:
    """It costs what it takes on real tensors, and the block beside it what it costs without any."""
    network = own(partial(Looks, kind), nn.Linear(100, 20))
    plain = own(LinearRelu, nn.Linear(100, 20))
    looks, beside = costs_of(network)
    alive, allocated = really(network, 0)
    assert looks.step == pytest.approx(alive, rel=0.01)
    assert looks.step == pytest.approx(allocated, rel=0.1)
    assert (looks.parameters, looks.optimizer) == (costs_of(plain)[0].parameters, costs_of(plain)[0].optimizer)
    assert (looks.flops, beside) == (costs_of(plain)[0].flops, costs_of(plain)[1])


def test_such_a_body_is_planned_and_one_that_does_not_is_not_computed() -> None:
    computed: list[str] = []

    class Watched(nn.Module):
        """A body that notes what computes with numbers. name: of what is within."""

        def __init__(self, name: str, within: nn.Module) -> None:
            super().__init__()
            self.name, self.within = name, within

        def forward(self, x: Tensor) -> Tensor:
            if type(x) is Tensor and x.device.type != "meta" and len(x) > TRIED:
                computed.append(self.name)
            made: Tensor = self.within(x)
            return made

    bodies = [lambda: Watched("looks", Looks("item")), lambda: Watched("does not", nn.Linear(100, 20))]
    job = job_of(PLAIN, lambda: [nn.Flatten(), *map(Local, bodies)])
    assert [layer for spec in make_layout(job, 2).stages for layer in spec.layers] == [0, 1, 2]
    assert NetworkSizes(job.network, 1).whole_state > 0
    assert set(computed) == {"looks"}


class Fails(LinearRelu):
    def forward(self, x: Tensor) -> Tensor:
        if self.training and len(x) > 2:  # more than those on which shapes are tried
            raise ValueError("no more than two")
        return super().forward(x)


def test_a_body_that_cannot_make_a_step_is_named() -> None:
    with pytest.raises(UserError, match=r"block 1 \(Fails\) cannot make a step: .*ValueError: no more than two"):
        costs_of(own(nn.Flatten(), Fails))

"""Checks of a network of one's own: does each block keep what the pipeline promises of it?

    from ffpipe import testing

    def test_my_blocks(tmp_path):
        testing.check_blocks(blocks, shape=(28, 28), classes=10)
        testing.check_engines(blocks, shape=(28, 28), classes=10, folder=tmp_path)

Every function raises AssertionError, which says which block and what, or UserError where no network can be made.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ffpipe.config.fields import override
from ffpipe.config.recipes import get_recipe
from ffpipe.config.schema import Config, Data, Optimizer
from ffpipe.learn.block import Block, Step
from ffpipe.learn.blueprint import Blueprint, make_blueprint
from ffpipe.learn.feeder import row_specs
from ffpipe.learn.items import CPU
from ffpipe.learn.objectives import Learned, as_learned
from ffpipe.learn.peak_memory import PeakMemory
from ffpipe.learn.spec import RowSpec
from ffpipe.learn.state_tensors import refuse_changed
from ffpipe.learn.workspace import Workspace
from ffpipe.planning.cost import costs_of
from ffpipe.runs.controller import train
from ffpipe.storage.checkpoint import Input
from ffpipe.system.errors import UserError

# Steps that a block makes before and after it is saved.
STEPS = 3
# A predicted peak may be so much below what a step takes, and so much above.
TOO_LOW, TOO_HIGH = 0.05, 0.15
# Peaks below this are not judged: they drown in what a process takes for itself.
LEAST_BYTES = 1 << 20
# The name of the rows for the next block, beside those of weights and buffers.
HANDED_ON = "what it hands on"

Model = Callable[..., Any]
WAYS: tuple[Mapping[str, Any], ...] = (
    {"engine": "local", "stages": 1, "chunk": 1},
    {"engine": "layerwise", "stages": 0, "chunk": 2},
    {"engine": "ray", "stages": 2, "chunk": 3},
)


def blueprint_of(model: Model, *, shape: tuple[int, ...], classes: int, **fields: Any) -> Blueprint:
    """Return the network of a model's function on examples of a shape, for the checks below.

    shape: (height, width), (height, width, channels) or (features,). fields: of `training`, by name, as
    `batch_size=16`; without them there are no negatives, and Adam. Raises UserError.
    """
    # Named as in a run: by the name a block knows that it is a user's, who may draw by any generator.
    training = replace(_plain(fields).training, model=getattr(model, "__qualname__", "the model"))
    inputs, labels = row_specs(training, shape, classes)
    return make_blueprint(training, Input(shape, inputs.size, classes), inputs, labels, 100, function=model)


def check_blocks(model: Model, *, shape: tuple[int, ...], classes: int, **fields: Any) -> None:
    """Run all checks of single blocks. Arguments as for `blueprint_of`."""
    network = blueprint_of(model, shape=shape, classes=classes, **fields)
    for index in range(len(network)):
        check_detached(network, index)
        check_stateless(network, index)
        check_saved(network, index)
        check_memory(network, index)


def check_detached(network: Blueprint, index: int) -> None:
    """Check that nothing attached to a graph leaves the block, and that no graph outlives its step."""
    block, rows = network.make(index, Workspace(CPU)), _Noise(network, index)
    kept: list[weakref.ref[Tensor]] = []

    def pack(tensor: Tensor) -> Tensor:
        # Another object for the same numbers: the graph alone has it, whereas weights and rows live on by right.
        copied = tensor.detach()
        kept.append(weakref.ref(copied))
        return copied

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        made = rows.learn(block, 0)
    # Else cycles of references, which a user's module may make, would keep alive what is gone in truth.
    gc.collect()
    for name, tensor in {HANDED_ON: rows.out, "its loss": made.loss, "its errors": made.errors}.items():
        assert not tensor.requires_grad, f"{name} of {_name(network, index)} is attached to a graph"
    own = (*block.state().items(), *block.named_buffers(), *(each for m in block.modules() for each in vars(m).items()))
    attached = {name for name, value in own if isinstance(value, Tensor) and value.grad_fn is not None}
    assert not attached, f"{sorted(attached)} of {_name(network, index)} keep a graph: detach what the block keeps"
    alive = sum(reference() is not None for reference in kept)
    assert not alive, f"{alive} tensors of the graph of {_name(network, index)} outlive its step"


def check_stateless(network: Blueprint, index: int) -> None:
    """Check that a block's random numbers depend on seed, index and step alone, that it moves no other generator, and
    that it writes all rows that it hands on."""
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        block, rows = network.make(index, Workspace(CPU)), _Noise(network, index)
        for step in range(STEPS):
            rows.out.fill_(seed % 2)  # other numbers in both, where the block writes none
            left = rows.left(block, step)
        assert torch.equal(torch.get_rng_state(), before), f"{_name(network, index)} moved torch's own generator"
        found.append(left)
    one, other = found
    what = f"{_name(network, index)} draws from a generator that others draw from, or leaves rows of `out` as they were"
    _assert_same(one, other, f"{what}: in")


def check_saved(network: Blueprint, index: int) -> None:
    """Check that a block saves what it says that it saves, and comes back from it to the bit."""
    block, rows = network.make(index, Workspace(CPU)), _Noise(network, index)
    for step in range(STEPS):
        rows.learn(block, step)
    saved = {name: tensor.detach().clone() for name, tensor in block.state().items()}
    contents = block.contents(STEPS)
    for name, tensor in saved.items():
        found = (tuple(tensor.shape), tensor.dtype)
        assert name in contents, f"{_name(network, index)} saves {name!r}, which it does not list"
        listed = (contents[name].shape, contents[name].dtype)
        assert found == listed, f"{_name(network, index)} lists {name!r} as {listed}, and saves {found}"
    missing = [name for name, kept in contents.items() if name not in saved and not kept.optional]
    assert not missing, f"{_name(network, index)} lists {missing}, and does not save it"
    other = network.make(index, Workspace(CPU))
    other.restore(saved)
    what = f"{_name(network, index)} is not what it was before it was saved: in"
    for step in range(STEPS, 2 * STEPS):
        _assert_same(rows.left(block, step), rows.left(other, step), what)


def check_memory(network: Blueprint, index: int) -> None:
    """Check that a step takes as much memory as the plan says, within 15 % above and 5 % below."""
    block, rows = network.make(index, Workspace(CPU)), _Noise(network, index)
    # Not counted, nor by the plan: the first step makes the state of an optimiser.
    rows.learn(block, 0)
    with PeakMemory() as memory:
        rows.learn(block, 1)
    predicted, measured = costs_of(network)[index].step, memory.peak
    if max(predicted, measured) < LEAST_BYTES:
        return
    low, high = measured * (1 - TOO_LOW), measured * (1 + TOO_HIGH)
    assert low <= predicted <= high, f"a step of {_name(network, index)} takes {measured} bytes, planned: {predicted}"


def check_engines(
    model: Model,
    *,
    shape: tuple[int, ...],
    classes: int,
    folder: str | Path,
    ways: tuple[Mapping[str, Any], ...] = WAYS,
    **fields: Any,
) -> str:
    """Train a little on noise through each engine; all must end with the same weights, whose digest is returned.

    folder: for the runs, made where it is not there. ways: fields of `execution`. The Ray engine starts Ray where it
    does not run yet.
    """
    config, count = _plain(fields), 240
    values = min(classes, 256) if config.training.inputs == "tokens" else 256
    images = np.random.default_rng(1).integers(0, values, size=(count, *shape), dtype=np.uint8)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "noise.npz"
    np.savez(path, x_train=images, y_train=np.arange(count, dtype=np.int64) % classes)
    data = Data(source="npz", train=(str(path),), classes=classes, test_count=40)
    training = replace(config.training, data=data)
    digests = {}
    for number, way in enumerate(ways):
        execution = replace(config.execution, **{**way, "run_dir": str(folder / f"run-{number}")})
        made = train(replace(config, training=training, execution=execution), model=model)
        digests[str(dict(way))] = made.weights_sha256
    assert len(set(digests.values())) == 1, f"the weights depend on the way they are trained: {digests}"
    return next(iter(digests.values()))


class _Noise:
    """Rows, labels and room for what one block makes of them: noise, always the same."""

    def __init__(self, network: Blueprint, index: int) -> None:
        self._layout, self._block = network.layout, _name(network, index)
        outline = network.outlines[index]
        chance = torch.Generator().manual_seed(1)

        def drawn(spec: RowSpec, symbols: int = 2) -> Tensor:
            shape = (self._layout.rows, *spec.shape)
            if spec.dtype.is_floating_point or spec.dtype.is_complex:  # not below 0, as pixels and rectified activities
                return torch.rand(shape, generator=chance).to(spec.dtype)
            return torch.randint(0, symbols, shape, generator=chance).to(spec.dtype)

        # Ids of symbols, of which a network on tokens has as many as classes; of those that an earlier block makes
        # only the first two are sure to be there.
        self._x = drawn(outline.inputs, 2 if index else network.takes.classes)
        self._kept = [drawn(network.outlines[network.kept[name]].outputs) for name in outline.use]
        labels = torch.randint(0, network.takes.classes, (self._layout.batch, *network.labels.shape), generator=chance)
        self._labels = None if network.training.contrasts else labels
        self.out = torch.empty(self._layout.rows, *outline.outputs.shape, dtype=outline.outputs.dtype)

    @torch.no_grad()
    def learn(self, block: Block, step: int) -> Learned:
        """Make one step of the block. Raises AssertionError, which names it, where a run would end with a line."""
        taken = (self._x, *self._kept) if self._labels is None else (self._x, self._labels, *self._kept)
        versions = [each._version for each in taken]
        try:
            found = block.learn(self._x, self._layout, self._labels, Step(step), self.out, self._kept)
            made = as_learned(found, "learn")
            refuse_changed(taken, versions, "it")
        except UserError as error:
            raise AssertionError(f"{self._block}: {error}") from error
        return made

    def left(self, block: Block, step: int) -> dict[str, Tensor]:
        """Make one step of the block. Returns a copy of its state, and of what it hands on."""
        self.learn(block, step)
        return {name: each.detach().clone() for name, each in {**block.state(), HANDED_ON: self.out}.items()}


def _plain(fields: Mapping[str, Any]) -> Config:
    """Return a run without negatives, by Adam, but for these fields of `training`."""
    config = get_recipe("digits")
    training = replace(
        config.training,
        negatives="none",
        head=False,
        labels="none",
        batch_size=16,
        epochs=2,
        optimizer=Optimizer(kind="Adam", learning_rate=0.001),
        data=Data(),
    )
    config = replace(config, training=training, execution=replace(config.execution, evaluate_every=0))
    return override(config, {f"training.{name}": value for name, value in fields.items()})


def _assert_same(one: Mapping[str, Tensor], other: Mapping[str, Tensor], what: str) -> None:
    assert one.keys() == other.keys(), f"{what} {sorted(one.keys() ^ other.keys())}"
    differing = [name for name in one if not torch.equal(one[name], other[name])]
    assert not differing, f"{what} {differing}"


def _name(network: Blueprint, index: int) -> str:
    return f"block {index} ({network.outlines[index].name})"

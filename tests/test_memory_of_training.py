"""Savings of memory where blocks are trained by autograd: activations made again, and minibatches in parts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from blueprints import blueprint_of
from covering import only
from end_to_end import BLOCKS, CPU, NO_NEGATIVES, evaluations, of_blocks
from torch import Tensor

from ffpipe import UserError, load, override, recipe, train
from ffpipe.config.schema import BlockConfig, Training
from ffpipe.learn.block import Step
from ffpipe.learn.local import LocalBlock
from ffpipe.learn.spec import PLAIN, RowLayout
from ffpipe.learn.workspace import Workspace
from ffpipe.pipeline.job import make_job


@pytest.mark.parametrize("precision", only(["float32"], ["float32", "bfloat16"]))
def test_checkpointing_gives_the_same_bits(precision: str, tmp_path: Path) -> None:
    """Masks of dropout and running statistics are not drawn or moved twice where activations are made again."""
    digests = []
    for checkpointing in (False, True):
        run = tmp_path / str(checkpointing)
        result = train(of_blocks(run, precision=precision, checkpointing=checkpointing))
        digests.append((result.weights_sha256, evaluations(result)))
    assert digests[0] == digests[1]


def kept_bytes(*, checkpointing: bool) -> int:
    """Return the bytes that a forward pass keeps for the backward one, weights not counted."""
    training = Training(batch_size=50, method="backprop", blocks=BLOCKS, checkpointing=checkpointing)
    block = blueprint_of(training, (8, 8)).make(0, Workspace(CPU))
    assert isinstance(block, LocalBlock)
    weights = {parameter.untyped_storage().data_ptr() for parameter in block.parameters()}
    found: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        _ = block.train().body(torch.rand(50, 1, 8, 8))
        return sum(found.values())


def test_checkpointing_keeps_the_inputs_of_blocks_alone() -> None:
    assert kept_bytes(checkpointing=True) < kept_bytes(checkpointing=False) / 2


@pytest.mark.parametrize("method", ["backprop", "forward-forward"])
def test_accumulation_sums_gradients_before_one_update(method: str, tmp_path: Path) -> None:
    """Parts of a minibatch give the update of the whole, to rounding, where nothing is over the minibatch."""
    blocks = (BlockConfig(kind="dense", options={"width": 20}), BlockConfig(kind="dense", options={"width": 20}))
    found = []
    for parts in (1, 5):
        training = {"method": method, "blocks": blocks, "accumulation": parts, "precision": "float64", **NO_NEGATIVES}
        run = tmp_path / f"{parts}"
        result = train(override(of_blocks(run, **training), {"execution.engine": "local"}))
        weights = [tensor for block in load(run).blocks for tensor in block.state_dict().values()]
        found.append((weights, result.weights_sha256))
    assert found[0][1] != found[1][1], "the sums are made in another order"
    for whole, parted in zip(found[0][0], found[1][0], strict=True):
        torch.testing.assert_close(whole, parted, rtol=1e-9, atol=1e-11)


def test_accumulation_holds_a_part_at_a_time() -> None:
    """The graph of a part alone is kept, whatever the minibatch."""
    peaks = []
    for parts in (1, 5):
        training = Training(
            batch_size=200, method="backprop", blocks=BLOCKS, accumulation=parts, negatives="none", head=False
        )
        block = blueprint_of(training, (8, 8)).make(0, Workspace(CPU))
        x, out = torch.rand(200, 1, 8, 8), torch.empty(200, *block.outputs.shape)
        kept, most = 0, 0

        def pack(tensor: Tensor) -> Tensor:
            nonlocal kept, most
            kept += tensor.nbytes
            most = max(most, kept)
            return tensor

        def unpack(tensor: Tensor) -> Tensor:
            nonlocal kept
            kept -= tensor.nbytes
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
            block.learn(x, RowLayout(200, PLAIN), torch.zeros(200, dtype=torch.int64), Step(0), out)
        peaks.append(most)
    assert peaks[1] < 0.3 * peaks[0]


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"training.accumulation": 3}, "does not divide training.batch_size 50"),
        ({"training.accumulation": 2, "training.negatives": "random", "training.labels": "overlay"}, "not of pairs"),
    ],
)
def test_accumulation_that_cannot_be(fields: dict[str, object], says: str) -> None:
    with pytest.raises(UserError, match=says):
        override(recipe("digits-cnn"), {"training.batch_size": 50, **fields})


@pytest.mark.parametrize("method", ["forward-forward", "backprop"])
def test_a_loss_that_compares_examples_is_not_of_parts(method: str) -> None:
    head = {"objective_options": {"similarity": 0.5}}
    fields = {"training.method": method, "training.batch_size": 50, "training.accumulation": 2, "execution.stages": 1}
    alike = {"training.blocks": [{"kind": "dense", "options": {"width": 9}, **head}]}
    with pytest.raises(UserError, match=r"\(similarity\), so .* be cut: give --training.accumulation 1"):
        make_job(override(recipe("digits-cnn"), fields | alike))
    # Batch normalisation is over a part.
    assert make_job(override(recipe("digits-cnn"), fields))

"""What a stage is said to hold is what torch's allocator gave it, to a few percent, and does not grow with depth."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from memory_tensors import peak_bytes

from ffpipe.config.schema import Optimizer, Training
from ffpipe.pipeline.schedule import Train
from ffpipe.pipeline.stage import Stage, StageSpec
from ffpipe.pipeline.streams import Streams
from ffpipe.planning.account import Holding, Sizes, holding, incoming, outgoing
from ffpipe.storage.checkpoint import Input

BATCH, CHUNK, CLASSES = 50, 3, 10


def made(depth: int, width: int, layers: range, **fields: Any) -> tuple[int, Holding]:
    """Peak bytes of a stage that trains on a few messages, and what was said of it, without its snapshots."""
    training = Training(dims=(300, *[width] * depth), batch_size=BATCH, head_from=depth - 2, **fields)
    spec = StageSpec(
        index=0 if layers.stop < depth else 1,
        stages=2,
        layers=layers,
        training=training,
        width=300,
        classes=CLASSES,
        steps=100,
        steps_per_epoch=10,
        log_steps=10,
        device="cpu",
    )
    of = Sizes(training, Input((300,), 300, CLASSES), CHUNK)
    products = torch.bfloat16 if training.precision == "bfloat16" else torch.float32
    rows = torch.rand(CHUNK, of.rows, of.widths[layers.start]).to(products)
    labels = torch.zeros(CHUNK, BATCH, dtype=torch.int64)
    seen = {i: torch.rand(CHUNK, BATCH, width).to(products) for i in training.head_layers if i < layers.start - 1}

    def work() -> None:
        stage = Stage(spec, lambda *_: None)
        for message in range(2):
            stage.handle(Train(message * CHUNK, CHUNK), Streams(rows, labels, None, dict(seen)))

    return peak_bytes(work), holding(of, layers, sends=False, receives=True)


OPTIMIZERS = (Optimizer(), Optimizer(kind="Adam", learning_rate=0.001), Optimizer(kind="SGD"))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda optimizer: optimizer.kind)
@pytest.mark.parametrize("layers", [range(2, 3), range(3, 6)], ids=["one in the middle", "the last three"])
def test_tensors_are_what_was_said(layers: range, optimizer: Optimizer, precision: Any) -> None:
    peak, said = made(6, 300, layers, optimizer=optimizer, precision=precision)
    assert peak == pytest.approx(said.total - said.snapshot, rel=0.15)


def test_a_stage_does_not_grow_with_the_depth_of_the_network() -> None:
    peaks = [made(depth, 200, range(1, 2))[0] for depth in (4, 16, 64)]
    assert max(peaks) == min(peaks)


def test_a_second_layer_brings_its_weights_and_no_buffers() -> None:
    (_, one), (_, two) = made(8, 400, range(1, 2)), made(8, 400, range(1, 3))
    assert two.parameters == 2 * one.parameters
    assert two.optimizer == 2 * one.optimizer
    assert two.buffers == one.buffers


def test_more_minibatches_in_a_message_take_no_more_but_for_messages() -> None:
    training = Training(dims=(300, 400, 400), batch_size=BATCH)
    few, many = (
        holding(Sizes(training, Input((300,), 300, CLASSES), chunk), range(2), sends=True, receives=False)
        for chunk in (1, 4)
    )
    assert many.messages > 3 * few.messages
    assert (many.parameters, many.optimizer, many.buffers) == (few.parameters, few.optimizer, few.buffers)


def test_files_have_the_bytes_of_their_tensors() -> None:
    training = Training(dims=(300, 400), batch_size=BATCH, head_from=0)
    whole, optimizer = Sizes(training, Input((300,), 300, CLASSES), 1).files["layer-000.safetensors"]
    assert whole == 4 * (2 * 300 * 400 + 3 * 400) + 2 * 8 + 8
    assert optimizer == 4 * (300 * 400 + 400)


@pytest.mark.parametrize(
    ("layers", "comes", "goes"),
    [
        # Of layers of 400, 300, 200 and 100 units; two minibatches a message, three roles of 5 examples; float32.
        (range(1), 0, 2 * 15 * 400 * 4),
        (range(1, 2), 2 * 15 * 400 * 4, 2 * (15 * 300 + 5 * 300) * 4),
        (range(2, 3), 2 * 15 * 300 * 4, 2 * (15 * 200 + 5 * 200) * 4),
        (range(3, 4), 2 * (15 * 200 + 5 * 300) * 4, 0),  # of layer 2 the features are among the rows
    ],
    ids=str,
)
def test_a_message_is_its_rows_and_the_features_that_go_past_the_neighbours(
    layers: range, comes: int, goes: int
) -> None:
    training = Training(dims=(64, 400, 300, 200, 100), batch_size=5, head_from=1)
    of = Sizes(training, Input((64,), 64, CLASSES), 2)
    assert incoming(of, layers) == comes
    assert outgoing(of, layers) == goes
    headless = replace(training, head=False, negatives="random")
    of = Sizes(headless, Input((64,), 64, CLASSES), 2)
    assert incoming(of, range(3, 4)) == 2 * 10 * 200 * 4  # no neutral rows, no features

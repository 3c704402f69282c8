"""Stages hold what they are said to hold, which is what torch's allocator gave it, to a few percent, and does not grow
with depth."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from blueprints import Joined, blueprint_of
from covering import in_pairs, in_turn
from memory_tensors import peak_bytes
from torch import nn

from ffpipe import override, recipe
from ffpipe.config.schema import BlockConfig, Optimizer, Training
from ffpipe.learn.blueprint import Blueprint
from ffpipe.learn.local_item import Local
from ffpipe.learn.precision import PRECISIONS
from ffpipe.pipeline.feed import Feed
from ffpipe.pipeline.job import make_job
from ffpipe.pipeline.packet import LABELS, TAP, X
from ffpipe.pipeline.saver import FileState
from ffpipe.pipeline.schedule import Evaluate, Snapshot, Train
from ffpipe.pipeline.stage import Stage
from ffpipe.pipeline.stage_spec import StageSpec
from ffpipe.planning.layout import make_layout
from ffpipe.planning.memory import MemoryBreakdown, NetworkSizes, breakdown, incoming, outgoing
from ffpipe.storage.checkpoint import HEAD, layer_file

BATCH, CHUNK = 50, 3
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _one_thread(threads_put_back: None) -> None:
    """On more, the first step takes memory for trials (planning/memory.py), which is not in these figures."""
    torch.set_num_threads(1)


def stage_spec(network: Blueprint, layers: range) -> StageSpec:
    """Return a stage with these blocks, between one with those before and one with those after."""
    groups = [range(layers.start), layers, range(layers.stop, len(network))]
    return StageSpec(int(layers.start > 0), tuple(group for group in groups if group), network, 100, 10, "cpu")


def made(network: Blueprint, layers: range) -> tuple[int, MemoryBreakdown]:
    """Return the peak bytes of a stage that trains on a few messages, and what was said of it, without its
    snapshots."""
    spec, of, rows = stage_spec(network, layers), NetworkSizes(network, CHUNK), network.edges[layers.start]
    tensors = {
        X: torch.rand(CHUNK, network.layout.rows, *rows.shape).to(rows.dtype),
        LABELS: torch.zeros(CHUNK, BATCH, dtype=torch.int64),
    }
    if spec.is_last:
        for i in (i for i in network.taps if i < layers.start - 1):
            edge = network.outlines[i].outputs
            tensors[f"{TAP}{i}"] = torch.rand(CHUNK, BATCH, *edge.shape).to(edge.dtype)

    def work() -> None:
        stage = Stage(spec, lambda *_: None)
        for message in range(2):
            stage.handle(Train(message * CHUNK, CHUNK), tensors)

    return peak_bytes(work), breakdown(of, layers, sends=False, receives=True)


def dense(depth: int, width: int, **fields: Any) -> Blueprint:
    return blueprint_of(Training(dims=(300, *[width] * depth), batch_size=BATCH, head_from=depth - 2, **fields))


OPTIMIZERS = (Optimizer(), Optimizer(kind="Adam", learning_rate=0.001), Optimizer(kind="SGD"))


@pytest.mark.parametrize(
    ("layers", "optimizer", "precision"), in_pairs([range(2, 3), range(3, 6)], OPTIMIZERS, ["float32", "bfloat16"])
)
def test_tensors_are_what_was_said(layers: range, optimizer: Optimizer, precision: Any) -> None:
    peak, said = made(dense(6, 300, optimizer=optimizer, precision=precision), layers)
    assert peak == pytest.approx(said.total - said.snapshot, rel=0.15)


# The memory that kernels of a convolution in bfloat16 take inside themselves depends on the processor, and torch tells
# of it nowhere: such blocks are not held to this.
@pytest.mark.parametrize(
    ("kind", "size", "precision"),
    [("conv", "channels", "float32"), ("dense", "width", "float32"), ("dense", "width", "bfloat16")],
)
@pytest.mark.parametrize("layers", [range(1, 2), range(1, 3)], ids=["one in the middle", "the last two"])
def test_tensors_of_blocks_trained_by_autograd_are_what_was_said(
    kind: str, size: str, precision: Any, layers: range
) -> None:
    sizes = (8, 12, 16) if kind == "conv" else (300, 250, 200)
    training = Training(
        blocks=tuple(BlockConfig(kind=kind, options={size: each}) for each in sizes),
        batch_size=BATCH,
        negatives="none",
        head_from=1,
        goodness_from=0,
        precision=precision,
        optimizer=Optimizer(kind="Adam", learning_rate=0.001),
    )
    peak, said = made(blueprint_of(training, (12, 12)), layers)
    assert peak == pytest.approx(said.total - said.snapshot, rel=0.15)


def test_a_stage_does_not_grow_with_the_depth_of_the_network() -> None:
    peaks = [made(dense(depth, 200), range(1, 2))[0] for depth in (4, 16, 64)]
    assert max(peaks) == min(peaks)


def test_a_second_layer_brings_its_weights_and_no_buffers() -> None:
    network = dense(8, 400)
    (_, one), (_, two) = made(network, range(1, 2)), made(network, range(1, 3))
    assert two.parameters == 2 * one.parameters
    assert two.optimizer == 2 * one.optimizer
    assert two.buffers == one.buffers


def test_more_minibatches_in_a_message_take_no_more_but_for_messages() -> None:
    network = blueprint_of(Training(dims=(300, 400, 400), batch_size=BATCH))
    few, many = (breakdown(NetworkSizes(network, chunk), range(2), sends=True, receives=False) for chunk in (1, 4))
    assert many.messages > 3 * few.messages
    assert (many.parameters, many.optimizer, many.buffers) == (few.parameters, few.optimizer, few.buffers)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_stage_that_feeds_itself_holds_images_and_rows_beside(precision: str) -> None:
    fields = {"training.dims": [64, 8], "training.batch_size": BATCH, "training.precision": precision}
    read_outs = {"training.head_from": 0, "training.goodness_from": 0, "training.negatives": "random"}
    job = make_job(override(recipe("digits"), {**fields, **read_outs, "execution.stages": 1}))
    spec, of = stage_spec(job.network, range(1)), NetworkSizes(job.network, CHUNK)
    examples = CHUNK * job.network.layout.rows // job.network.rows_of_example

    def work() -> None:
        stage, feed = Stage(spec, lambda *_: None), Feed(job.network, job.splits, CPU)
        for item in (Train(0, CHUNK), Train(CHUNK, CHUNK), Evaluate(2 * CHUNK, "test", 0, examples, last=True)):
            stage.handle(item, feed.tensors(item))

    said = breakdown(of, range(1), sends=False, receives=False)
    assert said.messages > 0.8 * (said.total - said.snapshot)  # a layer so small that all else is what is fed
    assert peak_bytes(work) == pytest.approx(said.total - said.snapshot, rel=0.15)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_an_example_of_more_rows_than_a_minibatch(precision: str) -> None:
    """Two images make four rows, and one that is tested under every label ten. There are three of them in a message."""
    chunk = 8
    fields = {"training.dims": [64, 5000], "training.batch_size": 2, "training.precision": precision}
    alone = {"training.head": False, "training.goodness_from": 0, "training.negatives": "random"}
    job = make_job(override(recipe("digits"), {**fields, **alone, "execution.stages": 1, "execution.chunk": chunk}))
    layout = make_layout(job, 1)
    (spec,), plan, of = layout.stages, layout.plan, NetworkSizes(job.network, chunk)
    tests = [Evaluate(chunk, "test", first, plan.evaluation_batch, last=False) for first in range(3)]
    stage, feed = Stage(spec, lambda *_: None), Feed(job.network, job.splits, CPU)
    stage.handle(Train(0, chunk), feed.tensors(Train(0, chunk)))
    held = sum(buffer.nbytes for buffer in stage.workspace._buffers.values())
    tensors = [feed.tensors(item) for item in tests]

    def work() -> None:
        for item, rows in zip(tests, tensors, strict=True):
            stage.handle(item, rows)

    said = breakdown(of, range(1), sends=False, receives=False)
    output = of.rows_of_message * job.network.edges[-1].nbytes
    assert held + peak_bytes(work) == pytest.approx(said.buffers + output, rel=0.1)


def test_files_have_the_bytes_of_their_tensors() -> None:
    network = blueprint_of(Training(dims=(300, 400), batch_size=BATCH, head_from=0, goodness_from=0))
    whole, optimizer = NetworkSizes(network, 1).state(range(1))[0]
    assert whole == 4 * (2 * 300 * 400 + 3 * 400) + 2 * 8 + 8
    assert optimizer == 4 * (300 * 400 + 400)


@pytest.mark.parametrize(("optimizer", "precision"), in_turn(OPTIMIZERS, ["float32", "bfloat16"]))
def test_a_snapshot_has_the_bytes_of_what_is_saved(precision: Any, optimizer: Optimizer) -> None:
    """Every layer counts, and the head with the predictions that it owes."""
    lag = 4
    network = dense(3, 40, precision=precision, optimizer=optimizer, negatives="hard", negative_lag=lag)
    saved: dict[str, FileState] = {}
    stage = Stage(stage_spec(network, range(3)), lambda step, files: saved.update(files))
    rows = torch.rand(lag, network.layout.rows, 300).to(PRECISIONS[network.training.precision].products)
    stage.handle(Train(0, lag), {X: rows, LABELS: torch.zeros(lag, BATCH, dtype=torch.int64)})
    stage.handle(Snapshot(lag), None)
    sizes = [sum(t.nbytes for t in saved[name].state.values()) for name in (*map(layer_file, range(3)), HEAD)]
    of = NetworkSizes(network, CHUNK)
    assert [whole for whole, _ in of.state(range(3))] == sizes
    assert of.whole_state == sum(sizes)
    assert breakdown(of, range(3), sends=False, receives=True).snapshot == max(sum(sizes), 2 * max(sizes))


@pytest.mark.parametrize(
    ("layers", "comes", "goes"),
    [
        # Layers of 400, 300, 200 and 100 units; two minibatches a message, three roles of 5 examples; float32.
        (range(1), 0, 2 * 15 * 400 * 4),
        (range(1, 2), 2 * 15 * 400 * 4, 2 * (15 * 300 + 5 * 300) * 4),
        (range(2, 3), 2 * 15 * 300 * 4, 2 * 15 * 200 * 4),  # the last stage has the features of layer 2 as its rows
        (range(3, 4), 2 * (15 * 200 + 5 * 300) * 4, 0),
    ],
    ids=str,
)
def test_a_message_is_its_rows_and_the_features_that_go_past_the_neighbours(
    layers: range, comes: int, goes: int
) -> None:
    training = Training(dims=(64, 400, 300, 200, 100), batch_size=5, head_from=1)
    of = NetworkSizes(blueprint_of(training, (64,)), 2)
    assert incoming(of, layers) == comes
    assert outgoing(of, layers) == goes
    headless = replace(training, head=False, negatives="random")
    of = NetworkSizes(blueprint_of(headless, (64,)), 2)
    assert incoming(of, range(3, 4)) == 2 * 10 * 200 * 4  # no neutral rows, no features


def kept_outputs() -> list[Local]:
    return [
        Local(nn.Linear(64, 40), keep="first"),
        Local(nn.Linear(40, 30), keep="second"),
        Local(partial(Joined, 30 + 30, 20), use=("second",)),
        Local(partial(Joined, 20 + 40, 10), use=("first",)),
    ]


@pytest.mark.parametrize(
    ("layers", "comes", "goes"),
    [
        # Blocks of 40, 30, 20 and 10 units; two minibatches a message, the 5 examples alone; float32. The output of
        # block 0 is kept for block 3, and that of block 1 for block 2, to which it comes as rows.
        (range(1), 0, 2 * 5 * (40 + 40) * 4),
        (range(1, 2), 2 * 5 * 40 * 4, 2 * 5 * 30 * 4),
        (range(2, 3), 2 * 5 * 30 * 4, 2 * 5 * 20 * 4),
        (range(3, 4), 2 * 5 * (20 + 40) * 4, 0),
        (range(2, 4), 2 * 5 * (30 + 40) * 4, 0),
        (range(1, 3), 2 * 5 * 40 * 4, 2 * 5 * 20 * 4),
    ],
    ids=str,
)
def test_a_kept_output_goes_past_the_neighbours_to_who_uses_it(layers: range, comes: int, goes: int) -> None:
    training = Training(batch_size=5, negatives="none", head=False, goodness_from=0)
    of = NetworkSizes(blueprint_of(training, (64,), function=kept_outputs), 2)
    assert incoming(of, layers) == comes
    assert outgoing(of, layers) == goes

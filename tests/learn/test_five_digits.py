"""The TensorFlow program's algorithm: recipes `tf-*` held against a program of its own, written from the equations."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from disturbed import reports_each_step
from five_digits_program import BATCH, CLASSES, EPOCHS, WIDTHS, Program, batches
from safetensors import safe_open

from ffpipe import Callback, Config, Interrupted, UserError, export, load, override, recipe, resume, train
from ffpipe.config.fields import checked
from ffpipe.config.schema import BlockConfig
from ffpipe.data.splits import load_splits
from ffpipe.learn.dense import FFDense, initial_weight
from ffpipe.learn.local_item import of_config
from ffpipe.learn.turns import Turns
from ffpipe.telemetry.callbacks import RunStart
from ffpipe.telemetry.report import LayerRow


def on_digits(name: str, run: Path, **fields: Any) -> Config:
    """A recipe on five of the digits, small, in float64, in one process and with a row of metrics an epoch."""
    widths = {} if recipe(name).training.blocks or "blocks" in fields else {"dims": [64, *WIDTHS]}
    small = {"epochs": EPOCHS, "batch_size": BATCH, "precision": "float64", **widths, **fields}
    made = override(recipe(name), {f"training.{field}": value for field, value in small.items()})
    order = made.training.data.order
    data = replace(recipe("digits").training.data, split_seed=-1, order=order, positive_classes=CLASSES)
    execution = replace(made.execution, engine="local", stages=1, snapshot_steps=0, run_dir=str(run))
    return replace(made, training=replace(made.training, data=data), execution=execution)


@pytest.mark.parametrize("name", ["tf-five-digits", "tf-five-digits-supervised"])
def test_the_recipe_is_the_program(name: str, tmp_path: Path) -> None:
    """Some forty steps: weights of layers and softmax, losses, and both test errors."""
    config = on_digits(name, tmp_path / "run")
    splits, seed = load_splits(config.training.data), config.training.seed
    program = Program(seed, 0.0001, labelled=config.training.labels == "overlay")
    positive, negative = batches(splits, seed)
    losses = []
    for _ in range(EPOCHS):
        for images, labels in positive:
            program.train_softmax(program.train_on(program.row(images, labels), 1.0), labels)
        for images, labels in negative:
            program.train_on(program.row(images, labels), 0.0)
        losses += [float(np.mean(layer.losses)) for layer in program.layers]
        for layer in program.layers:
            layer.losses = []
    result = train(config)
    check_weights(tmp_path / "run", program)
    assert result.summary["steps_per_epoch"] == len(positive) + len(negative)
    table = pq.read_table(tmp_path / "run" / "metrics.parquet").to_pylist()
    assert [row["loss"] for row in table if row["layer"] >= 0] == pytest.approx(losses, rel=1e-6)
    rows = np.arange(len(splits.test))
    images, labels = splits.test.images(rows).astype(np.float64), splits.test.labels(rows)
    errors = program.errors(images, labels)
    assert (result.test_error_goodness, result.test_error_softmax) == pytest.approx(errors)
    tested = result.summary["evaluations"][-1]["losses"]
    assert list(tested.values()) == pytest.approx(program.losses(images, labels), rel=1e-6)


def check_weights(run: Path, program: Program) -> None:
    network = load(run)
    for block, layer in zip(network.blocks, program.layers, strict=True):
        assert isinstance(block, FFDense)
        weights = block.weights()
        np.testing.assert_allclose(weights["weight"].detach().numpy(), layer.weight, rtol=1e-5, atol=1e-8)
        np.testing.assert_allclose(weights["bias"].detach().numpy(), layer.bias, rtol=1e-5, atol=1e-8)
    assert network.head is not None
    weights = network.head.weights()
    found = np.concatenate([weights[f"weight.{i}"].detach().numpy() for i in (1, 2, 3)])
    np.testing.assert_allclose(found, program.weight, rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose(weights["bias"].detach().numpy(), program.bias, rtol=1e-5, atol=1e-8)


def one_after_another(run: Path, **fields: Any) -> Config:
    """`tf-layer-by-layer`, whose layers learn for an epoch each."""
    config = on_digits("tf-layer-by-layer", run, epochs=4, **fields)
    blocks = tuple(
        replace(block, options={"width": width}, first_epoch=index, last_epoch=index + 1)
        for index, (block, width) in enumerate(zip(config.training.blocks, WIDTHS, strict=True))
    )
    data = replace(config.training.data, order="file")
    return replace(config, training=replace(config.training, blocks=blocks, data=data))


def test_layers_learn_one_after_another(tmp_path: Path) -> None:
    config = one_after_another(tmp_path / "run")
    program = Program(config.training.seed, 0.001, labelled=False)
    positive, negative = batches(load_splits(config.training.data), config.training.seed)
    for epoch in range(4):
        for images, labels in positive:
            program.train_softmax(program.train_on(images, 1.0, range(epoch, epoch + 1)), labels)
        for images, _ in negative:
            program.train_on(images, 0.0, range(epoch, epoch + 1))
    train(config)
    check_weights(tmp_path / "run", program)


def test_exported_weights_make_the_same_scores_in_plain_linear_layers(tmp_path: Path) -> None:
    run = train(on_digits("tf-five-digits", tmp_path / "run")).run_dir
    with safe_open(export(run, tmp_path / "weights.safetensors"), "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
    images = torch.rand(9, 64, dtype=torch.float64)
    rows, logits = images, tensors["head.bias"].expand(9, -1)
    for layer in range(4):
        weight, bias = (tensors[f"layer{layer}.{name}"] for name in ("weight", "bias"))
        rows = torch.relu(torch.nn.functional.linear(rows, weight, bias))
        rows = rows / (rows.norm(dim=1, keepdim=True) + 1e-7)
        if layer:
            logits = logits + torch.nn.functional.linear(rows, tensors[f"head{layer}.weight"])
    torch.testing.assert_close(logits, load(run)(images))


def test_a_layer_in_closed_form_has_an_optimiser_of_its_own(tmp_path: Path) -> None:
    """One whose rate is next to nothing stays as it was, the others move."""
    config = one_after_another(tmp_path / "run")
    still = replace(config.training.optimizer, learning_rate=1e-30)
    blocks = [replace(block, first_epoch=0, last_epoch=0) for block in config.training.blocks]
    blocks[1] = replace(blocks[1], optimizer=still)
    train(replace(config, training=replace(config.training, blocks=tuple(blocks))))
    moved = []
    for index, block in enumerate(load(tmp_path / "run").blocks):
        assert isinstance(block, FFDense)
        weight = block.weight.detach().numpy()
        fan_in, width = weight.shape
        first = initial_weight(config.training.seed, index, fan_in, width, "glorot").double().numpy()
        moved.append(bool((weight != first).any()))
    assert moved == [True, False, True, True]


@pytest.mark.parametrize(
    "name",
    [
        "tf-layer-by-layer",
        *(pytest.param(n, marks=pytest.mark.long) for n in ("tf-five-digits", "tf-five-digits-supervised")),
    ],
)
@pytest.mark.usefixtures("cluster")
def test_no_engine_moves_a_bit(name: str, tmp_path: Path) -> None:
    """Stages, chunks across the end of a role, snapshots within an epoch, and a run that goes on elsewhere."""

    def config(run: str, **execution: Any) -> Config:
        small = {"data.order": "shuffled", "peer": 0.03, "dropout": 0.1, "batch_size": 60}
        made = (
            one_after_another(tmp_path / run, **small) if "layer" in name else on_digits(name, tmp_path / run, **small)
        )
        return replace(made, execution=replace(made.execution, **execution))

    alone = train(config("local", chunk=1)).weights_sha256
    ways: dict[str, dict[str, Any]] = {
        "local": {"chunk": 5, "stages": 3},
        "layerwise": {"engine": "layerwise", "stages": 4, "chunk": 3, "chapter": 9, "snapshot_steps": 17},
        "ray": {"engine": "ray", "stages": 2, "chunk": 4, "snapshot_steps": 20, "log_steps": 7},
    }
    for way, execution in ways.items():
        assert train(config(f"by {way}", **execution)).weights_sha256 == alone, way


class StopAt(Callback):
    """An end of a run at the first step after `step` at which it can go on."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_start(self, run: RunStart) -> None:
        self.run = run

    def on_row(self, row: LayerRow) -> None:
        if row.step >= self.step:
            self.run.stop()


def test_a_run_goes_on_among_negative_steps(tmp_path: Path) -> None:
    """The softmax's losses of the interval that is open are kept too, where its steps are over for the epoch."""

    def config(run: str) -> Config:
        made = on_digits("tf-five-digits", tmp_path / run)
        return replace(made, execution=replace(made.execution, chunk=1, log_steps=1))

    whole = train(config("whole"))
    steps = whole.summary["steps_per_epoch"]
    with pytest.raises(Interrupted):
        train(config("broken"), callbacks=[StopAt(steps - 2)], engine=reports_each_step)
    again = resume(tmp_path / "broken", {"execution.engine": "layerwise", "execution.stages": 4})
    assert again.weights_sha256 == whole.weights_sha256
    tables = [pq.read_table(tmp_path / run / "metrics.parquet").to_pylist() for run in ("whole", "broken")]
    assert tables[0] == tables[1]


def test_turns() -> None:
    turns = Turns(5, 3)
    assert [turns.role(step) for step in range(6)] == ["positive"] * 3 + ["negative"] * 2 + ["positive"]
    assert [turns.minibatch(step) for step in range(10)] == [0, 1, 2, 0, 1, 3, 4, 5, 2, 3]
    assert [turns.of_all_roles(step) for step in range(5, 10)] == [(5, 8), (6, 9), (7, 9), (5, 8), (6, 9)]
    plain = Turns(5)
    assert (plain.role(7), plain.minibatch(7), plain.of_all_roles(7)) == ("", 7, (7,))


REFUSED = {
    "negatives of predictions": (
        {"phases": "by-epoch"},
        "training.phases 'by-epoch' has no pairs, for which training.negatives 'hard' are made of predictions",
    ),
    "an objective of pairs": (
        {"phases": "by-epoch", "negatives": "random", "objective": "symba"},
        "training.objective 'symba' compares each pair: set training.phases together",
    ),
    "shards": ({"phases": "by-epoch", "negatives": "random", "shards": 2}, "training.phases 'by-epoch' takes 1"),
    "labels for tests beside those in the rows": (
        {"test_labels": "overlay"},
        "training.test_labels are for rows that carry none, but training.labels is 'append'",
    ),
}


@pytest.mark.parametrize(("fields", "line"), REFUSED.values(), ids=REFUSED.keys())
def test_what_steps_of_one_role_do_not_take(fields: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError, match=line):
        override(recipe("digits"), {f"training.{name}": value for name, value in fields.items()})


def test_blocks_that_are_trained_by_autograd_take_no_steps_of_one_role() -> None:
    config = recipe("tf-layer-by-layer")
    blocks = (*config.training.blocks[:3], BlockConfig(kind="dense", options={"width": 9}))
    with pytest.raises(UserError, match="is for dense Forward-Forward layers, but the network has 'dense'"):
        checked(replace(config, training=replace(config.training, blocks=blocks)))


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"options": {"units": 3}}, r"kind 'ff-dense' takes options width=N, N from 1 to \d+, and no others"),
        ({"options": {"width": 0}}, r"kind 'ff-dense' takes options width=N"),
        ({"options": {"width": 3}, "hand_on": "after"}, "kind 'ff-dense' has no hand_on of its own"),
    ],
)
def test_a_layer_in_closed_form_has_no_options_but_its_width(fields: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError, match=line):
        of_config(BlockConfig(kind="ff-dense", **fields))


def test_a_layer_in_closed_form_learns_within_the_run(tmp_path: Path) -> None:
    config = one_after_another(tmp_path / "run")
    with pytest.raises(UserError, match=r"block 3 \(ff-dense\) learns in epochs 3 to 4, but the run has 3"):
        train(replace(config, training=replace(config.training, epochs=3)))

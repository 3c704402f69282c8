"""The trained network as a torch module that can be trained further, saved and exported, and its exported weights in
layers that somebody else wrote."""

from __future__ import annotations

import io
import json
import resource
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from strangers import Notes
from torch import nn

import ffpipe
from ffpipe.config.schema import BlockConfig, Optimizer
from ffpipe.data.splits import load_splits
from ffpipe.learn.network import StreamedNetwork
from ffpipe.learn.thread_count import one_thread
from ffpipe.runs import inference
from ffpipe.runs.saved import Saved

READOUTS = ["softmax", "goodness"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> ffpipe.Result:
    fields = {
        "training.epochs": 6,
        "training.dims": [64, 60, 50, 40],
        "execution.engine": "local",
        "execution.run_dir": str(tmp_path_factory.mktemp("runs") / "run"),
    }
    return ffpipe.train(ffpipe.override(ffpipe.recipe("digits"), fields))


@pytest.fixture(scope="module")
def test_split() -> tuple[torch.Tensor, torch.Tensor]:
    split = load_splits(ffpipe.recipe("digits").training.data).test
    rows = np.arange(len(split))
    return torch.from_numpy(split.images(rows)), torch.from_numpy(split.labels(rows))


def test_both_read_outs_have_the_error_of_the_run(
    run: ffpipe.Result, test_split: tuple[torch.Tensor, torch.Tensor]
) -> None:
    images, labels = test_split
    for readout, error in (("softmax", run.test_error_softmax), ("goodness", run.test_error_goodness)):
        network = ffpipe.load(run.run_dir, readout)
        assert isinstance(network, torch.nn.Module)
        scores = network(images)
        assert scores.shape == (len(images), 10)
        assert int((scores.argmax(1) != labels).sum()) / len(labels) == error
    assert torch.equal(ffpipe.load(run.run_dir)(images), ffpipe.load(run.run_dir, "softmax")(images))


def test_scores_by_their_old_names(run: ffpipe.Result, test_split: tuple[torch.Tensor, torch.Tensor]) -> None:
    network, (images, _) = ffpipe.load(run.run_dir), test_split
    for readout in ("softmax", "goodness"):
        with pytest.warns(DeprecationWarning, match=f"scores\\(images, '{readout}'\\)"):
            old = getattr(network, f"{readout}_scores")(images)
        assert torch.equal(old, network.scores(images, readout))


def test_bfloat16_is_read_with_the_products_it_was_trained_with(
    tmp_path: Path, test_split: tuple[torch.Tensor, torch.Tensor]
) -> None:
    fields = {
        "training.epochs": 6,
        "training.dims": [64, 60, 50, 40],
        "training.precision": "bfloat16",
        "execution.engine": "local",
        "execution.run_dir": str(tmp_path / "run"),
    }
    run = ffpipe.train(ffpipe.override(ffpipe.recipe("digits"), fields))
    for readout, error in (("softmax", run.test_error_softmax), ("goodness", run.test_error_goodness)):
        scores = ffpipe.load(run.run_dir, readout)(test_split[0])
        assert int((scores.argmax(1) != test_split[1]).sum()) / len(scores) == error


def kinds(run_dir: Path, model: Callable[[], list[ffpipe.Local]] | None = None, **fields: Any) -> ffpipe.Result:
    """Return a run of one epoch."""
    config = ffpipe.recipe("digits")
    training = replace(config.training, epochs=1, optimizer=Optimizer(kind="Adam", learning_rate=0.003), **fields)
    execution = replace(config.execution, engine="local", stages=1, run_dir=str(run_dir))
    return ffpipe.train(replace(config, training=training, execution=execution), model=model)


CONV = BlockConfig(kind="conv", options={"channels": 8, "pool": 2}, keep="a")
RESIDUAL = BlockConfig(kind="residual", options={"channels": 8}, use=("a",))
DENSE = BlockConfig(kind="dense", options={"width": 30, "dropout": 0.2})
# By what makes them: the fields, and the read-outs that there are, the default first.
NETWORKS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "blocks without negatives": (
        {"blocks": (CONV, RESIDUAL, DENSE), "negatives": "none", "standardize": True},
        ("last", "sum", "softmax"),
    ),
    "blocks with pairs of rows": (
        {"blocks": (CONV, RESIDUAL), "negatives": "random", "labels": "planes"},
        ("softmax", "goodness"),
    ),
    "without a read-out of its own": (
        {"dims": (64, 40, 30), "negatives": "none", "readout": "sum", "head": False},
        ("sum", "last"),
    ),
    "one block": ({"dims": (64, 40), "negatives": "none", "head": False}, ("last",)),
    "backpropagation": ({"dims": (64, 40, 30), "method": "backprop"}, ("last",)),
    "bfloat16": ({"dims": (64, 40, 30), "negatives": "none", "precision": "bfloat16"}, ("last", "sum", "softmax")),
}


@pytest.fixture(scope="module", params=NETWORKS)
def other(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[ffpipe.Result, tuple[str, ...]]:
    """A run of each kind of network, and its read-outs."""
    fields, readouts = NETWORKS[request.param]
    return kinds(tmp_path_factory.mktemp("kinds") / "run", **fields), readouts


def test_every_read_out_of_any_network_has_the_error_of_the_run(
    other: tuple[ffpipe.Result, tuple[str, ...]], test_split: tuple[torch.Tensor, torch.Tensor]
) -> None:
    (run, readouts), (images, labels) = other, test_split
    of_run = next(each for each in run.summary["evaluations"] if each["split"] == "test")
    errors = {**of_run["errors"], "softmax": of_run["error_softmax"], "goodness": of_run["error_goodness"]}
    again = ffpipe.evaluate(run.run_dir)
    found = {"softmax": again.softmax, "goodness": again.goodness, **again.others}
    assert {name for name, error in found.items() if error is not None} == set(readouts)
    for readout in readouts:
        scores = ffpipe.load(run.run_dir, readout)(images)
        assert int((scores.argmax(1) != labels).sum()) / len(labels) == errors[readout] == found[readout]
    assert torch.equal(ffpipe.load(run.run_dir)(images), ffpipe.load(run.run_dir, readouts[0])(images))
    with pytest.raises(ffpipe.UserError, match=f"give .*{readouts[0]!r}"):
        ffpipe.load(run.run_dir, "energy")


def own_loss(h: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return (h.mean(1) - labels).square().mean()


def silent() -> list[ffpipe.Local]:
    """Return the blocks that learn by a loss of the user's own, which says nothing of the answer."""
    parts = [nn.Sequential(nn.Flatten(), nn.Linear(64, 30), nn.ReLU()), nn.Sequential(nn.Linear(30, 20), nn.ReLU())]
    return [ffpipe.Local(part, objective=own_loss) for part in parts]


@pytest.mark.parametrize("head", [True, False])
def test_blocks_without_scores_are_read_by_softmax_alone(head: bool, tmp_path: Path) -> None:
    run = kinds(tmp_path / "run", model=silent, negatives="none", head=head)
    assert run.summary["evaluations"][-1]["errors"] == dict.fromkeys(("last", "sum", "block.0", "block.1"))
    np.save(tmp_path / "image.npy", np.zeros((8, 8), dtype=np.float32))
    network = ffpipe.load(run.run_dir, model=silent)
    assert len(network.blocks) == 2
    if head:
        errors = ffpipe.evaluate(run.run_dir, model=silent)
        assert (errors.softmax, errors.others) == (run.test_error_softmax, {})
        assert errors.softmax is not None
        assert ffpipe.predict(run.run_dir, [tmp_path / "image.npy"], model=silent)[0].readout == "softmax"
        with pytest.raises(ValueError, match="cannot be read by last; read it by softmax"):
            network.scores(torch.zeros(1, 64), "last")
        return
    view = Notes()
    ffpipe.resume(run.run_dir, {"training.epochs": 2}, view, model=silent)
    assert any(note.startswith("warning: no block has scores and there is no softmax head") for note in view.notes)
    for use in (lambda: ffpipe.evaluate(run.run_dir, model=silent),
                lambda: ffpipe.predict(run.run_dir, [tmp_path / "image.npy"], model=silent)):  # fmt: skip
        with pytest.raises(ffpipe.UserError, match="gives no answer: give a loss function a score"):
            use()
    with pytest.raises(ValueError, match="gives no answer"):
        network(torch.zeros(1, 64))


class Centre(nn.Module):
    """A loss with parameters, and what a row says of the answer by them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.centres = nn.Parameter(torch.arange(10.0 * width).reshape(10, width).sin())

    def forward(self, h: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(self.logits(h), labels)

    def logits(self, h: torch.Tensor) -> torch.Tensor:
        return -torch.cdist(h, self.centres).square()


class Halved(ffpipe.Objective):
    """A class head of the user's own that hands on half of what it judges."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.head = nn.Linear(width, 10)

    def score(self, h: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(h)
        return logits

    def forward(self, h: torch.Tensor, layout: ffpipe.RowLayout, labels: torch.Tensor | None) -> ffpipe.Learned:
        assert labels is not None
        logits = self.score(h)
        loss = nn.functional.cross_entropy(logits, labels, reduction="sum")
        return ffpipe.Learned(loss, (logits.argmax(1) != labels).sum())

    def hand_on(self, h: torch.Tensor) -> torch.Tensor:
        return h[:, ::2]


def spoken() -> list[ffpipe.Local]:
    """Return blocks whose losses say something of the answer, behind one that does not and one that hands on less."""
    loss = Centre(20)
    return [
        ffpipe.Local(nn.Sequential(nn.Flatten(), nn.Linear(64, 30), nn.ReLU()), objective=own_loss),
        ffpipe.Local(nn.Sequential(nn.Linear(30, 30), nn.ReLU()), objective=Halved(30)),
        ffpipe.Local(nn.Sequential(nn.Linear(15, 20), nn.ReLU()), objective=loss, score=loss.logits),
    ]


def test_a_loss_of_ones_own_with_scores_is_read_by_them(
    tmp_path: Path, test_split: tuple[torch.Tensor, torch.Tensor]
) -> None:
    run, (images, labels) = kinds(tmp_path / "run", model=spoken, negatives="none", head=False), test_split
    network = ffpipe.load(run.run_dir, model=spoken)
    assert network.readout == "last"
    wrong = int((network(images).argmax(1) != labels).sum()) / len(labels)
    assert wrong == run.test_errors["last"] == ffpipe.evaluate(run.run_dir, model=spoken).others["last"]


def test_the_sum_is_read_where_the_last_block_says_nothing(tmp_path: Path) -> None:
    def model() -> list[ffpipe.Local]:
        return [*spoken()[:2], ffpipe.Local(nn.Linear(15, 15), objective=own_loss)]

    run = kinds(tmp_path / "run", model=model, negatives="none", head=False)
    np.save(tmp_path / "image.npy", np.zeros((8, 8), dtype=np.float32))
    assert ffpipe.predict(run.run_dir, [tmp_path / "image.npy"], model=model)[0].readout == "sum"
    assert list(run.test_errors) == ["sum"]
    with pytest.raises(ffpipe.UserError, match="readout is 'last': give 'sum'"):
        ffpipe.load(run.run_dir, "last", model=model)


def test_a_score_goes_with_a_function_alone(tmp_path: Path) -> None:
    def model() -> list[ffpipe.Local]:
        return [ffpipe.Local(nn.Sequential(nn.Flatten(), nn.Linear(64, 30)), score=lambda h: h)]

    with pytest.raises(ffpipe.UserError, match=r"block 0 .*: score goes with an objective that is a function"):
        kinds(tmp_path / "run", model=model, negatives="none", head=False)


def loss_after(network: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor, rate: float) -> list[float]:
    """Return the losses before each of a few SGD steps on the scores, and after the last."""
    optimizer = torch.optim.SGD(network.parameters(), lr=rate)
    losses = []
    for _ in range(6):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(network(images), labels)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    with torch.no_grad():
        return [*losses, float(torch.nn.functional.cross_entropy(network(images), labels))]


@pytest.mark.parametrize("readout", READOUTS)
def test_it_can_be_fine_tuned_by_autograd(
    run: ffpipe.Result, readout: str, test_split: tuple[torch.Tensor, torch.Tensor]
) -> None:
    images, labels = test_split
    network = ffpipe.load(run.run_dir, readout)
    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    of_blocks = [f"blocks.{i}.{name}" for i in range(3) for name in ("weight", "bias")]
    assert list(before) == [*of_blocks, "head.weight_1", "head.weight_2"]
    assert all(parameter.requires_grad for parameter in network.parameters())
    losses = loss_after(network, images, labels, 0.05 if readout == "softmax" else 0.002)
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.9 * losses[0]
    changed = {name for name, parameter in network.named_parameters() if not torch.equal(parameter, before[name])}
    # Goodness is not read from the linear read-out, and from the first block only through the next one.
    assert changed == (set(before) if readout == "softmax" else set(of_blocks))
    assert all(torch.equal(before[name], p) for name, p in ffpipe.load(run.run_dir).named_parameters())


def test_any_network_can_be_fine_tuned(
    other: tuple[ffpipe.Result, tuple[str, ...]], test_split: tuple[torch.Tensor, torch.Tensor]
) -> None:
    run, readouts = other
    for readout in readouts:
        network = ffpipe.load(run.run_dir, readout)
        losses = loss_after(network, *test_split, 1e-6 if readout == "goodness" else 0.005)
        assert losses[-1] < losses[0], readout
        gone_on = {name for name, parameter in network.named_parameters() if parameter.grad is not None}
        assert {name.split(".")[1] for name in gone_on if name.startswith("blocks")} == {
            str(index) for index in range(len(network.blocks))
        }


def test_gradients_are_those_of_scores_written_out(
    tmp_path: Path, test_split: tuple[torch.Tensor, torch.Tensor]
) -> None:
    """They go through the normalisation of rows, which training never differentiates."""
    images, labels = test_split[0][:20].double(), test_split[1][:20]
    network = ffpipe.load(kinds(tmp_path / "run", dims=(64, 40, 30, 20), precision="float64").run_dir)
    ours = torch.autograd.grad(torch.nn.functional.cross_entropy(network(images), labels), list(network.parameters()))
    weights = {name: p.detach().clone().requires_grad_() for name, p in network.named_parameters()}
    rows = torch.cat([images, torch.full((20, 10), 0.1, dtype=torch.float64)], 1)
    rows, logits = rows / rows.pow(2).mean(1, keepdim=True).sqrt(), torch.zeros(20, 10, dtype=torch.float64)
    for i in range(3):
        rows = torch.relu(rows @ weights[f"blocks.{i}.weight"] + weights[f"blocks.{i}.bias"])
        rows = rows / rows.pow(2).mean(1, keepdim=True).sqrt()
        if i:
            logits = logits + rows @ weights[f"head.weight_{i}"]
    by_hand = torch.autograd.grad(torch.nn.functional.cross_entropy(logits, labels), list(weights.values()))
    for given, right in zip(ours, by_hand, strict=True):
        assert right.norm() > 1e-6
        torch.testing.assert_close(given, right, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("readout", READOUTS)
def test_its_state_dict_loads_again(
    run: ffpipe.Result, readout: str, test_split: tuple[torch.Tensor, torch.Tensor]
) -> None:
    comes_back(run, readout, test_split[0])


def test_any_state_dict_loads_again(
    other: tuple[ffpipe.Result, tuple[str, ...]], test_split: tuple[torch.Tensor, torch.Tensor]
) -> None:
    for readout in other[1]:
        comes_back(other[0], readout, test_split[0])


def comes_back(run: ffpipe.Result, readout: str, images: torch.Tensor) -> None:
    """Check that a state, saved by torch and loaded without pickles of code, makes another network the same."""
    network, other = (ffpipe.load(run.run_dir, readout) for _ in range(2))
    with torch.no_grad():
        for tensor in other.state_dict().values():
            tensor.zero_()
    scores = network(images)
    assert not torch.equal(other(images), scores)
    file = io.BytesIO()
    torch.save(network.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(other(images), scores)


@pytest.mark.parametrize("readout", READOUTS)
def test_it_goes_through_torch_export(
    run: ffpipe.Result, readout: str, test_split: tuple[torch.Tensor, torch.Tensor]
) -> None:
    goes_through_export(run, readout, test_split[0])


def test_any_network_goes_through_torch_export(
    other: tuple[ffpipe.Result, tuple[str, ...]], test_split: tuple[torch.Tensor, torch.Tensor]
) -> None:
    for readout in other[1]:
        goes_through_export(other[0], readout, test_split[0])


def goes_through_export(run: ffpipe.Result, readout: str, images: torch.Tensor) -> None:
    """Check that the exported program has the same scores, for any number of images, and can be saved and loaded.

    To the bit on one thread: it has no trials that would leave to one what depends on their number.
    """
    network = ffpipe.load(run.run_dir, readout)
    dynamic = {"images": {0: torch.export.Dim.DYNAMIC}}
    program = torch.export.export(network, (images[:20],), dynamic_shapes=dynamic)
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    with one_thread():
        for made in (program, torch.export.load(file)):
            for count in (20, 3, len(images)):
                assert torch.equal(made.module()(images[:count]), network(images[:count])), (readout, count)


def test_images_may_keep_their_shape_or_be_bytes(
    run: ffpipe.Result, test_split: tuple[torch.Tensor, torch.Tensor]
) -> None:
    network, images = ffpipe.load(run.run_dir), test_split[0][:5]
    assert torch.equal(network(images.view(5, 8, 8)), network(images))
    pixels = (images * 255).round().to(torch.uint8)
    torch.testing.assert_close(network(pixels), network(pixels / 255))
    with pytest.raises(ValueError, match="give"):
        network(images[:, :-1])


def test_many_images_are_classified_in_parts(
    run: ffpipe.Result, test_split: tuple[torch.Tensor, torch.Tensor], tmp_path: Path
) -> None:
    """As many at once as have so many rows under ten labels."""
    images = test_split[0].repeat(3, 1)
    assert 10 * len(images) > 2 * inference.ROWS_AT_ONCE
    np.save(tmp_path / "images.npy", images.view(-1, 8, 8).numpy())
    found = ffpipe.predict(run.run_dir, [tmp_path / "images.npy"])
    assert [prediction.index for prediction in found] == list(range(len(images)))
    assert [prediction.label for prediction in found] == ffpipe.load(run.run_dir)(images).argmax(1).tolist()


def test_loading_needs_no_ray(run: ffpipe.Result) -> None:
    code = f"import sys, ffpipe; ffpipe.load({str(run.run_dir)!r}); assert 'ray' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_exported_weights_make_the_same_scores_in_plain_linear_layers(
    run: ffpipe.Result, test_split: tuple[torch.Tensor, torch.Tensor], tmp_path: Path
) -> None:
    path = ffpipe.export(run.run_dir, tmp_path / "weights.safetensors")
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
        assert file.metadata()["shape"] == "8 8"
        assert file.metadata()["classes"] == "10"
    rows = torch.cat([test_split[0], torch.full((len(test_split[0]), 10), 0.1)], 1)
    logits = torch.zeros(len(rows), 10)
    for layer in range(3):
        rows = rows / rows.pow(2).mean(1, keepdim=True).sqrt()
        rows = torch.relu(
            torch.nn.functional.linear(rows, tensors[f"layer{layer}.weight"], tensors[f"layer{layer}.bias"])
        )
        if layer:
            unit = rows / rows.pow(2).mean(1, keepdim=True).sqrt()
            logits += torch.nn.functional.linear(unit, tensors[f"head{layer}.weight"])
    torch.testing.assert_close(logits, ffpipe.load(run.run_dir)(test_split[0]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("harm", ["flip", "cut", "absent", "manifest"])
def test_a_damaged_snapshot_is_refused_by_the_name_of_the_file(run: ffpipe.Result, harm: str, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    for path in run.run_dir.rglob("*"):
        if path.is_file():
            target = copy / path.relative_to(run.run_dir)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    name = "manifest.json" if harm == "manifest" else "layer-001.safetensors"
    path = next(copy.glob(f"checkpoints/*/{name}"))
    data = bytearray(path.read_bytes())
    if harm == "absent":
        path.unlink()
    elif harm == "flip":
        data[-9] ^= 1
        path.write_bytes(data)
    else:
        path.write_bytes(data[: len(data) // 2])
    with pytest.raises(ffpipe.UserError, match=name):
        ffpipe.load(copy)


def test_wrong_questions(run: ffpipe.Result) -> None:
    with pytest.raises(ffpipe.UserError, match="'softmax' or 'goodness'"):
        ffpipe.load(run.run_dir, "energy")
    with pytest.raises(ffpipe.UserError, match="test, validation, train"):
        ffpipe.evaluate(run.run_dir, "tests")
    assert ffpipe.evaluate(run.run_dir, "validation").examples == 97


def test_a_network_larger_than_memory_is_read_a_layer_at_a_time(
    run: ffpipe.Result, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    image = tmp_path / "image.npy"
    np.save(image, np.random.default_rng(1).random((8, 8), dtype=np.float32))
    loaded = {readout: ffpipe.predict(run.run_dir, [image], readout) for readout in ("softmax", "goodness")}
    whole = ffpipe.evaluate(run.run_dir)
    in_memory, saved = ffpipe.load(run.run_dir), Saved.of(run.run_dir)
    limit = 2 * saved.bytes_of_weights
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (limit, limit))  # a set one would end the tests
    network = inference._opened(saved)
    assert isinstance(network, StreamedNetwork)
    of_blocks = [[name for name in each.state_dict() if "block" in name] for each in (network, in_memory)]
    assert of_blocks == [[], [f"blocks.{i}.{name}" for i in range(3) for name in ("weight", "bias", "mean_activity")]]
    assert ffpipe.evaluate(run.run_dir) == whole
    for readout, predictions in loaded.items():
        assert ffpipe.predict(run.run_dir, [image], readout) == predictions


def test_an_exported_program_has_the_scores_of_the_network(
    run: ffpipe.Result, test_split: tuple[torch.Tensor, torch.Tensor], tmp_path: Path
) -> None:
    images = test_split[0].view(-1, 8, 8)
    kept = {"ffpipe.json": ""}
    program = torch.export.load(ffpipe.export(run.run_dir, tmp_path / "net.pt2"), extra_files=kept).module()
    assert json.loads(kept["ffpipe.json"])["shape"] == "8 8"
    for count in (1, 4, len(images)):
        torch.testing.assert_close(program(images[:count]), ffpipe.load(run.run_dir)(images[:count]))


@pytest.mark.parametrize("ending", ["pt", "pth", "bin", "h5", "npz", "tflite", "safetensor", ""])
def test_other_endings_are_not_written(run: ffpipe.Result, ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"net.{ending}"
    with pytest.raises(ffpipe.UserError, match=r"\.safetensors .*\.pt2 .*\.onnx"):
        ffpipe.export(run.run_dir, path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("missing", [("onnx",), ("onnx", "onnxscript")])
def test_packages_that_a_format_needs_are_named(
    run: ffpipe.Result, missing: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("onnx", "onnxscript"):
        there = ModuleType(name)
        there.__spec__ = ModuleSpec(name, None)
        monkeypatch.setitem(sys.modules, name, None if name in missing else there)
    with pytest.raises(ffpipe.UserError, match=" and ".join(missing) + ": install"):
        ffpipe.export(run.run_dir, tmp_path / "net.ONNX")


def test_more_classes_than_features_need_rows_without_labels(tmp_path: Path) -> None:
    """The same rule holds where a network is trained and where it is read."""
    images = np.random.default_rng(0).random((300, 3, 6), np.float32)
    np.savez(tmp_path / "set.npz", x=images, y=np.arange(300) % 19)
    fields = {
        "training.epochs": 1,
        "training.dims": [18, 8, 8],
        "training.data.source": "npz",
        "training.data.train": [str(tmp_path / "set.npz")],
        "training.data.test_count": 30,
        "training.data.validation": 0,
        "training.labels": "none",
        "training.negatives": "hybrid",
        "execution.engine": "local",
        "execution.evaluate_every": 0,
        "execution.run_dir": str(tmp_path / "run"),
    }
    config = ffpipe.override(ffpipe.recipe("digits"), fields)
    run = ffpipe.train(config)
    assert ffpipe.evaluate(run.run_dir).softmax == run.test_error_softmax
    np.save(tmp_path / "some.npy", images[:4])
    found = ffpipe.predict(run.run_dir, [tmp_path / "some.npy"])
    assert [each.index for each in found] == [0, 1, 2, 3]
    assert [each.label for each in found] == ffpipe.load(run.run_dir)(torch.from_numpy(images[:4])).argmax(1).tolist()
    assert ffpipe.export(run.run_dir, tmp_path / "net.safetensors").exists()
    labelled = {"training.labels": "overlay", "training.negatives": "random", "execution.run_dir": str(tmp_path / "no")}
    with pytest.raises(ffpipe.UserError, match="19 labels do not fit over 18 features"):
        ffpipe.train(ffpipe.override(config, labelled))


@pytest.mark.parametrize(
    ("dtype", "scale"), [("uint8", 0), ("int64", 0), ("float32", 0), ("float64", 0), ("uint8", 100), ("bool", 0)]
)
def test_what_training_takes_predict_takes(dtype: str, scale: float, tmp_path: Path) -> None:
    """Arrays of the kind that was trained on are divided by as much."""
    images = np.random.default_rng(0).integers(0, 256, (120, 8, 8)).astype(dtype)
    np.savez(tmp_path / "set.npz", x=images, y=np.arange(120) % 3)
    fields = {
        "training.epochs": 1,
        "training.dims": [64, 8],
        "execution.stages": 1,
        "training.head_from": 0,
        "training.goodness_from": 0,
        "training.batch_size": 20,
        "training.data.source": "npz",
        "training.data.train": [str(tmp_path / "set.npz")],
        "training.data.test_count": 20,
        "training.data.split_seed": -1,
        "training.data.validation": 0,
        "training.data.scale": scale,
        "execution.engine": "local",
        "execution.evaluate_every": 0,
        "execution.run_dir": str(tmp_path / "run"),
    }
    config = ffpipe.override(ffpipe.recipe("digits"), fields)
    run = ffpipe.train(config)
    np.save(tmp_path / "all.npy", images)
    train = load_splits(config.training.data).train
    network = ffpipe.load(run.run_dir)
    with torch.no_grad():
        right = network(torch.from_numpy(train.images(np.arange(len(train)))))
    found = ffpipe.predict(run.run_dir, [tmp_path / "all.npy"])[: len(train)]
    torch.testing.assert_close(torch.tensor([each.scores for each in found]), right)


def test_goodness_is_left_out_of_the_tests(tmp_path: Path) -> None:
    """Leaving it out changes neither weights nor the other read-out."""

    def trained(readout: str) -> ffpipe.Result:
        fields = {"training.dims": [64, 20, 10], "training.epochs": 1, "execution.engine": "local"}
        fields |= {"training.readout": readout, "execution.run_dir": str(tmp_path / readout)}
        return ffpipe.train(ffpipe.override(ffpipe.recipe("digits"), fields))

    both, softmax = trained("last"), trained("softmax")
    assert softmax.weights_sha256 == both.weights_sha256
    assert list(softmax.test_errors.items()) == [("softmax", both.test_error_softmax)]
    told: list[tuple[int, int]] = []
    errors = ffpipe.evaluate(softmax.run_dir, progress=lambda *each: told.append(each))
    assert errors == (300, None, both.test_error_softmax, {})
    assert told[-1] == (300, 300)
    assert Saved.of(softmax.run_dir).network.rows_of_example == 1
    with pytest.raises(ffpipe.UserError, match="leaves goodness out: give readout 'softmax'"):
        ffpipe.load(softmax.run_dir, readout="goodness")


@pytest.mark.parametrize(
    "fields",
    [{"head": False, "negatives": "random"}, {"labels": "none", "negatives": "hybrid"}, {"method": "backprop"}],
)
def test_softmax_is_no_read_out_where_there_is_nothing_to_leave_out(fields: dict[str, object]) -> None:
    fields = {f"training.{name}": value for name, value in {**fields, "readout": "softmax"}.items()}
    with pytest.raises(ffpipe.UserError, match=r"training\.readout 'softmax' leaves goodness out"):
        ffpipe.override(ffpipe.recipe("digits"), fields)

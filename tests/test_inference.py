"""The trained network as a torch module, and its exported weights in layers that somebody else wrote."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

import ffpipe
from ffpipe.data.splits import load_splits
from ffpipe.learn.network import StreamedNetwork
from ffpipe.runs import inference


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
    run: ffpipe.Result, test_split: tuple[torch.Tensor, torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = test_split[0][:7]
    paths = [tmp_path / f"{number}.npy" for number in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        np.save(path, image.view(8, 8).numpy())
    monkeypatch.setattr(inference, "ROWS_AT_ONCE", 30)  # three images under ten labels
    found = ffpipe.predict(run.run_dir, paths)
    assert [prediction.path for prediction in found] == [str(path) for path in paths]
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
    monkeypatch.setattr("ffpipe.runs.inference.LOADED_SHARE", 0.0)
    network = inference.open_network(run.run_dir)
    assert isinstance(network, StreamedNetwork)
    assert not [name for name, _ in network.named_buffers() if name.startswith("layer")]
    assert ffpipe.evaluate(run.run_dir) == whole
    for readout, predictions in loaded.items():
        assert ffpipe.predict(run.run_dir, [image], readout) == predictions

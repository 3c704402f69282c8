"""Loading of a trained network, and the images that it takes."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from strangers import fresh

import ffpipe
from ffpipe.data.splits import load_splits
from ffpipe.learn.network import StreamedNetwork
from ffpipe.runs import inference
from ffpipe.runs.saved import SavedRun


def test_images_may_keep_their_shape_or_be_bytes(
    run: ffpipe.Result, test_split: tuple[torch.Tensor, torch.Tensor]
) -> None:
    network, images = ffpipe.load(run.run_dir), test_split[0][:5]
    assert torch.equal(network(images.view(5, 8, 8)), network(images))
    pixels = (images * 255).round().to(torch.uint8)
    torch.testing.assert_close(network(pixels), network(pixels / 255))
    with pytest.raises(ValueError, match=r"give \(n, 64\) or \(n, 8, 8\)"):
        network(images[:, :-1])
    assert torch.equal(network(images > 0.5), network((images > 0.5).float()))
    for dtype in (torch.int64, torch.int32, torch.int8):  # which were taken for floats
        with pytest.raises(ValueError, match=r"int.*; give uint8, which is divided by 255"):
            network(pixels.to(dtype))


def test_many_images_are_classified_in_parts(
    run: ffpipe.Result, test_split: tuple[torch.Tensor, torch.Tensor], tmp_path: Path
) -> None:
    """As many at once as have so many rows under ten labels."""
    images = test_split[0].repeat(3, 1)
    assert 10 * len(images) > 2 * inference.ROWS_AT_ONCE
    np.save(tmp_path / "images.npy", images.view(-1, 8, 8).numpy())
    path = tmp_path / "images.npy"
    found = ffpipe.predict(run.run_dir, [path])
    assert ffpipe.predict(run.run_dir, path) == ffpipe.predict(run.run_dir, str(path)) == found
    assert [prediction.index for prediction in found] == list(range(len(images)))
    assert [prediction.label for prediction in found] == ffpipe.load(run.run_dir)(images).argmax(1).tolist()


def test_loading_needs_no_ray(run: ffpipe.Result) -> None:
    code = f"import sys, ffpipe; ffpipe.load({str(run.run_dir)!r}); assert 'ray' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


@pytest.mark.parametrize("harm", ["flip", "cut", "absent", "manifest"])
def test_a_damaged_snapshot_is_refused_by_the_name_of_the_file(run: ffpipe.Result, harm: str, tmp_path: Path) -> None:
    copy = fresh(run.run_dir, tmp_path / "run")
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


def a_function() -> None:
    """Stand for a function that is given where it is not meant."""


def test_arguments_of_another_kind(run: ffpipe.Result, tmp_path: Path) -> None:
    config, where = ffpipe.override(ffpipe.recipe("digits"), {"execution.run_dir": str(tmp_path / "new")}), run.run_dir
    images, labels = np.zeros((2, 64), np.float32), np.zeros(2, np.int64)
    calls: dict[str, Callable[..., Any]] = {
        "config is a value of type str: give an ffpipe.Config, as ffpipe": lambda of: of.train("digits"),
        "config is a value of type Result": lambda of: of.override(run, {}),
        "config is a value of type NoneType": lambda of: of.with_data(None, "some"),
        "view is a value of type function: .* model=function": lambda of: of.train(config, a_function),
        "view is a value of type list: .* callbacks=": lambda of: of.train(config, [ffpipe.Callback()]),
        "view is the class ConsoleView: give": lambda of: of.train(config, ffpipe.ConsoleView),
        "model is a value of type list: give the function that returns": lambda of: of.train(config, model=[]),
        "run is a value of type Result: give its folder, as result.run_dir": lambda of: of.load(run),
        "data is a value of type Config: give .* config.training.data": lambda of: of.load_splits(config),
        r"images has is a value of type ndarray: .* ffpipe.load\(run\)\(i": lambda of: of.predict(where, images),
        "data has is a value of type ndarray: give paths": lambda of: of.evaluate(where, data=(images, labels)),
        "data is a value of type int: give paths": lambda of: of.evaluate(where, data=3),
        "data has is a value of type ndarray: .* np.savez": lambda of: of.with_data(config, [images, labels]),
    }
    for says, call in calls.items():
        with pytest.raises(ffpipe.UserError, match=says):
            call(ffpipe)
    assert not (tmp_path / "new").exists()


def test_a_network_larger_than_memory_is_read_a_layer_at_a_time(
    run: ffpipe.Result, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    image = tmp_path / "image.npy"
    np.save(image, np.random.default_rng(1).random((8, 8), dtype=np.float32))
    loaded = {readout: ffpipe.predict(run.run_dir, [image], readout) for readout in ("softmax", "goodness")}
    whole = ffpipe.evaluate(run.run_dir)
    in_memory, saved = ffpipe.load(run.run_dir), SavedRun.of(run.run_dir)
    limit = 2 * saved.bytes_of_weights
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (limit, limit))  # a set one would end the tests
    network = inference._opened(saved)
    assert isinstance(network, StreamedNetwork)
    of_blocks = [[name for name in each.state_dict() if "block" in name] for each in (network, in_memory)]
    assert of_blocks == [[], [f"blocks.{i}.{name}" for i in range(3) for name in ("weight", "bias", "mean_activity")]]
    assert ffpipe.evaluate(run.run_dir) == whole
    for readout, predictions in loaded.items():
        assert ffpipe.predict(run.run_dir, [image], readout) == predictions


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

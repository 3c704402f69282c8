"""The trained network as a torch module: it can be trained further, saved and put through `torch.export`."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from covering import only
from torch import nn
from trained_networks import NETWORKS, kinds

import ffpipe
from ffpipe.learn.thread_count import one_thread

# One of dense layers in closed form, one of blocks trained by autograd.
EXPORTED = ("blocks without negatives",)


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


@pytest.mark.parametrize("readout", ["softmax", "goodness"])
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


def test_features_are_what_a_block_hands_on(
    other: tuple[ffpipe.Result, tuple[str, ...]], test_split: tuple[torch.Tensor, torch.Tensor]
) -> None:
    network = ffpipe.load(other[0].run_dir)
    count = len(network.blocks)
    with torch.no_grad():
        made = [x for _, x, _ in network.passed(network._encoded(network._rows(test_split[0]), "softmax"))]
        for block in range(-count, count):
            assert torch.equal(network.features_of(test_split[0], block), made[block])
    for block in (count, -count - 1):
        with pytest.raises(ValueError, match=f"give 0 to {count - 1}, or -1"):
            network.features_of(test_split[0], block)


def test_bytes_are_refused_where_training_had_floats_beyond_0_to_1(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = rng.uniform(-1.0, 1.0, (60, 8, 8)).astype(np.float32)
    np.savez(tmp_path / "images.npz", images=images, labels=np.arange(60) % 3)
    config = ffpipe.with_data(ffpipe.recipe("digits"), tmp_path / "images.npz")
    fields = {"training.epochs": 1, "training.batch_size": 10, "execution.run_dir": str(tmp_path / "run")}
    network = ffpipe.load(ffpipe.train(ffpipe.override(config, {**fields, "execution.engine": "local"})).run_dir)
    assert network(torch.from_numpy(images)).shape == (60, 3)
    with pytest.raises(ValueError, match="images are uint8, but the network was trained on floats beyond 0 to 1"):
        network(torch.zeros(2, 8, 8, dtype=torch.uint8))


def test_any_network_can_be_saved_whole(
    other: tuple[ffpipe.Result, tuple[str, ...]], test_split: tuple[torch.Tensor, torch.Tensor], tmp_path: Path
) -> None:
    network = ffpipe.load(other[0].run_dir)
    torch.save(network, tmp_path / "network.pt")
    again = torch.load(tmp_path / "network.pt", weights_only=False)
    assert torch.equal(again(test_split[0]), network(test_split[0]))


def test_any_state_dict_loads_again(
    other: tuple[ffpipe.Result, tuple[str, ...]], test_split: tuple[torch.Tensor, torch.Tensor]
) -> None:
    """A state, saved by torch and loaded without pickles of code, makes another network the same."""
    (run, readouts), (images, _) = other, test_split
    for readout in readouts:
        network, zeros = (ffpipe.load(run.run_dir, readout) for _ in range(2))
        with torch.no_grad():
            for tensor in zeros.state_dict().values():
                tensor.zero_()
        scores = network(images)
        assert not torch.equal(zeros(images), scores)
        file = io.BytesIO()
        torch.save(network.state_dict(), file)
        file.seek(0)
        zeros.load_state_dict(torch.load(file, weights_only=True))
        assert torch.equal(zeros(images), scores)


@pytest.mark.parametrize("other", only(EXPORTED, NETWORKS), indirect=True)
def test_any_network_goes_through_torch_export(
    other: tuple[ffpipe.Result, tuple[str, ...]], test_split: tuple[torch.Tensor, torch.Tensor]
) -> None:
    """The exported program has the same scores, for any number of images, and can be saved and loaded.

    To the bit on one thread: it has no trials that would leave to one what depends on their number.
    """
    (run, readouts), (images, _) = other, test_split
    for readout in readouts:
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


class Partly(nn.Module):
    """A layer with a bias that is not to be trained, and the numbers of its places."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 10)
        self.linear.bias.requires_grad_(False)
        self.places = nn.Parameter(torch.arange(64), requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(self.linear(x.flatten(1)[:, self.places]))


def partly() -> list[ffpipe.Local]:
    return [ffpipe.Local(Partly)]


def test_what_is_frozen_stays_so_and_whole_numbers_need_no_gradient(tmp_path: Path) -> None:
    run = kinds(tmp_path / "run", model=partly, negatives="none", head=False)
    network = ffpipe.load(run.run_dir, model=partly)
    trainable = {name.rpartition("body.")[2] for name, each in network.named_parameters() if each.requires_grad}
    assert "linear.weight" in trainable
    assert not {"linear.bias", "places"} & trainable
    assert ffpipe.evaluate(run.run_dir, model=partly).others["last"] == run.test_errors["last"]

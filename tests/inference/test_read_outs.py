"""The scores of a trained network that was loaded: those of its run, by every read-out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from strangers import Notes
from torch import nn
from trained_networks import kinds

import ffpipe
from ffpipe.runs.saved import SavedRun


def test_scores_by_their_old_names(run: ffpipe.Result, test_split: tuple[torch.Tensor, torch.Tensor]) -> None:
    network, (images, _) = ffpipe.load(run.run_dir), test_split
    for readout in ("softmax", "goodness"):
        with pytest.warns(DeprecationWarning, match=f"scores\\(images, '{readout}'\\)"):
            old = getattr(network, f"{readout}_scores")(images)
        assert torch.equal(old, network.scores(images, readout))


def test_bfloat16_is_read_with_the_products_it_was_trained_with(
    tmp_path: Path, test_split: tuple[torch.Tensor, torch.Tensor]
) -> None:
    run = kinds(tmp_path / "run", dims=(64, 60, 50, 40), precision="bfloat16")
    for readout, error in (("softmax", run.test_error_softmax), ("goodness", run.test_error_goodness)):
        scores = ffpipe.load(run.run_dir, readout)(test_split[0])
        assert int((scores.argmax(1) != test_split[1]).sum()) / len(scores) == error


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
    assert SavedRun.of(softmax.run_dir).network.rows_of_example == 1
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

"""A run that begins says what a person should know of it, and refuses what it could not go on with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import digest_cases
import pytest
from disturbed import QUICK, STEPS, Disturb, config
from torch import nn

import ffpipe
from ffpipe import UserError, override, recipe, train
from ffpipe.pipeline.job import few_steps, make_job
from ffpipe.pipeline.left_alone import left_alone


def test_a_new_run_of_few_steps_says_so(tmp_path: Path) -> None:
    few = (
        "84 steps in all are few: an epoch has 28, each on 50 examples; more epochs or smaller minibatches make more "
        "(--epochs, --training.batch-size)"
    )
    view = Disturb(STEPS + 1, lambda: None)
    train(config(tmp_path / "run", **QUICK | {"training.epochs": 3}), view)
    assert view.notes == [few]
    assert few_steps(make_job(config(tmp_path, **{"training.epochs": 4}))) == ()


def test_fields_that_no_block_knows_are_said(tmp_path: Path) -> None:
    dense = {"kind": "dense", "options": {"width": 20}, "objective": "goodness"}
    fields = {"training.local_steps": 3, "training.dropout": 0.5, "training.phases": "apart", "execution.stages": 1}
    job = make_job(config(tmp_path, **fields, **{"training.blocks": [dense, dense]}))
    named = "warning: training.local_steps, training.dropout, training.phases: left alone, for this network has no"
    assert left_alone(job) == (f"{named} dense Forward-Forward layers",)
    assert left_alone(make_job(config(tmp_path, **fields))) == ()
    peers = {"training.peer": 0.5, "training.peer_averaging": 0.1, "training.blocks": [dense] * 3}
    (said,) = left_alone(make_job(config(tmp_path, **peers)))
    assert said.startswith("warning: training.peer, training.peer_averaging: left alone")
    # Without negatives layers of training.dims are of another kind.
    said, of_pairs = left_alone(make_job(config(tmp_path, **fields, **{"training.negatives": "none"})))
    assert said.startswith("warning: training.local_steps: left alone")
    assert of_pairs == "warning: training.phases: left alone, for training.negatives is 'none'"
    own = {"kind": "ff-dense", "options": {"width": 20}}
    assert left_alone(make_job(config(tmp_path, **fields, **{"training.blocks": [own, dense]}))) == ()


NO_HEAD = {"training.negatives": "random", "training.head": False}
CROP = {"training.augmentation.padding": "reflect", "training.augmentation.crop": 1}


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"training.mean": [0.5]}, "training.mean: left alone, for training.standardize is off"),
        ({"training.mean": [0.5], "training.deviation": [0.2], "training.standardize": True}, ""),
        (
            {"training.milestones": [3], "training.decay": 0.5},
            "training.milestones, training.decay: left alone, for no schedule is 'steps'",
        ),
        ({"training.milestones": [3], "training.schedule": "steps"}, ""),
        ({"training.checkpointing": True}, "training.checkpointing: left alone, for training.method is not 'backprop'"),
        ({"training.checkpointing": True, "training.method": "backprop"}, ""),
        ({**CROP, "training.augmentation.crop": 0}, "training.augmentation.padding: left alone, for training.augment"),
        (CROP, ""),
        (
            {"training.method": "backprop", "training.optimizer.learning_rate": 0.5},
            "training.optimizer: left alone, for backpropagation learns by Adam at 0.001 here",
        ),
        ({"training.method": "backprop"}, ""),
        ({"training.method": "backprop", "training.negatives": "none", "training.optimizer.kind": "SGD"}, ""),
        ({"training.readout": "sum"}, "training.readout: left alone, for blocks that learn from negatives"),
        ({"training.readout": "sum", "training.negatives": "none"}, ""),
        (
            {"training.data.mode": "L", "training.data.arrays": ["x", "y"]},
            "training.data.arrays, training.data.mode: left alone, for training.data.source 'digits' is read without",
        ),
        (
            {
                "training.negatives": "none",
                "training.objective": "symba",
                "training.threshold": 2.0,
                "training.temperature": 0.5,
                "training.normalize_inputs": False,
            },
            "training.objective, training.threshold, training.temperature, training.normalize_inputs: left alone, for "
            "training.negatives is 'none'",
        ),
        ({"training.threshold": 2.0, "training.temperature": 0.5}, ""),
        ({"training.negatives": "none", "training.threshold": 2.0, "training.method": "backprop"}, ""),
        (
            {**NO_HEAD, "training.head_bias": True, "training.head_optimizer.kind": "Adam"},
            "training.head_bias, training.head_optimizer: left alone, for there is no softmax head",
        ),
        ({"training.head_bias": True, "training.head_initialization": "glorot"}, ""),
        (
            {"training.optimizer.kind": "Adam", "training.optimizer.averaging": 0.5},
            "training.optimizer.averaging: left alone, for training.optimizer.kind is not 'averaging'",
        ),
        (
            {"training.head_optimizer.kind": "Adam", "training.head_optimizer.averaging": 0.5},
            "training.head_optimizer.averaging: left alone, for training.head_optimizer.kind is not 'averaging'",
        ),
        ({"training.optimizer.averaging": 0.5, "training.head_optimizer.averaging": 0.5}, ""),
    ],
)
def test_fields_without_what_they_are_for_are_said(fields: dict[str, Any], says: str, tmp_path: Path) -> None:
    said = left_alone(make_job(config(tmp_path, **{"execution.stages": 1}, **fields)))
    assert said[1:] == ()
    assert "".join(said).startswith(f"warning: {says}" if says else "")
    assert bool(said) == bool(says)


def test_what_images_alone_have_is_said_where_inputs_are_tokens(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("to be or not to be, that is the question. " * 200)
    fields = {"training.data.train": [str(tmp_path / "a.txt")], "training.data.length": 8}
    of_images = {
        "training.jitter": 1,
        "training.augmentation.crop": 2,
        "training.augmentation.flip": True,
        "training.augmentation.cutout": 3,
        "training.standardize": True,
    }
    (said,) = left_alone(make_job(override(recipe("char-lm"), fields | of_images)))
    assert said == f"warning: {', '.join(of_images)}: left alone, for training.inputs is 'tokens'"


def test_milestones_of_one_block_are_enough(tmp_path: Path) -> None:
    dense: dict[str, Any] = {"kind": "ff-dense", "options": {"width": 20}}
    blocks = {"training.blocks": [dense, dense | {"schedule": "steps"}], "execution.stages": 1}
    assert left_alone(make_job(config(tmp_path, **blocks, **{"training.milestones": [3]}))) == ()


def test_no_recipe_has_fields_that_are_left_alone(tmp_path: Path) -> None:
    digits = {name: case for name, case in digest_cases.digits_cases().items() if "recipe-" in name}
    for name, case in (digits | digest_cases.local_cases(tmp_path)).items():
        assert (name, left_alone(make_job(case()))) == (name, ())


def test_a_config_that_could_not_be_read_again_is_refused(tmp_path: Path) -> None:
    def blocks(text: str) -> list[nn.Module]:
        return [nn.Sequential(nn.Flatten(), nn.Linear(64, 8))]

    fields: dict[str, Any] = {"training.model_options": {"text": "x" * 1_100_000}, "execution.stages": 1}
    fields["execution.run_dir"] = str(tmp_path / "run")
    with pytest.raises(UserError, match="the config has more than 1,048,576 bytes: name files of data by their folder"):
        ffpipe.train(override(recipe("digits-cnn"), fields), model=blocks)
    assert not (tmp_path / "run").exists()

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
    (said,) = left_alone(make_job(config(tmp_path, **fields, **{"training.negatives": "none"})))
    assert said.startswith("warning: training.local_steps: left alone")
    own = {"kind": "ff-dense", "options": {"width": 20}}
    assert left_alone(make_job(config(tmp_path, **fields, **{"training.blocks": [own, dense]}))) == ()


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
        ({"training.readout": "sum"}, "training.readout: left alone, for blocks that learn from negatives"),
        ({"training.readout": "sum", "training.negatives": "none"}, ""),
        (
            {"training.data.mode": "L", "training.data.arrays": ["x", "y"]},
            "training.data.arrays, training.data.mode: left alone, for training.data.source 'digits' is read without",
        ),
    ],
)
def test_fields_without_what_they_are_for_are_said(fields: dict[str, Any], says: str, tmp_path: Path) -> None:
    said = left_alone(make_job(config(tmp_path, **{"execution.stages": 1}, **fields)))
    assert said[1:] == ()
    assert "".join(said).startswith(f"warning: {says}" if says else "")
    assert bool(said) == bool(says)


def test_milestones_of_one_block_are_enough(tmp_path: Path) -> None:
    dense: dict[str, Any] = {"kind": "ff-dense", "options": {"width": 20}}
    blocks = {"training.blocks": [dense, dense | {"schedule": "steps"}], "execution.stages": 1}
    assert left_alone(make_job(config(tmp_path, **blocks, **{"training.milestones": [3]}))) == ()


def test_no_recipe_of_blocks_has_fields_that_are_left_alone(tmp_path: Path) -> None:
    for name, case in digest_cases.local_cases(tmp_path).items():
        assert (name, left_alone(make_job(case()))) == (name, ())


def test_a_config_that_could_not_be_read_again_is_refused(tmp_path: Path) -> None:
    def blocks(text: str) -> list[nn.Module]:
        return [nn.Sequential(nn.Flatten(), nn.Linear(64, 8))]

    fields: dict[str, Any] = {"training.model_options": {"text": "x" * 1_100_000}, "execution.stages": 1}
    fields["execution.run_dir"] = str(tmp_path / "run")
    with pytest.raises(UserError, match="the config has more than 1,048,576 bytes: name files of data by their folder"):
        ffpipe.train(override(recipe("digits-cnn"), fields), model=blocks)
    assert not (tmp_path / "run").exists()

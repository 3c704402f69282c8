"""Fields that a config gives and its run leaves alone, as what they are for is not there: a warning for each reason.

Configs inherit fields from recipes, so that none is refused here. It must not know how a field is worked.
"""

from __future__ import annotations

from functools import reduce
from typing import Any

from ffpipe.config.blocks import FF_DENSE
from ffpipe.config.recipes import RECIPES
from ffpipe.config.schema import Config, Training
from ffpipe.data.sources import unread
from ffpipe.pipeline.job import Job

# Fields that no other kind of block knows.
OF_DENSE_LAYERS = ("local_steps", "dropout", "pair_errors", "initialization")
OF_PAIRS = ("phases", "peer", "peer_averaging")
# Fields of all blocks that learn from pairs of rows, and of those rows.
OF_ROWS = (
    "objective", "goodness", "threshold", "temperature", "normalization", "normalization_epsilon", "normalize_inputs",
    "label_strength", "test_labels",
)  # fmt: skip
OF_IMAGES = ("jitter", "augmentation.crop", "augmentation.flip", "augmentation.cutout", "standardize", "data.scale")
OF_HEAD = ("head_from", "head_bias", "head_initialization", "head_optimizer")


def left_alone(job: Job) -> tuple[str, ...]:
    """Say in a line for each reason which fields were given that it makes void; return nothing where none was."""
    training, outlines = job.config.training, job.network.outlines
    # A model's function may give its blocks schedules of their own.
    schedules = {training.schedule, *(outline.rates.schedule for outline in outlines)}
    summed = training.contrasts and training.readout == "sum"
    # The yardstick has the fields of the network that it is held against.
    end_to_end, by = training.method == "backprop", training.yardstick
    reasons = {
        "this network has no dense Forward-Forward layers": _of_dense_layers(job),
        "training.standardize is off": () if training.standardize else ("mean", "deviation"),
        "no schedule is 'steps'": () if "steps" in schedules else ("milestones", "decay"),
        "training.method is not 'backprop'": () if end_to_end else ("checkpointing",),
        "training.augmentation.crop is 0": () if training.augmentation.crop else ("augmentation.padding",),
        f"training.data.source {training.data.source!r} is read without": [
            f"data.{name}" for name in unread(training.data)
        ],
        "training.inputs is 'tokens'": OF_IMAGES if training.inputs == "tokens" else (),
        "training.negatives is 'none'": () if training.contrasts or end_to_end else (*OF_PAIRS, *OF_ROWS),
        "there is no softmax head": () if training.head or end_to_end else OF_HEAD,
        **{
            f"training.{name}.kind is not 'averaging'": () if kind == "averaging" else (f"{name}.averaging",)
            for name, kind in (("optimizer", training.optimizer.kind), ("head_optimizer", training.head_optimizer.kind))
        },
        f"backpropagation learns by {by.kind} at {by.learning_rate:g} here": _other_optimizer(job),
        "blocks that learn from negatives have no logits to add up": ("readout",) if summed else (),
    }
    given = {why: [name for name in names if _is_given(training, name)] for why, names in reasons.items()}
    return tuple(
        f"warning: {', '.join(f'training.{name}' for name in names)}: left alone, for {why}"
        for why, names in given.items()
        if names
    )


def _of_dense_layers(job: Job) -> list[str]:
    """Return the fields for dense Forward-Forward layers alone, where the network has none."""
    training = job.config.training
    if training.method == "backprop" or any(outline.name == FF_DENSE for outline in job.network.outlines):
        return []
    names = [*OF_DENSE_LAYERS, *(OF_PAIRS if training.contrasts else ())]
    if not (training.model or training.blocks):  # layers of training.dims have the dropout without negatives too
        names.remove("dropout")
    return names


def _other_optimizer(job: Job) -> list[str]:
    """Return the optimiser, where backpropagation has another one and the config's is not that of its recipe."""
    config = job.config
    training = config.training
    recipe = RECIPES[config.recipe]() if config.recipe in RECIPES else Config()
    given = training.optimizer not in (training.yardstick, recipe.training.optimizer)
    return ["optimizer"] if training.method == "backprop" and given else []


def _is_given(training: Training, name: str) -> bool:
    """Return whether a field, by its dotted name, is not as it is where a config says nothing of it."""

    def value(of: Any) -> Any:
        return reduce(getattr, name.split("."), of)

    return bool(value(training) != value(Training()))

"""The network as a torch module, converted to another dtype and recorded by torch, for every kind of block."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from blueprints import blueprint_of
from covering import only
from kinds_of_blocks import KINDS, PLAIN, network

from ffpipe import BlockConfig
from ffpipe.learn.items import CPU
from ffpipe.learn.network import Network, readouts_of
from ffpipe.learn.thread_count import one_thread
from ffpipe.learn.workspace import Workspace

CONV = (BlockConfig(kind="conv", options={"channels": 8}),) * 2
HEADS: tuple[dict[str, bool | int | float | str], ...] = ({"pool": 3}, {"kind": "mlp"})
MORE: dict[str, dict[str, Any]] = {
    "planes": {"blocks": CONV, "negatives": "random", "labels": "planes"},
    "standardized": {"standardize": True, "mean": (0.3,), "deviation": (0.2,), **PLAIN},
    "bfloat16": {"precision": "bfloat16"},
    "bfloat16 by autograd": {"precision": "bfloat16", **PLAIN},
    "float64": {"precision": "float64"},
    "mean goodness": {"goodness": "mean", "normalization": "l2"},
    "pooled heads": {
        "blocks": tuple(replace(CONV[0], objective_options=options) for options in HEADS),
        **PLAIN,
    },
}
NAMES = [name for name in (*KINDS, *MORE) if name != "own module"]


def untrained(name: str, folder: Path) -> tuple[Network, torch.Tensor]:
    """Return a network with random weights, and five examples for it."""
    training = network(name if name in KINDS else "dense closed form", folder).training
    training = replace(training, **MORE.get(name, {}))
    tokens = training.inputs == "tokens"
    blueprint = blueprint_of(training, (13,) if tokens else (8, 8), 17 if tokens else 10)
    blocks = [blueprint.make(index, Workspace(CPU)) for index in range(len(blueprint))]
    head = blueprint.make_head(Workspace(CPU)) if blueprint.has_head else None
    chance = torch.Generator().manual_seed(1)
    for weight in () if head is None else head.parameters():
        weight.normal_(generator=chance)
    examples = torch.randint(17, (5, 12), generator=chance) if tokens else torch.rand(5, 8, 8, generator=chance)
    return Network(blueprint, blocks, head, readouts_of(blueprint)[0]).eval(), examples


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("dtype", "scores", "tolerance"),
    [(torch.float64, torch.float64, 1e-4), (torch.float16, torch.float32, 0.02), (torch.bfloat16, torch.float32, 0.1)],
)
def test_converted_weights_make_about_the_same_scores(
    name: str, dtype: torch.dtype, scores: torch.dtype, tolerance: float, tmp_path: Path
) -> None:
    made, examples = untrained(name, tmp_path)
    if "bfloat16" in name:
        tolerance = max(tolerance, 0.05)
    converted = deepcopy(made).to(dtype)
    with torch.no_grad():
        for readout in readouts_of(made.blueprint):
            before, after = made.scores(examples, readout), converted.scores(examples, readout)
            assert after.dtype == scores
            assert (after - before).abs().max() <= tolerance * before.abs().max()
            back = deepcopy(made).double().to(made._formats._made.weights).scores(examples, readout)
            assert torch.equal(back, before)


def test_dark_images_have_scores_in_half_precision(tmp_path: Path) -> None:
    """The epsilon that keeps a row of zeros from being divided by zero is not a number of float16."""
    made, examples = untrained("dense closed form", tmp_path)
    for readout in readouts_of(made.blueprint):
        assert made.half().scores(torch.zeros_like(examples), readout).isfinite().all()


@pytest.mark.filterwarnings("ignore:.*torch.jit.trace.*:DeprecationWarning")
@pytest.mark.parametrize("name", only(NAMES[::5], NAMES))
def test_traced_and_exported_for_any_number_of_examples(name: str, tmp_path: Path) -> None:
    """Without a warning: no decision hangs on the numbers of the examples that are recorded."""
    made, examples = untrained(name, tmp_path)
    traced = torch.jit.trace(made, examples)
    any_number = {"images": {0: torch.export.Dim("n")}}
    exported = torch.export.export(made, (examples,), dynamic_shapes=any_number).module()
    with torch.no_grad(), one_thread():
        for count in (1, 3, 5, 9):
            some = torch.cat([examples, examples])[:count]
            right = made(some)
            for recorded in (traced, exported):
                torch.testing.assert_close(recorded(some), right)

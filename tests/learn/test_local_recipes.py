"""Networks of the recipes of local losses, held against the tables of their sources: parameters and shapes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from covering import only
from torch import nn

from ffpipe.config.fields import override
from ffpipe.config.recipes import RECIPES, get_recipe
from ffpipe.learn.block import Block
from ffpipe.learn.blueprint import Blueprint, make_blueprint
from ffpipe.learn.feeder import row_specs
from ffpipe.learn.items import META
from ffpipe.learn.kinds import kind_of
from ffpipe.learn.local import LocalBlock
from ffpipe.learn.spec import RowSpec
from ffpipe.learn.workspace import Workspace
from ffpipe.storage.checkpoint import Input
from ffpipe.system.errors import UserError

CIFAR, MNIST, TEXT = ((32, 32, 3), 10), ((28, 28), 10), ((129,), 65)
TRANSFORMER_LAYER = 2 * 2 * 128 + (3 * 128 * 128 + 3 * 128) + (128 * 128 + 128) + (2 * 4 * 128 * 128 + 5 * 128)


def network(recipe: str, data: tuple[tuple[int, ...], int], method: Any = "") -> Blueprint:
    training = get_recipe(recipe).training
    training = replace(training, method=method or training.method)
    shape, classes = data
    inputs, labels = row_specs(training, shape, classes)
    return make_blueprint(training, Input(shape, inputs.size, classes), inputs, labels, 100)


def blocks(recipe: str, data: tuple[tuple[int, ...], int]) -> list[Block]:
    made = network(recipe, data)
    return [made.make(index, Workspace(META)) for index in range(len(made))]


def counts(block: Block) -> tuple[int, int]:
    """Return the parameters of the body and of the objective."""
    assert isinstance(block, LocalBlock)
    return tuple(sum(p.numel() for p in part.parameters()) for part in (block.body, block.objective))  # type: ignore[return-value]  # of two


@pytest.mark.parametrize(
    ("recipe", "data", "bodies", "heads", "outputs"),
    [
        (
            "mono-forward",
            CIFAR,
            [3072 * 2000 + 2000, 2000 * 2000 + 2000, 2000 * 2000 + 2000],
            [20_000, 20_000, 20_000],
            [(2000,)] * 3,
        ),
        # 2,048 units with 204,800 weights, 1,980 with 1,013,760, 2,048 with 1,802,240 (Hinton 2022, section 3.2).
        (
            "hinton-lrf",
            MNIST,
            [204_800 + 2048, 1_013_760 + 1980, 1_802_240 + 2048],
            [0, 0, 0],
            [(128, 4, 4), (220, 3, 3), (512, 2, 2)],
        ),
        # 2.91 million weights, and as many again to compare similarities and tell classes.
        (
            "nokland-mlp",
            MNIST,
            [784 * 1024 + 3 * 1024, 1024 * 1024 + 3 * 1024, 1024 * 1024 + 3 * 1024, 0],
            [1024 * 1024 + 10_250, 1024 * 1024 + 10_250, 1024 * 1024 + 10_250, 10_250],
            [(1024,)] * 4,
        ),
        (
            "nokland-mlp-pred",
            MNIST,
            [784 * 1024 + 3 * 1024, 1024 * 1024 + 3 * 1024, 1024 * 1024 + 3 * 1024, 0],
            [10_250] * 4,
            [(1024,)] * 4,
        ),
        # 280,920 on three channels with those of the batch normalisations; a read-out of 235,210 numbers.
        (
            "cwcomp",
            MNIST,
            [180 + 60, 1440 + 240, 172_800 + 720, 103_680 + 1440, 0],
            [0, 0, 0, 0, 235_210],
            [(20, 28, 28), (80, 14, 14), (240, 14, 14), (480, 7, 7), (480, 7, 7)],
        ),
        (
            "cwcomp-fashion",
            MNIST,
            [180 + 60, 1440 + 240, 172_800 + 720, 103_680 + 1440, 0],
            [0, 0, 0, 0, 235_210],
            [(20, 28, 28), (80, 14, 14), (240, 14, 14), (480, 7, 7), (480, 7, 7)],
        ),
        (
            "cwcomp-cifar10",
            CIFAR,
            [540 + 60, 1440 + 240, 172_800 + 720, 103_680 + 1440, 0],
            [0, 0, 0, 0, 307_210],
            [(20, 32, 32), (80, 16, 16), (240, 16, 16), (480, 8, 8), (480, 8, 8)],
        ),
        # Blocks of 520 thousand weights with the biases that batch normalisation makes void, which ours do without;
        # heads of 214, 846, 846 thousand and 2.1 million.
        (
            "dgl",
            CIFAR,
            [1728 + 128, 73_728 + 256, 147_456 + 256, 294_912 + 512],
            [214_154, 846_090, 846_090, 2_113_546],
            [(64, 32, 32), (128, 16, 16), (128, 16, 16), (256, 8, 8)],
        ),
        (
            "fashion-cnn",
            MNIST,
            [48 * 9 + 48 * 48 * 9 + 4 * 48, 96 * 48 * 9 + 96 * 96 * 9 + 4 * 96, 192 * 96 * 9 + 192 * 192 * 9 + 4 * 192],
            [48 * 49 * 10 + 10, 96 * 49 * 10 + 10, 192 * 9 * 10 + 10],
            [(48, 14, 14), (96, 7, 7), (192, 3, 3)],
        ),
        (
            "cifar10-local",
            CIFAR,
            [
                9 * (3 * 64 + 64 * 128 + 128 * 128) + 2 * (64 + 2 * 128),
                9 * (128 * 256 + 3 * 256 * 256) + 2 * 4 * 256,
            ],
            # Three pointwise convolutions, one hidden layer on 2 x 2 pixels, the classes.
            [3 * (c * c + 2 * c) + 4 * c * (4 * c + 1) + 2 * 4 * c + 4 * c * 10 + 10 for c in (128, 256)],
            [(128, 8, 8), (256, 4, 4)],
        ),
        # Vectors of 65 symbols and 128 positions; in a layer two normalisations, attention and a perceptron.
        (
            "char-lm",
            TEXT,
            [(65 + 128) * 128 + 2 * TRANSFORMER_LAYER, 2 * TRANSFORMER_LAYER],
            [128 * 65 + 65] * 2,
            [(128, 128)] * 2,
        ),
        (
            "mnist-cnn",
            MNIST,
            [9 * 32 + 2 * 32, 9 * 32 * 64 + 2 * 64, 9 * 64 * 128 + 2 * 128, 9 * 128 * 128 + 2 * 128],
            [32 * 49 * 10 + 10, 64 * 49 * 10 + 10, 128 * 49 * 10 + 10, 128 * 9 * 10 + 10],
            [(32, 14, 14), (64, 7, 7), (128, 7, 7), (128, 3, 3)],
        ),
    ],
)
def test_parameters_and_shapes(
    recipe: str,
    data: tuple[tuple[int, ...], int],
    bodies: list[int],
    heads: list[int],
    outputs: list[tuple[int, ...]],
) -> None:
    made = blocks(recipe, data)
    assert [counts(block)[1] for block in made] == heads
    assert [counts(block)[0] for block in made] == bodies
    assert [outline.outputs.shape for outline in network(recipe, data).outlines] == outputs


@pytest.mark.parametrize(
    ("recipe", "epochs", "windows"),
    [
        ("cwcomp", 20, [2, 3, 4, 5]),
        ("cwcomp-fashion", 50, [10, 15, 19, 23]),
        ("cwcomp-cifar10", 50, [11, 16, 21, 25]),
    ],
)
def test_layers_of_cwcomp_learn_in_their_share_of_its_program(recipe: str, epochs: int, windows: list[int]) -> None:
    """Windows of a recipe with fewer epochs than its program end after the same share of the run."""
    training = get_recipe(recipe).training
    assert training.epochs == 20
    assert [block.last_epoch for block in training.blocks] == [*(round(20 * last / epochs) for last in windows), 0]


def test_the_order_of_layers() -> None:
    """CwComp normalises last; DGL pools before its convolution; several layers of a block pool behind theirs."""
    cwcomp, dgl = blocks("cwcomp", MNIST)[1], blocks("dgl", CIFAR)[1]
    assert isinstance(cwcomp, LocalBlock)
    assert isinstance(dgl, LocalBlock)
    assert [type(part) for part in cwcomp.body.children()] == [nn.Conv2d, nn.ReLU, nn.MaxPool2d, nn.BatchNorm2d]
    assert [type(part) for part in dgl.body.children()] == [nn.MaxPool2d, nn.Conv2d, nn.BatchNorm2d, nn.ReLU]
    several = kind_of("vgg")(RowSpec((3, 8, 12), torch.float32), plan="4 M M 6 5 M")
    pooled = [nn.Conv2d, nn.MaxPool2d, nn.MaxPool2d, nn.BatchNorm2d, nn.ReLU]
    plain = [nn.Conv2d, nn.BatchNorm2d, nn.ReLU]
    assert [type(part) for part in several.children()] == [*pooled, *plain, nn.Conv2d, nn.MaxPool2d, *plain[1:]]
    assert several(torch.zeros(2, 3, 8, 12)).shape == (2, 5, 1, 1)


def test_a_text_with_more_symbols_than_are_embedded_is_refused() -> None:
    with pytest.raises(UserError, match=r"block 0 \(transformer\) embeds 65 symbols, but the data have 80: give 80"):
        network("char-lm", ((129,), 80))
    with pytest.raises(UserError, match=r"set training\.inputs tokens"):
        override(get_recipe("char-lm"), {"training.inputs": "images"})


# One recipe of each kind of block stands for all.
TWINS = ("hinton-lrf", "nokland-mlp", "cwcomp", "dgl", "char-lm", "digits")


@pytest.mark.parametrize("name", only(TWINS, RECIPES))
def test_every_recipe_has_a_twin_by_backpropagation(name: str) -> None:
    """The same blocks as one, with a ReLU of their own where an objective had it."""
    data = {"cifar10": CIFAR, "mnist": MNIST, "fashion-mnist": MNIST, "text": TEXT, "digits": ((8, 8), 10)}
    made = network(name, data[get_recipe(name).training.data.source], "backprop")
    block = made.make(0, Workspace(META))
    assert len(made) == 1
    assert name != "hinton-lrf" or [type(part).__name__ for part in block.modules()].count("ReLU") == 3

"""Rows of every kind: each word of `training.negatives` makes those that it names; changed images are for training."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ffpipe.config.schema import Augmentation, BlockConfig, Data, Training
from ffpipe.data.sampler import Sampler
from ffpipe.data.splits import Splits, load_splits
from ffpipe.learn.augmentation import Augmentation as Changes
from ffpipe.learn.augmentation import jittered
from ffpipe.learn.feeder import (
    Feeder,
    ForwardForwardFeeder,
    PlainFeeder,
    TokenFeeder,
    make_feeder,
    row_specs,
)
from ffpipe.learn.hybrids import hybrid_images
from ffpipe.learn.images import channels_first
from ffpipe.learn.negatives import (
    FixedLabels,
    Minibatch,
    Negatives,
    adaptive_labels,
    hard_labels,
    random_labels,
    shuffled_labels,
)
from ffpipe.learn.rows import normalize_rows_
from ffpipe.learn.spec import RowSpec
from ffpipe.system.rng import generator

SEED, BATCH, STEP, CLASSES = 5, 50, 31, 10


@cache
def digits() -> Splits:
    return load_splits(Data(source="digits", validation=97, test_count=300))


def training(**fields: Any) -> Training:
    data = fields.pop("data", Data(source="digits", validation=97, test_count=300))
    return Training(dims=(64, 8, 8), batch_size=BATCH, seed=SEED, data=data, **fields)


def feeder_of(training: Training, splits: Splits) -> Feeder:
    return make_feeder(training, splits, row_specs(training, splits.shape, splits.classes)[0])


def examples(splits: Splits, step: int) -> tuple[torch.Tensor, list[int]]:
    """Return the images and labels of a minibatch as they are stored."""
    rows = Sampler(len(splits.train), BATCH, SEED).rows(step)
    return torch.from_numpy(splits.train.images(rows)), splits.train.labels(rows).tolist()


RULES: dict[str, Callable[[], Negatives]] = {
    "random": lambda: partial(random_labels, seed=SEED, classes=CLASSES),
    "fixed": lambda: FixedLabels(SEED, CLASSES, 1400),
    "shuffled": lambda: partial(shuffled_labels, seed=SEED),
    "hard": lambda: partial(hard_labels, seed=SEED, classes=CLASSES),
    "adaptive": lambda: partial(adaptive_labels, seed=SEED, classes=CLASSES),
}


@pytest.mark.parametrize("name", RULES)
def test_negatives_by_name(name: str) -> None:
    feeder = feeder_of(training(negatives=name, labels="append"), digits())
    assert isinstance(feeder, ForwardForwardFeeder)
    predictions = np.random.default_rng(1).dirichlet(np.ones(CLASSES), BATCH).astype(np.float32)
    out = torch.empty(2 * BATCH, 64 + CLASSES)
    right = feeder.learning(STEP, predictions, out)
    rows = Sampler(len(digits().train), BATCH, SEED).rows(STEP)
    images, labels = examples(digits(), STEP)
    assert right.tolist() == labels
    assert out[:BATCH, 64:].argmax(1).tolist() == right.tolist()
    expected = RULES[name]()(Minibatch(STEP, rows, images, right.numpy()), predictions)
    assert out[BATCH:, 64:].argmax(1).tolist() == expected.labels.tolist()
    alone = [rule()(Minibatch(STEP, rows, images, right.numpy()), predictions).labels for rule in RULES.values()]
    assert sum((labels == expected.labels).all() for labels in alone) == 1


def test_hybrids_by_name() -> None:
    feeder = feeder_of(training(negatives="hybrid", labels="none"), digits())
    out = torch.empty(2 * BATCH, 64)
    feeder.learning(STEP, None, out)
    images, _ = examples(digits(), STEP)
    assert torch.equal(out[:BATCH], normalize_rows_(images.clone(), "rms"))
    mixed = hybrid_images(images, (8, 8), generator(SEED, "negatives", STEP))
    assert torch.equal(out[BATCH:], normalize_rows_(mixed, "rms"))


def test_jitter_is_of_training_images_alone_and_the_same_under_every_label() -> None:
    feeder, still = (feeder_of(training(jitter=pixels, negatives="random"), digits()) for pixels in (1, 0))
    images, labels = examples(digits(), STEP)
    moved = jittered(images, (8, 8), 1, SEED, STEP)
    assert not torch.equal(moved, images)
    pairs, neutral = torch.empty(2 * BATCH, 64), torch.empty(BATCH, 64)
    feeder.learning(STEP, None, pairs)
    assert feeder.passing(STEP, neutral).tolist() == labels
    for rows in (pairs[:BATCH], pairs[BATCH:], neutral):
        seen, bare = rows[:, CLASSES:], moved[:, CLASSES:]
        torch.testing.assert_close(seen / seen.norm(dim=1, keepdim=True), bare / bare.norm(dim=1, keepdim=True))
    for first, second in zip(
        feeder.evaluation(digits().test, 3, 20), still.evaluation(digits().test, 3, 20), strict=True
    ):
        assert torch.equal(first, second)


CONV = (BlockConfig(kind="conv", options={"channels": 4}),)


def test_labels_as_planes_of_an_image() -> None:
    feeder = feeder_of(training(blocks=CONV, negatives="random", labels="planes"), digits())
    assert feeder.inputs == RowSpec((1 + CLASSES, 8, 8), torch.float32)
    pairs, neutral = torch.empty(2 * BATCH, 1 + CLASSES, 8, 8), torch.empty(BATCH, 1 + CLASSES, 8, 8)
    right = feeder.learning(STEP, None, pairs)
    feeder.passing(STEP, neutral)
    images, _ = examples(digits(), STEP)
    plain = torch.zeros(BATCH, 1 + CLASSES, 8, 8)
    plain[:, 0] = images.view(BATCH, 8, 8)
    plain[torch.arange(BATCH), 1 + right] = 1.0
    assert torch.equal(pairs[:BATCH], normalize_rows_(plain.flatten(1), "rms").view(plain.shape))
    assert (pairs[BATCH:, 1:].amax((2, 3)).argmax(1) != right).all()
    assert torch.equal(neutral[:, 1:].amax((1, 2, 3)), neutral[:, 1:].amin((1, 2, 3)))
    rows, labels = feeder.evaluation(digits().test, 3, 5)
    assert rows.shape == (5 * CLASSES + 5, 1 + CLASSES, 8, 8)
    assert rows[: 5 * CLASSES, 1:].amax((2, 3)).argmax(1).tolist() == list(range(CLASSES)) * 5
    assert labels.tolist() == digits().test.labels(np.arange(3, 8)).tolist()


def write(folder: Path, examples: np.ndarray, labels: np.ndarray) -> Data:
    """Write a data set of these examples, the last ten of them for the test."""
    path = folder / "own.npz"
    np.savez(path, x_train=examples[:-10], y_train=labels[:-10], x_test=examples[-10:], y_test=labels[-10:])
    return Data(source="npz", train=(str(path),), split_seed=-1)


def test_without_negatives_rows_are_the_examples_with_their_channels_first(tmp_path: Path) -> None:
    chance = np.random.default_rng(0)
    pixels = chance.integers(0, 256, (90, 6, 5, 3), dtype=np.uint8)
    data = write(tmp_path, pixels, np.arange(90) % 4)
    changed, still = (
        training(blocks=CONV, negatives="none", data=data, augmentation=augmentation)
        for augmentation in (Augmentation(crop=1, flip=True, cutout=2), Augmentation())
    )
    splits = load_splits(data)
    feeder = feeder_of(changed, splits)
    assert isinstance(feeder, PlainFeeder)
    assert feeder.inputs == RowSpec((3, 6, 5), torch.float32)
    images, right = examples(splits, 0)
    changes = Changes(crop=1, flip=True, cutout=2)
    moved = changes.moved(images, (6, 5, 3), SEED, 0)
    for each, expected in (
        (feeder, changes.cut(moved, (6, 5, 3), SEED, 0)),
        (feeder_of(still, splits), images),
    ):
        out = torch.empty(BATCH, 3, 6, 5)
        assert each.learning(0, None, out).tolist() == right
        assert torch.equal(out, expected.view(BATCH, 6, 5, 3).permute(0, 3, 1, 2))
        rows, labels = each.evaluation(splits.test, 2, 4)
        assert torch.equal(rows, torch.from_numpy(pixels[82:86] / np.float32(255)).permute(0, 3, 1, 2))
        assert labels.tolist() == [2, 3, 0, 1]


def test_standardised_images_have_holes_of_the_mean(tmp_path: Path) -> None:
    """Cutout comes behind the normalisation, so that 0 is what it leaves."""
    pixels = np.random.default_rng(0).random((90, 6, 5, 3), dtype=np.float32)
    data = write(tmp_path, pixels, np.arange(90) % 4)
    fields: dict[str, Any] = {"standardize": True, "mean": (0.5, 0.25, 0.0), "deviation": (1.0, 2.0, 4.0)}
    splits = load_splits(data)
    for cutout in (0, 2):
        each = training(blocks=CONV, negatives="none", data=data, augmentation=Augmentation(cutout=cutout), **fields)
        out = torch.empty(BATCH, 3, 6, 5)
        feeder_of(each, splits).learning(0, None, out)
        images = examples(splits, 0)[0].view(BATCH, 6, 5, 3)
        normal = ((images - torch.tensor(fields["mean"])) / torch.tensor(fields["deviation"])).permute(0, 3, 1, 2)
        holes = out == 0
        assert holes.any() == bool(cutout)
        assert (holes.all(1) == holes.any(1)).all()
        torch.testing.assert_close(out, normal.masked_fill(holes, 0.0))
        rows, _ = feeder_of(each, splits).evaluation(splits.test, 0, 10)
        test = (pixels[80:] - np.array(fields["mean"], np.float32)) / np.array(fields["deviation"], np.float32)
        torch.testing.assert_close(rows, torch.from_numpy(test).permute(0, 3, 1, 2))


def test_a_token_is_to_be_told_from_those_before_it(tmp_path: Path) -> None:
    ids = np.random.default_rng(0).integers(0, 256, (90, 9), dtype=np.uint8)
    data = write(tmp_path, ids, np.arange(90) % 2)
    of_tokens = training(blocks=CONV, negatives="none", inputs="tokens", data=data)
    splits = load_splits(data)
    feeder = feeder_of(of_tokens, splits)
    assert isinstance(feeder, TokenFeeder)
    assert feeder.inputs == RowSpec((8,), torch.int64)
    out = torch.empty(BATCH, 8, dtype=torch.int64)
    labels = feeder.learning(0, None, out)
    whole = ids[:80][Sampler(80, BATCH, SEED).rows(0)]
    assert out.tolist() == whole[:, :-1].tolist()
    assert labels.tolist() == whole[:, 1:].tolist()
    rows, of_test = feeder.evaluation(splits.test, 3, 4)
    assert (rows.tolist(), of_test.tolist()) == (ids[83:87, :-1].tolist(), ids[83:87, 1:].tolist())


IMAGE, FLAT = (6, 5, 3), (40,)


@pytest.mark.parametrize(
    ("fields", "shape", "row"),
    [
        ({}, IMAGE, (90,)),
        ({"labels": "append"}, IMAGE, (94,)),
        ({"blocks": CONV}, IMAGE, (3, 6, 5)),
        ({"blocks": CONV}, (6, 5), (1, 6, 5)),
        ({"blocks": CONV}, FLAT, (40,)),
        ({"blocks": CONV, "labels": "planes"}, IMAGE, (7, 6, 5)),
        ({"blocks": CONV, "labels": "append"}, IMAGE, (94,)),
        ({"negatives": "none"}, IMAGE, (3, 6, 5)),
        ({"negatives": "none"}, FLAT, (40,)),
        ({"method": "backprop", "labels": "append"}, (6, 5), (1, 6, 5)),
    ],
)
def test_one_row(fields: dict[str, Any], shape: tuple[int, ...], row: tuple[int, ...]) -> None:
    for precision, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16), ("float64", torch.float64)):
        inputs, labels = row_specs(training(precision=precision, **fields), shape, 4)
        assert inputs == RowSpec(row, dtype)
        assert labels == RowSpec((), torch.int64)


def test_channels_go_first_where_there_are_some() -> None:
    pixels = torch.arange(12).view(1, 12)
    assert channels_first(pixels, (2, 2, 3)).tolist() == [[0, 3, 6, 9, 1, 4, 7, 10, 2, 5, 8, 11]]
    for shape in ((3, 4), (12,)):
        assert torch.equal(channels_first(pixels, shape), pixels)

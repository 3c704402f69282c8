from __future__ import annotations

import gzip
import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from forms import hugging_face
from numpy.typing import NDArray

from ffpipe.data import cache, mnist
from ffpipe.data.download import Patience, Remote
from ffpipe.data.source import Part
from ffpipe.system.errors import UserError

RNG = np.random.default_rng(0)
ARRAYS = {
    "train-images-idx3-ubyte": RNG.integers(0, 256, (20, 4, 4), np.uint8),
    "train-labels-idx1-ubyte": RNG.integers(0, 10, 20, np.uint8),
    "t10k-images-idx3-ubyte": RNG.integers(0, 256, (6, 4, 4), np.uint8),
    "t10k-labels-idx1-ubyte": RNG.integers(0, 10, 6, np.uint8),
}


@pytest.fixture
def plain(idx_bytes: Callable[[NDArray[Any]], bytes]) -> dict[str, bytes]:
    return {name: idx_bytes(array) for name, array in ARRAYS.items()}


@pytest.fixture
def small(plain: dict[str, bytes]) -> mnist.Known:
    """A set like MNIST, of small files."""
    remotes = [Remote(f"{name}.gz", hashlib.md5(data).hexdigest(), len(data)) for name, data in plain.items()]
    files = {"train": (remotes[0], remotes[1]), "test": (remotes[2], remotes[3])}
    return replace(mnist.MNIST, files=files, side=4)


def check(parts: tuple[Part, Part]) -> None:
    for part, (images, labels) in zip(
        parts, (("train-images", "train-labels"), ("t10k-images", "t10k-labels")), strict=True
    ):
        stored = cache.stored(part, 10)
        rows = np.arange(len(stored))
        np.testing.assert_array_equal(stored.images(rows), ARRAYS[f"{images}-idx3-ubyte"].reshape(-1, 16))
        np.testing.assert_array_equal(stored.labels(rows), ARRAYS[f"{labels}-idx1-ubyte"])


@pytest.mark.parametrize("below", ["", "mnist", "MNIST/raw"])
@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("dotted", [False, True])
@pytest.mark.parametrize("by_variable", [False, True])
def test_local_copies(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    plain: dict[str, bytes],
    small: mnist.Known,
    below: str,
    zipped: bool,
    dotted: bool,
    by_variable: bool,
) -> None:
    folder = tmp_path / "data" / below
    folder.mkdir(parents=True)
    for name, data in plain.items():
        name = (name.replace("-idx", ".idx") if dotted else name) + (".gz" if zipped else "")
        (folder / name).write_bytes(gzip.compress(data) if zipped else data)
    given = str(tmp_path / "data")
    if by_variable:
        monkeypatch.setenv("FFPIPE_DATA", given)
    check(mnist.parts("" if by_variable else given, print, small))


@pytest.mark.parametrize(
    ("given", "variable", "setting"),
    [
        (True, "/elsewhere", r"execution\.data_dir"),
        (False, "", "FFPIPE_DATA"),
        # As a run has it that was begun with the variable.
        (True, "", r"execution\.data_dir \(FFPIPE_DATA\)"),
    ],
)
def test_a_folder_that_lacks_a_file(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    plain: dict[str, bytes],
    small: mnist.Known,
    given: bool,
    variable: str,
    setting: str,
) -> None:
    monkeypatch.setenv("FFPIPE_DATA", variable or str(tmp_path))
    for name in list(plain)[:3]:
        (tmp_path / name).write_bytes(plain[name])
    with pytest.raises(UserError, match=rf"^{setting} is {tmp_path}, .*t10k-labels-idx1-ubyte is not there: looked in"):
        mnist.parts(str(tmp_path) if given else "", print, small)


def test_the_other_known_set_is_named(tmp_path: Path, plain: dict[str, bytes], small: mnist.Known) -> None:
    for name, data in plain.items():
        (tmp_path / name).write_bytes(data)
    fashion = replace(small, name="fashion-mnist", title="Fashion-MNIST")
    asked = replace(small, files=mnist.MNIST.files)
    with pytest.raises(UserError, match=r"file of Fashion-MNIST, .* set training\.data\.source fashion-mnist, or put"):
        cache.stored(mnist.parts(str(tmp_path), print, asked, others=(mnist.MNIST, fashion))[0], 10)


def test_an_archive_of_keras_is_named(tmp_path: Path, small: mnist.Known) -> None:
    (tmp_path / "mnist.npz").write_bytes(b"")
    with pytest.raises(UserError, match=r"mnist\.npz is read with --data .*mnist\.npz"):
        mnist.parts(str(tmp_path), print, small)


def test_another_set_in_the_same_format(tmp_path: Path, plain: dict[str, bytes], small: mnist.Known) -> None:
    for name, data in plain.items():
        (tmp_path / name).write_bytes(data)
    changed = bytes([*plain["train-labels-idx1-ubyte"][:-1], 3])
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(changed)
    train, test = mnist.parts(str(tmp_path), print, small)
    with pytest.raises(UserError) as caught:
        cache.stored(train, 10)
    for what in (
        "train-labels",
        hashlib.md5(changed).hexdigest(),
        small.files["train"][1].md5,
        "--training.data.source idx",
    ):
        assert what in str(caught.value)
    assert len(cache.stored(test, 10)) == 6


@pytest.fixture
def mirror(served: tuple[str, list[str]], tmp_path: Path, plain: dict[str, bytes]) -> tuple[str, list[str]]:
    """A server of the stand-ins."""
    for name, data in plain.items():
        (tmp_path / "served" / f"{name}.gz").write_bytes(gzip.compress(data))
    return served


def test_downloaded_on_first_use(
    monkeypatch: pytest.MonkeyPatch, cache_folder: Path, small: mnist.Known, mirror: tuple[str, list[str]]
) -> None:
    url, asked = mirror
    monkeypatch.setenv("FFPIPE_MNIST_MIRRORS", f"{url}/nothing , {url}/")
    lines: list[str] = []
    parts = mnist.parts("", lines.append, small, Patience(timeout=5))
    assert asked == []
    check(parts)
    names = [remote.name for part in small.files.values() for remote in part]
    assert asked == [path for name in names for path in (f"GET /nothing/{name}", f"GET /{name}")]
    assert sorted(path.name for path in (cache_folder / "downloads").iterdir()) == sorted(names)
    assert any("train-images" in line for line in lines)
    check(mnist.parts("", lines.append, small))
    assert len(asked) == 2 * len(names)


def test_mirrors(monkeypatch: pytest.MonkeyPatch) -> None:
    assert mnist.mirrors() == mnist.MNIST.mirrors
    monkeypatch.setenv("FFPIPE_MNIST_MIRRORS", " ,")
    assert mnist.mirrors() == mnist.MNIST.mirrors
    monkeypatch.setenv("FFPIPE_MNIST_MIRRORS", "http://a/, http://b")
    assert mnist.mirrors() == ("http://a/", "http://b")


def test_another_set_is_downloaded_beside_it(
    monkeypatch: pytest.MonkeyPatch, cache_folder: Path, small: mnist.Known, mirror: tuple[str, list[str]]
) -> None:
    url, asked = mirror
    monkeypatch.setenv("FFPIPE_FASHION_MNIST_MIRRORS", url)
    check(mnist.parts("", print, replace(mnist.FASHION_MNIST, files=small.files)))
    assert len(asked) == 4
    assert len(list((cache_folder / "downloads" / "fashion-mnist").iterdir())) == 4


@pytest.mark.parametrize("damage", ["", "image", "label", "cut"])
def test_a_copy_in_parquet(tmp_path: Path, small: mnist.Known, damage: str) -> None:
    """It is taken for the set where its images and labels are those of the IDX files."""
    (tmp_path / "mnist").mkdir()
    for part, name in (("train", "train"), ("test", "t10k")):
        images, labels = ARRAYS[f"{name}-images-idx3-ubyte"].copy(), ARRAYS[f"{name}-labels-idx1-ubyte"].copy()
        images[3, 2, 1] += damage == "image"
        labels[5] = (labels[5] + (damage == "label")) % 10
        kept = len(images) - (damage == "cut")
        table = pa.table({"image": hugging_face(images[:kept]), "label": labels[:kept]})
        pq.write_table(table, tmp_path / "mnist" / f"{part}.parquet")
    if not damage:
        check(mnist.parts(str(tmp_path), print, small))
        return
    for copy in mnist.parts(str(tmp_path), print, small):
        with pytest.raises(UserError, match=r"parquet: .*MNIST"):
            cache.stored(copy, 10)


@pytest.mark.parametrize("known", [mnist.MNIST, mnist.FASHION_MNIST], ids=lambda known: known.name)
def test_the_real_set(real_data: Callable[[str], Path], known: mnist.Known) -> None:
    """The MD5s and sizes in the table are those of the real files: conversion checks them."""
    train, test = (cache.stored(part, 10) for part in mnist.parts(str(real_data(known.name).parent), print, known))
    assert (len(train), len(test), train.shape, train.divisor) == (60_000, 10_000, (28, 28), 255)
    assert np.bincount(test.labels(np.arange(10_000)))[:3].tolist() == (
        [980, 1135, 1032] if known is mnist.MNIST else [1000, 1000, 1000]
    )
    assert train.labels(np.arange(5)).tolist() == ([5, 0, 4, 1, 9] if known is mnist.MNIST else [9, 0, 0, 3, 0])

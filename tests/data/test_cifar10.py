"""CIFAR-10 in each form that it comes in, by small stand-ins, and what happens to copies that are damaged."""

from __future__ import annotations

import hashlib
import io
import pickle
import tarfile
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from forms import hugging_face

from ffpipe.data import cache, cifar10
from ffpipe.data.cifar10 import BINARY, PYTHON, PYTHON_ARCHIVE, Batches
from ffpipe.data.download import Patience, Remote
from ffpipe.system.errors import UserError

ROWS = 7
RNG = np.random.default_rng(0)
NAMES = {"train": ["data_batch_1", "data_batch_2"], "test": ["test_batch"]}
LABELS = {name: RNG.integers(0, 10, ROWS, np.uint8) for part in NAMES.values() for name in part}
IMAGES = {name: RNG.integers(0, 256, (ROWS, 32, 32, 3), np.uint8) for name in LABELS}


def planes(name: str) -> Any:
    return IMAGES[name].transpose(0, 3, 1, 2).reshape(ROWS, -1)


def binary(name: str) -> bytes:
    return np.concatenate([LABELS[name][:, None], planes(name)], axis=1).tobytes()


def pickled(name: str) -> bytes:
    """Pickle a batch as the authors did: a dictionary with a list of labels and an array of bytes."""
    numbers = [int(label) for label in LABELS[name]]
    return pickle.dumps({"batch_label": "a batch", "labels": numbers, "data": planes(name), "filenames": ["x"]}, 2)


FILES = {
    part: Batches(ROWS, {name: hashlib.md5(binary(name)).hexdigest() for name in names})
    for part, names in NAMES.items()
}


def archive(path: Path, folder: str, files: dict[str, bytes]) -> None:
    with tarfile.open(path, "w:gz") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(f"{folder}/{name}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def parquet(path: Path, names: list[str], words: bool = False) -> None:
    pictures = hugging_face(image for name in names for image in IMAGES[name])
    labels = np.concatenate([LABELS[name] for name in names])
    pq.write_table(pa.table({"img": pictures, "label": np.array(cifar10.NAMES)[labels] if words else labels}), path)


def put(form: str, folder: Path) -> None:
    of_binary = {f"{name}.bin": binary(name) for name in LABELS}
    of_python = {name: pickled(name) for name in LABELS}
    folder.mkdir(parents=True, exist_ok=True)
    if form == "binary archive":
        archive(folder / cifar10.ARCHIVE.name, BINARY, of_binary)
    elif form == "python archive":
        archive(folder / PYTHON_ARCHIVE, PYTHON, of_python)
    elif form == "parquet":
        for part, names in NAMES.items():
            parquet(folder / f"{part}.parquet", names)
    else:
        place = folder / (BINARY if form == "binary folder" else PYTHON)
        place.mkdir()
        for name, data in (of_binary if form == "binary folder" else of_python).items():
            (place / name).write_bytes(data)


def check(parts: Any) -> None:
    for part, names in zip(parts, NAMES.values(), strict=True):
        stored = cache.stored(part, 10)
        rows = np.arange(len(stored))
        assert stored.shape == (32, 32, 3)
        expected = np.concatenate([IMAGES[name] for name in names]).reshape(len(rows), -1)
        np.testing.assert_array_equal(stored.images(rows), expected)
        np.testing.assert_array_equal(stored.labels(rows), np.concatenate([LABELS[name] for name in names]))


FORMS = ["binary archive", "python archive", "binary folder", "python folder"]


# A train.parquet in a folder of several sets may be of any of them.
@pytest.mark.parametrize(("form", "below"), [("parquet", "cifar10"), *product(FORMS, ["cifar10", "."])])
def test_local_copies(tmp_path: Path, form: str, below: str) -> None:
    put(form, tmp_path / below)
    check(cifar10.parts(str(tmp_path), print, FILES))


def test_a_folder_without_a_copy(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"execution\.data_dir is .* no copy of CIFAR-10: looked in .*cifar-10-binary"):
        cifar10.parts(str(tmp_path), print, FILES)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("damage", ["cut", "altered"])
def test_a_damaged_copy(tmp_path: Path, form: str, damage: str) -> None:
    put(form, tmp_path)
    for path in tmp_path.rglob("*"):
        if path.is_file():
            data = bytearray(path.read_bytes())
            if damage == "cut":
                data = data[: len(data) * 2 // 3]
            else:
                data[len(data) // 2] ^= 1
            path.write_bytes(data)
    errors = []
    for part in cifar10.parts(str(tmp_path), print, FILES):
        try:
            cache.stored(part, 10)  # which an altered byte of the other part's does not touch
        except UserError as error:
            errors.append(str(error))
    assert errors
    assert all(str(tmp_path) in error and "\n" not in error for error in errors)


def test_names_in_parquet(tmp_path: Path) -> None:
    """As Kaggle's copy has them."""
    (tmp_path / "cifar10").mkdir()
    for part, names in NAMES.items():
        parquet(tmp_path / "cifar10" / f"{part}.parquet", names, words=True)
    check(cifar10.parts(str(tmp_path), print, FILES))


def test_another_set_in_parquet(tmp_path: Path) -> None:
    put("parquet", tmp_path / "cifar10")
    parquet(tmp_path / "cifar10" / "train.parquet", ["test_batch", "data_batch_2"])
    train, _ = cifar10.parts(str(tmp_path), print, FILES)
    with pytest.raises(UserError, match=r"train\.parquet: images 0 to 6 .* MD5 .* damaged or another set"):
        cache.stored(train, 10)


def test_downloaded_on_first_use(
    monkeypatch: pytest.MonkeyPatch, served: tuple[str, list[str]], tmp_path: Path
) -> None:
    put("binary archive", tmp_path / "served")
    monkeypatch.setenv(cifar10.VARIABLE, f"{served[0]}/nothing, {served[0]}")
    monkeypatch.delenv("FFPIPE_DATA", raising=False)
    data = (tmp_path / "served" / cifar10.ARCHIVE.name).read_bytes()
    remote = Remote(cifar10.ARCHIVE.name, hashlib.md5(data).hexdigest(), len(data), packed=True)
    check(cifar10.parts("", print, FILES, remote, Patience(timeout=5)))
    wrong = Remote(remote.name, "0" * 32, len(data), packed=True)
    with pytest.raises(UserError, match="MD5 of the content"):
        cache.stored(
            cifar10.parts("", print, FILES | {"train": Batches(ROWS, {"x": "y"})}, wrong, Patience(timeout=5))[0]
        )


def test_the_real_set(real_data: Callable[[str], Path]) -> None:
    train, test = (cache.stored(part, 10) for part in cifar10.parts(str(real_data("cifar10").parent), print))
    assert (len(train), len(test), train.shape, train.divisor) == (50_000, 10_000, (32, 32, 3), 255)

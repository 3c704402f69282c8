"""Texts as rows of ids."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ffpipe.config.schema import Data
from ffpipe.data import cache, text
from ffpipe.data.splits import load_splits
from ffpipe.system.errors import UserError


def test_sequences_overlap_by_the_symbol_that_both_predict_and_see(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("caba daé!")
    stored = cache.stored(text.part(path, "training.data.train", "characters", 3))
    # In the order of their code points: space ! a b c d é
    assert stored.classes == 7
    np.testing.assert_array_equal(stored.images(np.arange(2)), [[4, 2, 3, 2], [2, 0, 5, 2]])
    assert len(stored) == 2  # the rest is too short


def test_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(bytes([0xFF, 0, 7, 200]))
    stored = cache.stored(text.part(path, "training.data.train", "bytes", 3))
    assert stored.classes == 256
    np.testing.assert_array_equal(stored.images(np.arange(1)), [[255, 0, 7, 200]])


@pytest.mark.parametrize(
    ("data", "symbols", "message"),
    [
        (b"", "characters", "it is empty; expected a text in UTF-8"),
        (b"abc", "characters", "it has 3 symbols, but a sequence needs 5"),
        (b"abc\xff def ghi", "characters", "it is not UTF-8: byte 3 is 0xff"),
        ("".join(map(chr, range(0x4E00, 0x4F80))).encode(), "characters", "384 different characters, more than 256"),
        (b"abc", "bytes", "it has 3 symbols, but a sequence needs 5"),
    ],
)
def test_what_is_no_text(tmp_path: Path, data: bytes, symbols: str, message: str) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(data)
    with pytest.raises(UserError, match=message):
        cache.stored(text.part(path, "training.data.train", symbols, 4))


def test_it_is_split_by_position(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("".join(chr(97 + i % 26) for i in range(101)))
    data = Data(source="text", train=(str(path),), length=10, validation=2, test_count=3, split_seed=-1)
    splits = load_splits(data)
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [5, 2, 3]
    first = [int(part.raw(np.arange(1))[0, 0]) for part in (splits.train, splits.validation, splits.test)]
    assert first == [0, 50 % 26, 70 % 26]
    for wrong in (
        Data(source="text", train=(str(path),), length=10, test_count=3),
        Data(source="text", train=(str(path),), length=10, split_seed=-1),
        Data(source="text", train=(str(path), "b"), length=10, test_count=3, split_seed=-1),
    ):
        with pytest.raises(UserError, match=r"training\.data\."):
            load_splits(wrong)


def test_a_local_copy_of_tiny_shakespeare(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"tiny shakespeare is not there: looked in .* training\.data\.train names"):
        text.shakespeare(str(tmp_path), print, "characters", 4)
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "tinyshakespeare.txt").write_text("to be or not to be")
    with pytest.raises(UserError, match=r"tinyshakespeare\.txt: the MD5 .* expected 6fb4.*: it is not tiny"):
        cache.stored(text.shakespeare(str(tmp_path), print, "characters", 4))


def test_the_real_one(real_data: Callable[[str], Path]) -> None:
    stored = cache.stored(text.shakespeare(str(real_data("text").parent), print, "characters", 64))
    assert (stored.classes, len(stored)) == (65, 17_428)

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from repository import REPOSITORY

from ffpipe.data import cache
from ffpipe.data.source import OpenedPart, Part, file_identity
from ffpipe.system.errors import UserError

IMAGES = np.arange(40, dtype=np.uint8).reshape(10, 4)
LABELS = np.arange(10) % 4


class Source:
    """A part that counts how often it is opened."""

    def __init__(
        self,
        blocks: Callable[[], Iterator[NDArray[Any]]] = lambda: iter([IMAGES]),
        identity: tuple[object, ...] = ("a file", 1),
    ) -> None:
        self.opened = 0
        self.blocks = blocks
        self.part = Part("made", identity, self.open)

    def open(self) -> OpenedPart:
        self.opened += 1
        return OpenedPart("made", (2, 2), np.dtype(np.uint8), 255, LABELS, self.blocks)


def files(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.exists() else []


def test_converted_once(cache_folder: Path) -> None:
    source = Source()
    for _ in range(2):
        stored = cache.stored(source.part)
        np.testing.assert_array_equal(stored.images(np.arange(10)), IMAGES)
    assert source.opened == 1
    assert len(files(cache_folder)) == 1


def test_what_it_depends_on_has_a_file_of_its_own(cache_folder: Path) -> None:
    assert cache.stored(Source().part).classes == 4
    assert cache.stored(Source().part, classes=7).classes == 7
    cache.stored(Source(identity=("a file", 2)).part)
    assert len(files(cache_folder)) == 3


def test_a_file_that_was_replaced_is_another_even_where_size_and_time_are_kept(tmp_path: Path) -> None:
    file = tmp_path / "images"
    file.write_bytes(b"one")
    before = file_identity(file, "training.data.train")
    times = file.stat()
    while file.stat().st_ctime_ns == times.st_ctime_ns:  # which some kernels count in ticks of milliseconds
        file.write_bytes(b"two")
        os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert file_identity(file, "training.data.train") != before


@pytest.mark.parametrize("damage", [lambda data: b"", lambda data: data[:-100], lambda data: data[100:]])
def test_a_damaged_file_is_written_again(cache_folder: Path, damage: Callable[[bytes], bytes]) -> None:
    source = Source()
    cache.stored(source.part)
    (path,) = files(cache_folder)
    path.write_bytes(damage(path.read_bytes()))
    np.testing.assert_array_equal(cache.stored(source.part).images(np.arange(10)), IMAGES)
    assert source.opened == 2
    assert files(cache_folder) == [path]


def test_who_has_mapped_a_file_keeps_it_when_it_is_replaced(cache_folder: Path) -> None:
    source = Source()
    earlier = cache.stored(source.part)
    (path,) = files(cache_folder)
    path.unlink()
    cache.stored(Source(lambda: iter([IMAGES + 1])).part)
    np.testing.assert_array_equal(earlier.images(np.arange(10)), IMAGES)


@pytest.mark.parametrize("error", [UserError("the source is damaged"), KeyboardInterrupt(), OSError(28, "disk full")])
def test_nothing_is_left_of_what_failed(cache_folder: Path, error: BaseException) -> None:
    def blocks() -> Iterator[NDArray[Any]]:
        yield IMAGES[:5]
        raise error

    with pytest.raises((UserError, KeyboardInterrupt)) as caught:
        cache.stored(Source(blocks).part)
    if isinstance(error, OSError):
        assert "disk full; FFPIPE_CACHE names another folder" in str(caught.value)
    assert files(cache_folder) == []


def test_a_folder_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FFPIPE_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match=r"cannot write .*file.*; FFPIPE_CACHE names another folder"):
        cache.stored(Source().part)


def test_where_it_lies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FFPIPE_CACHE", str(tmp_path / "own"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache.folder() == tmp_path / "own"
    monkeypatch.delenv("FFPIPE_CACHE")
    assert cache.folder() == tmp_path / "xdg" / "ffpipe"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache.folder() == tmp_path / "home" / ".cache" / "ffpipe"


RACER = """
import sys
import numpy as np
from pathlib import Path
from typing import Any
from ffpipe.data import cache, npz
part = npz.part([Path(sys.argv[1])], "train", (), "training.data.train")
print("ready", flush=True)
sys.stdin.readline()
print(int(cache.stored(part).images(np.arange(1000)).sum()))
"""


def test_processes_that_convert_at_once_all_succeed(cache_folder: Path, tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (1000, 500), np.uint8)
    np.savez(tmp_path / "set.npz", x=images, y=np.zeros(1000, np.uint8))
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, tmp_path / "set.npz"],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    for racer in racers:
        assert racer.stdout
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        assert racer.stdin
        racer.stdin.write("go\n")
        racer.stdin.flush()
    sums = [racer.communicate(timeout=60)[0] for racer in racers]
    assert sums == [f"{images.sum(dtype=int)}\n"] * 3
    assert len(files(cache_folder)) == 1

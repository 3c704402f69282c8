"""Hosts of the first stage have the data that the driver has, or the run is refused."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ffpipe import UserError, override, recipe
from ffpipe.data import cache
from ffpipe.data.arrow import Stored
from ffpipe.data.splits import splits_from
from ffpipe.engines.ray import supply
from ffpipe.engines.ray.supply import HostData
from ffpipe.pipeline.job import Job, make_job


def job_of(file: Path, **fields: Any) -> Job:
    data = {"training.data.source": "npz", "training.data.train": [str(file)], "training.data.test_count": 50}
    return make_job(override(recipe("digits"), {**data, "training.dims": [4, 8, 8], **fields}))


def write(file: Path, seed: int) -> None:
    """Write 400 images of four bytes, and their labels."""
    random = np.random.default_rng(seed)
    np.savez(file, images=random.integers(0, 256, (400, 4), dtype=np.uint8), labels=np.arange(400) % 3)


class OtherHost:
    """Data of a host whose cache is another folder."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self._monkeypatch = folder, monkeypatch
        self.host_data = HostData()
        self.calls: list[str] = []

    def __call__(self, method: str, *arguments: Any) -> Any:
        self.calls.append(method)
        with self._monkeypatch.context() as there:
            there.setenv("FFPIPE_CACHE", str(self.folder))
            return getattr(self.host_data, method)(*arguments)


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FFPIPE_CACHE", str(tmp_path / "here"))
    write(tmp_path / "data.npz", 1)
    return tmp_path / "data.npz"


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> OtherHost:
    return OtherHost(tmp_path / "there", monkeypatch)


def test_data_that_the_driver_sends_are_the_same_and_are_sent_once(
    file: Path, there: OtherHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_of(file, **{"execution.data_from": "driver"})
    names = supply.supply(job, there, "10.0.0.2", piece_bytes=1000)
    assert there.calls.count("take") > 2
    assert list(names) == [path.name for path in there.folder.iterdir()]
    sent = len(there.calls)
    assert supply.supply(job, there, "10.0.0.2") == names
    assert there.calls[sent:] == ["fingerprint"]
    file.unlink()
    monkeypatch.setenv("FFPIPE_CACHE", str(there.folder))
    got, had = splits_from(job.config.training.data, "", names), job.splits
    rows = np.arange(len(had.train))
    assert (got.train.images(rows) == had.train.images(rows)).all()
    assert (got.test.labels(np.arange(len(had.test))) == had.test.labels(np.arange(len(had.test)))).all()


def test_a_host_with_its_own_copy_is_sent_nothing(file: Path, there: OtherHost) -> None:
    assert supply.supply(job_of(file), there, "10.0.0.2") == ()
    assert there.calls == ["find"]


def test_a_host_without_data_is_refused(file: Path, there: OtherHost) -> None:
    job = job_of(file)
    file.unlink()
    with pytest.raises(
        UserError, match=r"10\.0\.0\.2 of the first stage does not have the data .*--execution\.data-from driver"
    ):
        supply.supply(job, there, "10.0.0.2")


def test_a_host_with_other_data_is_refused(file: Path, there: OtherHost) -> None:
    job = job_of(file)
    write(file, 2)
    with pytest.raises(UserError, match="has other data than this host"):
        supply.supply(job, there, "10.0.0.2")


def test_a_fingerprint_tells_labels_and_images_apart(file: Path) -> None:
    first = job_of(file).splits.fingerprint
    assert job_of(file).splits.fingerprint == first
    with np.load(file) as arrays:
        images, labels = arrays["images"], arrays["labels"]
    np.savez(file, images=images, labels=np.roll(labels, 1))
    assert job_of(file).splits.fingerprint != first
    np.savez(file, images=images[::-1], labels=labels)
    assert job_of(file).splits.fingerprint != first


def test_a_fingerprint_of_large_images_is_made_from_a_few_at_a_time(file: Path) -> None:
    asked: list[int] = []

    class Counted(Stored):
        def images(self, rows: NDArray[np.int64]) -> NDArray[Any]:
            asked.append(len(rows))
            return super().images(rows)

    whole = job_of(file).splits.stored[0]
    assert Counted(whole.path, block_bytes=3 * whole.features).fingerprint == whole.fingerprint
    assert set(asked[:-1]) == {3}
    assert sum(asked) == len(whole)


def test_files_that_are_cut_short_or_misnamed(file: Path, there: OtherHost) -> None:
    job = job_of(file)
    name = job.splits.stored[0].path.name
    assert there("take", name, np.zeros(100, dtype=np.uint8), True) == ""
    assert there("fingerprint", name) == ""
    assert "is not a name of a file" in there("take", "../elsewhere", np.zeros(1, dtype=np.uint8), True)
    with pytest.raises(UserError, match="has lost what was sent"):
        cache.open_stored("nothing.arrow")


def test_what_a_host_says_of_data_that_are_not_there(file: Path) -> None:
    data = job_of(file).config.training.data
    fingerprint, problem = HostData().find(replace(data, train=("nowhere.npz",)), "")
    assert not fingerprint
    assert "nowhere.npz" in problem


def test_a_host_whose_cache_cannot_be_written(file: Path, there: OtherHost) -> None:
    there.folder.write_text("no folder")
    with pytest.raises(UserError, match=r"could not be sent to host 10\.0\.0\.2: cannot write"):
        supply.supply(job_of(file, **{"execution.data_from": "driver"}), there, "10.0.0.2")


def test_what_a_killed_writer_left_is_removed_when_it_is_old(file: Path, there: OtherHost) -> None:
    job = job_of(file, **{"execution.data_from": "driver"})
    there.folder.mkdir()
    old, new = (there.folder / f".{job.splits.stored[0].path.name}.{n}.tmp" for n in "12")
    for left in (old, new):
        left.write_bytes(b"half")
    os.utime(old, (0, 0))
    supply.supply(job, there, "10.0.0.2")
    assert not old.exists()
    assert new.exists()

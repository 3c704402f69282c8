"""What every test shares: a cache of its own, no data folder unless it asks for one, one Ray cluster."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ffpipe.pipeline.ray_settings import prepare_ray

os.environ.pop("RAY_ADDRESS", None)
prepare_ray()  # before any test imports Ray

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Prepared data goes to a folder of this session, shared with the processes that it starts."""
    patch = pytest.MonkeyPatch()
    patch.setenv("FFPIPE_CACHE", str(tmp_path_factory.mktemp("cache")))
    yield
    patch.undo()


@pytest.fixture(scope="session")
def mnist_folder() -> str:
    """Folder with local copies of MNIST."""
    folders = [os.environ.get("FFPIPE_DATA", ""), str(REPOSITORY.parent / "shared" / "data")]
    for folder in folders:
        if folder and (Path(folder) / "mnist" / "train-images-idx3-ubyte.gz").is_file():
            return folder
    pytest.skip("no local copy of MNIST: set FFPIPE_DATA to a folder that holds mnist/")


@pytest.fixture(scope="session")
def cluster(_cache: None) -> Iterator[None]:
    """One Ray cluster for all tests that run the Ray engine in this process."""
    from ffpipe.pipeline.cluster import Cluster

    cluster = Cluster()
    yield
    cluster.close()

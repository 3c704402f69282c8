"""The fixtures that every test shares: a cache of its own, no data folder unless it asks for one, one Ray cluster."""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings
from tiers import QUICK

from ffpipe.engines.ray.settings import prepare_ray

if TYPE_CHECKING:
    from ffpipe import Result
    from ffpipe.engines.ray.cluster import Cluster

os.environ.pop("RAY_ADDRESS", None)
# OpenMP's threads spin while they wait, and take the cores from the stages of other processes.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# A shell has them ignored in what it runs in the background, and children would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
prepare_ray()  # before any test imports Ray
# Else each training in this process would ask a child for shapes, which loads it anew.
importlib.import_module("torch._dynamo")

# Half of what hypothesis takes by itself: every run of the suite draws others. Its deadline is of a machine that does
# nothing else besides.
settings.register_profile("suite", max_examples=50, deadline=None)
settings.load_profile("suite")
# For scripts/mutations.py: more examples, and the same ones each time.
settings.register_profile("thorough", max_examples=500, derandomize=True, database=None, deadline=None)

# The cluster that runs in this process, if one does, and the files with tests that use one.
_clusters: list[Cluster] = []
_of_ray: set[Path] = set()


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Prepared data goes to a folder of this session, shared with the processes that it starts."""
    patch = pytest.MonkeyPatch()
    patch.setenv("FFPIPE_CACHE", str(tmp_path_factory.mktemp("cache")))
    yield
    patch.undo()


# Each file is one process's, and these take minutes: at the end nobody would work beside them.
LONGEST = (
    "test_pages",
    "test_drill",
    "test_invariance_of_blocks",
    "test_invariance",
    "test_recovery",
    "test_local_recipes",
    "test_digests",
    "test_words",
    "test_surroundings",
)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out the other files for `-m quick`: they need not even be imported."""
    is_test = collection_path.suffix == ".py" and collection_path.name.startswith("test_")
    return True if config.option.markexpr == "quick" and is_test and collection_path not in QUICK else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of quick files, and put the longest files first, then those of Ray."""
    for item in items:
        if item.path in QUICK and not item.get_closest_marker("long"):
            item.add_marker("quick")
        if "cluster" in getattr(item, "fixturenames", ()):
            _of_ray.add(item.path)
    items.sort(key=lambda item: ((*LONGEST, item.path.stem).index(item.path.stem), item.path not in _of_ray))


@pytest.fixture(scope="session")
def mnist_folder() -> str:
    """Folder with local copies of MNIST."""
    folder = os.environ.get("FFPIPE_DATA", "")
    if folder and (Path(folder) / "mnist" / "train-images-idx3-ubyte.gz").is_file():
        return folder
    pytest.skip("no local copy of MNIST: set FFPIPE_DATA to a folder that holds mnist/")


@pytest.fixture
def cluster(_cache: None) -> None:
    """One Ray cluster for all tests that run the Ray engine in this process. Its workers are forked (warm.py)."""
    import warm

    from ffpipe.engines.ray.cluster import Cluster

    if not _clusters:
        with warm.workers():
            _clusters.append(Cluster())


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(nextitem: pytest.Item | None) -> None:
    """End the cluster after the last file that uses it: one that does nothing takes 4 % of a core."""
    if nextitem is None or nextitem.path not in _of_ray:
        _end_cluster()


def pytest_sessionfinish() -> None:
    """End the cluster of a session that breaks off, with `-x` say."""
    _end_cluster()


def _end_cluster() -> None:
    while _clusters:
        _clusters.pop().close()


@pytest.fixture(scope="session")
def undisturbed(_cache: None, tmp_path_factory: pytest.TempPathFactory) -> Result:
    """A run to which nothing happens (disturbed.py)."""
    from disturbed import config

    from ffpipe import train

    return train(config(tmp_path_factory.mktemp("undisturbed") / "run", **{"execution.engine": "local"}))


@pytest.fixture(scope="session")
def strangers_run(_cache: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, which no test touches (strangers.py)."""
    from strangers import make_run

    return make_run(tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture
def copy(strangers_run: Path, tmp_path: Path) -> Path:
    """A copy of that run, to damage."""
    from strangers import fresh

    return fresh(strangers_run, tmp_path / "copy")


@pytest.fixture
def runs(here: Path, strangers_run: Path) -> Path:
    """A folder in which that run is, to look at and to damage."""
    from strangers import fresh

    fresh(strangers_run, here / "runs" / "first")
    return here / "runs"


@pytest.fixture
def threads_put_back() -> Iterator[None]:
    """A test may compute on any number of threads."""
    import torch  # after ffpipe, which sets what torch reads from the environment

    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True, scope="module")
def _threads_are_left_as_they_were() -> Iterator[None]:
    """Tests of other modules in this process would compute on another number of threads than they say."""
    torch = sys.modules.get("torch")
    before = None if torch is None else torch.get_num_threads()
    yield
    if torch is not None:
        assert torch.get_num_threads() == before


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, and no data folder from outside."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FFPIPE_DATA", raising=False)
    return tmp_path


@pytest.fixture
def forgotten(here: Path) -> Iterator[None]:
    """Modules that were imported from the working folder go after the test."""
    from user_code import forget

    before = dict(sys.modules)
    yield
    forget(here, before)

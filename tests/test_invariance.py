"""The promise: nothing under `execution` changes one bit of the weights.

Every row trains the same network in another way and must end with the same digest. In `make test` every number of
stages meets every engine, and every chunk and window some of them; the other combinations are long tests.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from covering import only

from ffpipe import Config, override, recipe, train

# Ways, and the engines that take them in `make test`.
MATTERS = ({"negative_lag": 12}, {"epochs": 3}, {"batch_size": 49}, {"peer": 0.0})
BY_CHUNK: dict[str, tuple[dict[str, Any], str]] = {
    "1 stage, chunk 1": ({"stages": 1, "chunk": 1}, ""),
    "1 stage": ({"stages": 1}, "local"),
    "2 stages, chunk 1": ({"stages": 2, "chunk": 1}, "local"),
    "2 stages, chunk 3": ({"stages": 2, "chunk": 3}, "ray"),
    "2 stages": ({"stages": 2}, ""),
    "3 stages, chunk 1, window 1": ({"stages": 3, "chunk": 1, "window": 1}, "ray"),
    "3 stages, chunk 3, window 10": ({"stages": 3, "chunk": 3, "window": 10}, "local"),
    "3 stages": ({"stages": 3}, ""),
    "3 stages, evaluating and saving": (
        {"stages": 3, "evaluate_every": 1, "snapshot_steps": 7, "log_steps": 3},
        "local ray",
    ),
}


@pytest.fixture(autouse=True, scope="module")
def _two_threads() -> Iterator[None]:
    """The local and the layerwise engine compute on two threads, stages of Ray on one each."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


def digits_run() -> Config:
    """Return three layers, so that features of a layer in the middle travel to the head past another stage."""
    return override(recipe("digits"), {"training.epochs": 2, "training.dims": [64, 90, 70, 50], "training.seed": 3})


def digest(config: Config, run_dir: Path, **execution: Any) -> str:
    execution = {"evaluate_every": 0, "stages": 0, **execution}
    return train(replace(config, execution=replace(config.execution, run_dir=str(run_dir), **execution))).weights_sha256


@pytest.fixture(scope="module")
def digits_digest(tmp_path_factory: pytest.TempPathFactory) -> str:
    return digest(digits_run(), tmp_path_factory.mktemp("digits") / "run", engine="local", chunk=1)


@pytest.mark.parametrize(
    ("engine", "way"),
    [
        pytest.param(engine, way, marks=() if engine in engines else pytest.mark.long)
        for engine in ("local", "ray")
        for way, (_, engines) in BY_CHUNK.items()
    ],
)
@pytest.mark.usefixtures("cluster")
def test_digits_with_hard_negatives(engine: str, way: str, digits_digest: str, tmp_path: Path) -> None:
    execution, _ = BY_CHUNK[way]
    assert digest(digits_run(), tmp_path / "run", engine=engine, **execution) == digits_digest


CHAPTERS: dict[str, dict[str, Any]] = {
    "a chapter of the engine's choosing": {},
    "chapters of 1": {"chapter": 1},
    "chapters of 7, chunks of 3": {"chapter": 7, "chunk": 3, "evaluate_every": 1, "snapshot_steps": 5},
    "two stages": {"stages": 2, "chapter": 20, "spool_compression": "lz4"},
    "one stage": {"stages": 1, "spool_compression": "zstd"},
}


@pytest.mark.parametrize("execution", CHAPTERS.values(), ids=CHAPTERS.keys())
def test_layerwise_with_hard_negatives(execution: dict[str, Any], digits_digest: str, tmp_path: Path) -> None:
    assert digest(digits_run(), tmp_path / "run", engine="layerwise", **execution) == digits_digest
    assert not list((tmp_path / "run").glob("ffpipe-spool-*"))


@pytest.mark.parametrize(
    "training",
    [
        {"negative_lag": 0},
        pytest.param({"negatives": "random"}, marks=pytest.mark.long),
        pytest.param({"negatives": "fixed", "head": False}, marks=pytest.mark.long),
    ],
)
@pytest.mark.usefixtures("cluster")
def test_lock_step_and_other_negatives(training: dict[str, Any], tmp_path: Path) -> None:
    config = digits_run()
    config = replace(config, training=replace(config.training, **training))
    local = digest(config, tmp_path / "local", engine="local")
    assert digest(config, tmp_path / "ray", engine="ray", stages=2, evaluate_every=1) == local
    assert digest(config, tmp_path / "layerwise", engine="layerwise", evaluate_every=1) == local


OTHER_RULES: dict[str, dict[str, Any]] = {
    "adaptive": {"negatives": "adaptive", "jitter": 1, "dropout": 0.1},
    "local steps": {"negatives": "shuffled", "local_steps": 3, "hand_on": "after", "initialization": "glorot"},
    "without labels": {"negatives": "hybrid", "labels": "none", "objective": "symba", "goodness": "mean"},
    "other digits": {"negatives": "others", "labels": "none", "phases": "apart", "data.positive_classes": 5},
    "other digits with labels": {"negatives": "others", "dropout": 0.2, "phases": "apart", "data.positive_classes": 5},
}
# Each of their words is in another one too.
MORE_RULES = ("without labels", "other digits")


@pytest.mark.parametrize(
    "training",
    [
        pytest.param(rule, id=name, marks=pytest.mark.long if name in MORE_RULES else ())
        for name, rule in OTHER_RULES.items()
    ],
)
@pytest.mark.usefixtures("cluster")
def test_other_rules(training: dict[str, Any], tmp_path: Path) -> None:
    config = override(digits_run(), {f"training.{name}": value for name, value in training.items()})
    local = digest(config, tmp_path / "local", engine="local", chunk=1)
    ways = {"stages": 2, "chunk": 3, "evaluate_every": 1, "snapshot_steps": 7}
    assert digest(config, tmp_path / "two", engine="ray", **ways) == local
    assert digest(config, tmp_path / "layerwise", engine="layerwise", chapter=11) == local


@pytest.mark.long
@pytest.mark.usefixtures("cluster")
def test_the_softplus_objective_with_adam(tmp_path: Path) -> None:
    fields = {
        "training.objective": "softplus",
        "training.goodness": "mean",
        "training.normalization": "l2",
        "training.peer": 0,
        "training.optimizer.kind": "Adam",
        "training.head_optimizer.kind": "Adam",
    }
    config = override(digits_run(), fields)
    local = digest(config, tmp_path / "local", engine="local")
    assert digest(config, tmp_path / "ray", engine="ray", stages=3, chunk=2) == local
    assert digest(config, tmp_path / "layerwise", engine="layerwise", chapter=5) == local


@pytest.mark.parametrize("optimizer", only(["averaging"], ["averaging", "Adam"]))
@pytest.mark.usefixtures("cluster")
def test_bfloat16_has_a_digest_of_its_own(optimizer: str, digits_digest: str, tmp_path: Path) -> None:
    config = override(digits_run(), {"training.precision": "bfloat16", "training.optimizer.kind": optimizer})
    local = digest(config, tmp_path / "local", engine="local", chunk=1)
    assert local != digits_digest
    assert digest(config, tmp_path / "two", engine="ray", stages=2, chunk=3, evaluate_every=1) == local
    assert digest(config, tmp_path / "layerwise", engine="layerwise", chapter=10, evaluate_every=1) == local


@pytest.mark.usefixtures("cluster")
def test_a_slice_of_mnist(mnist_folder: str, tmp_path: Path) -> None:
    fields = {
        "training.data.train_limit": 1500,
        "training.data.validation": 200,
        "training.dims": [784, 200, 200, 200],
        "training.epochs": 2,
        "training.negative_lag": 5,
        "execution.data_dir": mnist_folder,
    }
    config = override(recipe("mnist"), fields)
    local = digest(config, tmp_path / "local", engine="local")
    rows = [{"stages": 1}, {"stages": 2}, {"stages": 3, "chunk": 1}, {"stages": 3, "chunk": 3, "evaluate_every": 1}]
    for index, execution in enumerate(rows):
        assert digest(config, tmp_path / f"ray{index}", engine="ray", **execution) == local, execution


def test_threads_do_not_matter(digits_digest: str, tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            assert digest(digits_run(), tmp_path / str(count), engine="local") == digits_digest
    finally:
        torch.set_num_threads(threads)


def test_another_seed_is_another_network(digits_digest: str, tmp_path: Path) -> None:
    assert digest(override(digits_run(), {"training.seed": 4}), tmp_path / "run", engine="local") != digits_digest


@pytest.mark.parametrize("field", only([{"negative_lag": 12}, {"peer": 0.0}], MATTERS))
def test_what_training_says_does_matter(field: dict[str, Any], digits_digest: str, tmp_path: Path) -> None:
    config = digits_run()
    config = replace(config, training=replace(config.training, **field))
    assert digest(config, tmp_path / "run", engine="local") != digits_digest

"""Recipes of local losses through two stages, a few steps each, against the digest on record for one process."""

from __future__ import annotations

from pathlib import Path

import digest_cases
import digests
import pytest
from covering import only

import ffpipe

# Recipes that `make test` takes through Ray: one of images, one of tokens; the others go through the local engine, of
# those with networks of one kind one.
BY_RAY = ("char-lm", "dgl")
BY_LOCAL = {*digest_cases.LOCAL} - {*BY_RAY, "cwcomp-fashion", "cwcomp-cifar10", "fashion-cnn", "mono-forward"}
pytestmark = pytest.mark.usefixtures("threads_put_back")


@pytest.mark.parametrize("name", only(BY_LOCAL, digest_cases.LOCAL))
def test_it_learns_through_two_stages(name: str, tmp_path: Path) -> None:
    learns(name, "local", tmp_path)


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize("name", only(BY_RAY, digest_cases.LOCAL))
def test_it_learns_through_two_stages_of_ray(name: str, tmp_path: Path) -> None:
    learns(name, "ray", tmp_path)


def learns(name: str, engine: str, tmp_path: Path) -> None:
    config = digest_cases.local_cases(tmp_path)[f"local/recipe-{name}"]()
    fields = {"execution.engine": engine, "execution.stages": 2, "execution.run_dir": str(tmp_path / "run")}
    result = ffpipe.train(ffpipe.override(config, fields))
    summary = result.summary
    assert (summary["status"], summary["steps"], summary["stages"]) == ("finished", digest_cases.LOCAL_STEPS, 2)
    recorded = digests.read_record().get(digests.kind_of_machine(), {}).get(f"local/recipe-{name}")
    expected = recorded or digests.measure(config)  # on another kind of machine both are made here
    assert result.weights_sha256 == expected["weights_sha256"]

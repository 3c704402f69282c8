"""The promise, with replicas: whoever computes which shards, on any engine, after a kill, a resume: one digest."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from covering import only
from disturbed import Disturb
from processes import stage_processes

from ffpipe import BlockConfig, Config, Result, RunFailed, UserError, override, recipe, resume, train
from ffpipe.engines.ray.engine import RayEngine
from ffpipe.pipeline.packet import Tensors
from ffpipe.pipeline.saver import Saver
from ffpipe.pipeline.schedule import Item, Snapshot
from ffpipe.pipeline.stage import Leave, Stage
from ffpipe.pipeline.worker_setup import Parts, WorkerSetup
from ffpipe.system.memory import host_cpus

FIELDS: dict[str, Any] = {
    "training.shards": 4,
    "training.batch_size": 100,
    "training.epochs": 2,
    "training.seed": 3,
    "training.negative_lag": 8,
    "training.dims": [64, 60, 50, 40],
    "execution.back_off": 0.05,
}
CONVOLUTION = BlockConfig(kind="conv", options={"channels": 6, "norm": False, "dropout": 0.1})
NORMALIZED = BlockConfig(kind="conv", options={"channels": 6, "dropout": 0.1})
CONVOLUTIONS = (CONVOLUTION, NORMALIZED, BlockConfig(kind="dense", options={"width": 16}))
PLAIN: dict[str, Any] = {
    "negatives": "none",
    "labels": "none",
    "blocks": CONVOLUTIONS,
    "readout": "sum",
    "head_from": 0,
}
NETWORKS: dict[str, dict[str, Any]] = {"dense, hard negatives, peers": {}, "convolutions": PLAIN}


def network(kind: str) -> Config:
    config = override(recipe("digits"), FIELDS)
    return replace(config, training=replace(config.training, **NETWORKS[kind]))


def run(config: Config, folder: Path, view: Disturb | None = None, **execution: Any) -> Result:
    execution = {"evaluate_every": 0, "stages": 1, **execution}
    return train(replace(config, execution=replace(config.execution, run_dir=str(folder), **execution)), view)


@pytest.fixture(scope="module", params=list(NETWORKS))
def config(request: pytest.FixtureRequest) -> Config:
    return network(request.param)


@pytest.fixture(scope="module")
def digest(config: Config, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The digest of one process."""
    return run(config, tmp_path_factory.mktemp("reference") / "run", engine="local", chunk=1).weights_sha256


@pytest.mark.parametrize("way", [{"engine": "local", "stages": 2, "chunk": 3}, {"engine": "layerwise", "chapter": 5}])
def test_one_process_computes_all_shards(config: Config, digest: str, way: dict[str, Any], tmp_path: Path) -> None:
    assert run(config, tmp_path / "run", replicas=4, **way).weights_sha256 == digest


RAY: dict[str, dict[str, Any]] = {
    "two of one stage": {"stages": 1, "replicas": 2},
    "four of one stage, chunk 1": {"stages": 1, "replicas": 4, "chunk": 1, "cpus": 0.25},
    "one and four": {"stages": 2, "replicas": (1, 4), "cpus": 0.25, "evaluate_every": 1, "snapshot_steps": 5},
}


@pytest.mark.parametrize("config", only(["convolutions"], NETWORKS), indirect=True)
@pytest.mark.parametrize("way", only(["one and four"], RAY))
@pytest.mark.usefixtures("cluster")
def test_through_ray(config: Config, digest: str, way: str, tmp_path: Path) -> None:
    assert run(config, tmp_path / "run", engine="ray", **RAY[way]).weights_sha256 == digest


@pytest.mark.parametrize("config", only(["dense, hard negatives, peers"], NETWORKS), indirect=True)
@pytest.mark.usefixtures("cluster")
def test_a_replica_is_killed(config: Config, digest: str, tmp_path: Path) -> None:
    killed = Disturb(1, lambda: os.kill(stage_processes()[-1], signal.SIGKILL))
    way = {"engine": "ray", "stages": 2, "replicas": (2, 1), "snapshot_steps": 5, "chunk": 2, "trace": True}
    result = run(config, tmp_path / "killed", killed, **way)
    assert killed.done
    assert result.summary["recoveries"] == 1
    assert result.weights_sha256 == digest
    events = json.loads((tmp_path / "killed" / "trace.json").read_text())
    names = {event["args"]["name"] for event in events if event["ph"] == "M"}
    assert any(name.startswith("stage 0, replica 1: layers") for name in names)
    assert any(event["name"].startswith("exchange") for event in events)


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize("kind", only(["dense, hard negatives, peers"], NETWORKS))
def test_a_run_goes_on_with_another_number(kind: str, tmp_path: Path) -> None:
    longer = replace(network(kind), training=replace(network(kind).training, schedule="constant"))
    whole = run(longer, tmp_path / "whole", engine="local")
    half = replace(longer, training=replace(longer.training, epochs=1))
    run(half, tmp_path / "half", engine="ray", replicas=2)
    changes = {"training.epochs": 2, "execution.stages": 2, "execution.replicas": (4, 1), "execution.cpus": 0.25}
    assert resume(tmp_path / "half", changes).weights_sha256 == whole.weights_sha256


@pytest.mark.usefixtures("cluster")
def test_replicas_that_come_to_other_weights(tmp_path: Path) -> None:
    """The last snapshot in which they agree is the one to go on from."""

    class Wrong(Stage):
        """One whose second replica changes a weight after its first snapshot, on its own account."""

        def handle(self, item: Item, tensors: Tensors | None, leave: Leave | None = None) -> Tensors | None:
            made = super().handle(item, tensors, leave)
            if isinstance(item, Snapshot) and self.spec.replica == 1:
                with torch.no_grad():
                    next(iter(self.blocks[0].weights().values())).add_(1.0)
            return made

    def make_wrong(setup: WorkerSetup, saver: Saver) -> Stage:
        return Wrong(setup.spec, saver.save)

    config = network("convolutions")
    whole = run(config, tmp_path / "whole", engine="local")
    ways: dict[str, Any] = {"engine": "ray", "stages": 1, "replicas": 2, "evaluate_every": 0, "snapshot_steps": 10}
    asked = replace(config, execution=replace(config.execution, run_dir=str(tmp_path / "run"), **ways))
    says = (
        r"stage 0, replica 0 \(layers 0 to 2\) and stage 0, replica 1 \(layers 0 to 2\) had different weights "
        r"after step 20: .* after step 10 is in"
    )
    with pytest.raises(RunFailed, match=says) as caught:
        train(asked, engine=lambda execution: RayEngine(Parts(stage=make_wrong)))
    assert "go on with" in str(caught.value)
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "failed"
    assert resume(tmp_path / "run", {"execution.engine": "local"}).weights_sha256 == whole.weights_sha256


@pytest.mark.usefixtures("cluster")
def test_more_replicas_of_a_stage_than_cpus(tmp_path: Path) -> None:
    count = 1 << host_cpus().bit_length()
    many = override(network("convolutions"), {"training.shards": count, "training.batch_size": 25 * count})
    says = (
        rf"stage 0 has {count} replicas \({count} processes in all\), the cluster has {host_cpus()} CPU: ask for fewer"
    )
    with pytest.raises(UserError, match=says):
        run(many, tmp_path / "run", engine="ray", replicas=count)
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("cluster")
def test_more_replicas_than_there_is_room_for(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"1 stage\(s\) with 4 replicas need 4096 CPU, the cluster has \d+: ask for fewer"
    ):
        run(network("convolutions"), tmp_path / "run", engine="ray", replicas=4, cpus=1024.0)
    assert not (tmp_path / "run").exists()

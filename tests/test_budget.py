"""A run within a memory budget: what is chosen, what is refused, and that what was promised is kept."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from commands import refused

from ffpipe import override, recipe
from ffpipe.commands.cli import main
from ffpipe.config.schema import Config, Execution
from ffpipe.pipeline.job import make_job
from ffpipe.planning.budget import within_budget
from ffpipe.planning.estimate import estimate_stage
from ffpipe.planning.memory import NetworkSizes
from ffpipe.system.errors import UserError
from ffpipe.system.units import parse_size

MIB = 1 << 20
# Bytes of a bare process, in tests that start none.
PROCESS = 300 * MIB


def config(**fields: Any) -> Config:
    sizes = {"training.dims": [64, 1500, 1500, 1500, 1500], "training.epochs": 1}
    return override(recipe("digits"), sizes | {f"execution.{name}": value for name, value in fields.items()})


def chosen(budget: int, **fields: Any) -> tuple[Any, str]:
    job, notes = within_budget(make_job(config(memory_budget=f"{budget}MiB", **fields)), PROCESS)
    return job.config.execution, notes[0]


def least(**fields: Any) -> int:
    """Return the MiB of the nearest budget that would do, as the refusal of a smaller one names it."""
    with pytest.raises(UserError, match="give --memory-budget") as refused:
        chosen(301, **fields)
    found = re.search(r"--memory-budget (\d+)MiB", str(refused.value))
    assert found
    return int(found[1])


@pytest.mark.parametrize(("name", "sizes"), [("digits", "training.dims"), ("digits-cnn", "blocks")])
def test_what_may_be_smaller_is_what_the_network_is_made_of(name: str, sizes: str) -> None:
    job = make_job(override(recipe(name), {"execution.memory_budget": "301MiB"}))
    with pytest.raises(UserError, match=f"or smaller {sizes} or training.batch_size"):
        within_budget(job, PROCESS)


def test_a_large_budget_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FFPIPE_DATA", raising=False)
    execution, note = chosen(4000)
    assert execution == config(memory_budget="4000MiB").execution
    # As layers are timed, another cut may hold a little more, within the budget.
    assert re.fullmatch(r"memory: about \d+ MiB a stage at most, within the budget of .*; nothing had to be .*", note)


def test_the_nearest_budget_that_would_do_does() -> None:
    for fields in ({}, {"engine": "local"}, {"engine": "layerwise", "stages": 2}, {"stages": 4, "chunk": 2}):
        enough = least(**fields)
        chosen(enough, **fields)
        with pytest.raises(UserError):
            chosen(enough - 20, **fields)


@pytest.mark.parametrize("stages", [1, 2])
@pytest.mark.parametrize("replicas", [4, [4, 1], [1, 4]], ids=str)
def test_the_nearest_budget_does_whatever_replicas_stages_have(replicas: Any, stages: int) -> None:
    """The layerwise engine has none of them, and of stages it is not known which becomes which."""
    if isinstance(replicas, list):
        replicas = replicas[:stages]
    sizes = {"training.dims": [64, 2000, 2000], "training.shards": 4, "training.batch_size": 40}
    fields = {"execution.replicas": replicas, "execution.stages": stages, **sizes}

    def within(budget: int) -> Execution:
        asked = override(config(memory_budget=f"{budget}MiB"), fields)
        return within_budget(make_job(asked), PROCESS)[0].config.execution

    with pytest.raises(UserError, match="give --memory-budget") as refused:
        within(1)
    found = re.search(r"--memory-budget (\d+)MiB", str(refused.value))
    assert found
    within(int(found[1]))
    with pytest.raises(UserError):
        within(int(found[1]) - 20)
    assert within(2000).engine == "ray"


def test_a_chunk_that_is_chosen_is_no_more_than_may_be_in_flight() -> None:
    ways: list[tuple[dict[str, Any], int]] = [
        ({"window": 2, "stages": 4}, 2),
        ({"window_bytes": 2 << 20, "stages": 4}, 2),
    ]
    ways += [({"engine": "layerwise", "chapter": 2}, 2), ({"engine": "local", "window": 3}, 3)]
    for fields, most in ways:
        chunks = {}
        for budget in range(least(**fields), 700, 20):
            execution, _ = chosen(budget, **fields)
            if execution.engine == fields.get("engine", "ray"):
                chunks[execution.chunk] = budget
        assert max(chunks) <= most, (fields, chunks)


@pytest.mark.long
def test_a_deep_network_has_as_few_stages_as_keep_to_the_budget() -> None:
    deep = {"stages": 0, "chunk": 1}
    layers = [64, *[1000] * 100]

    def stages(budget: int) -> int:
        wanted = override(config(memory_budget=f"{budget}MiB", **deep), {"training.dims": layers, "training.epochs": 1})
        return within_budget(make_job(wanted), PROCESS)[0].config.execution.stages

    counts = [stages(budget) for budget in (800, 500)]
    assert counts == sorted(set(counts))
    assert all(2 < count < 100 for count in counts)


def test_the_number_of_stages_stays_with_the_engine_where_the_budget_is_large() -> None:
    assert chosen(4000, stages=0)[0].stages == 0
    assert chosen(4000, stages=0, cpus=2.0)[0].stages == 0


def test_what_stages_read_from_disk_counts() -> None:
    """Larger messages of the layerwise engine need a larger budget by what it has in sight of them, not less."""
    small, large = (least(engine="layerwise", stages=4, chunk=chunk) for chunk in (1, 9))
    message = 8 * 3 * 50 * 1500 * 4 >> 20  # eight minibatches more of three roles
    assert large - small >= 2 * message  # one that is read, and one that is made


def test_mixed_devices_are_held_to_the_budget_by_their_processes() -> None:
    execution, _ = chosen(600, stages=0, device=["cuda", "cpu"])
    assert execution.engine == "ray"
    with pytest.raises(UserError, match="give --memory-budget"):
        chosen(200, stages=0, device=["cuda", "cpu"])
    assert chosen(200, stages=2, device="cuda")[0].engine == "ray"  # the process is not part of what is on the GPU


def test_less_memory_is_met_by_smaller_messages_then_by_one_layer_at_a_time() -> None:
    told = [chosen(budget, engine="local", stages=0)[0] for budget in range(800, least(engine="local", stages=0), -10)]
    engines = [execution.engine for execution in told]
    assert engines == sorted(engines, reverse=True)  # local, then layerwise
    assert {"local", "layerwise"} == set(engines)


def test_stages_are_held_to_the_budget_with_all_their_replicas() -> None:
    """Each has the sums of the others, which one that is alone does not have."""
    fields = {"training.shards": 16, "training.batch_size": 48, "execution.replicas": 4}
    asked = override(config(stages=4, chunk=1), fields)
    job = make_job(asked)

    def needs(layers: range, replicas: int) -> int:
        return estimate_stage(job, NetworkSizes(job.network, 1, replicas), layers, PROCESS).resident

    # Enough for all layers in one process that is alone, and not in one of 4.
    budget = math.ceil(needs(range(4), 1) / 0.95 / MIB)
    assert (
        max(needs(range(layer, layer + 1), 4) for layer in range(4)) < needs(range(4), 1) < needs(range(4), 4) - 2 * MIB
    )
    within, _ = within_budget(make_job(override(asked, {"execution.memory_budget": f"{budget}MiB"})), PROCESS)
    assert (within.config.execution.engine, within.config.execution.stages) == ("ray", 4)
    assert within.fits(range(3, 4), 1)
    assert not within.fits(range(4), 1)


def test_what_was_asked_for_is_kept_while_it_fits() -> None:
    asked = {"engine": "layerwise", "stages": 2, "chunk": 3}
    execution, note = chosen(600, **asked)
    assert (execution.engine, execution.stages, execution.chunk) == ("layerwise", 2, 3)
    assert "nothing had to be changed" in note
    execution, _ = chosen(least(**asked), **asked)
    assert (execution.engine, execution.stages, execution.chunk) == ("layerwise", 0, 3)


def test_more_stages_than_were_asked_for_come_before_another_engine() -> None:
    """As long as they can be placed wherever the ones that were asked for can."""
    said = [chosen(budget, stages=2)[0] for budget in range(700, least(stages=2), -10)]
    assert [each.engine for each in said] == sorted((each.engine for each in said), reverse=True)  # ray, then layerwise
    stages = [each.stages for each in said if each.engine == "ray"]
    assert stages == sorted(stages)
    assert set(stages) > {2}
    for fields in ({"cpus": 1.0}, {"memory": "1GiB"}, {"resources": {"disk": 1.0}}, {"placement": "one-host-each"}):
        kept = [chosen(budget, stages=2, **fields)[0] for budget in range(700, least(stages=2, **fields), -30)]
        assert {each.stages for each in kept if each.engine == "ray"} == {2}


# Blocks that are trained by autograd, whose optimisers take 80 MB more of torch.
WITHOUT_NEGATIVES = ["--training.negatives", "none", "--training.head", "false", "--training.goodness-from", "0"]


@pytest.mark.parametrize(
    ("engine", "options", "small"),
    [
        ("local", [], "420MiB"),
        pytest.param("ray", [], "420MiB", marks=pytest.mark.long),
        pytest.param("layerwise", [], "420MiB", marks=pytest.mark.long),
        pytest.param("local", WITHOUT_NEGATIVES, "440MiB", marks=pytest.mark.long),
        pytest.param("ray", WITHOUT_NEGATIVES, "500MiB", marks=pytest.mark.long),
    ],
)
def test_a_run_keeps_to_its_budget_and_to_its_weights(
    engine: str, options: list[str], small: str, tmp_path: Path
) -> None:
    """In a process of its own, since the peak of a process is that of all it ever did."""
    sizes = ["--training.dims", "64,1000,1000,1000,1000", "--epochs", "1", "--train-limit", "300", "--stages", "0"]
    fields = ["train", "digits", *sizes, *options]
    plain, within = tmp_path / "plain", tmp_path / "within"
    assert main([*fields, "--engine", "local", "--run-dir", str(plain)]) == 0
    command = [sys.executable, "-m", "ffpipe", *fields, "--engine", engine, "--memory-budget", small]
    done = subprocess.run(
        [*command, "--run-dir", str(within)],
        capture_output=True,
        text=True,
        check=False,
        timeout=180,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    summary = read_summary(within)
    assert max(summary["peak_rss_bytes"]) <= parse_size(small), done.stdout
    assert summary["weights_sha256"] == read_summary(plain)["weights_sha256"]


def read_summary(run: Path) -> dict[str, Any]:
    summary: dict[str, Any] = json.loads((run / "summary.json").read_text())
    return summary


@pytest.mark.long
def test_a_run_that_goes_on_with_another_budget_chooses_anew(tmp_path: Path) -> None:
    sizes = ["--training.dims", "64,2000,2000,2000", "--engine", "local", "--stages", "0"]
    sizes += ["--epochs", "1", "--train-limit", "300"]
    run = tmp_path / "run"
    command = [sys.executable, "-m", "ffpipe", "train", "digits", *sizes, "--memory-budget", "440MiB"]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([*command, "--run-dir", str(run)], capture_output=True, check=True, timeout=180, env=env)
    small = read_summary(run)
    assert small["engine"] == "layerwise"
    assert main(["resume", str(run), "--execution.memory-budget", "2GiB"]) == 0
    large = read_summary(run)
    assert large["engine"] == "local"
    assert large["weights_sha256"] == small["weights_sha256"]


@pytest.mark.parametrize("budget", ["2", "GiB", "-1GiB", "2 gigs", "1e9B"])
def test_a_budget_that_is_no_size(budget: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    arguments = ["train", "digits", f"--memory-budget={budget}", "--run-dir", str(tmp_path / "run")]
    refused(arguments, f"execution.memory_budget is '{budget}'", capsys)
    assert not (tmp_path / "run").exists()


def test_a_budget_that_no_run_keeps_to_is_refused_before_anything_is_written(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    arguments = ["train", "digits", "--memory-budget=10MiB", "--run-dir", str(tmp_path / "run")]
    refused(arguments, "give --memory-budget", capsys)
    assert not (tmp_path / "run").exists()

"""`ffpipe plan` says what a run would take, and starts none."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from commands import refused
from safetensors.numpy import load_file

from ffpipe import override, recipe
from ffpipe.commands.cli import main
from ffpipe.commands.plan import parse_stages
from ffpipe.commands.planned import GIVE_SPEED
from ffpipe.config.fields import read_config
from ffpipe.config.schema import Config
from ffpipe.runs.controller import planned


@pytest.mark.parametrize("engine", ["ray", "local", "layerwise"])
def test_a_plan_has_a_row_for_each_process_and_the_time(
    engine: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["plan", "digits", "--engine", engine, "--stages", "3"]) == 0
    said = capsys.readouterr().out
    memory, _, forecast = said.partition("largest process")
    rows = [line for line in memory.splitlines() if "MiB" in line and "│" in line]
    assert len(rows) == (1 if engine == "local" else 3)
    assert ("│ 3      │ 0 | 1 | 2" in forecast) == (engine == "ray")
    assert f"engine {engine}, 3 stage(s)" in said
    assert "examples/s" in said
    assert "disk for each snapshot: 4 MiB; the newest 2 are kept" in said
    assert ("disk for parked stages" in said) == (engine == "layerwise")
    assert ("object store" in said) == (engine == "ray")
    assert not list(tmp_path.iterdir())


def test_a_long_run_has_fewer_rows_of_metrics() -> None:
    """Three layers and a head, 28 steps an epoch."""
    short, long = (planned(override(recipe("digits"), {"training.epochs": epochs}))[0] for epochs in (60, 1_000_000))
    assert short.log_steps == 28
    assert long.log_steps == 280


def test_a_plan_knows_the_size_of_a_snapshot(strangers_run: Path) -> None:
    _, estimate, _ = planned(read_config(strangers_run / "config.toml"))
    *_, newest = sorted((strangers_run / "checkpoints").iterdir())
    tensors = [tensor for file in newest.glob("*.safetensors") for tensor in load_file(file).values()]
    assert estimate.snapshot == sum(tensor.nbytes for tensor in tensors) > 0


@pytest.mark.parametrize("engine", ["ray", "local", "layerwise"])
def test_a_message_has_no_more_minibatches_than_the_run(engine: str) -> None:
    fields = {"training.epochs": 1, "training.negatives": "random", "execution.engine": engine}

    def of_chunk(chunk: int) -> tuple[int, int]:
        job, estimate, _ = planned(override(recipe("digits"), fields | {"execution.chunk": chunk}))
        assert job.config.execution.chunk == chunk  # as it was given
        return estimate.layout.plan.chunk, sum(stage.resident - stage.process for stage in estimate.stages)

    assert of_chunk(2000) == of_chunk(28)
    assert of_chunk(27)[0] == 27


def test_a_minibatch_of_more_parts_than_a_bare_process_is_tried_on(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--training.batch-size", "100", "--training.accumulation", "20"]
    assert main(["plan", "digits-cnn", "--engine", "local", *options]) == 0
    assert "examples/s" in capsys.readouterr().out


def test_a_plan_says_what_a_budget_would_choose(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "digits", "--engine", "local", "--memory-budget", "3GiB"]) == 0
    assert "within the budget of 3.00 GiB" in capsys.readouterr().out


def test_a_plan_refuses_what_a_run_would(capsys: pytest.CaptureFixture[str]) -> None:
    refused(["plan", "digits", "--stages", "9"], "execution.stages is 9", capsys)
    refused(["plan", "digits", "--backprop"], "unknown option", capsys)


def test_a_forecast_has_a_row_for_each_number_of_stages(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--stages", "1,2,3,...,9", "--flops", "1GFLOPS", "--link", "10Gbit"]
    assert main(["plan", "digits", *options]) == 0
    said = capsys.readouterr().out
    rows = [line for line in said.splitlines() if "Gbit/s" in line or "Mbit/s (" in line]
    assert [row.split("│")[1].strip() for row in rows if row.startswith("│ ") and row[2] != " "] == ["1", "2", "3"]
    assert "not 4, 5, 6, 7, 8, 9 stages: there are 3 layers" in said
    assert "from the speed that was given, 1 stage(s) a host, 10.00 Gbit/s and 0.1 ms between hosts" in said


BACKPROP = ["--training.method", "backprop"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--stages", "1,2,...,8"], "give three numbers before the dots"),
        (["--stages", "1,2,4,..."], "give three numbers before the dots"),
        (["--stages", "x"], "give a whole number from 1"),
        (["--stages", "1,,2"], "give whole numbers"),
        (["--stages", "8,16"], "there are 3 layers, so give 1 to 3"),
        (["--stages", "1,2", "--engine", "local"], "engine 'local' is one process"),
        (["--stages", "1,2", *BACKPROP], "--stages has several numbers, but training.method 'backprop' is one process"),
        (["--link", "10Gbit", "--engine", "local"], "--link is of hosts with several stages, but engine 'local'"),
        (["--cores", "8", "--engine", "layerwise"], "--cores is of hosts with several stages, but engine 'layerwise'"),
        (["--stages-per-host", "2", *BACKPROP], "--stages-per-host is of hosts with several stages"),
        (["--latency", "0us", "--engine", "local"], "--latency is of hosts with several stages"),
        (["--calibrate", *BACKPROP], "messages between stages, which training.method 'backprop' does not send"),
        (["--flops", "1TFLOPS,2TFLOPS", *BACKPROP], "2 speeds for the one process of training.method 'backprop'"),
        (["--link", "10"], "not a rate such as 10Gbit"),
        (["--link", "0Gbit"], "more than nothing"),
        (["--latency", "5us"], "give --link too"),
        (["--flops", "fast"], "not a speed such as 60TFLOPS"),
        (["--flops", "1TFLOPS,,2TFLOPS"], "not a speed such as 60TFLOPS"),
        (
            ["--flops", "1TFLOPS,2TFLOPS", "--stages", "3"],
            "2 speeds for 3 stages: give one speed, or one for each stage",
        ),
        (["--flops", "1TFLOPS,2TFLOPS", "--stages", "1,2"], "have values for 2 stages each"),
        (["--flops", "1TFLOPS,2TFLOPS", "--engine", "local"], "2 speeds for the one process of engine 'local'"),
        (["--device", "cpu", "cpu", "--flops", "1TFLOPS,2TFLOPS,3TFLOPS"], "3 speeds for 2 stages"),
        (["--device", "cuda"], GIVE_SPEED),
        (["--device", "cpu", "cuda"], GIVE_SPEED),
        (["--device", "cuda", "--engine", "layerwise"], GIVE_SPEED),
        (["--cores", "0"], "give a whole number from 1"),
        (["--cores", "9" * 5000], "give a whole number from 1"),
        (["--stages", "1,2", "--execution.cpus", "1,2"], "have values for 2 stages each"),
    ],
)
def test_a_forecast_of_what_cannot_be(options: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    refused(["plan", "digits", *options], says, capsys)


@pytest.mark.parametrize(
    ("text", "stages"),
    [
        ("", ()),
        ("4", (4,)),
        ("3,1,3", (3, 1)),
        ("1,2,4,...,16", (1, 2, 4, 8, 16)),
        ("1,3,9,…,100", (1, 3, 9, 27, 81, 100)),
        ("2,4,6,...,10", (2, 4, 6, 8, 10)),
        ("1,2,3,...,6", (1, 2, 3, 4, 5, 6)),
    ],
)
def test_numbers_of_stages(text: str, stages: tuple[int, ...]) -> None:
    assert parse_stages(text) == stages


def test_a_plan_for_devices_that_are_elsewhere(capsys: pytest.CaptureFixture[str]) -> None:
    for engine in ("ray", "layerwise"):
        assert main(["plan", "digits", "--device", "cuda", "--engine", engine, "--flops", "60TFLOPS"]) == 0
        assert "from the speed that was given" in capsys.readouterr().out
    assert main(["plan", "digits", "--device", "cpu", "cuda", "--flops", "1GFLOPS,100GFLOPS"]) == 0
    assert "│ 2      │ 0 | 1-2 " in capsys.readouterr().out
    assert main(["plan", "digits", "--flops", "1GFLOPS,1GFLOPS,1GFLOPS"]) == 0
    assert "│ 3      │ 0 | 1 | 2 " in capsys.readouterr().out


def test_a_plan_for_more_memory_than_this_host_has(capsys: pytest.CaptureFixture[str]) -> None:
    wide = ["--training.dims", "64,200000,200000", "--execution.chunk", "1"]
    assert main(["plan", "digits", *wide, "--stages", "1,2", "--flops", "60TFLOPS"]) == 0
    assert "GiB" in capsys.readouterr().out
    assert main(["plan", "digits", *wide]) == 2
    assert GIVE_SPEED in capsys.readouterr().err


NET = """\
import ffpipe
from torch import nn

def mean(h, labels):
    return h.mean()

def blocks():
    return [ffpipe.Local(nn.Flatten(), objective=mean), ffpipe.Local(nn.ReLU(), objective=mean)]
"""


@pytest.mark.parametrize("engine", ["ray", "local"])
def test_blocks_without_products_have_no_time_by_a_speed(
    engine: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "net.py").write_text(NET)
    options = ["--model", f"{tmp_path / 'net.py'}:blocks", "--flops", "1TFLOPS", "--engine", engine]
    assert main(["plan", "digits-cnn", *options]) == 0
    says = (
        "time, from the speed that was given: not known, since these blocks have no matrix products: leave --flops out"
    )
    # Messages between actors take time, whatever blocks do.
    assert (says in capsys.readouterr().out) == (engine == "local")


WIDE = {"training.dims": [64, 5000, 5000, 5000, 5000]}
OF_WIDE = ["plan", "digits", "--training.dims", "64,5000,5000,5000,5000", "--flops", "1TFLOPS"]


def asked(**fields: object) -> Config:
    """Return the config of the wide network, with these fields of its execution."""
    return override(recipe("digits"), WIDE | {f"execution.{name}": value for name, value in fields.items()})


def between(*ways: dict[str, object]) -> str:
    """Return a budget between what the largest processes of these ways to run take."""
    sizes = [planned(asked(**fields))[1].largest for fields in ways]
    assert sizes == sorted(sizes, reverse=True)
    return f"{round(sum(sizes) / len(sizes) / 0.95) >> 20}MiB"


def rows_of_forecast(said: str) -> list[tuple[str, str]]:
    """Return the numbers of stages and chunks of a table of forecasts."""
    cells = [[cell.strip() for cell in line.split("│")] for line in said.splitlines() if line.startswith("│")]
    return [(each[1], each[3]) for each in cells if each[1].isdecimal() and each[3].isdecimal()]


@pytest.fixture(scope="module")
def budget() -> str:
    """Return one that two stages do not keep to, and four do."""
    return between({"stages": 2, "chunk": 1}, {"stages": 4, "chunk": 1})


def test_what_is_forecast_is_what_a_budget_has_chosen(budget: str, capsys: pytest.CaptureFixture[str]) -> None:
    stages = planned(asked(stages=2, memory_budget=budget))[0].config.execution.stages
    assert stages > 2
    options = [*OF_WIDE, "--memory-budget", budget]
    assert main([*options, "--stages", "2"]) == 0
    said = capsys.readouterr().out
    assert f"chosen for it: stages {stages}" in said
    alone = rows_of_forecast(said)
    assert [row[0] for row in alone] == [str(stages)]
    # Two numbers that come to the same have one row.
    assert main([*options, "--stages", "1,2"]) == 0
    said = capsys.readouterr().out
    assert rows_of_forecast(said) == alone
    for asked_for in (1, 2):
        assert re.search(rf"^{asked_for} stage\(s\): memory: .*; chosen for it: stages {stages}", said, re.MULTILINE)
    says = f"2 speeds, but the budget needs {stages} stages: give {stages} speeds, or one"
    refused([*options, "--flops", "1TFLOPS,1TFLOPS"], says, capsys)


def test_each_of_several_numbers_of_stages_is_refused_by_itself(capsys: pytest.CaptureFixture[str]) -> None:
    """Also where as many stages as this host has CPUs for, which are not among them, are beyond the object store."""
    store = ["--execution.object-store-bytes", "80000000", "--execution.window", "24"]
    wide = ["--training.dims", "64,20000,20000,640", "--flops", "1TFLOPS"]
    assert main(["plan", "digits", *wide, *store, "--stages", "1,2"]) == 0
    said = capsys.readouterr().out
    assert [row[0] for row in rows_of_forecast(said)] == ["1"]
    assert "not 2 stage(s): 24 minibatch(es) in flight hold up to" in said


def test_each_of_several_numbers_of_stages_has_a_chunk_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    small = between({"stages": 2, "chunk": 2}, {"stages": 2, "chunk": 1})
    options = [*OF_WIDE, "--memory-budget", small]
    assert main([*options, "--stages", "2,4"]) == 0
    several = rows_of_forecast(capsys.readouterr().out)
    alone = []
    for stages in ("2", "4"):
        assert main([*options, "--stages", stages]) == 0
        alone += rows_of_forecast(capsys.readouterr().out)
    assert several == alone
    assert several[0][1] < several[1][1]


def test_a_budget_that_needs_one_process(capsys: pytest.CaptureFixture[str]) -> None:
    """It is said of each number of stages that it has no forecast, and of speeds that one is enough."""
    least = between({"stages": 2, "chunk": 1}, {"engine": "layerwise", "stages": 0, "chunk": 1})
    # A whole CPU for each: there may be no more stages than were asked for.
    options = [*OF_WIDE, "--memory-budget", least, "--execution.cpus", "1"]
    refused([*options, "--stages", "1,2"], "engine layerwise, chunk", capsys)
    refused([*options, "--stages", "1,2"], "; --stages 1 alone has its plan", capsys)
    refused([*options, "--flops", "1TFLOPS,1TFLOPS"], "2 speeds, but the budget needs one process: give one", capsys)

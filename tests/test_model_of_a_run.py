"""A run goes on with the function that it was begun with, and is read by that one alone."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import refused
from disturbed import Disturb, files_in, reports_each_step
from torch import nn

import ffpipe
from ffpipe import Interrupted
from ffpipe.commands.cli import main
from ffpipe.runs.interrupt import Interrupt

TWO = """\
from torch import nn

def net(act):
    return [nn.Sequential(nn.Flatten(), nn.Linear(64, 32), act()), nn.Linear(32, 32)]

def relu():
    return net(nn.ReLU)

def tanh():
    return net(nn.Tanh)
"""
TWO_MORE = "\ndef both():\n    return net(act)\n"
FIELDS = {"training.epochs": 1, "training.data.train_limit": 200, "execution.engine": "local"}


def relu() -> list[nn.Module]:
    return [nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU()), nn.Linear(32, 32)]


def tanh() -> list[nn.Module]:
    return [nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.Tanh()), nn.Linear(32, 32)]


def trained(run: Path, model: Callable[..., Any] | str | None) -> Path:
    """Train a small network; give the folder of its run."""
    ffpipe.train(ffpipe.override(ffpipe.recipe("digits-cnn"), {**FIELDS, "execution.run_dir": str(run)}), model=model)
    return run


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two.py, the run of its function relu, and an image."""
    folder = tmp_path_factory.mktemp("begun")
    (folder / "two.py").write_text(TWO)
    np.save(folder / "image.npy", np.zeros((8, 8), np.uint8))
    trained(folder / "run", f"{folder / 'two.py'}:relu")
    return folder


def test_the_command_that_an_interrupt_prints_has_the_model(tmp_path: Path) -> None:
    (tmp_path / "two.py").write_text(TWO)
    model, interrupt = f"{tmp_path / 'two.py'}:relu", Interrupt()
    fields = FIELDS | {"training.epochs": 50, "execution.run_dir": str(tmp_path / "run")}
    config, view = ffpipe.override(ffpipe.recipe("digits-cnn"), fields), Disturb(2, interrupt.request)
    with pytest.raises(Interrupted, match=f"go on with: ffpipe resume {tmp_path / 'run'} --model {model}$"):
        ffpipe.train(config, view, interrupt, model=model, engine=reports_each_step)


@pytest.fixture
def here(begun: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a copy of the run; two.py is where it was."""
    shutil.copytree(begun / "run", tmp_path / "run")
    shutil.copy(begun / "image.npy", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


COMMANDS = {
    "resume": ["resume", "run", "--epochs", "2"],
    "evaluate": ["evaluate", "run"],
    "predict": ["predict", "run", "image.npy"],
    "export": ["export", "run", "to.safetensors"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_another_function_of_the_file_is_refused(
    command: str, begun: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = files_in(here)
    says = f"ffpipe: run run has the model {begun}/two.py:relu, not {begun}/two.py:tanh: give that one\n"
    refused([*COMMANDS[command], "--model", f"{begun}/two.py:tanh"], says, capsys)
    assert files_in(here) == before


def test_another_function_of_a_module_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "moduleoftwo.py").write_text(TWO)
    monkeypatch.chdir(tmp_path)
    run = trained(tmp_path / "run", "moduleoftwo:relu")
    with pytest.raises(ffpipe.UserError, match="has the model moduleoftwo:relu, not moduleoftwo:tanh"):
        ffpipe.load(run, model="moduleoftwo:tanh")
    assert ffpipe.load(run, model="moduleoftwo:relu").blocks


@pytest.mark.parametrize("command", COMMANDS)
def test_a_file_that_was_moved_is_the_same(command: str, begun: Path, here: Path) -> None:
    shutil.copy(begun / "two.py", here / "moved.py")
    assert main([*COMMANDS[command], "--model", "moved.py:relu"]) == 0


def test_another_object_is_refused(tmp_path: Path) -> None:
    run = trained(tmp_path / "run", relu)
    before = files_in(tmp_path)
    name = f"{relu.__module__}:relu, not {tanh.__module__}:tanh"
    for use in (
        lambda: ffpipe.resume(run, {"training.epochs": 2}, model=tanh),
        lambda: ffpipe.evaluate(run, model=tanh),
        lambda: ffpipe.load(run, model=tanh),
    ):
        with pytest.raises(ffpipe.UserError, match=name):
            use()
    with pytest.raises(ffpipe.UserError, match=r"has the model .*:relu, not /net\.py:tanh"):
        ffpipe.load(run, model="/net.py:tanh")
    assert files_in(tmp_path) == before
    assert ffpipe.load(run, model=relu).blocks


def test_the_program_that_runs_may_be_imported_later(tmp_path: Path) -> None:
    def of(module: str) -> Callable[..., Any]:
        """Return the function as that module has it."""
        names: dict[str, Any] = {"__name__": module, "nn": nn}
        exec("def relu():\n    return [nn.Sequential(nn.Flatten(), nn.Linear(64, 32)), nn.Linear(32, 32)]\n", names)
        return names["relu"]  # type: ignore[no-any-return]

    run = trained(tmp_path / "run", of("__main__"))
    assert ffpipe.load(run, model=of("program")).blocks
    assert ffpipe.load(run, model=of("__main__")).blocks
    other = trained(tmp_path / "other", of("program"))
    assert ffpipe.load(other, model=of("__main__")).blocks


def test_a_function_for_a_run_without_one_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = trained(tmp_path / "run", None)
    before = files_in(run)
    says = f"ffpipe: run {run} was begun without a model, not with two.py:relu: give none\n"
    refused(["resume", str(run), "--epochs", "2", "--model", "two.py:relu"], says, capsys)
    assert files_in(run) == before


def test_a_changed_neighbour_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "net.py").write_text(TWO.replace("def net", "from partofnet import act\n\ndef net") + TWO_MORE)
    part = tmp_path / "partofnet.py"
    part.write_text("from torch import nn\nact = nn.ReLU\n")
    model = f"{tmp_path / 'net.py'}:both"
    run = trained(tmp_path / "run", model)
    part.write_text("from torch import nn\nact = nn.Tanh\n")
    before = files_in(tmp_path)
    for command in (["resume", str(run), "--epochs", "2"], ["evaluate", str(run)]):
        for consent in (["--model", model], ["--allow-code", str(tmp_path / "net.py")]):
            says = f"the source of partofnet, which {model} imports, has changed since run {run} was begun"
            refused([*command, *consent], says, capsys)
    assert files_in(tmp_path) == before


@pytest.mark.parametrize("past", [None, b'{"rows": ['])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_lost_past_is_said(
    command: str, past: bytes | None, begun: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "run" / "past.json").unlink()
    if past is not None:
        (here / "run" / "past.json").write_bytes(past)
    assert main([*COMMANDS[command], "--allow-code", f"{begun}/two.py"]) == 0
    says = (
        f"warning: a change of {begun}/two.py:relu since run run was begun would not be seen: its past.json is missing"
    )
    assert [line.startswith(says) for line in capsys.readouterr().err.splitlines()].count(True) == 1


def test_code_may_be_allowed_by_one_name(tmp_path: Path) -> None:
    (tmp_path / "two.py").write_text(TWO)
    run = trained(tmp_path / "run", f"{tmp_path}/two.py:relu")
    assert ffpipe.load(run, allow_code=f"{tmp_path}/two.py")
    with pytest.raises(ffpipe.UserError, match="allow-code"):
        ffpipe.load(run, allow_code="other.py")

"""The examples do what they say, and stand in docs/examples.md."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import pytest
from repository import REPOSITORY

import ffpipe
from ffpipe.commands.cli import main

EXAMPLES = REPOSITORY / "examples"
LONGEST = 40  # lines of an example


@pytest.fixture
def example(
    here: Path, threads_put_back: None, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Run:
    """Runs an example in an empty folder."""
    return Run(monkeypatch, capfd)


class Run:
    """Runs a script in this process, as `python examples/NAME` does, and returns what it printed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch, self._capfd = monkeypatch, capfd

    def __call__(self, name: str, *arguments: str) -> str:
        self._monkeypatch.setattr(sys, "argv", [name, *arguments])
        self._capfd.readouterr()
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return self._capfd.readouterr().out


def percent(out: str, what: str) -> float:
    """Return the percentage that is printed after these words."""
    found = re.search(rf"{re.escape(what)}: ([\d.]+)%", out)
    assert found, f"no {what!r} in {out}"
    return float(found[1])


def after(out: str, what: str) -> str:
    """Return the rest of the line that begins with these words."""
    found = re.search(rf"^{re.escape(what)}:? *(.*)$", out, re.MULTILINE)
    assert found, f"no {what!r} in {out}"
    return found[1]


def test_digits(example: Run) -> None:
    out = example("digits.py")
    assert percent(out, "test error") < 10
    for layer in ("layer 0", "layer 1", "layer 2", "the read-out"):
        losses = [float(loss) for loss in after(out, f"loss of {layer}").split()]
        assert losses[-1] < losses[0] / 2
    answers, labels = (eval_list(after(out, name)) for name in ("answers", "labels"))
    assert sum(a == b for a, b in zip(answers, labels, strict=True)) >= 8


def eval_list(text: str) -> list[int]:
    """Return the whole numbers of a printed list."""
    return [int(each) for each in re.findall(r"\d+", text)]


def test_own_images(example: Run) -> None:
    drawn = example("own_images.py")
    assert {line.partition("/")[0] for line in drawn.splitlines()[1:]} == {"shapes"}
    given = example("own_images.py", "shapes")
    for out in (drawn, given):
        names = re.findall(r"shapes/(\w+)/\d+\.png: (\w+)", out)
        assert sorted(folder for folder, _ in names) == ["bar", "disc", "square"]
        assert sum(folder == name for folder, name in names) >= 2


def test_own_block(here: Path, threads_put_back: None) -> None:
    model = f"{EXAMPLES / 'residual.py'}:blocks"
    fields = ["--training.model-options", "channels=8", "--training.model-options", "depth=1"]
    run = ["--epochs", "1", "--engine", "local", "--run-dir", "own"]
    assert main(["train", "digits-cnn", "--model", model, *fields, *run]) == 0
    config = (here / "own" / "config.toml").read_text()
    assert ('channels = "8"' in config, 'depth = "1"' in config) == (True, True)
    assert main(["evaluate", "own"]) == 2  # no consent to import the code
    assert main(["evaluate", "own", "--allow-code", str(EXAMPLES / "residual.py")]) == 0


def test_own_objective(example: Run) -> None:
    assert percent(example("own_objective.py"), "test error") < 10


@pytest.mark.long
def test_no_negatives(example: Run) -> None:
    out = example("no_negatives.py")
    for name in ("last", "sum", "block.0", "block.1", "block.2", "backpropagation"):
        assert percent(out, f"test error by {name}") < 15


@pytest.mark.long
def test_text(example: Run) -> None:
    out = example("text.py")
    assert float(after(out, "test loss").split()[0]) < 0.5
    words = out.splitlines()[-1].split()[1:-1]  # the first and the last one may be cut
    text = set(Path("sentences.txt").read_text().split())
    assert len(words) > 10
    assert sum(word in text for word in words) > len(words) / 2


@pytest.mark.long
def test_memory_budget(example: Run) -> None:
    out = example("memory_budget.py")
    assert re.search(r"^engine local, ", out, re.MULTILINE)  # without the budget
    assert "chosen for it: engine layerwise" in out
    found = re.search(r"engine layerwise: a peak of (\d+) MiB, the budget is (\d+)MiB", out)
    assert found
    assert int(found[1]) <= int(found[2])


@pytest.mark.long
@pytest.mark.usefixtures("cluster")
def test_resume_elsewhere(example: Run) -> None:
    out = example("resume_elsewhere.py")
    stopped, steps = map(int, after(out, "stop at step").split(" of "))
    saved = re.search(r"saved after step (\d+)", out)
    assert saved
    assert stopped <= int(saved[1]) < steps
    assert re.fullmatch(r"[0-9a-f]{64}", after(out, "never interrupted"))
    assert after(out, "resumed elsewhere") == after(out, "never interrupted")


def test_early_stopping(example: Run) -> None:
    out = example("early_stopping.py")
    errors = [float(each) for each in re.findall(r"validation ([\d.]+)%", out)]
    assert "stopped early" in out
    # If two in a row were no better than the best before, it ends. A report every half second brings what was measured
    # since, which may be several epochs: those behind the one that ended the run are printed too.
    assert any(min(errors[at - 1 : at + 1]) >= min(errors[: at - 1]) for at in range(2, len(errors)))
    assert len(errors) < ffpipe.recipe("digits").training.epochs
    assert percent(out, "test error") < 25


def test_each_example_is_short_and_listed() -> None:
    listed = (REPOSITORY / "docs" / "examples.md").read_text()
    tests = Path(__file__).read_text()
    for path in sorted(EXAMPLES.iterdir()):
        assert path.name in listed
        assert path.name in tests
        if path.suffix == ".py":
            assert len(path.read_text().splitlines()) <= LONGEST, path.name


@pytest.mark.long
def test_notebook(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbclient = pytest.importorskip("nbclient", reason="needs nbclient, of the extra dev")
    nbformat = pytest.importorskip("nbformat", reason="needs nbformat, which comes with nbclient")
    pytest.importorskip("ipykernel", reason="needs ipykernel, of the extra dev")
    pytest.importorskip("matplotlib", reason="needs matplotlib, of the extra report")
    for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR", "MPLCONFIGDIR"):
        monkeypatch.setenv(name, str(here / name.lower()))
    notebook = nbformat.read(EXAMPLES / "digits.ipynb", as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)  # it is kept without outputs
    client = nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(here)}})
    client.execute()
    outputs = [output for cell in code for output in cell.outputs]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 3
    printed = "".join(output.text for output in outputs if output.output_type == "stream" and output.name == "stdout")
    assert percent(printed.replace(" by goodness", ""), "test error") < 15
    right, images = map(int, printed.splitlines()[-1].removesuffix(" right").split(" of "))
    assert images == 300
    assert right > 250

"""The table of the five-digit task: cells that were trained are left alone, and it stands between its markers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import five_digits_table as script
import pytest
from trainer_process import Ended

from ffpipe.commands.options import config_of
from ffpipe.commands.parser import Parser
from ffpipe.commands.train import add_train_options

PAGE = f"# Page\n\n{script.BEGIN}\nold\n{script.END}\n\nmore\n"


def cell(goodness: float | None, softmax: float) -> dict[str, Any]:
    return {"test_error_goodness": goodness, "test_error_softmax": softmax}


def test_the_table_has_means_of_seeds_and_dashes() -> None:
    cells = {
        "supervised-100-1": cell(0.04, 0.02),
        "supervised-100-2": cell(0.02, 0.01),
        "unsupervised-1000-1": cell(None, 0.0125),
    }
    assert script.table(cells).splitlines()[2:] == [
        "| 100 | 3.00% / 1.50% | - | 2, 0 |",
        "| 500 | - / - | - | 0, 0 |",
        "| 1,000 | - / - | 1.25% | 0, 1 |",
        "| 2,000 | - / - | - | 0, 0 |",
    ]
    assert script.put(PAGE, "new") == f"# Page\n\n{script.BEGIN}\n\nnew\n\n{script.END}\n\nmore\n"
    with pytest.raises(ValueError, match="the page does not have"):
        script.put("# Page\n", "new")
    assert script.BEGIN in script.PAGE.read_text()


@pytest.mark.parametrize("kind", script.KINDS)
@pytest.mark.parametrize("units", script.UNITS)
def test_each_cell_is_a_run_that_can_be_asked_for(kind: str, units: int) -> None:
    parser = Parser(prog="ffpipe train")
    add_train_options(parser)
    config = config_of(parser.parse_args(script.command(kind, units, 3)[1:]))
    assert config.recipe == f"five-digits-{kind}"
    assert config.training.dims == (784, units, units, units, units)
    assert config.training.seed == 3


def test_cells_are_trained_once_and_go_on_where_they_broke_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    def run(arguments: list[str], output: object) -> Ended:
        asked.append(arguments[3:])
        folder = (
            tmp_path / "runs" / f"supervised-{arguments[arguments.index('784') + 1]}-1" if "784" in arguments else None
        )
        folder = folder or Path(arguments[4])
        folder.mkdir(parents=True, exist_ok=True)
        fields = dict.fromkeys(("train_seconds", "epochs", "weights_sha256", "versions"), 1)
        (folder / "summary.json").write_text(json.dumps({**cell(0.03, 0.01), **fields}))
        return Ended(0, interrupted=False)

    (tmp_path / "page.md").write_text(PAGE)
    monkeypatch.setattr(script, "RESULTS", tmp_path / "results.json")
    monkeypatch.setattr(script, "PAGE", tmp_path / "page.md")
    monkeypatch.setattr(script, "run_to_its_end", run)
    broken_off = tmp_path / "runs" / "supervised-500-1"
    broken_off.mkdir(parents=True)
    (broken_off / "config.toml").write_text("")
    arguments = ["x", "--units", "100", "500", "--kinds", "supervised", "--work", str(tmp_path / "runs")]
    monkeypatch.setattr("sys.argv", arguments)
    assert script.main() == 0
    assert [each[0] for each in asked] == ["train", "resume"]
    assert "| 500 | 3.00% / 1.00% | - | 1, 0 |" in (tmp_path / "page.md").read_text()
    assert script.main() == 0
    assert len(asked) == 2


def test_a_cell_that_is_refused_ends_the_script(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        script.trained("supervised", 100, 1, tmp_path, ["--data-dir", str(tmp_path / "nowhere")])
    assert ended.value.code == 2
    assert "nowhere" in "".join(capfd.readouterr())

"""Lists as options of a model's function: from a command line and from a config.toml to the function."""

from __future__ import annotations

from pathlib import Path

import pytest

from ffpipe.commands.cli import main, parser
from ffpipe.commands.options import config_of
from ffpipe.config.fields import from_toml, to_toml
from ffpipe.config.schema import Config
from ffpipe.learn.items import call
from ffpipe.system.errors import UserError

ARRAY = """\
[training]
model = "net.py:blocks"
model_options = { widths = [48, 32], name = "a,b" }
"""


def blocks(widths: tuple[int, ...] = (), layers: list[int] | None = None, name: str = "") -> list[object]:
    return [lambda: (widths, layers, name)]


def given(config: Config) -> object:
    """Return the arguments that reach the function."""
    [item] = call(blocks, config.training.model_options, "blocks")
    return item()


def asked(*words: str) -> Config:
    """Return the config of a command line."""
    return config_of(parser().parse_args(["train", "digits-cnn", "--training.model-options", *words]))


@pytest.mark.parametrize(
    ("words", "arguments"),
    [
        (["widths=48,32"], ((48, 32), None, "")),
        (["widths=48", "layers=1,2"], ((48,), [1, 2], "")),
        (["name=a,b"], ((), None, "a,b")),
    ],
)
def test_of_a_command_line(words: list[str], arguments: object) -> None:
    config = asked(*words)
    assert given(config) == arguments
    # As a run that goes on reads it.
    assert given(from_toml(to_toml(config), where="config.toml")) == arguments


def test_of_a_config() -> None:
    config = from_toml(ARRAY, where="mine.toml")
    assert given(config) == ((48, 32), None, "a,b")
    assert from_toml(to_toml(config), where="config.toml") == config


def test_optimizers_take_lists_as_before() -> None:
    words = ["--training.optimizer.kind", "Adam", "--training.optimizer.options", "betas=0.9,0.99"]
    config = config_of(parser().parse_args(["train", "digits-cnn", *words]))
    assert config.training.optimizer.options == {"betas": (0.9, 0.99)}


@pytest.mark.parametrize(
    ("option", "first", "second"),
    [
        ("--training.model-options", "a=1", "b=2"),
        ("--training.optimizer.options", "eps=1", "eps=2"),  # of one name the last one counts
        ("--execution.resources", "tpu=1", "disk=2"),
        ("--execution.labels", "zone=a", "disk=b"),
        ("--training.data.train", "a.csv", "b.csv"),
        ("--data", "a.csv", "b.csv"),
    ],
)
def test_options_given_twice_add_up(option: str, first: str, second: str) -> None:
    known = parser()
    once, twice = (known.parse_args(["train", option, first, *more, second]) for more in ([], [option]))
    assert vars(once) == vars(twice)
    assert known.parse_args(["train"]).data == []


def test_a_list_of_numbers_is_replaced() -> None:
    asked = parser().parse_args(["train", "--training.dims", "64", "30", "20", "--training.dims", "64", "9", "8"])
    assert config_of(asked).training.dims == (64, 9, 8)


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["--training.threshold", "-2.5e1"], -25.0),
        (["--training.threshold", "-.5E-1"], -0.05),
        (["--training.mean", "-0.5,0.1"], (-0.5, 0.1)),
        (["--training.mean", "-1e-2", "-.5", "3"], (-0.01, -0.5, 3.0)),
        (["--training.mean", "-0.5,", "-1"], (-0.5, -1.0)),
    ],
)
def test_negative_numbers_are_no_options(words: list[str], found: object) -> None:
    training = config_of(parser().parse_args(["train", "digits", *words])).training
    assert found in (training.threshold, training.mean)


@pytest.mark.parametrize("word", ["-1x", "-e1"])
def test_what_only_begins_like_a_number_is_an_option(word: str) -> None:
    with pytest.raises(UserError, match="expected one argument"):
        parser().parse_args(["train", "digits", "--training.threshold", word])


NET = """\
from torch import nn

def blocks(widths: tuple[int, ...] = (32,)):
    return [nn.Flatten(), *(nn.Linear(a, b) for a, b in zip((64, *widths), widths))]
"""


def test_a_network_of_these_widths(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "net.py").write_text(NET)
    model = ["--model", f"{tmp_path / 'net.py'}:blocks", "--training.model-options"]
    train = ["train", "digits-cnn", "--engine", "local", "--train-limit", "200", "--epochs", "1"]
    run = ["--run-dir", str(tmp_path / "run")]
    assert main([*train, *model, "widths=48,b", *run]) == 2
    assert "the option widths is '48,b', expected tuple[int, ...] (such as 1,2,3)" in capsys.readouterr().err
    assert main([*train, *model, "widths=48,32", *run]) == 0
    assert 'widths = "48,32"' in (tmp_path / "run" / "config.toml").read_text()
    assert main(["evaluate", str(tmp_path / "run"), *model[:2]]) == 0

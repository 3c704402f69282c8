"""Words of a command line that no text editor writes, for every field and every name: taken, or refused in one line."""

from __future__ import annotations

import argparse
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from covering import only
from PIL import Image
from strangers import bounded

from ffpipe.commands import cli
from ffpipe.commands.cli import main
from ffpipe.commands.options import config_of, option, settable
from ffpipe.config.fields import Leaf
from ffpipe.system.errors import without_keys

# Bytes that are not UTF-8 come as surrogates.
NOT_UTF8 = ("\udcff", "a=\udcff", "\udcff=1", "a\0b")
STRANGE = (*NOT_UTF8, "", "  ", "a\nb", "x" * 5000, "größe", "folder", "/dev/zero", "pipe", "=x", "a=", "\x1b[31m")
TYPED = [word for word in STRANGE if "\0" not in word]
SETTABLE = list(settable().values())
RUN_COMMANDS = (["evaluate"], ["export", "o.safetensors"], ["predict", "ok.png"], ["resume"])


def taken_or_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> bool:
    """Run a command and return whether it was done; else it is refused with status 2 and one line that a terminal may
    be sent."""
    capsys.readouterr()
    status = main(arguments)
    err = capsys.readouterr().err
    if status == 0:
        return True
    assert (status, err.count("\n")) == (2, 1), ascii(arguments)
    assert err.removesuffix("\n").isprintable()
    assert len(err) < 2100
    return False


@pytest.fixture
def strange(here: Path) -> Path:
    """A working folder with a folder, a named pipe and a picture."""
    (here / "folder").mkdir()
    os.mkfifo(here / "pipe")
    Image.new("L", (8, 8)).save(here / "ok.png")
    return here


@pytest.mark.parametrize("leaf", only(SETTABLE[::2], SETTABLE), ids=lambda leaf: leaf.name)
def test_every_field_takes_or_refuses_every_word(
    leaf: Leaf, strange: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The config alone is made; what it says is not done."""

    def make(options: argparse.Namespace) -> None:
        config_of(options)

    monkeypatch.setitem(cli.COMMANDS, "train", replace(cli.COMMANDS["train"], run=make))
    is_text = "str" in str(leaf.annotation).replace("dict[str", "")
    for word in STRANGE if is_text or leaf.is_mapping else NOT_UTF8[:1]:
        taken = taken_or_refused(["train", option(leaf), word], capsys)
        assert not (taken and word in NOT_UTF8), word


@pytest.mark.parametrize("word", only(TYPED[::2], TYPED), ids=ascii)
def test_names_of_files_and_other_arguments(
    word: str, strange: Path, strangers_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(strangers_run)
    for command, *others in RUN_COMMANDS:
        assert not taken_or_refused([command, word, *others], capsys)
    for arguments in (
        ["train", word],
        ["train", f"{word}.toml"],
        ["train", "--data", word],
        ["train", f"--no-{word}"],
        ["train", "--model", f"{word}:f"],
        ["train", "--model", f"{word}.py:f"],
        ["evaluate", run, "--split", word],
        ["predict", run, "ok.png", "--readout", word],
        ["predict", run, word],
        ["predict", run, f"{word}.png"],
        ["predict", run, f"{word}.npy"],
        ["export", run, word],
        ["export", run, f"nowhere/{word}.safetensors"],
        ["plan", "--link", word],
        ["plan", "--cores", word],
        [word],
    ):
        assert not taken_or_refused(arguments, capsys), ascii(arguments)
    for arguments in (["evaluate", run, "--data-dir", word], ["evaluate", run, "--allow-code", word]):
        taken_or_refused(arguments, capsys)


@pytest.mark.parametrize("option", ["--run-dir", "--execution.checkpoints", "--execution.spool"])
@pytest.mark.parametrize("word", ["x" * 300, "x" * 5000, "pipe", "pipe/x", "/dev/zero", "ok.png/x", "/proc/x"])
def test_places_that_cannot_be_written(
    option: str, word: str, strange: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ["--epochs", "1", "--training.dims", "64", "8", "8", "--stages", "1", "--engine", "layerwise"]
    assert not taken_or_refused(["train", *small, option, word], capsys)
    assert sorted(path.name for path in strange.iterdir() if path.name != "runs") == ["folder", "ok.png", "pipe"]


def test_a_run_whose_name_is_not_utf8_is_found_by_a_link(
    here: Path, strangers_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(strangers_run, here / "run\udcff")
    for command, *others in RUN_COMMANDS:
        assert not taken_or_refused([command, "run\udcff", *others], capsys)
    (here / "link").symlink_to("run\udcff")
    assert taken_or_refused(["evaluate", "link"], capsys)


@pytest.mark.parametrize("text", ["?key" * 50_000, "s3:/:" * 50_000, "a:/" + ":" * 200_000, "&token=" * 30_000])
def test_a_message_of_any_text_is_soon_searched_for_keys(text: str) -> None:
    with bounded():
        assert without_keys(text)


def test_keys_of_uris_are_left_out_of_messages(capsys: pytest.CaptureFixture[str]) -> None:
    for place in (
        *("s3:/KEY:SECRET@bucket/run", "s3://KEY:SECRET@bucket", "abfs://KEY:SECRET@bucket/run"),
        *("s3://KEY:SECRET/SECRET@bucket/run", "s3://SECRET@bucket/run", "s3://bucket/run?secret_key=SECRET&region=x"),
    ):
        assert main(["train", "digits", "--epochs", "1", "--execution.checkpoints", place, "--dry-run"]) in (0, 2)
        said = capsys.readouterr()
        assert "SECRET" not in said.err + said.out, place
    assert main(["evaluate", "s3://KEY:SECRET@bucket/run"]) == 2
    assert "SECRET" not in capsys.readouterr().err

"""Helps of `ffpipe` and its commands: one screen for what most need, and every field once in the long help."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from commands import refused

from ffpipe.commands.cli import COMMANDS, main
from ffpipe.commands.groups import GROUPS, OTHERS, choices, group_of, meaning
from ffpipe.commands.options import RESUME_SHORT, SHORT, option, settable

LINES, COLUMNS = 24, 100
FIELDS = set(settable())
EXECUTION = {name for name in FIELDS if name.startswith("execution.")}
# Modules that take seconds, or that nothing on these paths needs.
HEAVY = ("torch", "ray", "pyarrow", "rich", "PIL")


def help_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    """Return the lines of a help, which ends with status 0 and says nothing else."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(list(arguments))
    out, err = capsys.readouterr()
    assert (stop.value.code, err) == (0, "")
    return out.splitlines()


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_a_help_fits_on_a_screen(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    lines = help_of(capsys, *command.split(), "--help")
    assert lines[0].startswith(f"usage: ffpipe {command}".rstrip())
    assert len(lines) <= LINES
    assert max(map(len, lines)) <= COLUMNS
    assert lines == help_of(capsys, *command.split(), "-h")


def test_the_first_help_has_all_commands_and_examples(capsys: pytest.CaptureFixture[str]) -> None:
    lines = help_of(capsys, "--help")
    for name, command in COMMANDS.items():
        assert any(line.split() == [name, *command.does.split()] for line in lines)
    examples = lines[lines.index("examples:") + 1 :]
    assert examples
    assert all(line.startswith("  ffpipe ") for line in examples)


@pytest.mark.parametrize(
    ("command", "spelled"),
    [
        ("report", "--watch [SECONDS]"),
        ("report", "--out FILE"),
        ("evaluate", "--data FILE ..."),
        ("resume", "--execution.labels [NAME=VALUE ...]"),
        ("resume", "--dry-run"),
    ],
)
def test_a_value_that_may_be_left_out_is_in_brackets(
    command: str, spelled: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert spelled in [re.split(r" {2,}", line.strip())[0] for line in help_of(capsys, command, "--help-all")]


@pytest.mark.parametrize("command", COMMANDS)
def test_examples_are_commands_that_are_there(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Every option of an example is one of the command's."""
    examples = " ".join(COMMANDS[command].examples)
    long_help = help_of(
        capsys, command, "--help-all" if command in ("train", "resume", "plan", "predict") else "--help"
    )
    known = set(re.findall(r"--[a-z][\w.-]*", " ".join(long_help)))
    assert set(re.findall(r"--[a-z][\w.-]*", examples)) <= known


@pytest.mark.parametrize(
    ("command", "short"), [("train", set(SHORT)), ("resume", set(RESUME_SHORT)), ("plan", set(SHORT) - {"run-dir"})]
)
def test_a_help_has_the_short_options_and_points_to_the_long_help(
    command: str, short: set[str], capsys: pytest.CaptureFixture[str]
) -> None:
    named = [line.split()[0] for line in help_of(capsys, command, "--help") if line.startswith("  --")]
    assert {f"--{name}" for name in short} <= set(named)
    assert "--help-all" in named
    assert not [name for name in named if "." in name]
    assert len(named) == len(set(named))


@pytest.mark.parametrize(
    ("command", "fields"),
    [
        ("train", FIELDS),
        ("plan", FIELDS),
        (
            "resume",
            {*EXECUTION, "training.epochs", "training.model", "training.data.train", "training.data.test"}
            - {"execution.run_dir"},
        ),
        ("data", {name for name in FIELDS if name.startswith("training.data.")} | {"execution.data_dir"}),
        ("predict", {"execution.checkpoints"}),
    ],
)
def test_the_long_help_has_every_field_once_in_its_group(
    command: str, fields: set[str], capsys: pytest.CaptureFixture[str]
) -> None:
    lines = help_of(capsys, command, "--help-all")
    assert max(map(len, lines)) <= COLUMNS
    group, found = "", list[str]()
    heads = [*GROUPS, OTHERS]
    for at, line in enumerate(lines):
        group = line.removesuffix(":") if line.removesuffix(":") in heads else group
        if line.startswith("  --") and group:
            name = next(word for word in line.replace(",", "").split() if "." in word)
            found.append(name)
            leaf = next(leaf for leaf in settable().values() if option(leaf) == name)
            assert group == group_of(leaf.name)
            below = " ".join(text.strip() for text in lines[at + 1 : at + 8] if text.startswith(" " * 8))
            assert below.replace(" ", "").startswith(meaning(leaf).replace(" ", ""))
    expected = {option(settable()[name]) for name in fields if name != "training.model" or command in ("train", "plan")}
    assert sorted(found) == sorted(expected)


def test_every_field_has_a_group_a_meaning_and_a_default() -> None:
    assert [name for name in FIELDS if group_of(name) == OTHERS] == []
    for leaf in settable().values():
        words, _, rest = meaning(leaf).partition(" [")
        assert words, leaf.name
        assert "default: " in rest, leaf.name
        assert all(choice in rest or choice in words or choice in ("true", "false") for choice in choices(leaf))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["train", "--help-al"], "did you mean '--help-all'"),
        (["run"], "invalid choice"),
        (["completion", "csh"], "give bash, zsh or fish"),
        (["completion"], "SHELL"),
        (["recipes", "more"], "unexpected argument 'more'"),
        (["show"], "RUN"),
    ],
)
def test_what_is_not_known_is_said_in_one_line(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(arguments, says, capsys)


def test_nothing_heavy_is_behind_what_only_looks(strangers_run: Path, here: Path) -> None:
    looks = [
        ["--help"],
        ["train", "--help"],
        ["train", "--help-all"],
        ["plan", "--help-all"],
        ["completion", "zsh"],
        ["runs", str(strangers_run.parent)],
        ["show", str(strangers_run)],
        ["show", str(strangers_run), "--json"],
    ]
    code = (
        "import json, sys\nfrom ffpipe.commands.cli import main\n"
        "for arguments in json.loads(sys.argv[1]):\n"
        "    try:\n        status = main(arguments)\n"
        "    except SystemExit as stop:\n        status = stop.code\n"
        "    print(status, *sorted({name.split('.')[0] for name in sys.modules}), file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(looks)],
        cwd=here,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    lines = [line.split() for line in done.stderr.splitlines()]
    assert [line[0] for line in lines] == ["0"] * len(looks)
    for arguments, line in zip(looks, lines, strict=True):
        assert set(HEAVY) & set(line) == set(), arguments

"""`ffpipe completion`: the lines that a shell needs to complete commands, and the answers when it asks.

The shell asks by running `ffpipe` with the line in its environment; argcomplete has the shells' parts. No answer
imports torch.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterable
from itertools import islice

from ffpipe.commands.groups import choices
from ffpipe.commands.options import settable
from ffpipe.commands.parser import Parser
from ffpipe.config.recipes import RECIPES
from ffpipe.runs.inspection import CONFIG
from ffpipe.system.errors import UserError

# The line that goes into the start file of each shell.
START = {
    "bash": """echo 'eval "$(ffpipe completion bash)"' >> ~/.bashrc""",
    "zsh": """echo 'eval "$(ffpipe completion zsh)"' >> ~/.zshrc     # after compinit""",
    "fish": "ffpipe completion fish > ~/.config/fish/completions/ffpipe.fish",
}
# Options and arguments that take names of files or folders.
PATHS = {
    *("data", "png", "images", "out", "folder", "data_dir", "allow_code"),
    *("training.data.train", "training.data.test", "training.model"),
    *("execution.run_dir", "execution.data_dir", "execution.spool", "execution.checkpoints"),
}
WORDS = {"split": ("test", "validation", "train"), "readout": ("softmax", "goodness", "last", "sum"), "shell": START}
# Entries of a folder that are looked at, and words of an answer.
MOST_ENTRIES = 10_000


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `ffpipe completion`."""
    parser.add_argument("shell", metavar="SHELL", help=f"{', '.join(START)}: what it prints goes to its start file")


def run(options: argparse.Namespace) -> None:
    """Print what the shell needs. Raises UserError for another shell."""
    if options.shell not in START:
        raise UserError(f"unknown shell {options.shell!r}: give bash, zsh or fish")
    from argcomplete.shell_integration import shellcode

    print(shellcode(["ffpipe"], shell=options.shell))


def answer(parser: Parser) -> None:
    """Write how the line goes on to where the shell reads it, and end the program."""
    import argcomplete

    for each in (parser, *parser.parts):
        for action in each._actions:
            if action.nargs != argparse.PARSER:  # argcomplete knows the commands by itself
                action.completer = completer_of(action)  # type: ignore[attr-defined]  # read by argcomplete
    # Options only where one begins: of some commands there are more than a hundred. By sys.exit, since argcomplete's
    # own way, os._exit, leaves out what is registered for the end of the program.
    argcomplete.autocomplete(parser, always_complete_options=False, exit_method=sys.exit)


def completer_of(action: argparse.Action) -> Callable[..., Iterable[str]]:
    """Return what completes the value of an option or argument."""
    if action.dest in ("run", "runs"):
        return lambda prefix, **_: _paths(prefix, folders=True)
    if action.dest == "recipe":
        return lambda prefix, **_: [*RECIPES, *(path for path in _paths(prefix) if path.endswith(("/", ".toml")))]
    if action.dest == "files":  # which may be a recipe in their place
        return lambda prefix, **_: [*RECIPES, *_paths(prefix)]
    if action.dest in PATHS:
        return lambda prefix, **_: _paths(prefix)
    leaf = settable().get(action.dest)
    words = WORDS.get(action.dest) or (choices(leaf) if leaf else ())
    return lambda **_: list(words)


def _paths(prefix: str, folders: bool = False) -> list[str]:
    """List files and folders whose names begin so; or folders alone, where runs are whole and others lead on."""
    folder, start = os.path.split(prefix)
    found = []
    try:
        with os.scandir(os.path.expanduser(folder) or ".") as entries:
            for entry in islice(entries, MOST_ENTRIES):
                path, is_folder = os.path.join(folder, entry.name), entry.is_dir()
                if not entry.name.startswith(start) or (folders and not is_folder):
                    continue
                if entry.name.startswith(".") and not start:  # as shells do
                    continue
                is_run = folders and os.path.isfile(os.path.join(entry.path, CONFIG))
                found.append(path if is_run or not is_folder else f"{path}/")
    except OSError:  # nothing to complete
        return []
    return sorted(found)

"""The parser of a command: errors as one line with the nearest name, a help of one screen, and one with every field."""

from __future__ import annotations

import argparse
import difflib
import re
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NoReturn

from ffpipe.commands.groups import grouped, meaning
from ffpipe.system.errors import UserError

WIDE = 100
# Columns of a help before what an option means, and before what a field means.
MARGIN, INDENT = 28, 8


class Parser(argparse.ArgumentParser):
    """A parser that raises UserError where argparse would print its usage and exit, and names the nearest option.

    examples: commands to paste. commands: the commands below this one, and what they do. parts: their parsers.
    minor: names of options that are left to the help of all. left_out: options of others that this command cannot have,
    and why.
    """

    def __init__(
        self, *, examples: Sequence[str] = (), commands: Mapping[str, str] | None = None, **settings: Any
    ) -> None:
        super().__init__(**settings, allow_abbrev=False, add_help=False)
        self.examples, self.commands, self.parts = tuple(examples), dict(commands or {}), list[Parser]()
        self.minor, self.left_out = frozenset[str](), dict[str, str]()
        # argparse of Python 3.11 takes -2.5e1 and -0.5,0.1 for options, since its own pattern ends before e and comma.
        self._negative_number_matcher = re.compile(r"-\.?\d[\d.,eE+-]*$")
        self.add_argument("-h", "--help", action=Show, text=Parser.format_help, help="show this")

    def complete(self) -> None:
        """Add the second help. Call it once all options are there."""
        meaning = "show every option and every field of the config, in groups"
        self.add_argument("--help-all", action=Show, text=Parser.format_all, help=meaning)

    def error(self, message: str) -> NoReturn:
        # By argparse's words: it has no other sign that the command is missing, and names none to choose from.
        if self.commands and "COMMAND" in message and "required" in message:
            raise UserError(f"COMMAND is missing: give one of {', '.join(self.commands)}; see {self.prog} --help")
        raise UserError(f"{self.prog}: {message}")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Refuse what is not known here, which argparse calls for every command."""
        options, unknown = super().parse_known_args(args, namespace)
        if unknown and not unknown[0].startswith("-"):
            raise UserError(f"unexpected argument {unknown[0]!r}; see {self.prog} --help")
        if unknown:
            given = unknown[0].split("=")[0]
            raise UserError(f"unknown option {given!r}; {self._nearest(given)}")
        return options, unknown

    def _nearest(self, given: str) -> str:
        """Return the option that an unknown one stands for, or why there is none, or else where all of them are."""
        word, known = given.lstrip("-"), {name.lstrip("-"): name for name in self._option_string_actions}

        def meant(names: Iterable[str]) -> str:
            # The last word of a field is what people remember of it: --size for --training.data.size. The shortest of
            # several: --learning-rate is rather the blocks' than the head's.
            found = [name for name in names if word in (name.lstrip("-"), name.rpartition(".")[2])]
            return min(found, key=len, default="")

        if not (near := meant(known)):
            if left_out := meant(self.left_out):
                return self.left_out[left_out]
            near = next(iter(difflib.get_close_matches(word, known, n=1, cutoff=0.75)), "")
        return f"did you mean {known[near]!r}?" if near else f"see {self.prog} --help"

    def format_usage(self) -> str:
        arguments = [_argument(action) for action in self._actions if not action.option_strings]
        return f"usage: {' '.join([self.prog, *arguments])} [OPTION ...]\n"

    def format_help(self) -> str:
        """Return what most people need, on one screen."""
        # Fields without a short name.
        left_out = [each for each in self._actions if each.option_strings and all(map(_is_dotted, each.option_strings))]
        # The long help has no more than this one where nothing is left out.
        hidden = {"--help"} if left_out else {"--help", "--help-all"}
        shown = [each for each in self._actions if each not in left_out and not hidden & {*each.option_strings}]
        shown = [each for each in shown if each.dest not in self.minor]
        lines = [*self._heading(), *_entries(shown, self.commands)]
        if len(self.examples) == 1:
            lines.append(f"example: {self.examples[0]}")
        elif self.examples:
            lines += ["examples:", *(f"  {example}" for example in self.examples)]
        return "\n".join(lines) + "\n"

    def format_all(self) -> str:
        """Return all arguments and options, and every field of the config in its group."""
        fields = {action.dest: action for action in self._actions if any(map(_is_dotted, action.option_strings))}
        others = [action for action in self._actions if action not in fields.values()]
        lines = [*self._heading(), *_entries(others, self.commands)]
        if fields:
            lines += ["", "Defaults are those of a config that says nothing; a recipe sets its own."]
        for group, leaves in grouped(fields).items():
            lines += ["", f"{group}:"]
            for leaf in leaves:
                action, indent = fields[leaf.name], " " * INDENT
                lines.append(f"  {_named(action, action.option_strings)}")
                lines += textwrap.wrap(meaning(leaf), WIDE, initial_indent=indent, subsequent_indent=indent)
        return "\n".join(lines) + "\n"

    def _heading(self) -> list[str]:
        return [self.format_usage().rstrip(), *textwrap.wrap(self.description or "", WIDE)]


class Show(argparse.Action):
    """An option that prints a text and ends the program. text: makes it, from the parser."""

    def __init__(self, option_strings: Sequence[str], dest: str, text: Callable[[Any], str], help: str) -> None:
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, default=argparse.SUPPRESS, help=help)
        self.text = text

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        print(self.text(parser), end="")
        raise SystemExit(0)


def _is_dotted(name: str) -> bool:
    return "." in name


def _argument(action: argparse.Action) -> str:
    """Spell an argument, or the value of an option, as a line of usage has it."""
    name = str(action.metavar or action.dest)
    return {"?": f"[{name}]", "+": f"{name} ...", "*": f"[{name} ...]"}.get(str(action.nargs), name)


def _entries(actions: Iterable[argparse.Action], commands: Mapping[str, str]) -> list[str]:
    """Lay out arguments and options, or commands in their place, with their meanings beside them."""
    lines = []
    for action in actions:
        if action.nargs == argparse.PARSER:
            entries = dict(commands)
        else:
            short = [name for name in action.option_strings if not _is_dotted(name)]
            # Two stand for one in all helps that argparse may format.
            entries = {_named(action, short): (action.help or "").replace("%%", "%")}
        for name, text in entries.items():
            left = f"  {name}".ljust(MARGIN - 1) + " "
            lines += textwrap.wrap(left + text, WIDE, subsequent_indent=" " * MARGIN, replace_whitespace=False)
    return lines


def _named(action: argparse.Action, names: Sequence[str]) -> str:
    """Spell an argument, or an option with what stands for its value."""
    if not names:
        return str(action.metavar or action.dest)
    return ", ".join(names) + (f" {_argument(action)}" if action.nargs != 0 else "")

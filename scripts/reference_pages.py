"""Reference pages made from the code itself: fields of the config, options of the command line, names of the API.

Pure text. site_hooks.py says which page asks for which table.
"""

from __future__ import annotations

import argparse
import dataclasses
import types
import typing
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from typing import Any

import ffpipe
from ffpipe.commands.cli import COMMANDS, parser
from ffpipe.config.fields import Leaf, leaves
from ffpipe.config.schema import BlockConfig, Config

WORDS = {int: "whole number", float: "number", bool: "true or false", str: "text"}


def fields() -> str:
    """List all fields of a config, in a table for each of its parts."""
    parts = [
        f"## `{'.'.join(path)}`\n\n{_table(found, Config())}"
        for path, found in groupby(
            (leaf for leaf in _sorted(leaves()) if len(leaf.path) > 1), key=lambda leaf: leaf.path[:-1]
        )
    ]
    blocks = _table(leaves(BlockConfig), BlockConfig(kind=""))
    return "\n".join([*parts, f"## `[[training.blocks]]`\n\nOne table for each block of a network.\n\n{blocks}"])


def commands() -> str:
    """List all commands with what they do, examples, arguments and options."""
    (made,) = (action for action in parser()._actions if isinstance(action, argparse._SubParsersAction))
    return "\n".join(_command(name, made.choices[name]) for name in COMMANDS)


def names() -> str:
    """List all public names in the form that mkdocstrings reads, functions before classes."""
    found = sorted(ffpipe.__all__, key=lambda name: (name[0].isupper(), name))
    return "\n\n".join(f"::: ffpipe.{name}" for name in found) + "\n"


def _sorted(found: Iterable[Leaf]) -> list[Leaf]:
    """Put the fields of a part side by side, and parts in the order in which they are declared."""
    order: dict[tuple[str, ...], list[Leaf]] = {}
    for leaf in found:
        order.setdefault(leaf.path[:-1], []).append(leaf)
    return [leaf for part in order.values() for leaf in part]


def _table(found: Iterable[Leaf], owner: Any) -> str:
    lines = ["| field | value | default | meaning |", "| --- | --- | --- | --- |"]
    for leaf in found:
        cells = (f"`{leaf.path[-1]}`", kind(leaf.annotation), _default(leaf, owner), leaf.description)
        lines.append(f"| {' | '.join(_cell(cell) for cell in cells)} |")
    return "\n".join(lines) + "\n"


def kind(annotation: Any) -> str:
    """Say an annotation in words."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return kind(arguments[0])
    if origin is typing.Literal:
        return ", ".join(f"`{choice or '(empty)'}`" for choice in arguments)
    if origin in (types.UnionType, typing.Union):
        return " or ".join("nothing" if each is types.NoneType else kind(each) for each in arguments)
    if origin is tuple:
        return f"list of: {kind(arguments[0])}"
    if origin is dict:
        return f"table of: {kind(arguments[1])}"
    if dataclasses.is_dataclass(annotation) and isinstance(annotation, type):
        return f"`{annotation.__name__}`"
    return WORDS[annotation]


def _default(leaf: Leaf, owner: Any) -> str:
    for name in leaf.path:
        owner = getattr(owner, name)
    if owner in ("", (), None) or owner == {}:
        return "-"
    if isinstance(owner, bool):
        return f"`{str(owner).lower()}`"
    return f"`{list(owner) if isinstance(owner, tuple) else owner}`"


def _command(name: str, its: argparse.ArgumentParser) -> str:
    """Make a heading, what the command does, examples and a table; fields without a short name are one line of it."""
    fields_of_config = {leaf.name for leaf in leaves()}
    rows, others = [], 0
    for action in its._actions:
        options = action.option_strings
        if action.dest in fields_of_config and options and all("." in option for option in options):
            others += 1
        elif action.help != argparse.SUPPRESS:
            rows.append(f"| {_shown(action)} | {_cell((action.help or '').replace('%%', '%'))} |")
    if others:
        rows.append(f"| `--FIELD VALUE` | {others} more fields of the [config](reference-config.md), by dotted names |")
    table = "\n".join(["| argument | meaning |", "| --- | --- |", *rows])
    does, examples = COMMANDS[name].does, COMMANDS[name].examples
    shown = "".join(f"{example}\n" for example in examples)
    shown = f"```text\n{shown}```\n\n" if examples else ""
    return f"## `ffpipe {name}`\n\n{does[0].upper()}{does[1:]}.\n\n{shown}{table}\n"


def _shown(action: argparse.Action) -> str:
    """Write an argument, or the names of an option with what stands for its value."""
    value = action.metavar if isinstance(action.metavar, str) else action.dest.upper()
    takes = "" if action.nargs == 0 else f" {value}"
    return ", ".join(f"`{option}{takes}`" for option in action.option_strings) or f"`{value}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


TABLES: dict[str, Callable[[], str]] = {"fields": fields, "commands": commands, "names": names}


def filled(page: str) -> Iterator[str]:
    """Yield the lines of a page, with what each mark `<!-- generated NAME -->` names in its place."""
    for line in page.splitlines():
        words = line.split()
        marked = words[:2] == ["<!--", "generated"] and words[3:] == ["-->"]
        yield TABLES[words[2]]() if marked else line

"""Reference pages made from the code itself: fields of the config, options of the command line, names of the API.

Pure text. Which page asks for which table is in site_hooks.py.
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
from ffpipe.commands.cli import _parser
from ffpipe.config.fields import Leaf, leaves
from ffpipe.config.schema import BlockConfig, Config

WORDS = {int: "whole number", float: "number", bool: "true or false", str: "text"}
DATA_CLASSES = "ffpipe.config.schema"


def fields() -> str:
    """All fields of a config, a table for each of its parts."""
    parts = [
        f"## `{'.'.join(path)}`\n\n{_table(found, Config())}"
        for path, found in groupby(
            (leaf for leaf in _sorted(leaves()) if len(leaf.path) > 1), key=lambda leaf: leaf.path[:-1]
        )
    ]
    blocks = _table(leaves(BlockConfig), BlockConfig(kind=""))
    return "\n".join([*parts, f"## `[[training.blocks]]`\n\nOne table for each block of a network.\n\n{blocks}"])


def commands() -> str:
    """All commands with their arguments and options."""
    parser = _parser()
    (made,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    help_of = {each.dest: each.help or "" for each in made._choices_actions}
    return "\n".join(_command(name, help_of.get(name, ""), each) for name, each in made.choices.items())


def names() -> str:
    """All public names, as mkdocstrings asks for them."""
    return "\n\n".join(f"::: ffpipe.{name}" for name in ffpipe.__all__) + "\n"


def _sorted(found: Iterable[Leaf]) -> list[Leaf]:
    """Fields of a part side by side, the parts in the order in which they are declared."""
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
    """An annotation in words."""
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


def _command(name: str, does: str, parser: argparse.ArgumentParser) -> str:
    """A heading, what the command does, and a table; fields of the config are one line of it."""
    field_names = {leaf.name for leaf in leaves()}
    rows, of_config = [], 0
    for action in parser._actions:
        if action.help == argparse.SUPPRESS or isinstance(action, argparse._HelpAction):
            continue
        options = action.option_strings
        if action.dest in field_names and options and all("." in option for option in options):
            of_config += 1
            continue
        shown = ", ".join(f"`{option}`" for option in options) or f"`{action.dest.upper()}`"
        rows.append(f"| {shown} | {_cell((action.help or '').replace('%%', '%'))} |")
    if of_config:
        rows.append(f"| `--FIELD` | {of_config} fields of the [config](reference-config.md) by their dotted names |")
    table = "\n".join(["| argument | meaning |", "| --- | --- |", *rows]) + "\n" if rows else "It takes no options.\n"
    return f"## `ffpipe {name}`\n\n{does[:1].upper()}{does[1:]}.\n\n{table}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


TABLES: dict[str, Callable[[], str]] = {"fields": fields, "commands": commands, "names": names}


def filled(page: str) -> Iterator[str]:
    """The lines of a page, each mark `<!-- generated NAME -->` in the place of what it names."""
    for line in page.splitlines():
        words = line.split()
        marked = words[:2] == ["<!--", "generated"] and words[3:] == ["-->"]
        yield TABLES[words[2]]() if marked else line

"""Configs from outside: TOML, dotted names of the command line, Python. Whatever comes in is checked here."""

from __future__ import annotations

import dataclasses
import functools
import re
import tomllib
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
import tomli_w
from msgspec import Meta

from ffpipe.config.rules import check, check_text
from ffpipe.config.schema import Config
from ffpipe.system.errors import UserError, nearest, refuse_other, refusing
from ffpipe.system.files import read_whole

LARGEST_FILE = 1 << 20
# Our keys have four parts. tomllib takes minutes for one of thousands, as their time grows with the square.
# Possessive repeats (++, *+) give nothing back, or the search would take as long on what is almost such a key.
_PART = r"""(?:[\w-]++|"(?:\\.|[^"\\\n])*+"|'[^'\n]*+')[ \t]*+"""
_DEEP_KEY = re.compile(rf"(?:^|[\[{{,])[ \t]*+(?:{_PART}\.[ \t]*+){{8}}", re.MULTILINE)

# Stands above the blocks of a recipe where the user's code makes the network.
NOT_USED = "# Not used: training.model makes the blocks."

# Fields that say where things are, and may be given anew for a run that exists.
CHECKPOINTS = "execution.checkpoints"
DATA_FILES = ("training.data.train", "training.data.test")


def to_toml(config: Config) -> str:
    """Write what `from_toml` reads; a comment says which blocks are not used."""
    text = tomli_w.dumps(_without_none(dataclasses.asdict(config)))
    # No string has a line break of its own here, so that this is the table and not a word like it.
    table = "\n[[training.blocks]]\n"
    return text.replace(table, f"\n{NOT_USED}{table}", 1) if config.training.model else text


def from_toml(text: str, *, where: str) -> Config:
    """Read and check a config. Raises UserError naming `where`, the field and what it may be."""
    return from_tree(parse_toml(text, where=where), where=where)


def parse_toml(text: str, *, where: str) -> dict[str, Any]:
    """Parse TOML that may be a stranger's, in bounded time. Raises UserError."""
    if _DEEP_KEY.search(text):
        raise UserError(f"{where} is not a config: it has a key of more than 8 parts")
    # Beside its own errors: arrays in arrays without end, integers of thousands of digits, impossible dates.
    with refusing(f"{where} is not valid TOML", (ValueError, RecursionError, OverflowError)):
        return tomllib.loads(text)


def read_tree(path: Path) -> dict[str, Any]:
    """Read a file of a config, whose fields are not checked yet. Raises UserError."""
    try:
        text = read_whole(path, LARGEST_FILE).decode("utf-8")
    except (FileNotFoundError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {error}") from None
    return parse_toml(text, where=str(path))


def read_config(path: Path) -> Config:
    """Read and check a file of a config. Raises UserError."""
    return from_tree(read_tree(path), where=str(path))


@dataclass(frozen=True)
class Leaf:
    """One settable field: its dotted path, annotation and meaning."""

    path: tuple[str, ...]
    annotation: Any
    description: str

    @property
    def name(self) -> str:
        return ".".join(self.path)

    @property
    def is_sequence(self) -> bool:
        return any(typing.get_origin(kind) is tuple for kind in self._kinds)

    @property
    def may_be_single(self) -> bool:
        """A value need not be in a list."""
        return len(self._kinds) > 1

    @property
    def may_be_absent(self) -> bool:
        return type(None) in self._kinds

    @property
    def is_mapping(self) -> bool:
        return typing.get_origin(self.annotation) is dict

    @property
    def may_be_fraction(self) -> bool:
        """True where the field, or one of its values, may be a float."""
        kinds = (*self._kinds, *typing.get_args(self.annotation)[1:]) if self.is_mapping else self._kinds
        return any(kind is float or float in typing.get_args(kind) for kind in kinds)

    @property
    def choices(self) -> tuple[str, ...]:
        """The words that it may be, where it is one of a few."""
        return next((typing.get_args(kind) for kind in self._kinds if typing.get_origin(kind) is typing.Literal), ())

    @property
    def _kinds(self) -> tuple[Any, ...]:
        """The alternatives of a union, or the one annotation that there is."""
        # X | Y is of the first kind where X is a class, of the second where it is Annotated.
        union = typing.get_origin(self.annotation) in (types.UnionType, typing.Union)
        return typing.get_args(self.annotation) if union else (self.annotation,)


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    """Return the annotations by field; evaluating them takes a millisecond."""
    return typing.get_type_hints(cls, include_extras=True)


def leaves(cls: type = Config, prefix: tuple[str, ...] = ()) -> list[Leaf]:
    """Return every settable field below `cls`, in order of declaration."""
    found = []
    for name, hint in _hints(cls).items():
        leaf = _leaf((*prefix, name), hint)
        kind = leaf.annotation
        found += leaves(kind, leaf.path) if isinstance(kind, type) and dataclasses.is_dataclass(kind) else [leaf]
    return found


def _leaf(path: tuple[str, ...], hint: Any) -> Leaf:
    if typing.get_origin(hint) is not Annotated:
        return Leaf(path, hint, "")
    annotation, *metas = typing.get_args(hint)
    return Leaf(path, annotation, next((m.description for m in metas if isinstance(m, Meta) and m.description), ""))


def from_tree(tree: Mapping[str, Any], *, where: str, strict: bool = True) -> Config:
    """Make a checked Config from nested mappings. With strict=False strings are converted ("50" to 50).

    Raises UserError: an unknown field (with the nearest right one), a wrong type, a value out of range.
    """
    # msgspec would pass over unknown fields, and a misspelt one would train with its default.
    _refuse_unknown(tree, Config, where)
    try:
        check_text(tree)  # before msgspec, which raises errors of its own for it
        config = msgspec.convert(tree, Config, strict=strict)
        check(config)
    except msgspec.ValidationError as error:
        raise UserError(f"{_begun(where)}{_plain(error, tree)}") from None
    except UserError as error:
        raise UserError(f"{_begun(where)}{error}") from None
    return config


def override(config: Config, values: Mapping[str, Any]) -> Config:
    """Replace fields of a config by dotted name; values may be strings. Raises UserError as `from_tree`, and for widths
    of layers where the network is made of something else."""
    tree = _tree_of(config)
    by_name = {leaf.name: leaf for leaf in leaves()}
    for name, value in values.items():
        if name not in by_name:
            raise UserError(f"unknown field {name!r}; {nearest(name, sorted(by_name))}")
        *folders, last = name.split(".")
        branch = tree
        for folder in folders:
            branch = branch[folder]
        if value == "none" and by_name[name].may_be_absent:  # as --help-all has it
            value = None
        # Not in fields of words: a folder may be called ".5".
        branch[last] = _with_zeros(value) if by_name[name].may_be_fraction else value
    made = from_tree(tree, where="", strict=False)
    # Here, as a config itself may have them of its recipe. A call that gives blocks too means these.
    training, blocks = made.training, "training.blocks"
    instead = "training.model" if training.model else blocks if training.blocks and blocks not in values else ""
    if instead and "training.dims" in values:
        raise UserError(
            f"training.dims has the widths of dense layers, but {instead} makes the network: leave it out, or take a "
            "recipe of dense layers, such as digits"
        )
    return made


def _with_zeros(value: Any) -> Any:
    """Spell words such as ".5" and "1." as "0.5" and "1.0", which msgspec asks for; those of a list or a
    table too."""
    if isinstance(value, Mapping):
        return {name: _with_zeros(of) for name, of in value.items()}
    if isinstance(value, (list, tuple)):
        return [_with_zeros(each) for each in value]
    if not isinstance(value, str):
        return value
    return re.sub(r"(?<=\d)\.(?=$|[eE])", ".0", re.sub(r"^(-?)\.(?=\d)", r"\g<1>0.", value))


def checked(config: Config) -> Config:
    """Hold a config that was put together in Python against types, ranges and rules. Raises UserError."""
    return from_tree(_tree_of(config), where="config")


def _tree_of(config: Config) -> dict[str, Any]:
    refuse_other(config, Config, "config", "an ffpipe.Config, as ffpipe.recipe('digits') makes one")
    tree: dict[str, Any] = _without_none(dataclasses.asdict(config))
    return tree


def _begun(where: str) -> str:
    """Return the beginning of a message: the name of a file, or nothing where fields were given one by one."""
    return f"{where}: " if where else ""


def _refuse_unknown(tree: Mapping[str, Any], cls: type, where: str, prefix: str = "") -> None:
    hints = _hints(cls)
    for name, value in tree.items():
        if name not in hints:
            raise UserError(f"{_begun(where)}unknown field {prefix + str(name)!r}; {nearest(str(name), hints)}")
        table = _table_of(hints[name])
        many = isinstance(value, (list, tuple))
        for index, each in enumerate(value if many else [value]):
            if table is not None and isinstance(each, Mapping):
                _refuse_unknown(each, table, where, f"{prefix}{name}{f'[{index}]' if many else ''}.")


def _table_of(hint: Any) -> type | None:
    """Return the class of the fields that a field has, also where there are several such tables or there may be none;
    None where it has no fields."""
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return hint
    return next((table for each in typing.get_args(hint) if (table := _table_of(each))), None)


def _without_none(value: Any) -> Any:
    """Leave out fields that are None, since TOML has no null: they come back as their default, None. Tuples become
    lists."""
    if isinstance(value, dict):
        return {name: _without_none(each) for name, each in value.items() if each is not None}
    return [_without_none(each) for each in value] if isinstance(value, (tuple, list)) else value


def _plain(error: msgspec.ValidationError, tree: Mapping[str, Any]) -> str:
    """Turn msgspec's "Expected `int` >= 1 - at `$.training.epochs`" into "training.epochs: expected int >= 1", and add
    the word that stands in the place of a number."""
    text, _, path = str(error).replace("`", "").partition(" - at ")
    text = text[:1].lower() + text[1:]
    place = path.removeprefix("$.")
    # As msgspec spells fields that take one value or one a stage.
    text = text.replace(" | array", " or a list of them")
    if text.startswith("invalid enum value"):
        text += f"; give {' or '.join(map(repr, _choices_at(place)))}"
    given = _at(tree, place)
    if text.endswith("got str") and isinstance(given, str):
        text += f" {given!r}"
    return f"{place}: {text}" if place else text


def _choices_at(place: str) -> tuple[str, ...]:
    """Return the words that a field may be. place: dotted, with an index in brackets after what is a list."""
    hint: Any = Config
    for part in place.split("."):
        table = _table_of(hint)
        hint = _hints(table).get(part.partition("[")[0]) if table else None
    return _leaf((place,), hint).choices


def _at(tree: Mapping[str, Any], place: str) -> Any:
    """Return what a tree has at a dotted place; None where that leads into a list, or nowhere."""
    found: Any = tree
    for part in place.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found

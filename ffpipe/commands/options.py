"""Fields of the config as options of a command, by their dotted names and some by short ones, and back to a config."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from ffpipe.config.fields import CHECKPOINTS, DATA_FILES, Leaf, leaves, override, read_config
from ffpipe.config.recipes import RECIPES, get_recipe
from ffpipe.config.schema import Config
from ffpipe.system.errors import UserError


class Short(NamedTuple):
    """A field that has a short option: its value as a help has it, and its meaning in a line."""

    field: str
    value: str
    meaning: str


SHORT = {
    "epochs": Short("training.epochs", "N", "passes over the training examples"),
    "seed": Short("training.seed", "N", "of all that is drawn by chance"),
    "model": Short("training.model", "FILE:FUNCTION", "network of your own: net.py:blocks or package.module:blocks"),
    "engine": Short("execution.engine", "NAME", "ray: an actor a stage; local: one process; layerwise: least memory"),
    "stages": Short("execution.stages", "N", "parts that the network is cut into; 0: chosen"),
    "chunk": Short("execution.chunk", "N", "minibatches in one message; 0: chosen"),
    "device": Short("execution.device", "NAME", "cpu or cuda, of all stages; or one for each"),
    "memory-budget": Short("execution.memory_budget", "SIZE", "of each stage, as 2GiB: the rest is chosen to fit"),
    "run-dir": Short("execution.run_dir", "FOLDER", "new folder of the run; default: runs/RECIPE-TIMESTAMP"),
    "data-dir": Short("execution.data_dir", "FOLDER", "local copies of known data sets; default: $FFPIPE_DATA"),
    "train-limit": Short("training.data.train_limit", "N", "use the first N training examples alone; 0: all"),
    "snapshot-steps": Short("execution.snapshot_steps", "N", "steps between snapshots; 0: by time alone"),
}
# A run that goes on may change of training its epochs alone (runs/resumed.py).
RESUME_SHORT = ("epochs", "engine", "stages", "chunk", "device", "memory-budget", "data-dir", "snapshot-steps")
VALIDATION, EVALUATE = "training.data.validation", "execution.evaluate_every"
EVALUATE_TRAIN = "execution.evaluate_train"
MODEL, STAGES, SOURCE = "training.model", "execution.stages", "training.data.source"
# Whose values the signature of a function explains (learn/model_options.py).
MODEL_OPTIONS = "training.model_options"
# Tables, which have no form on a command line.
NOT_SETTABLE = ("recipe", "training.blocks")


@cache
def settable() -> dict[str, Leaf]:
    """Return the fields that a command line can set, by name, in order of declaration."""
    return {leaf.name: leaf for leaf in leaves() if leaf.name not in NOT_SETTABLE}


def option(leaf: Leaf) -> str:
    """Spell the option of a field by its dotted name."""
    return "--" + leaf.name.replace("_", "-")


def add_fields(parser: argparse.ArgumentParser, short: Sequence[str], fields: Iterable[str]) -> None:
    """Add these fields by their dotted names, and some by short names too."""
    names = {SHORT[name].field: name for name in short}
    for field in dict.fromkeys([*names, *fields]):
        leaf, name = settable()[field], names.get(field)
        value = SHORT[name].value if name else leaf.path[-1].upper()
        parser.add_argument(
            *([f"--{name}"] if name else []),
            option(leaf),
            dest=field,
            # Repeated, a table or a list of files adds up; a list of numbers is a whole, which the last one replaces.
            action="extend" if leaf.is_mapping or field in DATA_FILES else "store",
            # A table may be empty: options of a recipe can be taken away.
            nargs="*" if leaf.is_mapping else "+" if leaf.is_sequence else None,
            # Absent unless it is given, so that it replaces nothing of the recipe.
            default=argparse.SUPPRESS,
            metavar="NAME=VALUE" if leaf.is_mapping else value,
            # Twice: argcomplete has argparse fill in what a single one stands for.
            help=(SHORT[name].meaning if name else leaf.description).replace("%", "%%"),
        )


def add_config(parser: argparse.ArgumentParser, but: Sequence[str] = ()) -> None:
    """Add a recipe and every field that it sets. but: short options that the command has a meaning of its own for."""
    parser.add_argument(
        "recipe",
        nargs="?",
        default="digits",
        metavar="RECIPE",
        help="a name from `ffpipe recipes` (digits), or a config.toml",
    )
    add_data(parser, "files or a folder of your own in place of its data")
    add_fields(parser, [name for name in SHORT if name not in but], settable())
    add_allow_code(parser)


def add_data(parser: argparse.ArgumentParser, means: str) -> None:
    """Add the option for data of the user's own, which adds up where it is repeated."""
    parser.add_argument("--data", action="extend", nargs="+", default=[], metavar="FILE", help=means)


def add_run(parser: argparse.ArgumentParser, fields: Iterable[str] = (CHECKPOINTS,)) -> None:
    """Add a run, consent to its code, and these of its fields."""
    parser.add_argument("run", metavar="RUN", help="folder of a run, as `ffpipe train` printed it")
    add_consent(parser)
    add_fields(parser, (), fields)


def add_consent(parser: argparse.ArgumentParser) -> None:
    """Add the options by which a user consents to the code of a run."""
    parser.add_argument(
        "--model", dest=MODEL, metavar="FILE:FUNCTION", help="the network of the run, named again as in training"
    )
    add_allow_code(parser)


def add_allow_code(parser: argparse.ArgumentParser) -> None:
    """Add the option for consent to import code."""
    parser.add_argument(
        "--allow-code",
        action="append",
        default=[],
        metavar="NAME",
        help="module or file whose code may be imported, if the run or config names it",
    )


def consent(options: argparse.Namespace) -> dict[str, Any]:
    """Return the user's consent to import code, as keyword arguments of the functions behind the commands."""
    return {"model": vars(options).get(MODEL), "allow_code": options.allow_code}


def config_of(options: argparse.Namespace) -> Config:
    """Make the config that a command line asks for. Raises UserError."""
    name = options.recipe
    config = read_config(Path(name)) if name.endswith(".toml") else get_recipe(name)
    fields = given(options)
    tests_training = fields.get(EVALUATE_TRAIN, str(config.execution.evaluate_train)) != "0"
    if fields.get(VALIDATION) == "0" and not tests_training:  # there is nothing that the recipe could evaluate on
        fields = {EVALUATE: "0", **fields}
    if MODEL in fields:  # the recipe's stages are for its own network
        fields = {STAGES: "0", **fields}
    if options.data:
        from ffpipe.data.discover import discover, on

        config = on(config, discover(options.data, fields.get(SOURCE, "")))
        # The user has named these files, or the folder that they are in.
        found = (config.training.data.train, config.training.data.test)
        fields = {**dict(zip(DATA_FILES, found, strict=True)), **fields}
    if not name.endswith(".toml"):
        return override(config, fields)
    from ffpipe.runs.places import of_file

    # A file may be a stranger's: what it names outside its folder needs the user's word.
    return of_file(config, Path(name), fields)


@contextmanager
def on_own_data(options: argparse.Namespace) -> Iterator[None]:
    """Have the error of a recipe that is trained on other data than its own name recipes that fit them."""
    try:
        yield
    except UserError as error:
        if hint := _fitting_recipes(options, str(error)):
            raise UserError(f"{error}; {hint}") from None
        raise


def _fitting_recipes(options: argparse.Namespace, error: str) -> str:
    """Name recipes for the data that were asked for, where an error may come from those; else return ""."""
    source = vars(options).get(SOURCE, "")
    if MODEL in vars(options) or options.recipe not in RECIPES or not (options.data or source):
        return ""
    takes_text = get_recipe(options.recipe).training.inputs == "tokens"
    if source and takes_text != (source == "text"):
        others = "texts: digits-cnn and mnist-cnn take images" if takes_text else "images: char-lm takes texts"
        return f"{options.recipe} is for {others}"
    if not takes_text and error.startswith(("block ", "training.mean ", "training.deviation ")):
        return f"{options.recipe} is for other images: digits-cnn and mnist-cnn fit any"
    return ""


def given(options: argparse.Namespace) -> dict[str, Any]:
    """Return the fields that were set on the command line. Raises UserError."""
    found = vars(options)
    return {name: _value(leaf, found[name]) for name, leaf in settable().items() if name in found}


def changes(options: argparse.Namespace) -> dict[str, Any]:
    """Return the fields that were set on the command line of a command on a run. Raises UserError."""
    # The model names the code of the run again: it is consent, and changes nothing.
    return {name: value for name, value in given(options).items() if name != MODEL}


def whole(option: str, most: int) -> Callable[[str], int]:
    """Return what reads a number from 1 to `most`, and raises UserError for anything else."""

    def read(text: str) -> int:
        # Counted before it is read: int refuses thousands of digits with an error of its own.
        if not (text.isdecimal() and len(text) < 9 and 1 <= int(text) <= most):
            raise UserError(f"{option} is {text[:20]!r}: give a whole number from 1 to {most:,}")
        return int(text)

    return read


def _value(leaf: Leaf, words: Any) -> Any:
    """Turn strings that argparse collected into the value of a field: a string, a list of them, or a table."""
    if leaf.is_mapping:
        table = {}
        for text in words:
            name, equals, value = text.partition("=")
            if not (name and equals):
                raise UserError(f"{option(leaf)} takes NAME=VALUE, not {text!r}")
            # Not at commas in brackets, as in in(a,b).
            values = re.split(r",(?![^(]*\))", value)
            table[name] = value if leaf.name == MODEL_OPTIONS or len(values) < 2 else values
        return table
    if not leaf.is_sequence or leaf.name in DATA_FILES:  # whose values may have commas in them
        return words
    parts = [part for text in words for part in text.split(",") if part]
    # A single value is for all stages; a list of one would be for a run of one stage.
    return "".join(parts) if leaf.may_be_single and len(parts) < 2 else parts

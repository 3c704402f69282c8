"""The command line: options are the fields of the config, by their dotted names.

Every wrong request ends as one line on stderr and exit status 2; a failed run as one line and 1.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from rich.console import Console
from rich.table import Table

from ffpipe.commands import plan as plan_command
from ffpipe.config.fields import Leaf, leaves, override, read_config
from ffpipe.config.recipes import RECIPES, get_recipe
from ffpipe.config.schema import Config
from ffpipe.system.errors import Interrupted, RunFailed, UserError, nearest, one_line

if TYPE_CHECKING:
    from ffpipe.runs.controller import Interrupt

SHORT = {
    "engine": "execution.engine",
    "stages": "execution.stages",
    "chunk": "execution.chunk",
    "epochs": "training.epochs",
    "seed": "training.seed",
    "device": "execution.device",
    "run-dir": "execution.run_dir",
    "data-dir": "execution.data_dir",
    "train-limit": "training.data.train_limit",
    "snapshot-steps": "execution.snapshot_steps",
    "memory-budget": "execution.memory_budget",
    "model": "training.model",
}


# Fields whose values may have commas in them.
FILES = ("train", "test")
# Tables, which have no form on a command line.
NOT_SETTABLE = ("recipe", "training.blocks")
RESUME_SHORT = ("engine", "stages", "chunk", "epochs", "device", "data-dir", "snapshot-steps", "memory-budget")


class Parser(argparse.ArgumentParser):
    """argparse that raises UserError where it would print its usage and exit."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{self.prog}: {message}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    try:
        return _status(sys.argv[1:] if arguments is None else list(arguments))
    finally:
        _drop_output()


def _status(arguments: list[str]) -> int:
    try:
        status = _dispatch(arguments)
        _flush()
        return status
    except UserError as error:
        print(f"ffpipe: {one_line(error)}", file=sys.stderr)
        return 2
    except RunFailed as error:
        print(f"ffpipe: the run failed: {one_line(error)}", file=sys.stderr)
        return 1
    except Interrupted as error:
        print(f"ffpipe: interrupted; {one_line(error)}", file=sys.stderr)
        return 130
    except KeyboardInterrupt:
        print("ffpipe: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output, `head` say, has gone
        return 1
    except OSError as error:  # a folder that cannot be written, a disk that is full
        print(f"ffpipe: {one_line(error)}", file=sys.stderr)
        return 1


def _flush() -> None:
    """Where the caller has closed our output, there is none. Raises OSError."""
    if sys.stdout is not None:
        sys.stdout.flush()


def _drop_output() -> None:
    """What cannot be written: it would make the interpreter complain when it ends."""
    try:
        _flush()
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


@contextmanager
def _interrupts(interrupt: Interrupt) -> Iterator[None]:
    """Ctrl-C and SIGTERM ask the run to end."""
    signals = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, lambda *_: interrupt.request()) for number in signals}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _dispatch(arguments: list[str]) -> int:
    parser = _parser()
    options, unknown = parser.parse_known_args(arguments)
    if unknown:
        _refuse(parser, options.command, unknown[0])
    command = COMMANDS[options.command]
    command(options)
    return 0


def _refuse(parser: argparse.ArgumentParser, command: str, given: str) -> NoReturn:
    if not given.startswith("-"):
        raise UserError(f"unexpected argument {given!r}; see ffpipe {command} --help")
    known = list(_known_options(command))
    raise UserError(f"unknown option {given.split('=')[0]!r}; {nearest(given.split('=')[0], known)}")


def _known_options(command: str) -> list[str]:
    fixed = {"evaluate": ["--split", "--data-dir"], "predict": ["--readout"]}
    consent = [] if command == "recipes" else ["--allow-code", "--model"]
    if command in ("train", "plan"):
        own = ["--backprop"] if command == "train" else list(plan_command.OPTIONS)
        return [*own, "--allow-code", *(f"--{name}" for name in SHORT), *map(_option, _settable())]
    if command == "resume":
        execution = [_option(leaf) for leaf in _settable() if leaf.path[0] == "execution"]
        return [*consent, *(f"--{name}" for name in RESUME_SHORT), *execution]
    return [*consent, *fixed.get(command, []), "--help"]


def _settable() -> list[Leaf]:
    return [leaf for leaf in leaves() if leaf.name not in NOT_SETTABLE]


def _option(leaf: Leaf) -> str:
    return "--" + leaf.name.replace("_", "-")


def _parser() -> Parser:
    parser = Parser(
        prog="ffpipe",
        description="Train networks by local objectives, Forward-Forward first of all, through a pipeline.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"ffpipe {version('ffpipe')}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    train = commands.add_parser("train", help="train a recipe", allow_abbrev=False)
    train.add_argument(
        "--backprop",
        action="store_const",
        const="backprop",
        dest="training.method",
        default=argparse.SUPPRESS,
        help="train the same blocks by backpropagation, as a yardstick: --training.method backprop",
    )
    _add_config(train)

    resume = commands.add_parser("resume", help="go on with a run, finished or broken off", allow_abbrev=False)
    resume.add_argument("run", help="folder of a run")
    _add_consent(resume)
    by_name = {leaf.name: leaf for leaf in _settable()}
    for name in RESUME_SHORT:
        _add_field(resume, f"--{name}", by_name[SHORT[name]])
    for leaf in by_name.values():
        if leaf.path[0] == "execution":
            _add_field(resume, _option(leaf), leaf)

    evaluate = commands.add_parser("evaluate", help="test a run again", allow_abbrev=False)
    evaluate.add_argument("run", help="folder of a run")
    _add_consent(evaluate)
    evaluate.add_argument("--split", default="test", help="test, validation or train")
    evaluate.add_argument("--data-dir", default="", help="folder with local copies of the data")

    predict = commands.add_parser("predict", help="classify images", allow_abbrev=False)
    predict.add_argument("run", help="folder of a run")
    _add_consent(predict)
    predict.add_argument("images", nargs="+", help="PNG, JPEG or .npy files")
    predict.add_argument(
        "--readout", help="softmax (the default where there is a head) or goodness; without negatives last or sum"
    )

    export = commands.add_parser("export", help="write the weights as one safetensors file", allow_abbrev=False)
    export.add_argument("run", help="folder of a run")
    _add_consent(export)
    export.add_argument("out", help="new .safetensors file")

    plan = commands.add_parser(
        "plan", help="what a run would take of memory, disk, network and time", allow_abbrev=False
    )
    _add_config(plan, but=("stages",))
    plan_command.add_options(plan)

    commands.add_parser("recipes", help="list the recipes", allow_abbrev=False)
    return parser


def _add_consent(parser: argparse.ArgumentParser, *, model: bool = True) -> None:
    """Options by which a user says that the code which a run or a config names may be imported."""
    if model:
        parser.add_argument("--model", dest="training.model", help="the network of the run, named again as in training")
    parser.add_argument(
        "--allow-code", action="append", default=[], metavar="NAME",
        help="module or file of which code may be imported that the run or the config names; may be given again",
    )  # fmt: skip


def _consent(options: argparse.Namespace) -> dict[str, Any]:
    """What of the user's code may be imported, as keyword arguments of the functions behind the commands."""
    return {"model": vars(options).get("training.model"), "allow_code": options.allow_code}


def _add_config(parser: argparse.ArgumentParser, but: Sequence[str] = ()) -> None:
    """A recipe and every field that it sets. but: short options that the command has a meaning of its own for."""
    parser.add_argument("recipe", nargs="?", default="digits", help="a name from `ffpipe recipes`, or a config.toml")
    _add_consent(parser, model=False)
    short = parser.add_argument_group("short options")
    group = parser.add_argument_group("every field of the config")
    by_name = {leaf.name: leaf for leaf in _settable()}
    for name, field in SHORT.items():
        if name not in but:
            _add_field(short, f"--{name}", by_name[field])
    for leaf in by_name.values():
        _add_field(group, _option(leaf), leaf)


def _add_field(group: Any, option: str, leaf: Leaf) -> None:
    many = leaf.is_sequence or leaf.is_mapping
    group.add_argument(
        option,
        dest=leaf.name,
        # A table may be empty: options of a recipe can be taken away.
        nargs="*" if leaf.is_mapping else "+" if many else None,
        default=argparse.SUPPRESS,
        metavar="NAME=VALUE" if leaf.is_mapping else leaf.path[-1].upper(),
        help=leaf.description.replace("%", "%%"),
    )


def _config(options: argparse.Namespace) -> Config:
    name = options.recipe
    config = read_config(Path(name)) if name.endswith(".toml") else get_recipe(name)
    return override(config, _given(options), where="options")


def _given(options: argparse.Namespace) -> dict[str, Any]:
    """The fields that were set on the command line."""
    return {leaf.name: _value(leaf, vars(options)[leaf.name]) for leaf in _settable() if leaf.name in vars(options)}


def _value(leaf: Leaf, given: Any) -> Any:
    """The tree's form of what argparse collected: strings, lists of them, or a table."""
    if leaf.is_mapping:
        pairs = [text.partition("=") for text in given]
        bad = next((name for name, equals, _ in pairs if not equals), None)
        if bad is not None:
            raise UserError(f"{_option(leaf)} takes NAME=VALUE, not {bad!r}")
        return {name: _one_or_more(value) for name, _, value in pairs}
    if not leaf.is_sequence or leaf.path[-1] in FILES:
        return given
    parts = [part for text in given for part in text.split(",") if part]
    return parts[0] if leaf.may_be_single and len(parts) == 1 else parts


def _one_or_more(text: str) -> str | list[str]:
    """A value, or those between commas; commas in brackets, as in in(a,b), part nothing."""
    parts = re.split(r",(?![^(]*\))", text)
    return parts if len(parts) > 1 else text


def _train(options: argparse.Namespace) -> None:
    from ffpipe.runs.controller import Interrupt, train
    from ffpipe.runs.view import ConsoleView, Terminal

    interrupt = Interrupt()
    with _interrupts(interrupt):
        train(_config(options), ConsoleView(Terminal()), interrupt, **_consent(options))
    _drop_output()  # a run whose words were lost is done all the same


def _resume(options: argparse.Namespace) -> None:
    from ffpipe.runs.controller import Interrupt, resume
    from ffpipe.runs.view import ConsoleView, Terminal

    interrupt = Interrupt()
    with _interrupts(interrupt):
        changes = {name: value for name, value in _given(options).items() if name != "training.model"}
        resume(options.run, changes, ConsoleView(Terminal()), interrupt, **_consent(options))
    _drop_output()


def _evaluate(options: argparse.Namespace) -> None:
    from ffpipe.runs.inference import evaluate

    errors = evaluate(options.run, options.split, options.data_dir, **_consent(options))
    by = {"goodness": errors.goodness, "softmax": errors.softmax, **errors.others}
    said = ", ".join(f"{error:.2%} by {readout}" for readout, error in by.items() if error is not None)
    print(f"{options.split} error: {said} ({errors.examples:,} examples)")


def _predict(options: argparse.Namespace) -> None:
    from ffpipe.runs.inference import predict

    for prediction in predict(options.run, options.images, options.readout, **_consent(options)):
        print(f"{prediction.path}: {prediction.label}")


def _export(options: argparse.Namespace) -> None:
    from ffpipe.runs.inference import export

    print(f"wrote {export(options.run, options.out, **_consent(options))}")


def _plan(options: argparse.Namespace) -> None:
    plan_command.run(_config(options), plan_command.request_of(options), _consent(options))


def _recipes(options: argparse.Namespace) -> None:
    table = Table("recipe", "what it is", box=None, pad_edge=False)
    for name, recipe in RECIPES.items():
        table.add_row(name, " ".join((recipe.__doc__ or "").split("\n\n")[0].split()))
    Console().print(table)


COMMANDS = {
    "train": _train,
    "resume": _resume,
    "evaluate": _evaluate,
    "predict": _predict,
    "export": _export,
    "plan": _plan,
    "recipes": _recipes,
}

"""The command line: options are the fields of the config, by their dotted names.

Every wrong request ends as one line on stderr and exit status 2; a failed run as one line and 1.
"""

from __future__ import annotations

import argparse
import errno
import io
import os
import re
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from rich.console import Console
from rich.table import Table

from ffpipe.commands import plan as plan_command
from ffpipe.commands.signals import interrupts
from ffpipe.config.fields import CHECKPOINTS, DATA_FILES, Leaf, leaves, override, read_config
from ffpipe.config.recipes import RECIPES, get_recipe
from ffpipe.config.schema import Config
from ffpipe.system.errors import Interrupted, RunFailed, UserError, escaped, nearest, one_line

if TYPE_CHECKING:
    pass

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
# Between lines that say how far a test is.
PROGRESS_SECONDS = 10.0
# Fields whose values may have commas in them.
FILES = ("train", "test")
DATA = "training.data."
VALIDATION, EVALUATE = "training.data.validation", "execution.evaluate_every"
# Tables, which have no form on a command line.
NOT_SETTABLE = ("recipe", "training.blocks")
RESUME_SHORT = ("engine", "stages", "chunk", "epochs", "device", "data-dir", "snapshot-steps", "memory-budget")


class Parser(argparse.ArgumentParser):
    """argparse that raises UserError where it would print its usage and exit, and names the nearest option."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{self.prog}: {message}")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Refuse what is not known here, which argparse calls for every command."""
        options, unknown = super().parse_known_args(args, namespace)
        if unknown and not unknown[0].startswith("-"):
            raise UserError(f"unexpected argument {unknown[0]!r}; see {self.prog} --help")
        if unknown:
            given = unknown[0].split("=")[0]
            raise UserError(f"unknown option {given!r}; {nearest(given, self._option_string_actions)}")
        return options, unknown


def main(arguments: Sequence[str] | None = None, ready: Callable[[], object] = lambda: None) -> int:
    """Run one command; returns the exit status. ready: is called once all that the command needs has been imported."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # names may have characters that a terminal has no letters for
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        options = _parser().parse_args(arguments)
        _load(options.command)
        ready()
        status = COMMANDS[options.command](options) or 0
        if options.command not in ("train", "resume"):  # a run whose words were lost is done all the same
            _flush()
        return status
    except UserError as error:
        status, line = 2, str(error)
    except RunFailed as error:
        status, line = 1, f"the run failed: {error}"
    except Interrupted as error:
        status, line = 130, f"interrupted; {error}"
    except KeyboardInterrupt:
        status, line = 130, "interrupted"
    except BrokenPipeError:  # the reader of our output, `head` say, has gone
        return 1
    except OSError as error:  # a folder that cannot be written, a disk that is full
        # A name that is too long is a wrong request.
        status, line = 2 if error.errno == errno.ENAMETOOLONG else 1, str(error)
    finally:
        with suppress(OSError):
            _flush()
    _complain(line)
    return status


def _complain(line: object) -> None:
    print(f"ffpipe: {one_line(line)}", file=sys.stderr)


def _load(command: str) -> None:
    """Import what a command needs, torch above all. Raises UserError where that would end the process."""
    if command not in NEEDS:
        return
    try:
        os.getcwd()
    except OSError:  # Intel's MKL aborts then
        raise UserError("the working folder has been removed: change to one that exists") from None
    import_module(NEEDS[command])


def _flush() -> None:
    """Write out what was printed. Raises OSError, and drops what cannot be written: the interpreter would complain."""
    try:
        if sys.stdout is not None:  # None: the caller has closed it
            sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise


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

    def of_run(name: str, does: str, fields: Sequence[str] = (CHECKPOINTS,)) -> argparse.ArgumentParser:
        command: argparse.ArgumentParser = commands.add_parser(name, help=does, allow_abbrev=False)
        command.add_argument("run", help="folder of a run")
        command.add_argument(
            "--model", dest="training.model", help="the network of the run, named again as in training"
        )
        _add_allow_code(command)
        _add_fields(command, (), fields)
        return command

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

    resume = of_run("resume", "go on with a run, finished or broken off", ())
    execution = [leaf.name for leaf in _settable() if leaf.path[0] == "execution"]
    _add_fields(resume, RESUME_SHORT, [*DATA_FILES, *execution])

    evaluate = of_run("evaluate", "test a run again", (*DATA_FILES, CHECKPOINTS))
    evaluate.add_argument("--split", default="test", help="test, validation or train")
    evaluate.add_argument("--data-dir", default="", help="folder with local copies of the data")

    predict = of_run("predict", "classify images")
    predict.add_argument("images", nargs="+", help="PNG, JPEG, BMP, GIF or WebP, or .npy of one image or of many")
    predict.add_argument(
        "--readout", help="softmax (the default where there is a head) or goodness; without negatives last or sum"
    )

    of_run("export", "write the network as one file").add_argument(
        "out", help="new file: .safetensors (the weights), .pt2 (a program of torch.export) or .onnx"
    )

    plan = commands.add_parser(
        "plan", help="what a run would take of memory, disk, network and time", allow_abbrev=False
    )
    _add_config(plan, but=("stages",))
    plan_command.add_options(plan)

    data = commands.add_parser("data", help="what ffpipe makes of data, without training", allow_abbrev=False)
    data.add_argument("files", nargs="*", help="files, a folder, or the name of a recipe whose data are meant")
    data.add_argument("--png", default="", help="new PNG file, with examples of each class")
    _add_fields(data, ("data-dir", "train-limit"), [leaf.name for leaf in _settable() if leaf.name.startswith(DATA)])

    commands.add_parser("recipes", help="list the recipes", allow_abbrev=False)
    return parser


def _add_allow_code(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--allow-code", action="append", default=[], metavar="NAME",
        help="module or file of which code may be imported that the run or the config names; may be given again",
    )  # fmt: skip


def _consent(options: argparse.Namespace) -> dict[str, Any]:
    """The user's consent to import code, as keyword arguments of the functions behind the commands."""
    return {"model": vars(options).get("training.model"), "allow_code": options.allow_code}


def _add_config(parser: argparse.ArgumentParser, but: Sequence[str] = ()) -> None:
    """Add a recipe and every field that it sets. but: short options that the command has a meaning of its own for."""
    parser.add_argument("recipe", nargs="?", default="digits", help="a name from `ffpipe recipes`, or a config.toml")
    parser.add_argument(
        "--data",
        nargs="+",
        default=[],
        help="files or a folder of one's own in place of the recipe's data; what they are is worked out",
    )
    _add_allow_code(parser)
    _add_fields(parser, [name for name in SHORT if name not in but], [leaf.name for leaf in _settable()])


def _add_fields(parser: argparse.ArgumentParser, short: Sequence[str], fields: Sequence[str]) -> None:
    """Add these fields by their dotted names, and some by short ones."""
    group = parser.add_argument_group("short options")
    by_name = {leaf.name: leaf for leaf in _settable()}
    for name in short:
        _add_field(group, f"--{name}", by_name[SHORT[name]])
    group = parser.add_argument_group("fields of the config")
    for name in fields:
        _add_field(group, _option(by_name[name]), by_name[name])


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
    given = _given(options)
    if given.get(VALIDATION) == "0":  # then there is nothing that the recipe could evaluate on
        given = {EVALUATE: "0", **given}
    if options.data:
        from ffpipe.data.discover import discover, on

        return override(on(config, discover(options.data)), given, where="options")
    if not name.endswith(".toml"):
        return override(config, given, where="options")
    from ffpipe.runs.places import of_file

    return of_file(config, Path(name), given)


def _given(options: argparse.Namespace) -> dict[str, Any]:
    """The fields that were set on the command line."""
    return {leaf.name: _value(leaf, vars(options)[leaf.name]) for leaf in _settable() if leaf.name in vars(options)}


def _changes(options: argparse.Namespace) -> dict[str, Any]:
    """The fields that were set on the command line of a command on a run."""
    return {name: value for name, value in _given(options).items() if name != "training.model"}


def _value(leaf: Leaf, given: Any) -> Any:
    """Strings that argparse collected as the value of a field: a string, a list of them, or a table."""
    if leaf.is_mapping:
        pairs = [text.partition("=") for text in given]
        bad = next((text for text, (name, equals, _) in zip(given, pairs, strict=True) if not (name and equals)), None)
        if bad is not None:
            raise UserError(f"{_option(leaf)} takes NAME=VALUE, not {bad!r}")
        return {name: _one_or_more(value) for name, _, value in pairs}
    if not leaf.is_sequence or leaf.path[-1] in FILES:
        return given
    parts = [part for text in given for part in text.split(",") if part]
    return "".join(parts) if leaf.may_be_single and len(parts) < 2 else parts


def _one_or_more(text: str) -> str | list[str]:
    """Split a value at its commas, but not at those in brackets, as in in(a,b)."""
    parts = re.split(r",(?![^(]*\))", text)
    return parts if len(parts) > 1 else text


def _train(options: argparse.Namespace) -> None:
    from ffpipe.runs.controller import train
    from ffpipe.runs.view import ConsoleView, Terminal

    with interrupts() as interrupt:
        train(_config(options), ConsoleView(Terminal()), interrupt, **_consent(options))


def _resume(options: argparse.Namespace) -> None:
    from ffpipe.runs.controller import resume
    from ffpipe.runs.view import ConsoleView, Terminal

    with interrupts() as interrupt:
        resume(options.run, _changes(options), ConsoleView(Terminal()), interrupt, **_consent(options))


def _evaluate(options: argparse.Namespace) -> None:
    from ffpipe.runs.inference import evaluate

    said = time.monotonic()

    def progress(tested: int, examples: int) -> None:
        nonlocal said
        if time.monotonic() - said >= PROGRESS_SECONDS:
            said = time.monotonic()
            print(f"tested {tested:,} of {examples:,} examples", file=sys.stderr, flush=True)

    changes = _changes(options)
    errors = evaluate(
        options.run, options.split, options.data_dir, changes=changes, progress=progress, **_consent(options)
    )
    by = {"goodness": errors.goodness, "softmax": errors.softmax, **errors.others}
    shares = ", ".join(f"{error:.2%} by {readout}" for readout, error in by.items() if error is not None)
    print(f"{options.split} error: {shares} ({errors.examples:,} examples)")


def _predict(options: argparse.Namespace) -> int:
    from ffpipe.runs.inference import predict

    bad: list[UserError] = []
    consent = {"changes": _changes(options), **_consent(options)}
    for each in predict(options.run, options.images, options.readout, refused=bad.append, **consent):
        print(escaped(f"{each.path}{'' if each.index is None else f'[{each.index}]'}: {each.name}"))
    for error in bad:
        _complain(error)
    return 2 if bad else 0


def _export(options: argparse.Namespace) -> None:
    from ffpipe.runs.export import export

    written = export(options.run, options.out, changes=_changes(options), **_consent(options))
    print(escaped(f"wrote {written}"))


def _plan(options: argparse.Namespace) -> None:
    plan_command.run(_config(options), options, _consent(options))


def _data(options: argparse.Namespace) -> None:
    from ffpipe.commands.data import show

    names = options.files
    if not names or (len(names) == 1 and names[0] in RECIPES and not Path(names[0]).exists()):
        config = get_recipe(names[0] if names else "digits")
    else:
        from ffpipe.data.discover import discover, on

        config = on(get_recipe("digits"), discover(names))
    show(override(config, _given(options), where="options"), Console(), options.png)


def _recipes(options: argparse.Namespace) -> None:
    table = Table("recipe", "what it is", box=None, pad_edge=False)
    for name, recipe in RECIPES.items():
        table.add_row(name, " ".join((recipe.__doc__ or "").split("\n\n")[0].split()))
    Console().print(table)


# Modules that take seconds to import.
NEEDS = {
    **dict.fromkeys(["train", "resume", "plan"], "ffpipe.runs.controller"),
    **dict.fromkeys(["evaluate", "predict"], "ffpipe.runs.inference"),
    "export": "ffpipe.runs.export",
    "data": "ffpipe.commands.data",
}
COMMANDS: dict[str, Callable[[argparse.Namespace], int | None]] = {
    "train": _train,
    "resume": _resume,
    "evaluate": _evaluate,
    "predict": _predict,
    "export": _export,
    "plan": _plan,
    "data": _data,
    "recipes": _recipes,
}

"""The command line: options are the fields of the config, by their dotted names.

Every wrong request ends as one line on stderr and exit status 2; a failed run as one line and 1.
"""

from __future__ import annotations

import argparse
import errno
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from rich.console import Console
from rich.table import Table

from ffpipe.commands import plan as plan_command
from ffpipe.config.fields import Leaf, leaves, override, read_config
from ffpipe.config.recipes import RECIPES, get_recipe
from ffpipe.config.schema import Config
from ffpipe.system.errors import Interrupted, RunFailed, UserError, encodable, nearest, one_line

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


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    try:
        options = _parser().parse_args(arguments)
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
    except OSError as error:  # a folder that cannot be written, a disk that is full; a name that is too long is a request
        status, line = 2 if error.errno == errno.ENAMETOOLONG else 1, str(error)
    finally:
        with suppress(OSError):
            _flush()
    _complain(line)
    return status


def _complain(line: object) -> None:
    print(f"ffpipe: {one_line(line)}", file=sys.stderr)


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

    def of_run(name: str, does: str) -> argparse.ArgumentParser:
        command: argparse.ArgumentParser = commands.add_parser(name, help=does, allow_abbrev=False)
        command.add_argument("run", help="folder of a run")
        command.add_argument(
            "--model", dest="training.model", help="the network of the run, named again as in training"
        )
        _add_allow_code(command)
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

    resume = of_run("resume", "go on with a run, finished or broken off")
    _add_fields(resume, RESUME_SHORT, [leaf for leaf in _settable() if leaf.path[0] == "execution"])

    evaluate = of_run("evaluate", "test a run again")
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
    _add_fields(parser, [name for name in SHORT if name not in but], _settable())


def _add_fields(parser: argparse.ArgumentParser, short: Sequence[str], fields: Sequence[Leaf]) -> None:
    """Add these fields by their dotted names, and some by short ones."""
    group = parser.add_argument_group("short options")
    by_name = {leaf.name: leaf for leaf in _settable()}
    for name in short:
        _add_field(group, f"--{name}", by_name[SHORT[name]])
    group = parser.add_argument_group("fields of the config")
    for leaf in fields:
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
    if options.data:
        from ffpipe.data.discover import discover, on

        config = on(config, discover(options.data))
    return override(config, _given(options), where="options")


def _given(options: argparse.Namespace) -> dict[str, Any]:
    """The fields that were set on the command line."""
    return {leaf.name: _value(leaf, vars(options)[leaf.name]) for leaf in _settable() if leaf.name in vars(options)}


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

    with _interrupts() as interrupt:
        train(_config(options), ConsoleView(Terminal()), interrupt, **_consent(options))


def _resume(options: argparse.Namespace) -> None:
    from ffpipe.runs.controller import resume
    from ffpipe.runs.view import ConsoleView, Terminal

    changes = {name: value for name, value in _given(options).items() if name != "training.model"}
    with _interrupts() as interrupt:
        resume(options.run, changes, ConsoleView(Terminal()), interrupt, **_consent(options))


@contextmanager
def _interrupts() -> Iterator[Interrupt]:
    """Ctrl-C and SIGTERM ask the run to end."""
    from ffpipe.runs.controller import Interrupt

    interrupt = Interrupt()
    signals = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, lambda *_: interrupt.request()) for number in signals}
    try:
        yield interrupt
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _evaluate(options: argparse.Namespace) -> None:
    from ffpipe.runs.inference import evaluate

    errors = evaluate(options.run, options.split, options.data_dir, **_consent(options))
    by = {"goodness": errors.goodness, "softmax": errors.softmax, **errors.others}
    said = ", ".join(f"{error:.2%} by {readout}" for readout, error in by.items() if error is not None)
    print(f"{options.split} error: {said} ({errors.examples:,} examples)")


def _predict(options: argparse.Namespace) -> int:
    from ffpipe.runs.inference import predict

    bad: list[UserError] = []
    for each in predict(options.run, options.images, options.readout, refused=bad.append, **_consent(options)):
        print(encodable(f"{each.path}{'' if each.index is None else f'[{each.index}]'}: {each.name}"))
    for error in bad:
        _complain(error)
    return 2 if bad else 0


def _export(options: argparse.Namespace) -> None:
    from ffpipe.runs.export import export

    print(encodable(f"wrote {export(options.run, options.out, **_consent(options))}"))


def _plan(options: argparse.Namespace) -> None:
    plan_command.run(_config(options), options, _consent(options))


def _recipes(options: argparse.Namespace) -> None:
    table = Table("recipe", "what it is", box=None, pad_edge=False)
    for name, recipe in RECIPES.items():
        table.add_row(name, " ".join((recipe.__doc__ or "").split("\n\n")[0].split()))
    Console().print(table)


COMMANDS: dict[str, Callable[[argparse.Namespace], int | None]] = {
    "train": _train,
    "resume": _resume,
    "evaluate": _evaluate,
    "predict": _predict,
    "export": _export,
    "plan": _plan,
    "recipes": _recipes,
}

"""The command line: finds the command that was typed, and turns errors into one line and an exit status.

Every wrong request ends as one line on stderr and exit status 2; a failed run as one line and 1. Options are in the
modules of the commands, which import torch in their functions alone: a help, a completion or a list is there at once.
"""

from __future__ import annotations

import argparse
import errno
import io
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module

from ffpipe.commands import completion, data, plan, predict, recipes, report, runs, show, train, trained
from ffpipe.commands.parser import Parser, Show
from ffpipe.system.errors import Interrupted, RunFailed, UserError, one_line


@dataclass(frozen=True)
class Command:
    """One command. needs: a module that takes seconds to import."""

    does: str
    add_options: Callable[[Parser], None]
    run: Callable[[argparse.Namespace], int | None]
    needs: str = ""
    examples: tuple[str, ...] = ()


CONTROLLER, INFERENCE = "ffpipe.runs.controller", "ffpipe.runs.inference"
COMMANDS: dict[str, Command] = {
    "train": Command(
        "train a recipe, or data and a network of your own",
        train.add_train_options,
        train.train,
        CONTROLLER,
        (
            "ffpipe train mnist --stages 2 --epochs 20 --run-dir runs/mine",
            "ffpipe train mnist-cnn --data my-pictures/ --training.batch-size 50 --dry-run",
        ),
    ),
    "resume": Command(
        "go on with a run, finished or broken off, from its newest snapshot",
        train.add_resume_options,
        train.resume,
        CONTROLLER,
        ("ffpipe resume runs/mine", "ffpipe resume runs/mine --epochs 40 --stages 3"),
    ),
    "runs": Command(
        "list runs with their states and errors",
        runs.add_options,
        runs.run,
        examples=("ffpipe runs", "ffpipe runs elsewhere/ --json"),
    ),
    "show": Command(
        "show one run on one screen",
        show.add_options,
        show.run,
        examples=("ffpipe show runs/mine", "ffpipe show runs/mine --json"),
    ),
    "report": Command(
        "draw what a run did and learned as one HTML file, or compare runs",
        report.add_options,
        report.run,
        CONTROLLER,
        (
            "ffpipe report runs/mine",
            "ffpipe report runs/mine --watch",
            "ffpipe report runs/mine runs/other --out compared.html",
        ),
    ),
    "evaluate": Command(
        "test a run again, from its saved weights",
        trained.add_evaluate_options,
        trained.evaluate,
        INFERENCE,
        (
            "ffpipe evaluate runs/mine",
            "ffpipe evaluate runs/mine --split validation --json",
            "ffpipe evaluate runs/mine --data more-pictures/",
        ),
    ),
    "predict": Command(
        "classify images",
        predict.add_options,
        predict.run,
        INFERENCE,
        (
            "ffpipe predict runs/mine three.png --top 3",
            "ffpipe predict runs/mine pictures/ more.parquet --out found.csv",
            "find . -name '*.png' | ffpipe predict runs/mine -",
        ),
    ),
    "export": Command(
        "write the network as one file",
        trained.add_export_options,
        trained.export,
        "ffpipe.runs.export",
        ("ffpipe export runs/mine mine.safetensors", "ffpipe export runs/mine mine.pt2"),
    ),
    "plan": Command(
        "foretell what a run would take of memory, disk, network and time",
        plan.add_options,
        plan.run,
        CONTROLLER,
        ("ffpipe plan hinton --stages 1,2,4 --link 10Gbit",),
    ),
    "data": Command(
        "show what ffpipe makes of data, without training",
        data.add_options,
        data.run,
        "ffpipe.data.splits",
        ("ffpipe data my-pictures/ --png samples.png", "ffpipe data mnist"),
    ),
    "recipes": Command("list the recipes", lambda parser: None, recipes.run),
    "completion": Command(
        "print what completes commands in a shell",
        completion.add_options,
        completion.run,
        examples=tuple(completion.START.values()),
    ),
}
EXAMPLES = (
    "ffpipe train                                 # real handwritten digits, in seconds",
    "ffpipe train mnist --stages 2 --epochs 20",
    "ffpipe runs                                  # what there is, and how far it came",
    "ffpipe predict runs/mine three.png --top 3",
    "ffpipe COMMAND --help",
)


def main(arguments: Sequence[str] | None = None, ready: Callable[[], object] = lambda: None) -> int:
    """Run one command; returns the exit status. ready: is called once all that the command needs has been imported."""
    if sys.stderr is None:  # the caller has closed it, and `print` would take stdout in its place
        sys.stderr = open(os.devnull, "w", errors="backslashreplace")  # noqa: SIM115  # open to the end, as it always is
    if isinstance(sys.stdout, io.TextIOWrapper):  # names may have characters that a terminal has no letters for
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        if "_ARGCOMPLETE" in os.environ and "COMP_LINE" in os.environ:  # a shell asks how a line goes on
            completion.answer(parser())
        options = parser().parse_args(arguments)
        command = COMMANDS[options.command]
        _load(command)
        ready()
        status = command.run(options) or 0
        if options.command not in ("train", "resume"):  # a run whose words were lost is done all the same
            _flush()
        return status
    except UserError as error:
        status, line = 2, str(error)
    except RunFailed as error:
        status, line = 1, f"the run failed: {error}"
    except Interrupted as error:
        status, line = 130, f"interrupted; {error}"
    except KeyboardInterrupt:  # of a command that saves nothing, or the second one of a run
        status, line = 130, "interrupted"
    except BrokenPipeError:  # the reader of our output, `head` say, has gone
        return 1
    except OSError as error:  # a folder that cannot be written, a disk that is full
        # A name that is too long is a wrong request.
        status, line = 2 if error.errno == errno.ENAMETOOLONG else 1, str(error)
    finally:
        with suppress(OSError):
            _flush()
    print(f"ffpipe: {one_line(line)}", file=sys.stderr)
    return status


def parser() -> Parser:
    """Build the parser of all commands."""
    whole = Parser(
        prog="ffpipe",
        description="Train networks by local objectives, Forward-Forward first of all, through a pipeline.",
        examples=EXAMPLES,
        commands={name: command.does for name, command in COMMANDS.items()},
    )
    whole.add_argument("--version", action=Show, text=_version, help="show the version")
    commands = whole.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        does = command.does[0].upper() + command.does[1:] + "."
        part = commands.add_parser(name, help=command.does, description=does, examples=command.examples)
        command.add_options(part)
        part.complete()
        whole.parts.append(part)
    return whole


def _version(_: Parser) -> str:
    from importlib.metadata import version  # takes as long as all else of a help

    return f"ffpipe {version('ffpipe')}\n"


def _load(command: Command) -> None:
    """Import what a command needs, torch above all. Raises UserError where that would end the process."""
    if not command.needs:
        return
    try:
        os.getcwd()
    except OSError:  # Intel's MKL aborts then
        raise UserError("the working folder has been removed: change to one that exists") from None
    import_module(command.needs)


def _flush() -> None:
    """Write out what was printed. Raises OSError, and drops what cannot be written: the interpreter would complain."""
    try:
        if sys.stdout is not None:  # None: the caller has closed it
            sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise

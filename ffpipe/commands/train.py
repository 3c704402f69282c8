"""`ffpipe train` and `ffpipe resume`, and a look at what either would do."""

from __future__ import annotations

import argparse
import io
import os
from collections.abc import Sequence
from contextlib import redirect_stdout
from typing import TYPE_CHECKING, Any

from ffpipe.commands import report
from ffpipe.commands.options import (
    RESUME_SHORT,
    SHORT,
    add_config,
    add_fields,
    add_run,
    changes,
    config_of,
    consent,
    on_own_data,
    option,
    settable,
)
from ffpipe.commands.parser import Parser
from ffpipe.commands.plan import NOTHING_GIVEN
from ffpipe.commands.signals import interrupts
from ffpipe.config.fields import DATA_FILES, to_toml
from ffpipe.system.errors import UserError, escaped, without_keys
from ffpipe.system.memory import host_cpus

if TYPE_CHECKING:
    from ffpipe.config.schema import Config


def add_train_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `ffpipe train`."""
    add_config(parser)
    parser.add_argument(
        "--backprop",
        action="store_const",
        const="backprop",
        dest="training.method",
        default=argparse.SUPPRESS,
        help="train the same blocks by backpropagation, as a yardstick",
    )
    _add_common(parser)


def train(options: argparse.Namespace) -> None:
    """Train, or say what would be trained."""
    from ffpipe.runs.controller import train as run
    from ffpipe.runs.folder import new_run
    from ffpipe.runs.view import ConsoleView, Terminal

    if options.dry_run:
        with on_own_data(options):
            config = config_of(options)
            _say(config, [f"run folder: {new_run(config).path}"], consent(options))
        return
    report.check_at_end(options)
    with interrupts() as interrupt, on_own_data(options):
        result = run(config_of(options), ConsoleView(Terminal()), interrupt, **consent(options))
    # Not within `interrupts`, where Ctrl-C is passed over once the run has ended.
    report.write_at_end(options, result.run_dir)


def add_resume_options(parser: Parser) -> None:
    """Add the options of `ffpipe resume`."""
    why = "a run goes on in its own folder with the training that it began with, of which only --epochs changes"
    fields = settable()
    parser.left_out = dict.fromkeys([*(f"--{name}" for name in SHORT), *map(option, fields.values())], why)
    # None of these changes a bit of the weights, so each may be another one from here on.
    execution = [name for name in fields if name.startswith("execution.") and name != "execution.run_dir"]
    add_run(parser, ())
    add_fields(parser, RESUME_SHORT, [*DATA_FILES, *execution])
    _add_common(parser)


def resume(options: argparse.Namespace) -> None:
    """Go on with a run, or say what would be done."""
    from ffpipe.runs.controller import resume as go_on
    from ffpipe.runs.resumed import resumed
    from ffpipe.runs.view import ConsoleView, Terminal

    if options.dry_run:
        found = resumed(options.run, changes(options), **consent(options))
        _say(found.config, [f"run folder: {found.folder.path}", f"it would go on {found.origin}"], consent(options))
        return
    report.check_at_end(options)
    with interrupts() as interrupt:
        result = go_on(options.run, changes(options), ConsoleView(Terminal()), interrupt, **consent(options))
    report.write_at_end(options, result.run_dir)


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dry-run", action="store_true", help="print the config and the plan, as `ffpipe plan` does; start nothing"
    )
    parser.add_argument(
        "--report", action="store_true", help="write report.html at the end, as `ffpipe report` does (needs matplotlib)"
    )


def _say(config: Config, notes: Sequence[str], may_import: dict[str, Any]) -> None:
    """Print a config as TOML, and in comments below it notes and the plan: all of it is a config file still. Raises
    UserError where this host, which would be the whole cluster, has too few CPUs for the replicas of a stage."""
    from ffpipe.commands.planned import show
    from ffpipe.engines.ray.placement import Host, crowding
    from ffpipe.pipeline.replicas import replicas_of

    execution = config.execution
    if execution.engine == "ray" and not os.environ.get("RAY_ADDRESS"):
        counts = replicas_of(execution, execution.stages or execution.listed or 1)
        if why := crowding(execution, counts, [Host("here", {"CPU": float(host_cpus())})]):
            raise UserError(why)
    planned = io.StringIO()
    with redirect_stdout(planned):
        show(config, NOTHING_GIVEN, may_import)
    # Not `escaped`, which would make one line of it: TOML has escapes of its own, which `to_toml` gives to the control
    # characters of ASCII alone.
    print("".join(c if c.isprintable() or c == "\n" else f"\\U{ord(c):08x}" for c in without_keys(to_toml(config))))
    for line in [*notes, *planned.getvalue().splitlines()]:
        print(f"# {escaped(line)}".rstrip())

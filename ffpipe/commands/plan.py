"""`ffpipe plan`: the options of a forecast, as people write them. The plan itself is planned.py's."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

from ffpipe.commands.options import add_config, config_of, consent, on_own_data, whole
from ffpipe.commands.parser import Parser
from ffpipe.system.errors import UserError
from ffpipe.system.units import parse_flops, parse_rate, parse_seconds

MOST_STAGES = 4096


def add_options(parser: Parser) -> None:
    """Add the options of the config, and those of the forecast beside them."""
    add_config(parser, but=("stages",))
    # A plan makes no folder.
    parser.minor = frozenset({"execution.run_dir"})
    for name, (parse, value, text) in OPTIONS.items():
        parser.add_argument(name, type=parse, metavar=value, help=text)
    parser.add_argument(
        "--calibrate", action="store_true", help="measure costs of messages here; later plans know them"
    )


def run(options: argparse.Namespace) -> None:
    """Print the plan that was asked for."""
    from ffpipe.commands.planned import show

    with on_own_data(options):
        show(config_of(options), options, consent(options))


def parse_stages(text: str) -> tuple[int, ...]:
    """Read "1,2,4,...,32": by equal factors or in equal steps, as the three numbers before the dots say.

    >>> parse_stages("1,2,4,...,16"), parse_stages("2,4,6,...,10"), parse_stages("")
    ((1, 2, 4, 8, 16), (2, 4, 6, 8, 10), ())

    Raises UserError.
    """
    found: list[int] = []
    number = whole("one of --stages", MOST_STAGES)
    parts = [part.strip() for part in text.split(",")] if text else []
    for index, part in enumerate(parts):
        if part in ("...", "…"):
            if index < 3 or index + 2 != len(parts):
                raise UserError(f"--stages is {text!r}: give three numbers before the dots and one after them")
            found += _between(found[-3], found[-2], found[-1], number(parts[-1]))
        elif part:
            found.append(number(part))
        else:
            raise UserError(f"--stages is {text!r}: give whole numbers from 1 on, as 1,2,4 or 1,2,4,...,128")
    return tuple(dict.fromkeys(found))


def _between(first: int, before: int, last: int, end: int) -> list[int]:
    """Return the numbers after these three, up to the end: by a factor where `first` has it too, else in steps."""
    by_factor = last % before == 0 and before % first == 0 and last // before == before // first > 1
    # A step of one at least: from numbers that fall or stay the same, the end would never be reached.
    factor, step = (last // before, 0) if by_factor else (1, max(1, last - before))
    found = []
    while (last := last * factor + step) < end:
        found.append(last)
    return found


def _amount(option: str, parse: Callable[[str], float], text: str) -> float:
    """Parse an amount with its unit. Raises UserError."""
    try:
        value = parse(text)
    except ValueError as error:
        raise UserError(f"{option} is {error}") from None
    if not value > 0 and option != "--latency":
        raise UserError(f"{option} is {text!r}: give more than nothing")
    return value


def parse_speeds(text: str) -> float | tuple[float, ...]:
    """Parse the speed of every processor, or that of each stage's: "60TFLOPS,60TFLOPS,200GFLOPS". Raises UserError."""
    speeds = tuple(_amount("--flops", parse_flops, each) for each in text.split(","))
    return speeds[0] if len(speeds) == 1 else speeds


# Options beside those of the config: what reads their values, what stands for it in a help, and its meaning.
OPTIONS: dict[str, tuple[Callable[[str], Any], str, str]] = {
    "--stages": (parse_stages, "N,N,...", "one number of stages, or several: 1,2,4 or 1,2,4,...,128"),
    "--link": (partial(_amount, "--link", parse_rate), "RATE", "of each host's network, as 10Gbit; none: one host"),
    "--latency": (partial(_amount, "--latency", parse_seconds), "TIME", "between hosts, as 50us; none: 100us"),
    "--flops": (parse_speeds, "SPEED,...", "of a processor, as 60TFLOPS, or of each stage's; none: measured here"),
    "--stages-per-host": (whole("--stages-per-host", MOST_STAGES), "N", "none: 1 with --link, else all"),
    "--cores": (whole("--cores", MOST_STAGES), "N", "of a host, for messages and layers on CPUs; none: as here"),
}
# For `train --dry-run`, which has none of them.
NOTHING_GIVEN = argparse.Namespace(
    calibrate=False, **{name.removeprefix("--").replace("-", "_"): None for name in OPTIONS}
)

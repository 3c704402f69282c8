"""`ffpipe show`: one run on one screen."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from itertools import groupby
from typing import Any

from ffpipe.commands.runs import as_tree, clipped, columns, say_epochs
from ffpipe.config.schema import Config, Training
from ffpipe.runs.inspection import (
    Look,
    Summary,
    encoded,
    look_at,
    newest_rows,
    past_of,
    percent,
    resume_command,
    say_errors,
    say_row_errors,
)
from ffpipe.system.errors import UserError, escaped
from ffpipe.system.files import expanded
from ffpipe.system.units import format_seconds, format_size
from ffpipe.telemetry.report import Evaluation, LayerRow, format_layers

# For a screen of 24 lines and 120 columns: rows of a table, of which the middle ones are left out, recoveries that are
# named, and letters of a line.
MOST_ROWS, MOST_RECOVERIES = 6, 2
LONGEST = 90


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `ffpipe show`."""
    parser.add_argument("run", metavar="RUN", help="folder of a run, as `ffpipe runs` lists it")
    parser.add_argument(
        "--json", action="store_true", help="print JSON: all evaluations, and the blocks' newest losses"
    )


def run(options: argparse.Namespace) -> None:
    """Show one run. Raises UserError where the folder is not one."""
    look = look_at(expanded(options.run))
    rows: list[LayerRow] = []
    without = ""
    # A run that has just begun has none, and of a damaged one all else is shown.
    try:
        rows = newest_rows(past_of(look.path).rows)
    except UserError as error:
        without = str(error)
    if options.json:
        print(encoded(_tree(look, rows, without), indent=2))
        return
    for name, lines in _sections(look, rows, without):
        for line in lines:
            print(f"{name:<10}{escaped(line)}".rstrip())
            name = ""


def command_that_goes_on(look: Look) -> str:
    """Spell the command that goes on with a run; empty while it is running, or where its config is lost."""
    if look.running or look.config is None:
        return ""
    training = look.config.training
    # A finished run has no epoch left of those that it was to have.
    more = ("--epochs", str(2 * training.epochs)) if look.state == "finished" else ()
    return resume_command(look.path, training, *more)


def _tree(look: Look, rows: Sequence[LayerRow], without: str) -> dict[str, Any]:
    """Turn a run into what JSON has of it."""
    summary = look.summary or Summary()
    return {
        **as_tree(look),
        "evaluations": [asdict(each) for each in summary.evaluations],
        "blocks": [asdict(row) for row in rows],
        "engine": summary.engine,
        "stage_layers": summary.stage_layers,
        "examples_per_second": summary.examples_per_second,
        "peak_rss_bytes": summary.peak_rss_bytes,
        "recoveries": [asdict(note) for note in summary.recovery_notes],
        "goes_on_with": command_that_goes_on(look) or None,
        "damage": [*look.damage, *([without] if without else [])],
    }


def _sections(look: Look, rows: Sequence[LayerRow], without: str) -> list[tuple[str, list[str]]]:
    """Lay out what the screen has, by name, in lines."""
    summary, config, named = look.summary or Summary(), look.config, []
    named.append(("run", [f"{look.path}: {look.state}"]))
    if config:
        named += [("trained", _trained(config)), ("data", [_data(config)])]
    if look.damage:
        named.append(("damaged", [clipped(each, LONGEST) for each in look.damage]))
    if look.summary:
        named.append(("steps", [_steps(summary, config)]))
        split, errors = look.errors
        named.append(("errors", [f"{say_errors(errors)} ({split})" if errors else "-"]))
        if best := _best(summary):
            named.append(("best", [best]))
        named.append(("over time", columns(_evaluations(summary.evaluations)) if summary.evaluations else ["-"]))
    named.append(("blocks", columns(_blocks(rows)) if rows else [clipped(without, LONGEST) or "-"]))
    if look.summary:
        named += [("time", [_time(summary)]), ("memory", [_memory(summary)]), ("recovered", _recoveries(summary))]
    goes_on = command_that_goes_on(look)
    named.append(("go on", [goes_on or ("it is being trained" if look.running else "-")]))
    return named


def _trained(config: Config) -> list[str]:
    training = config.training
    kinds = ", ".join(block.kind for block in training.blocks)
    network = training.model or kinds or "-".join(map(str, training.dims))
    negatives = f"{training.negatives} negatives" if training.contrasts else "no negatives"
    how = "backpropagation" if training.method == "backprop" else negatives
    numbers = f"{say_epochs(config)}, batch {training.batch_size}, seed {training.seed}, {training.precision}"
    by_name = _optimizers(training)
    if len(by_name) == 1:
        (optimizer,) = by_name
        lines = [f"{numbers}, {optimizer}"]
    else:
        lines = [numbers, ", ".join(f"{name} (block {_ranges(blocks)})" for name, blocks in by_name.items())]
    return [clipped(line, LONGEST) for line in (f"{config.recipe}: {network}, {how}", *lines)]


def _optimizers(training: Training) -> dict[str, list[int]]:
    """Return the blocks that each optimiser has, by what it is called. A user's code may have others, which no config
    knows."""
    end_to_end = training.method == "backprop"
    blocks = () if training.model or end_to_end else training.blocks
    one = training.yardstick if end_to_end else training.optimizer
    found: dict[str, list[int]] = {}
    for index, each in enumerate([block.optimizer or one for block in blocks] or [one]):
        found.setdefault(f"{each.kind} at {each.learning_rate:g}", []).append(index)
    return found


def _ranges(blocks: Sequence[int]) -> str:
    """Spell blocks in rising order, those one after the other as a range."""
    runs = groupby(enumerate(blocks), key=lambda placed: placed[1] - placed[0])
    return " ".join(format_layers([block for _, block in run]) for _, run in runs)


def _data(config: Config) -> str:
    data = config.training.data
    files = [*data.train, *data.test]
    named = f": {', '.join(files[:2])}{', ...' if len(files) > 2 else ''}" if files else ""
    limit = f", the first {data.train_limit:,} training examples" if data.train_limit else ""
    return clipped(f"{data.source}{named}{limit}", LONGEST)


def _steps(summary: Summary, config: Config | None) -> str:
    stages = summary.stage_layers
    layers = f" of layers {' | '.join(map(format_layers, stages))}" if len(stages) <= 4 else ""
    done = "" if summary.epochs_done is None else f"{summary.epochs_done:.3g} "
    saved = f"{summary.steps:,} saved" + (f", {done}of {say_epochs(config)}" if config else "")
    several = max(summary.replicas, default=1) > 1 and len(stages) <= 4
    replicas = f", replicas {' '.join(map(str, summary.replicas))}" if several else ""
    how = f"engine {summary.engine[:10]}, {len(stages)} stage(s){layers}{replicas}"
    return f"{saved}; {how}, chunk {summary.chunk}, window {summary.window}"


def _best(summary: Summary) -> str:
    """Say the least validation error of each read-out so far, and when it was found; empty where there is none."""
    least: dict[str, tuple[float, int]] = {}
    for each in summary.evaluations:
        for name, error in each.readouts.items() if each.split == "validation" else ():
            least[name] = min(least.get(name, (error, each.step)), (error, each.step))
    epoch = summary.steps_per_epoch
    found = [
        f"{error:.2%} by {clipped(name)} after {f'epoch {step / epoch:.4g}' if epoch else f'step {step:,}'}"
        for name, (error, step) in list(least.items())[:4]
    ]
    return f"{', '.join(found)} (validation)" if found else ""


def _evaluations(found: Sequence[Evaluation]) -> list[tuple[str, ...]]:
    """Make a table of errors over time, the newest below."""
    # A stranger's run may have any number of read-outs, and any word for a split.
    readouts = list(dict.fromkeys(name for each in found for name in each.readouts))[:4]
    rows = [
        (f"{each.step:,}", each.split[:10], *(percent(each.readouts.get(name)) for name in readouts)) for each in found
    ]
    return [("step", "split", *(clipped(name) for name in readouts)), *_ends(rows)]


def _blocks(rows: Sequence[LayerRow]) -> list[tuple[str, ...]]:
    table = [("head" if row.layer < 0 else str(row.layer), f"{row.loss:.4f}", say_row_errors(row)) for row in rows]
    return [("block", "loss", "errors"), *_ends(table)]


def _ends(rows: Sequence[tuple[str, ...]]) -> Sequence[tuple[str, ...]]:
    """Keep the first rows and the last, where there are too many for a screen."""
    if len(rows) <= MOST_ROWS:
        return rows
    return [*rows[: MOST_ROWS // 2 - 1], ("...",) * len(rows[0]), *rows[-(MOST_ROWS // 2) :]]


def _time(summary: Summary) -> str:
    rate = summary.examples_per_second
    return format_seconds(summary.train_seconds) + (f", {rate:,.0f} examples/s" if rate else "")


def _memory(summary: Summary) -> str:
    if not summary.peak_rss_bytes:
        return "-"
    on_devices = [size for size in summary.peak_device_bytes if size]
    gpus = f"; on its GPU {format_size(max(on_devices))}" if on_devices else ""
    return f"{format_size(max(summary.peak_rss_bytes))}, of the largest stage{gpus}"


def _recoveries(summary: Summary) -> list[str]:
    notes = summary.recovery_notes
    newest = [f"{note.reason}; went on after step {note.from_step:,}" for note in notes[-MOST_RECOVERIES:]]
    return [f"{len(notes)} time(s)" if notes else "never", *(clipped(line, LONGEST) for line in newest)]

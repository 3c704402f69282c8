"""Several runs laid over each other: their curves in one picture, their results and the fields in which they differ."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from string import ascii_uppercase

from ffpipe.reports import curves
from ffpipe.reports.curves import OfRun
from ffpipe.reports.drawing import few
from ffpipe.reports.gather import HEAD, Record, block_name
from ffpipe.reports.parts import Item, Missing, Page, Picture, Section, Table, Tile
from ffpipe.reports.results import SPLITS
from ffpipe.runs.inspection import percent
from ffpipe.system.units import format_seconds, format_size

# Blocks that have a small picture each.
MOST_PANELS = 12


def compared(records: Sequence[Record], epochs: Sequence[float], refresh: int = 0) -> Page:
    """Make the page of several runs. epochs: steps of one epoch of each; 0: not known."""
    # Beside the names, which may be alike: runs may lie in several folders.
    letters = [letter(index) for index in range(len(records))]
    names = [f"{each}: {record.name}" for each, record in zip(letters, records, strict=True)]
    sections = [
        _results(records, names),
        _errors(records, names, epochs),
        _losses(records, names, epochs),
        _differences(records, letters),
    ]
    going = sum(record.going for record in records)
    status = f"{going} running" if going else "all have ended"
    best = _best(records, names)
    return Page(f"{len(records)} runs compared", "; ".join(names), status, best, sections, refresh)


def letter(index: int) -> str:
    """Return a short name: A to Z, then AA, AB, ..."""
    before, last = divmod(index, len(ascii_uppercase))
    return (letter(before - 1) if before else "") + ascii_uppercase[last]


def _best(records: Sequence[Record], names: Sequence[str]) -> list[Tile]:
    best: dict[str, tuple[float, str]] = {}
    for record, name in zip(records, names, strict=True):
        for readout, error in record.test_errors.items():
            best[readout] = min(best.get(readout, (2.0, "")), (error, name))
    return [Tile(percent(error), f"least test error by {readout} ({name})") for readout, (error, name) in best.items()]


def _results(records: Sequence[Record], names: Sequence[str]) -> Section:
    by = list(dict.fromkeys(readout for record in records for readout in record.test_errors))
    head = ["run", "recipe", "state", "steps", *(f"test error by {name}" for name in by)]
    rows = []
    for record, name in zip(records, names, strict=True):
        shares = [percent(record.test_errors.get(readout)) for readout in by]
        seconds = speed = peak = "-"
        if summary := record.summary.value:
            seconds, speed = format_seconds(summary.train_seconds), f"{summary.examples_per_second or 0:,.0f}"
            peak = format_size(max(summary.peak_rss_bytes)) if summary.peak_rss_bytes else "-"
        rows.append([name, record.config.recipe, record.status, f"{record.step:,}", *shares, seconds, speed, peak])
    items: list[Item] = [Table([*head, "training", "examples a second", "peak memory"], rows)]
    items += [Missing(name, r.past.missing) for r, name in zip(records, names, strict=True) if r.past.missing]
    return Section("Results", items)


def _errors(records: Sequence[Record], names: Sequence[str], epochs: Sequence[float]) -> Section:
    items: list[Item] = []
    for split in SPLITS:
        found: dict[str, list[OfRun]] = {}
        for index, record in enumerate(records):
            for curve in record.errors(split):
                found.setdefault(curve.name, []).append(OfRun(index, names[index], curve, epochs[index]))
        # A test is made once, and is in the table.
        drawn = {r: each for r, each in found.items() if any(len(one.curve.steps) > 1 for one in each)}
        for readout, each in drawn.items():
            title = f"{split} error by {readout}".capitalize()
            figure = curves.runs_against_epochs(each, len(records), title)
            ends = ", ".join(f"{one.name} {percent(one.curve.last)}" for one in each[:8])
            items.append(Picture(f"{split}-{readout}", figure, f"{title} of {len(each)} run(s); the last: {ends}"))
    why = "no run was evaluated more than once (--execution.evaluate-every)"
    return Section("Errors", items or [Missing("curves of errors", why)])


def _losses(records: Sequence[Record], names: Sequence[str], epochs: Sequence[float]) -> Section:
    """Draw loss and training errors of each block, those of all runs in one small picture."""
    items: list[Item] = []
    in_order = [block_name(each) for each in sorted({row.layer for record in records for row in record.history.rows})]
    for key, title, number, shares in (
        ("loss", "Loss", lambda row: row.loss, False),
        ("errors", "Errors in training", lambda row: row.pair_errors, True),
    ):
        found = [[each for each in record.curves(number) if each.name != block_name(HEAD)] for record in records]
        # Those of any run: one may have blocks that count no errors where another's do.
        there = {each.name for curves_of_run in found for each in curves_of_run}
        blocks = [name for name in in_order if name in there]
        if not blocks:
            continue
        chosen = {blocks[index]: list[OfRun]() for index in sorted(few(len(blocks), MOST_PANELS))}
        for index, curves_of_run in enumerate(found):
            for each in curves_of_run:
                if each.name in chosen:
                    chosen[each.name].append(OfRun(index, names[index], each, epochs[index]))
        figure = curves.runs_by_block(chosen, len(records), "share" if shares else "loss", shares)
        some = "" if len(chosen) == len(blocks) else f": {len(chosen)} of {len(blocks)} blocks, at even distances"
        alt = f"{title} of {len(chosen)} block(s) of {len(records)} run(s), a small picture for each block"
        items.append(Picture(f"{key}-of-blocks", figure, alt, f"{title} of each block{some}."))
    return Section("Blocks in training", items or [Missing("curves", "no run has written any down yet")])


def _differences(records: Sequence[Record], letters: Sequence[str]) -> Section:
    configs = [flat(record.config) for record in records]
    fields = list(dict.fromkeys(name for config in configs for name in config))
    differ = [name for name in fields if len({config.get(name) for config in configs}) > 1]
    rows = [[name, *(config.get(name, "-") for config in configs)] for name in differ]
    if not rows:
        return Section("Configs", [Table(["field"], [["no field differs"]])])
    return Section("Configs", [Table(["field", *letters], rows)], "Fields in which the configs differ.")


def flat(value: object, name: str = "") -> dict[str, str]:
    """Return the fields of a config, or of a part of it with this name, by their dotted names, as text."""
    if dataclasses.is_dataclass(value):
        names = [field.name for field in dataclasses.fields(value)]
        parts = {f"{name}.{each}".lstrip("."): getattr(value, each) for each in names}
    elif isinstance(value, tuple) and any(map(dataclasses.is_dataclass, value)):
        parts = {f"{name}[{index}]": each for index, each in enumerate(value)}
    else:
        text = " ".join(map(str, value)) if isinstance(value, tuple) else value
        return {name: "none" if text in ("", None) else str(text)}
    return {field: text for part, each in parts.items() for field, text in flat(each, part).items()}

"""Several runs laid over each other: their curves in one picture, their results and the fields in which they differ."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from string import ascii_uppercase

from ffpipe.reports import curves
from ffpipe.reports.curves import OfRun
from ffpipe.reports.drawing import few
from ffpipe.reports.gather import HEAD, Record, block_name, readouts
from ffpipe.reports.parts import Item, Missing, Page, Picture, Section, Table, Tile
from ffpipe.reports.results import percent
from ffpipe.system.units import say_seconds, say_size

# Blocks that have a small picture each.
MOST_PANELS = 12
# Fields that say where a run lies, and not what it is.
PLACES = ("execution.run_dir",)


def compared(records: Sequence[Record], epochs: Sequence[float], refresh: int = 0) -> Page:
    """Make the page of several runs. epochs: steps of one epoch of each; 0: not known."""
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
    """Find the least test error by each read-out."""
    best: dict[str, tuple[float, str]] = {}
    for record, name in zip(records, names, strict=True):
        for readout, error in readouts(record.tested).items() if record.tested else ():
            best[readout] = min(best.get(readout, (2.0, "")), (error, name))
    return [Tile(percent(error), f"least test error by {readout} ({name})") for readout, (error, name) in best.items()]


def _results(records: Sequence[Record], names: Sequence[str]) -> Section:
    by = list(dict.fromkeys(name for r in records if r.tested for name in readouts(r.tested)))
    head = ["run", "recipe", "state", "steps", *(f"test error by {name}" for name in by)]
    rows = []
    for record, name in zip(records, names, strict=True):
        summary, tested = record.summary.value, record.tested
        shares = [percent(readouts(tested).get(readout) if tested else None) for readout in by]
        times = (
            [say_seconds(summary.train_seconds), f"{summary.examples_per_second or 0:,.0f}"] if summary else ["-", "-"]
        )
        peak = say_size(max(summary.peak_rss_bytes)) if summary and summary.peak_rss_bytes else "-"
        rows.append([name, record.config.recipe, record.status, f"{record.step:,}", *shares, *times, peak])
    items: list[Item] = [Table([*head, "training", "examples a second", "peak memory"], rows)]
    items += [Missing(name, r.past.missing) for r, name in zip(records, names, strict=True) if r.past.missing]
    return Section("Results", items)


def _errors(records: Sequence[Record], names: Sequence[str], epochs: Sequence[float]) -> Section:
    items: list[Item] = []
    for split in ("validation", "test", "train"):
        found: dict[str, list[OfRun]] = {}
        for index, record in enumerate(records):
            for curve in record.errors(split):
                found.setdefault(curve.name, []).append(OfRun(index, names[index], curve, epochs[index]))
        # A test is made once, and is in the table.
        drawn = {r: each for r, each in found.items() if any(len(one.curve.steps) > 1 for one in each)}
        for readout, each in drawn.items():
            items.append(
                _picture(f"{split}-{readout}", f"{split} error by {readout}".capitalize(), each, records, True)
            )
    if not items:
        items.append(Missing("curves of errors", "no run was evaluated more than once (--execution.evaluate-every)"))
    return Section("Errors", items)


def _losses(records: Sequence[Record], names: Sequence[str], epochs: Sequence[float]) -> Section:
    """Draw loss and training errors of each block, those of all runs in one small picture."""
    items: list[Item] = []
    for key, title, number, shares in (
        ("loss", "Loss", lambda row: row.loss, False),
        ("errors", "Errors in training", lambda row: row.pair_errors, True),
    ):
        found = [[each for each in record.curves(number) if each.name != block_name(HEAD)] for record in records]
        blocks = [each.name for each in max(found, key=len)]
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


def _picture(name: str, title: str, found: list[OfRun], records: Sequence[Record], shares: bool) -> Picture:
    figure = curves.runs_against_epochs(found, len(records), title, "share" if shares else "loss", shares)
    ends = [f"{each.name} {percent(each.curve.last) if shares else f'{each.curve.last:.4g}'}" for each in found[:8]]
    return Picture(name, figure, f"{title} of {len(found)} run(s); the last: {', '.join(ends)}")


def _differences(records: Sequence[Record], letters: Sequence[str]) -> Section:
    configs = [flat(record.config) for record in records]
    fields = list(dict.fromkeys(name for config in configs for name in config))
    differ = [name for name in fields if name not in PLACES and len({config.get(name) for config in configs}) > 1]
    rows = [[name, *(config.get(name, "-") for config in configs)] for name in differ]
    if not rows:
        return Section("Configs", [Table(["field"], [["no field differs"]])])
    return Section("Configs", [Table(["field", *letters], rows)], "Fields in which the configs differ.")


def flat(config: object) -> dict[str, str]:
    """Return the fields of a config by their dotted names, as text."""
    found: dict[str, str] = {}

    def walk(value: object, name: str) -> None:
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            for field in dataclasses.fields(value):
                walk(getattr(value, field.name), f"{name}.{field.name}" if name else field.name)
        elif isinstance(value, tuple) and any(map(dataclasses.is_dataclass, value)):
            for index, each in enumerate(value):
                walk(each, f"{name}[{index}]")
        elif isinstance(value, tuple):
            found[name] = " ".join(map(str, value)) or "none"
        else:
            found[name] = str(value) if value not in ("", None) else "none"

    walk(config, "")
    return found

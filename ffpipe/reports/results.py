"""Sections on how training went: errors, losses, rates, stages, time and memory. They need no weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice

from ffpipe.config.fields import to_toml
from ffpipe.config.limits import MOST_LAYERS
from ffpipe.pipeline.job import Job
from ffpipe.reports import curves, figures
from ffpipe.reports.gather import Curve, Record, Summary, block_name, curve, readouts
from ffpipe.reports.memory import MEMORY_KINDS, Memory
from ffpipe.reports.parts import Item, Missing, Part, Passage, Picture, Section, Table, Tile
from ffpipe.reports.trace import Timeline
from ffpipe.system.errors import escaped
from ffpipe.system.units import say_seconds, say_size
from ffpipe.telemetry.report import Evaluation

# Lines of a table before it is folded.
LONG_TABLE = 12
MOST_EVALUATIONS = 300
SPLITS = ("validation", "test", "train")


def percent(share: float | None) -> str:
    """Write a share as a person reads it."""
    return "-" if share is None else f"{share:.2%}"


def tiles(record: Record, memory: Part[Memory]) -> list[Tile]:
    """Pick the numbers that a reader looks for first."""
    found, summary = list[Tile](), record.summary.value
    tested = record.tested
    newest = tested or next((e for e in reversed(record.evaluations) if e.split == "validation"), None)
    if newest:
        found += [Tile(percent(e), f"{newest.split} error by {name}") for name, e in readouts(newest).items()]
        if record.config.training.inputs == "tokens" and (nats := list(newest.losses.values())[-1:]) and nats[0]:
            found.append(Tile(f"{nats[0] / math.log(2):.3f}", f"bits a symbol, {newest.split}"))
    found.append(Tile(f"{record.step:,}", "steps written down"))
    if summary and summary.train_seconds:
        found.append(Tile(say_seconds(summary.train_seconds), "of training"))
    if summary and summary.examples_per_second:
        found.append(Tile(f"{summary.examples_per_second:,.0f}", "examples a second"))
    if summary and any(summary.peak_rss_bytes):
        found.append(Tile(say_size(max(summary.peak_rss_bytes)), "peak memory of a stage"))
    elif memory.value:
        found.append(Tile(say_size(max(map(sum, memory.value.predicted))), "memory of a stage, foretold"))
    return found


def errors(record: Record, epoch: float) -> Section:
    """Show the errors of every read-out on every split."""
    by_split = {split: record.errors(split) for split in SPLITS}
    by_split = {split: found for split, found in by_split.items() if found}
    if not by_split:
        why = record.past.missing or (
            "nothing has been evaluated yet" if record.going else "nothing was evaluated (--execution.evaluate-every)"
        )
        return Section("Errors", [Missing("errors", why)])
    figure = curves.errors_against_steps(by_split, epoch)
    newest = [f"{split} {percent(c.last)} by {c.name}" for split, found in by_split.items() for c in found]
    alt = f"Errors of each read-out against steps; the newest: {', '.join(newest)}"
    items: list[Item] = [Picture("errors", figure, alt)]
    items.append(_evaluations(record.evaluations, epoch))
    if blocks := [each for each in record.evaluations if len(each.blocks) > 1]:
        items += _of_blocks(blocks, epoch)
    elif judged := [each for each in record.evaluations if each.losses]:
        items += _losses_of_blocks(judged, epoch)
    return Section("Errors", items)


def _evaluations(found: Sequence[Evaluation], epoch: float) -> Table:
    names = list(dict.fromkeys(name for each in found for name in readouts(each)))
    rows = [
        [
            *(_epochs(each.step, epoch), f"{each.step:,}", each.split, f"{each.examples:,}"),
            *(percent(readouts(each).get(name)) for name in names),
        ]
        for each in found[-MOST_EVALUATIONS:]
    ]
    caption = "Every evaluation" if len(found) <= MOST_EVALUATIONS else f"The newest {MOST_EVALUATIONS} evaluations"
    return Table(["epoch", "step", "split", "examples", *names], rows, caption, len(rows) > LONG_TABLE)


def _epochs(step: int, epoch: float) -> str:
    return f"{step / epoch:.4g}" if epoch else "-"


def _of_blocks(found: Sequence[Evaluation], epoch: float) -> Iterator[Item]:
    """Show the error of each block by itself, without negatives."""
    split, series = _by_block(found, lambda each: each.blocks)
    if series:
        figure = curves.blocks_against_steps(series, "Each block by itself", f"{split} error", epoch, percent=True)
        alt = f"The {split} error of each block's own class head against steps; {series[-1].name} ends at "
        yield Picture("errors-of-blocks", figure, alt + percent(series[-1].last), wide=False)
        newest = found[-1]
        losses = list(newest.losses.values())
        rows = [
            [str(block), percent(error), _number(losses[block] if block < len(losses) else None)]
            for block, error in enumerate(newest.blocks[:MOST_LAYERS])
        ]
        caption = f"Each block by itself after step {newest.step:,} ({newest.split})"
        yield Table(["block", "error", "loss, nats"], rows, caption, len(rows) > LONG_TABLE, beside=True)


def _losses_of_blocks(found: Sequence[Evaluation], epoch: float) -> Iterator[Item]:
    """Show the loss of each block on positive rows of evaluations, where there are negatives."""
    split, series = _by_block(found, lambda each: each.losses.values())
    if series:
        figure = curves.blocks_against_steps(series, "Each block on positive rows", f"{split} loss", epoch)
        alt = f"The {split} loss of each block on positive rows against steps; {series[-1].name} ends at "
        yield Picture("losses-of-blocks", figure, f"{alt}{series[-1].last:.4g}", wide=False)


def _by_block(
    found: Sequence[Evaluation], values: Callable[[Evaluation], Iterable[float | None]]
) -> tuple[str, list[Curve]]:
    """Return the split that is shown, and a curve of each block that has values there."""
    split = "validation" if any(each.split == "validation" for each in found) else found[-1].split
    points: dict[int, list[tuple[int, float]]] = {}
    for each in (each for each in found if each.split == split):
        for block, value in enumerate(islice(values(each), MOST_LAYERS)):
            if value is not None:
                points.setdefault(block, []).append((each.step, value))
    return split, [curve(block_name(block), one) for block, one in points.items()]


def learning(record: Record, epoch: float, rates: Part[list[Curve]]) -> Section:
    """Show loss and errors of each block in training, its learning rate, and the sizes of weights and activities."""
    contrasts = record.config.training.contrasts
    losses = record.curves(lambda row: row.loss)
    if not losses:
        why = record.past.missing or "no interval of the log has ended yet (--execution.log-steps)"
        return Section("Blocks in training", [Missing("loss of blocks", why)])
    wrong = record.curves(lambda row: row.pair_errors)
    meaning = "pairs ranked wrongly" if contrasts else "rows answered wrongly"
    items: list[Item] = [_picture("loss", "Loss", "loss", losses, epoch)]
    if wrong:
        items.append(_picture("training-errors", "Errors in training", meaning, wrong, epoch, shares=True))
    else:
        items.append(Missing("errors in training", "the objectives of these blocks do not count errors"))
    for name, title, label, found in (
        ("weights", "Size of weights", "root mean square", record.curves(lambda row: row.weight_rms)),
        ("outputs", "Size of what is handed on", "root mean square", record.curves(lambda row: row.output_rms)),
    ):
        if not _is_constant(found):
            items.append(_picture(name, title, label, found, epoch))
    logged = record.curves(lambda row: row.rate)
    known = Part(logged) if logged else rates
    if known.value:
        items.append(_picture("rates", "Learning rates", "learning rate", known.value, epoch))
    else:
        items.append(Missing("learning rates", known.missing or "no block has one rate"))
    items.append(_newest(record, known.value or []))
    intro = "Means over the steps of each interval of the log. " + (
        "An error is a pair whose negative row has the higher goodness; the softmax head's is a wrong answer."
        if contrasts
        else "Each block is judged by its own objective on the rows that it learns from."
    )
    return Section("Blocks in training", items, intro)


def _is_constant(found: list[Curve]) -> bool:
    """Tell whether there is nothing to be seen, as where rows are normalised before they are handed on."""
    values = [value for each in found for value in each.values]
    return not values or max(values) - min(values) <= 1e-3 * max(map(abs, values))


def _picture(name: str, title: str, label: str, found: list[Curve], epoch: float, shares: bool = False) -> Picture:
    figure = curves.blocks_against_steps(found, title, label, epoch, percent=shares)
    say = percent if shares else _number
    alt = f"{title} of {len(found)} series against steps: " + ", ".join(
        f"{c.name} ends at {say(c.last)}" for c in found[:8]
    )
    return Picture(name, figure, alt, wide=False)


def _newest(record: Record, rates: list[Curve]) -> Table:
    """List the last row of the log of each block."""
    rows = record.past.value.rows if record.past.value else []
    newest = {row.layer: row for row in sorted(rows, key=lambda row: row.step)}
    rate_of = {each.name: each.last for each in rates}
    lines = [
        [
            *(block_name(block), f"{newest[block].step:,}", _number(newest[block].loss)),
            *(percent(newest[block].pair_errors), _number(rate_of.get(block_name(block)))),
            *(_number(newest[block].weight_rms), _number(newest[block].output_rms)),
        ]
        for block in record.blocks
    ]
    head = ["block", "step", "loss", "errors", "learning rate", "weights, rms", "output, rms"]
    return Table(head, lines, "The newest row of the log of each block", len(lines) > LONG_TABLE)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def rates_of(job: Job, last: int) -> list[Curve]:
    """Work out the learning rate of each block up to a step from the config, where a run did not log it."""
    training, found = job.config.training, []
    steps = sorted({*range(0, max(1, last), max(1, last // 200)), max(0, last - 1)})
    for outline in job.network.outlines:
        block = training.blocks[outline.index] if outline.index < len(training.blocks) else None
        optimizer = (block.optimizer if block else None) or training.optimizer
        factors = [(step + 1, outline.rates.factor(step)) for step in steps]
        points = [(step, optimizer.learning_rate * factor) for step, factor in factors if factor is not None]
        if points:
            found.append(curve(block_name(outline.index), points))
    return found


def where_time_went(summary: Part[Summary], timeline: Part[Timeline]) -> Section:
    """Show what each stage did with its time, and when."""
    items: list[Item] = []
    shares = summary.value.time_shares if summary.value else []
    if shares:
        busy = ", ".join(f"stage {i} {each.get('compute', 0.0):.0%}" for i, each in enumerate(shares[:8]))
        items.append(Picture("time", figures.shares_of_time(shares), f"Shares of time; computing: {busy}"))
        kinds = list(dict.fromkeys(kind for each in shares for kind in each))
        layers = summary.value.stage_layers if summary.value else []
        rows = [
            [str(i), _range(layers[i]) if i < len(layers) else "-", *(f"{each.get(kind, 0.0):.1%}" for kind in kinds)]
            for i, each in enumerate(shares)
        ]
        caption = "Shares of each stage's time; publish is a thread beside the others"
        items.append(Table(["stage", "blocks", *kinds], rows, caption, len(rows) > LONG_TABLE))
    else:
        items.append(Missing("shares of time", summary.missing or "no stage has said anything yet"))
    if timeline.value:
        say = say_seconds(timeline.value.seconds)
        alt = f"What {len(timeline.value.shares)} stage(s) did in {say}, as shares of short times and as single spans"
        cut = "The file has more spans than were read. " if timeline.value.cut else ""
        items.append(Picture("timeline", figures.timeline(timeline.value), alt, cut + "From trace.json."))
    else:
        items.append(Missing("timeline of stages", timeline.missing))
    return Section("Where time went", items)


def _range(layers: Sequence[int]) -> str:
    if not layers:
        return "-"
    return f"{layers[0]}-{layers[-1]}" if len(layers) > 1 else str(layers[0])


def where_memory_went(memory: Part[Memory]) -> Section:
    """Show the memory of each stage, foretold and measured."""
    if memory.value is None:
        return Section("Memory", [Missing("memory of stages", memory.missing)])
    found = memory.value
    rows = []
    for stage, (layers, sizes, peak) in enumerate(zip(found.layers, found.predicted, found.measured, strict=True)):
        told = sum(sizes)
        off = "-" if not peak else f"{told / peak - 1:+.1%}"
        measured = "-" if peak is None else say_size(peak)
        rows.append([str(stage), _range(layers), *map(say_size, sizes), say_size(told), measured, off])
    largest = max(map(sum, found.predicted))
    alt = f"Memory of each stage by kind; the largest was foretold to take {say_size(largest)}"
    head = ["stage", "blocks", *MEMORY_KINDS, "foretold", "measured peak", "off"]
    items: list[Item] = [
        Picture("memory", figures.memory_of_stages(found), alt),
        Table(head, rows, "", len(rows) > LONG_TABLE),
    ]
    return Section("Memory", items)


def what_happened(record: Record) -> list[Section]:
    """List recoveries, if there were any or it is not known."""
    if record.past.value is None:
        return [Section("Recoveries", [Missing("recoveries", record.past.missing)])]
    notes = record.past.value.recoveries
    if not notes:
        return []
    rows = [[f"{n.from_step:,}", f"{n.lost_steps:,}", str(n.stages), n.reason] for n in notes]
    table = Table(["went on after step", "steps lost", "stages", "what happened"], rows)
    return [Section("Recoveries", [table])]


def what_it_was(record: Record) -> Section:
    """Show config and versions."""
    summary = record.summary.value
    items: list[Item] = []
    facts = [["run folder", str(record.folder.path.absolute())], ["state", record.status]]
    if summary:
        facts += [["engine", summary.engine], ["chunk, window", f"{summary.chunk}, {summary.window}"]]
        facts += [["weights (SHA-256)", summary.weights_sha256 or "-"]]
        facts += [[name, number] for name, number in summary.versions.items()]
    else:
        items.append(Missing("versions", record.summary.missing))
    items.insert(0, Table(["what", "value"], facts))
    text = escaped(to_toml(record.config)).replace("\\n", "\n")
    items.append(Passage([(text, False)], "config.toml", folded=True))
    return Section("Config and versions", items)

"""Sections on how training went: errors, losses, rates, stages, time and memory. They need no weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice

from ffpipe.config.fields import to_toml
from ffpipe.config.limits import MOST_LAYERS
from ffpipe.config.schema import Training
from ffpipe.pipeline.job import Job
from ffpipe.reports import curves, figures
from ffpipe.reports.drawing import few
from ffpipe.reports.gather import Curve, Record, Summary, block_name, readouts, series
from ffpipe.reports.memory import MEMORY_KINDS, Memory
from ffpipe.reports.parts import Item, Missing, Passage, Picture, Section, Shown, Table, Tile
from ffpipe.reports.trace import Timeline
from ffpipe.runs.inspection import newest_rows, percent, say_row_errors
from ffpipe.system.units import format_seconds, format_size
from ffpipe.telemetry.report import Evaluation, format_layers

# Lines of a table before it is folded.
LONG_TABLE = 12
MOST_EVALUATIONS = 300
# Series of a picture: as many as there are colours to tell them apart by.
MOST_CURVES = 200
SPLITS = ("validation", "test", "train")


def tiles(record: Record, memory: Shown[Memory]) -> list[Tile]:
    """Pick the numbers that a reader looks for first."""
    found, summary = list[Tile](), record.summary.value or Summary()
    # A run is tested at its end; until then it has validations at best.
    newest = record.tested or next((e for e in reversed(record.evaluations) if e.split == "validation"), None)
    if newest:
        found += [Tile(percent(e), f"{newest.split} error by {name}") for name, e in readouts(newest).items()]
        if record.config.training.inputs == "tokens" and (nats := list(newest.losses.values())[-1:]) and nats[0]:
            found.append(Tile(f"{nats[0] / math.log(2):.3f}", f"bits a symbol, {newest.split}"))
    found.append(Tile(f"{record.step:,}", "steps written down"))
    if summary.train_seconds:
        found.append(Tile(format_seconds(summary.train_seconds), "of training"))
    if summary.examples_per_second:
        found.append(Tile(f"{summary.examples_per_second:,.0f}", "examples a second"))
    if any(summary.peak_rss_bytes):
        found.append(Tile(format_size(max(summary.peak_rss_bytes)), "peak memory of a stage"))
    elif memory.value:
        found.append(Tile(format_size(max(map(sum, memory.value.predicted))), "memory of a stage, foretold"))
    return found


def errors(record: Record, epoch: float) -> Section:
    """Show the errors of every read-out on every split."""
    by_split = {split: found for split in SPLITS if (found := record.errors(split))}
    if not by_split:
        why = record.past.missing or (
            "nothing has been evaluated yet" if record.going else "nothing was evaluated (--execution.evaluate-every)"
        )
        return Section("Errors", [Missing("errors", why)])
    figure = curves.errors_against_steps(by_split, epoch)
    newest = [f"{split} {percent(c.last)} by {c.name}" for split, found in by_split.items() for c in found]
    alt = f"Errors of each read-out against steps; the newest: {', '.join(newest)}"
    items: list[Item] = [Picture("errors", figure, alt), _evaluations(record.evaluations, epoch)]
    # The error of an only block is that of the network.
    if blocks := [each for each in record.evaluations if len(each.blocks) > 1]:
        items += _of_blocks(blocks, epoch)
    elif judged := [each for each in record.evaluations if each.losses]:
        split, of_blocks = _by_block(judged, lambda each: each.losses.values())
        rows = " on positive rows" if record.config.training.contrasts else ""
        title = f"{split} loss of each block{rows}".capitalize()
        items += [_picture("losses-of-blocks", title, "loss", of_blocks, epoch)] if of_blocks else []
    return Section("Errors", items)


def _evaluations(found: Sequence[Evaluation], epoch: float) -> Table:
    names = list(dict.fromkeys(name for each in found for name in readouts(each)))
    rows = []
    for each in found[-MOST_EVALUATIONS:]:
        at, shares = f"{each.step / epoch:.4g}" if epoch else "-", [percent(readouts(each).get(name)) for name in names]
        rows.append([at, f"{each.step:,}", each.split, f"{each.examples:,}", *shares])
    caption = "Every evaluation" if len(found) <= MOST_EVALUATIONS else f"The newest {MOST_EVALUATIONS} evaluations"
    return Table(["epoch", "step", "split", "examples", *names], rows, caption, len(rows) > LONG_TABLE)


def _of_blocks(found: Sequence[Evaluation], epoch: float) -> Iterator[Item]:
    """Show the error of each block by itself, without negatives."""
    split, of_blocks = _by_block(found, lambda each: each.blocks)
    if of_blocks:
        title = f"{split} error of each block by itself".capitalize()
        yield _picture("errors-of-blocks", title, "error", of_blocks, epoch, shares=True)
        newest = found[-1]
        losses = list(newest.losses.values())
        rows = [
            [str(block), percent(error), _number(losses[block] if block < len(losses) else None)]
            for block, error in enumerate(newest.blocks[:MOST_LAYERS])
        ]
        caption = f"Each block by itself after step {newest.step:,} ({newest.split})"
        yield Table(["block", "error", "loss, nats"], rows, caption, len(rows) > LONG_TABLE, beside=True)


def _by_block(
    found: Sequence[Evaluation], values: Callable[[Evaluation], Iterable[float | None]]
) -> tuple[str, list[Curve]]:
    """Return the split that is shown, and a curve of each block that has values there."""
    split = "validation" if any(each.split == "validation" for each in found) else found[-1].split
    of_split = [each for each in found if each.split == split]
    return split, series(
        (block_name(block), each.step, value)
        for each in of_split
        for block, value in enumerate(islice(values(each), MOST_LAYERS))
    )


def learning(record: Record, epoch: float, rates: Shown[list[Curve]]) -> Section:
    """Show loss and errors of each block in training, its learning rate, and the sizes of weights and activities."""
    training = record.config.training
    losses = record.curves(lambda row: row.loss)
    if not losses:
        why = record.past.missing or "no interval of the log has ended yet (--execution.log-steps)"
        return Section("Blocks in training", [Missing("loss of blocks", why)])
    wrong = record.curves(lambda row: row.pair_errors)
    items: list[Item] = [_picture("loss", "Loss", "loss", losses, epoch)]
    without = Missing("errors in training", "the objectives of these blocks do not count errors")
    title, label, meaning = _errors_in_training(training)
    items.append(_picture("training-errors", title, label, wrong, epoch, shares=True) if wrong else without)
    if logistic := record.curves(lambda row: row.logistic_pair_errors):
        title, label = f"{title}, by logistic probabilities", "pairs whose negative row is the more probable"
        items.append(_picture("logistic-errors", title, label, logistic, epoch, shares=True))
    for name, title, label, found in (
        ("weights", "Size of weights", "root mean square", record.curves(lambda row: row.weight_rms)),
        ("outputs", "Size of what is handed on", "root mean square", record.curves(lambda row: row.output_rms)),
    ):
        if not _is_constant(found):
            items.append(_picture(name, title, label, found, epoch))
    # Runs of version 0.1 have none of these in their rows; in others a block without a rate has none.
    is_old = all((row.factor, row.weight_rms, row.output_rms) == (None,) * 3 for row in record.history.rows)
    known = record.curves(lambda row: row.rate) or (is_old and rates.value) or []
    without = Missing("learning rates", (is_old and rates.missing) or "no block has one rate")
    items.append(_picture("rates", "Learning rates", "learning rate", known, epoch) if known else without)
    items.append(_newest(record, known if is_old else []))
    return Section("Blocks in training", items, f"Means over the steps of each interval of the log. {meaning}")


def _errors_in_training(training: Training) -> tuple[str, str, str]:
    """Return what the logged errors are: a title, the label of an axis, and a sentence."""
    title, of_head = "Errors in training", "the softmax head's is a wrong answer."
    if not training.contrasts:
        meaning = "Each block is judged by its own objective on the rows that it learns from."
        return title, "rows answered wrongly", meaning
    if not training.in_turns:
        meaning = f"An error is a pair whose negative row has the higher goodness; {of_head}"
        return title, "pairs ranked wrongly", meaning
    meaning = f"Steps have rows of one role, and an error is a row on the wrong side of the threshold; {of_head}"
    return f"{title}, of rows", "rows on the wrong side of the threshold", meaning


def _is_constant(found: list[Curve]) -> bool:
    """Tell whether there is nothing to be seen, as where rows are normalised before they are handed on."""
    values = [value for each in found for value in each.values]
    return not values or max(values) - min(values) <= 1e-3 * max(map(abs, values))


def _picture(name: str, title: str, label: str, found: list[Curve], epoch: float, shares: bool = False) -> Picture:
    shown = [found[index] for index in sorted(few(len(found), MOST_CURVES))]
    figure = curves.blocks_against_steps(shown, title, label, epoch, percent=shares)
    say = percent if shares else _number
    ends = ", ".join(f"{c.name} ends at {say(c.last)}" for c in found[:8])
    some = "" if len(shown) == len(found) else f"{len(shown)} of {len(found)} series, at even distances."
    return Picture(name, figure, f"{title}, {len(shown)} series against steps: {ends}", some, wide=False)


def _newest(record: Record, rates: list[Curve]) -> Table:
    """List the last row of the log of each block. rates: learning rates of a run whose rows have none."""
    rate_of = {each.name: each.last for each in rates}
    lines = []
    for row in newest_rows(record.history.rows):
        name = block_name(row.layer)
        rate = rate_of.get(name) if row.rate is None else row.rate
        sizes = map(_number, (rate, row.weight_rms, row.output_rms))
        lines.append([name, f"{row.step:,}", _number(row.loss), say_row_errors(row), *sizes])
    head = ["block", "step", "loss", "errors", "learning rate", "weights, rms", "output, rms"]
    return Table(head, lines, "The newest row of the log of each block", len(lines) > LONG_TABLE)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def rates_of(job: Job, last: int) -> list[Curve]:
    """Work out the learning rate of each block up to a step from the config, where a run did not log it."""
    training, points = job.config.training, list[tuple[str, int, float]]()
    steps = sorted({*range(0, max(1, last), max(1, last // 200)), max(0, last - 1)})
    for outline in job.network.outlines:
        block = training.blocks[outline.index] if outline.index < len(training.blocks) else None
        rate = ((block and block.optimizer) or training.optimizer).learning_rate
        factors = [(step + 1, outline.rates.factor(step)) for step in steps]
        points += [(block_name(outline.index), step, rate * factor) for step, factor in factors if factor is not None]
    return series(points)


def where_time_went(summary: Shown[Summary], timeline: Shown[Timeline]) -> Section:
    """Show what each stage did with its time, and when."""
    items: list[Item] = []
    if summary.value and (shares := summary.value.time_shares):
        busy = ", ".join(f"stage {i} {each.get('compute', 0.0):.0%}" for i, each in enumerate(shares[:8]))
        items.append(Picture("time", figures.shares_of_time(shares), f"Shares of time; computing: {busy}"))
        kinds = list(dict.fromkeys(kind for each in shares for kind in each))
        layers = summary.value.stage_layers
        rows = []
        for i, each in enumerate(shares):
            blocks = format_layers(layers[i] if i < len(layers) else [])  # a stranger's summary may have fewer
            rows.append([str(i), blocks, *(f"{each.get(kind, 0.0):.1%}" for kind in kinds)])
        # Stages are made anew where a run is resumed or recovers.
        caption = "Shares of each stage's time since it was last started; publish is a thread beside the others"
        items.append(Table(["stage", "blocks", *kinds], rows, caption, len(rows) > LONG_TABLE))
    else:
        items.append(Missing("shares of time", summary.missing or "no stage has said anything yet"))
    if timeline.value:
        say = format_seconds(timeline.value.seconds)
        alt = f"What {len(timeline.value.shares)} stage(s) did in {say}, as shares of short times and as single spans"
        cut = "The file has more spans than were read. " if timeline.value.cut else ""
        items.append(Picture("timeline", figures.timeline(timeline.value), alt, cut + "From trace.json."))
    else:
        items.append(Missing("timeline of stages", timeline.missing))
    return Section("Where time went", items)


def where_memory_went(found: Memory) -> tuple[list[Item], str]:
    """Show the memory of each stage, foretold and measured."""
    rows = []
    for stage, (layers, sizes, peak) in enumerate(zip(found.layers, found.predicted, found.measured, strict=True)):
        told = sum(sizes)
        off = "-" if not peak else f"{told / peak - 1:+.1%}"
        measured = "-" if peak is None else format_size(peak)
        rows.append([str(stage), format_layers(layers), *map(format_size, sizes), format_size(told), measured, off])
    largest = max(map(sum, found.predicted))
    alt = f"Memory of each stage by kind; the largest was foretold to take {format_size(largest)}"
    head = ["stage", "blocks", *MEMORY_KINDS, "foretold", "measured peak", "off"]
    picture = Picture("memory", figures.memory_of_stages(found), alt)
    return [picture, Table(head, rows, "", len(rows) > LONG_TABLE)], ""


def what_happened(record: Record) -> list[Section]:
    """List recoveries, if there were any or it is not known."""
    if record.past.value is None:
        return [Section("Recoveries", [Missing("recoveries", record.past.missing)])]
    notes = record.past.value.recoveries
    if not notes:
        return []
    rows = [[f"{n.from_step:,}", f"{n.lost_steps:,}", str(n.stages), n.reason] for n in notes]
    head = ["went on after step", "steps lost", "stages", "what happened"]
    return [Section("Recoveries", [Table(head, rows)])]


def what_it_was(record: Record) -> Section:
    """Show config and versions."""
    facts = [["run folder", str(record.folder.path.absolute())], ["state", record.status]]
    items: list[Item] = [Table(["what", "value"], facts)]
    if summary := record.summary.value:
        facts += [["engine", summary.engine], ["chunk, window", f"{summary.chunk}, {summary.window}"]]
        facts += [["weights (SHA-256)", summary.weights_sha256 or "-"]]
        facts += [[name, number] for name, number in summary.versions.items()]
    else:
        items.append(Missing("versions", record.summary.missing))
    items.append(Passage([(to_toml(record.config), False)], "config.toml", folded=True))
    return Section("Config and versions", items)

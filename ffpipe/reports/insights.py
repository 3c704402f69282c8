"""Sections on what the network has learned, for which its weights and its data are needed."""

from __future__ import annotations

from pathlib import PurePath

import numpy as np

from ffpipe.reports import figures
from ffpipe.reports.answers import PICTURE, Answers, answers, origins, pictures_of
from ffpipe.reports.network import OF_NETWORK, Trained
from ffpipe.reports.parts import Item, Missing, Passage, Picture, Section, Shown, Table, attempt
from ffpipe.reports.results import LONG_TABLE
from ffpipe.reports.rows import Kind, trained_rows
from ffpipe.reports.spread import Spreads, spreads
from ffpipe.reports.weights import Fields, fields
from ffpipe.reports.writing import TEMPERATURE, Reading, Written, readings, written
from ffpipe.runs.inspection import percent

# Pairs of classes that are confused most, in a table.
MOST_CONFUSED = 10
# Letters of a class's name of which two fit into a line below a picture.
SHORT_NAME = 4


def insights(trained: Shown[Trained], examples: int) -> list[Section]:
    """Make all of these sections. examples: of the test split, at most."""
    if trained.value is None:
        return [Section("What the network has learned", [Missing(OF_NETWORK, trained.missing)])]
    value, training = trained.value, trained.value.training
    user, of_text = bool(training.model), training.inputs == "tokens"
    found = trained.then(lambda each: answers(each, examples), user)
    what = "confusions and wrong answers"
    sections = [Section.of("Answers", what, found, lambda each: _answers(each, value, user))]
    if of_text:
        sections.append(_text(trained.then(written, user), trained.then(readings, user)))
    title = "Goodness of positive and negative rows" if training.contrasts else "Margins of the class heads"
    found_spreads = trained.then(spreads, user)
    sections.append(Section.of(title, "spread", found_spreads, lambda each: _spread(each, training.contrasts)))
    if not of_text:
        rows, seen = trained.then(trained_rows, user), trained.then(fields, user)
        sections.append(Section.of("Rows that blocks train on", "rows", rows, lambda each: _rows(each, value)))
        sections.append(Section.of("Receptive fields and filters", "fields", seen, _weights))
    return sections


def _answers(found: Answers, trained: Trained, user: bool) -> tuple[list[Item], str]:
    items = list[Item]()
    if len(found.names) <= figures.MOST_CLASSES:
        alt = f"Confusion matrix of {len(found.names)} classes by {found.readout}: {percent(found.error)} wrong"
        items.append(Picture("confusion", figures.confusion(found), alt, wide=len(found.names) > figures.MOST_NUMBERS))
    else:
        items.append(Missing("confusion matrix", f"{len(found.names):,} classes do not fit a picture"))
    items += [_confused(found), _by_class(found)]
    if found.mistakes:
        items += _mistakes(found, trained, user)
    some = f"{found.tested:,} of {found.available:,}" if found.tested < found.available else f"all {found.tested:,}"
    of = " of their symbols" if trained.training.inputs == "tokens" else ""
    return items, f"By {found.readout}, on {some} {found.split} examples: {percent(found.error)}{of} wrong."


def _confused(found: Answers) -> Table:
    off = found.counts.copy()
    np.fill_diagonal(off, 0)
    rows = []
    for place in off.flatten().argsort()[::-1][:MOST_CONFUSED].tolist():
        right, answer = divmod(place, len(found.names))
        if count := int(off[right, answer]):
            share = percent(count / int(found.counts[right].sum()))
            rows.append([_named(found, right), _named(found, answer), f"{count:,}", share])
    head = ["right class", "taken for", "times", "share of the class"]
    return Table(head, rows, "Most frequent confusions", beside=True)


def _by_class(found: Answers) -> Table:
    rows = []
    for label in range(len(found.names)):
        of, right = int(found.counts[label].sum()), int(found.counts[label, label])
        answered = int(found.counts[:, label].sum())
        missed, precision = (1 - right / of if of else None), (right / answered if answered else None)
        rows.append([_named(found, label), f"{of:,}", percent(missed), percent(precision)])
    return Table(["class", "examples", "error", "precision"], rows, "Each class", folded=True)


def _named(found: Answers, label: int) -> str:
    """Return a class as a word: blanks and the like of a text are made visible."""
    name = found.names[label]
    return name if name.strip() else f"'{name}'"


def _mistakes(found: Answers, trained: Trained, user: bool) -> list[Item]:
    def say(share: float) -> str:
        return f"+{share:.3g}" if found.by_goodness else f"{share:.0%}"

    named_by, names = origins(trained, found)
    are_short = max(map(len, found.names)) <= SHORT_NAME
    captions, rows = [], []
    for m, name in zip(found.mistakes, names, strict=True):
        right, answer, second = (_named(found, label) for label in (m.right, m.answer, m.second))
        classes = [f"{right} → {answer}"] if are_short else [right, f"→ {answer}"]
        captions.append([*classes, say(m.share), PurePath(name).name if named_by == PICTURE else f"row {name}"])
        rows.append([str(m.index), name, right, answer, say(m.share), second])
    short, meaning = "probability", "the probability of that answer"
    if found.by_goodness:
        short, meaning = "lead", "the lead in goodness of its answer over the right class"
    head = ["example", named_by, "right class", "answer", short, "second answer"]
    table = Table(head, rows, "The wrong answers of the picture", folded=True)
    pictures = attempt(lambda: pictures_of(trained, found), user)
    if pictures.value is None:
        return [Missing("pictures of wrong answers", pictures.missing), table]
    alt = f"{len(rows)} {found.split} examples that are answered wrongly, each with right class and answer"
    caption = f"The surest wrong answers: right class → answer, {meaning}, and the {named_by}."
    return [Picture("mistakes", figures.sheet(pictures.value, captions), alt, caption), table]


def _spread(found: Spreads, contrasts: bool) -> tuple[list[Item], str]:
    intro = (
        "A block should have more goodness for positive rows than for negative ones; the dashed line is its threshold."
        if contrasts
        else "Score of the right class less the best of the others; left of the dashed line the answer is wrong."
    )
    alt = f"How {found.number} spreads in {len(found.blocks)} blocks for {' and '.join(found.kinds)} rows; wrong: "
    alt += ", ".join(f"block {each.block} {percent(each.wrong)}" for each in found.blocks[:8])
    wrong = "pairs ranked wrongly" if contrasts else f"{found.kinds[1]} rows wrong"
    rows = []
    for each in found.blocks:
        means = (f"{numbers.mean():.4g}" for numbers in (each.first, each.second))
        border = "-" if each.border is None else f"{each.border:.4g}"
        rows.append([str(each.block), each.name, *means, border, percent(each.wrong)])
    head = ["block", "kind", f"mean, {found.kinds[0]}", f"mean, {found.kinds[1]}", "threshold", wrong]
    picture = Picture("spread", figures.histograms(found), alt)
    return [picture, Table(head, rows, "", len(rows) > LONG_TABLE)], intro


def _rows(kinds: list[Kind], trained: Trained) -> tuple[list[Item], str]:
    alt = f"The first {len(kinds[0].images)} rows of a minibatch: {', '.join(kind.title for kind in kinds)}"
    intro = "Of the newest minibatch, as the run's own feeder makes them; below each is the label that it carries."
    if trained.training.lookahead is not None:
        intro += " Wrong labels are drawn by what the network of the snapshot makes of these examples."
    return [Picture("rows", figures.rows_of_kinds(kinds), alt)], intro


def _weights(found: list[Fields]) -> tuple[list[Item], str]:
    items: list[Item] = []
    for index, each in enumerate(found):
        caption = f"{each.title}: {len(each.values)} of {each.in_all:,}, {each.what}."
        items.append(Picture(f"fields-{index}", figures.receptive_fields(each), caption, caption))
    intro = "Each is scaled by itself; orange is above zero, purple below."
    return items, f"{intro} Three channels are shown as colours, on grey."


def _text(sample: Shown[Written], read: Shown[list[Reading]]) -> Section:
    items: list[Item] = []
    if sample.value:
        pieces = [(sample.value.given, True), (sample.value.text, False)]
        marked = f"Marked: {sample.value.symbols} symbols of the test text."
        items.append(Passage(pieces, f"{marked} Then what the network writes, at temperature {TEMPERATURE}."))
    else:
        items.append(Missing("a sample that the network writes", sample.missing))
    if read.value:
        pieces = [piece for sequence in read.value for piece in (*sequence, ("\n\n", False))]
        items.append(Passage(pieces, "Test text; marked are the symbols for which another was expected."))
    else:
        items.append(Missing("test text as the network reads it", read.missing))
    return Section("Text", items)

"""Sections on what the network has learned, for which its weights and its data are needed."""

from __future__ import annotations

import numpy as np

from ffpipe.reports import figures
from ffpipe.reports.answers import Answers, answers, pictures_of
from ffpipe.reports.drawing import shortened
from ffpipe.reports.network import Trained
from ffpipe.reports.parts import Item, Missing, Part, Passage, Picture, Section, Table, attempt
from ffpipe.reports.results import LONG_TABLE, percent
from ffpipe.reports.rows import Kind, trained_rows
from ffpipe.reports.spread import Spreads, spreads
from ffpipe.reports.weights import Fields, fields
from ffpipe.reports.writing import GIVEN, TEMPERATURE, Reading, Written, readings, written

# Pairs of classes that are confused most, in a table.
MOST_CONFUSED = 10


def insights(trained: Part[Trained], examples: int) -> list[Section]:
    """Make all of these sections. examples: of the test split, at most."""
    if trained.value is None:
        what = "confusions, wrong answers, spread of scores, rows that are trained on, weights"
        return [Section("What the network has learned", [Missing(what, trained.missing)])]
    value, user = trained.value, trained.value.user_code
    found = attempt(lambda: answers(value, examples), user)
    sections = [_answers(found, value, user)]
    if value.training.inputs == "tokens":
        texts = attempt(lambda: written(value), user), attempt(lambda: readings(value), user)
        sections.append(_text(*texts))
    sections.append(_spread(attempt(lambda: spreads(value), user), value))
    if value.training.inputs != "tokens":
        sections.append(_rows(attempt(lambda: trained_rows(value), user), value))
        sections.append(_weights(attempt(lambda: fields(value), user)))
    return sections


def _answers(part: Part[Answers], trained: Trained, user: bool) -> Section:
    title = "Answers"
    if part.value is None:
        return Section(title, [Missing("confusions and wrong answers", part.missing)])
    found, items = part.value, list[Item]()
    if len(found.names) <= figures.MOST_CLASSES:
        alt = f"Confusion matrix of {len(found.names)} classes by {found.readout}: {percent(found.error)} wrong"
        items.append(Picture("confusion", figures.confusion(found), alt, wide=len(found.names) > figures.MOST_NUMBERS))
    else:
        items.append(Missing("confusion matrix", f"{len(found.names):,} classes do not fit a picture"))
    items += [_confused(found), _by_class(found)]
    if found.mistakes:
        items += _mistakes(found, trained, user)
    said = f"{found.tested:,} of {found.available:,} {found.split} examples" if found.tested < found.available else (
        f"all {found.tested:,} {found.split} examples"
    )  # fmt: skip
    of = " of their symbols" if trained.training.inputs == "tokens" else ""
    return Section(title, items, f"By {found.readout}, on {said}: {percent(found.error)}{of} wrong.")


def _confused(found: Answers) -> Table:
    off = found.counts.copy()
    np.fill_diagonal(off, 0)
    order = [place for place in off.flatten().argsort()[::-1][:MOST_CONFUSED].tolist() if off.flatten()[place]]
    rows = []
    for place in order:
        right, answer = divmod(place, len(found.names))
        count, of = int(off[right, answer]), int(found.counts[right].sum())
        rows.append([_named(found, right), _named(found, answer), f"{count:,}", percent(count / of)])
    return Table(
        ["right class", "taken for", "times", "share of the class"], rows, "Most frequent confusions", beside=True
    )


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
    """Draw wrong answers, and list the same in a table."""

    def say(share: float) -> str:
        return f"+{share:.3g}" if found.by_goodness else f"{share:.0%}"

    captions = [
        f"{shortened(_named(found, m.right), 9)} → {shortened(_named(found, m.answer), 9)}\n{say(m.share)}"
        for m in found.mistakes
    ]
    pictures = attempt(lambda: pictures_of(trained, found), user)
    items: list[Item] = []
    meaning = "the lead in goodness of its answer over the right class" if found.by_goodness else (
        "the probability of that answer"
    )  # fmt: skip
    if pictures.value is not None:
        alt = (
            f"{len(found.mistakes)} {found.split} examples that are answered wrongly, each with right class and answer"
        )
        caption = f"The surest wrong answers: right class → answer, and {meaning}."
        items.append(Picture("mistakes", figures.sheet(pictures.value, captions), alt, caption))
    else:
        items.append(Missing("pictures of wrong answers", pictures.missing))
    rows = [
        [
            str(m.index),
            *(_named(found, each) for each in (m.right, m.answer)),
            say(m.share),
            _named(found, m.second),
        ]
        for m in found.mistakes
    ]
    head = ["example", "right class", "answer", "lead" if found.by_goodness else "probability", "second answer"]
    items.append(Table(head, rows, "The wrong answers of the picture", folded=True))
    return items


def _spread(part: Part[Spreads], trained: Trained) -> Section:
    contrasts = trained.training.contrasts
    title = "Goodness of positive and negative rows" if contrasts else "Margins of the class heads"
    if part.value is None:
        return Section(title, [Missing("spread", part.missing)])
    found = part.value
    intro = (
        "A block should have more goodness for positive rows than for negative ones; the dashed line is its threshold."
        if contrasts
        else "Score of the right class less the best of the others; left of the dashed line the answer is wrong."
    )
    alt = f"How {found.number} spreads in {len(found.blocks)} blocks for {' and '.join(found.kinds)} rows; wrong: "
    alt += ", ".join(f"block {each.block} {percent(each.wrong)}" for each in found.blocks[:8])
    wrong = "pairs ranked wrongly" if contrasts else f"{found.kinds[1]} rows wrong"
    rows = [
        [
            *(str(each.block), each.name, f"{each.first.mean():.4g}", f"{each.second.mean():.4g}"),
            *("-" if each.border is None else f"{each.border:.4g}", percent(each.wrong)),
        ]
        for each in found.blocks
    ]
    head = ["block", "kind", f"mean, {found.kinds[0]}", f"mean, {found.kinds[1]}", "threshold", wrong]
    items: list[Item] = [
        Picture("spread", figures.histograms(found), alt),
        Table(head, rows, "", len(rows) > LONG_TABLE),
    ]
    return Section(title, items, intro)


def _rows(part: Part[list[Kind]], trained: Trained) -> Section:
    title = "Rows that blocks train on"
    if part.value is None:
        return Section(title, [Missing("rows", part.missing)])
    kinds = part.value
    alt = f"The first {len(kinds[0].images)} rows of a minibatch: {', '.join(kind.title for kind in kinds)}"
    intro = "Of the newest minibatch, as the run's own feeder makes them; below each is the label that it carries."
    if trained.training.lookahead is not None:
        intro += " Wrong labels are drawn by what the network of the snapshot makes of these examples."
    return Section(title, [Picture("rows", figures.rows_of_kinds(kinds), alt)], intro)


def _weights(part: Part[list[Fields]]) -> Section:
    title = "Receptive fields and filters"
    if part.value is None:
        return Section(title, [Missing("fields", part.missing)])
    items: list[Item] = []
    for index, each in enumerate(part.value):
        caption = f"{each.title}: {len(each.values)} of {each.in_all:,}, {each.what}."
        items.append(Picture(f"fields-{index}", figures.receptive_fields(each), caption, caption))
    intro = (
        "Each is scaled by itself; orange is above zero, purple below. Three channels are shown as colours, on grey."
    )
    return Section(title, items, intro)


def _text(sample: Part[Written], read: Part[list[Reading]]) -> Section:
    items: list[Item] = []
    if sample.value:
        pieces = [(sample.value.given, True), (sample.value.text, False)]
        caption = (
            f"Marked: {GIVEN} symbols of the test text. Then what the network writes, at temperature {TEMPERATURE}."
        )
        items.append(Passage(pieces, caption))
    else:
        items.append(Missing("a sample that the network writes", sample.missing))
    if read.value:
        pieces = [piece for each in read.value for piece in (*each.symbols, ("\n\n", False))]
        items.append(Passage(pieces, "Test text; marked are the symbols for which another was expected."))
    else:
        items.append(Missing("test text as the network reads it", read.missing))
    return Section("Text", items)

"""Pictures of what a network makes of rows, of its weights, and of where time and memory went: data in, figure out."""

from __future__ import annotations

import math
from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator

from ffpipe.reports.answers import Answers
from ffpipe.reports.drawing import FAINT, INK, RIGHT, SERIES, WIDE, WRONG, fitted, panels, shortened, styled
from ffpipe.reports.memory import MEMORY_KINDS, Memory
from ffpipe.reports.rows import Images, Kind
from ffpipe.reports.spread import Spread, Spreads
from ffpipe.reports.trace import ACTIVITIES, Timeline
from ffpipe.reports.weights import Fields

# Blocks that have a histogram each; more are drawn as bands side by side.
MOST_HISTOGRAMS = 12
# Classes of which a confusion matrix is drawn, and of which its numbers are written into it.
MOST_CLASSES, MOST_NUMBERS = 100, 15
# Pictures in a line.
SIDE_BY_SIDE = 12
# From one picture to the next in widths of a picture, and the most heights that it may have of these.
PITCH, TALLEST = 1.14, 3.0
# Points of a caption: the size of its letters, from line to line, and between it and its neighbours.
CAPTION, LINE, APART = 8.0, 9.2, 6.0
KIND_COLOURS = (SERIES[0], SERIES[5], SERIES[4], SERIES[1], SERIES[3], SERIES[2], FAINT)


@styled()
def histograms(spreads: Spreads) -> Figure:
    """Draw how a number spreads in each block for two kinds of rows."""
    if len(spreads.blocks) > MOST_HISTOGRAMS:
        return _bands(spreads)
    count = len(spreads.blocks)
    columns = 3 if count in (5, 6) else min(count, 4)
    lines = math.ceil(count / columns)
    figure, grid = panels(0.5 + 2.3 * lines, lines, columns)
    for axes, spread in zip(grid, spreads.blocks, strict=False):
        _histogram(axes, spread)
    for axes in grid[count:]:
        axes.set_axis_off()
    for index in range(count - columns, count):
        grid[index].set_xlabel(spreads.number)
    hands = [Patch(color=colour, alpha=0.6, label=kind) for kind, colour in zip(spreads.kinds, SERIES, strict=False)]
    figure.legend(handles=hands, loc="outside upper right", ncols=3)
    return figure


def _histogram(axes: Axes, spread: Spread) -> None:
    both = np.concatenate([spread.first, spread.second])
    # A few numbers far away would leave all others no room: they are counted at the edges.
    low, high = np.quantile(both, (0.002, 0.998)) if len(both) else (0.0, 1.0)
    if spread.border is not None:
        low, high = min(low, spread.border), max(high, spread.border)
    edges = np.linspace(low, max(high, low + 1e-9), 41)
    # By `stairs`, which draws one shape, where `hist` draws one for each bin.
    for numbers, colour in ((spread.first, SERIES[0]), (spread.second, SERIES[1])):
        axes.stairs(np.histogram(np.clip(numbers, low, high), edges)[0], edges, fill=True, color=colour, alpha=0.6)
    if spread.border is not None:
        axes.axvline(spread.border, color=INK, linestyle="--", linewidth=1.2)
    axes.set_title(f"block {spread.block}, {shortened(spread.name, 18)}")
    axes.set_yticks([])
    axes.grid(False)
    axes.spines["left"].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(5))


def _bands(spreads: Spreads) -> Figure:
    """Draw medians and the middle half and nine tenths of the numbers against the block."""
    figure, (axes,) = panels(4.0)
    x = [spread.block for spread in spreads.blocks]
    both = zip(*((spread.first, spread.second) for spread in spreads.blocks), strict=True)
    for kind, colour, numbers in zip(spreads.kinds, SERIES, both, strict=False):
        low, lower, middle, upper, high = np.array([np.quantile(n, (0.05, 0.25, 0.5, 0.75, 0.95)) for n in numbers]).T
        axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
        axes.fill_between(x, lower, upper, color=colour, alpha=0.3, linewidth=0)
        axes.plot(x, middle, color=colour, marker="o", markersize=3, label=kind)
    borders = [math.nan if spread.border is None else spread.border for spread in spreads.blocks]
    axes.plot(x, borders, color=INK, linestyle="--", linewidth=1.2, label="border")
    axes.set_xlabel("block")
    axes.set_ylabel(spreads.number)
    axes.xaxis.set_major_locator(MaxNLocator(16, integer=True))
    # Not where there is most room: to find that takes long, of which matplotlib warns.
    figure.legend(loc="outside upper right", ncols=3)
    return figure


@styled()
def confusion(answers: Answers) -> Figure:
    """Draw which class is taken for which, as shares of the right class's examples."""
    counts, count = answers.counts, len(answers.names)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = min(8.5, max(3.6, 0.34 * count + 1.3))
    figure, (axes,) = panels(side * 0.94, width=side)
    # Half transparent, so that the boxes are right on a dark page too, and as one image, since a hundred classes would
    # make thousands of shapes. By the root of a share, so that rare confusions are seen.
    boxes = np.zeros((count, count, 4))
    boxes[..., :3], boxes[..., 3] = to_rgb(WRONG), np.where(counts, 0.15 + 0.6 * shares**0.5, 0.0)
    own = np.arange(count)
    boxes[own, own, :3] = to_rgb(RIGHT)
    boxes[own, own, 3] = np.where(counts[own, own], 0.12 + 0.45 * shares[own, own], 0.0)
    axes.imshow(boxes, interpolation="none")
    if count <= MOST_NUMBERS:
        for right, answer in np.argwhere(counts).tolist():
            axes.text(answer, right, f"{counts[right, answer]:,}", ha="center", va="center", fontsize=8)
    names = [shortened(name, 14) for name in answers.names]
    long = max(map(len, names)) > 2
    # A picture has room for 70 names.
    size, places = (8 if count <= 30 else 5.5), range(0, count, -(-count // 70))
    axes.set_xticks(places, [names[place] for place in places], rotation=90 if long else 0, fontsize=size)
    axes.set_yticks(places, [names[place] for place in places], fontsize=size)
    axes.grid(False)
    axes.tick_params(length=0)
    axes.set_xlabel("answer")
    axes.set_ylabel("right class")
    return figure


@styled()
def sheet(images: Images, captions: Sequence[Sequence[str]]) -> Figure:
    """Draw pictures side by side with a caption of so many lines below each, which is cut to its room."""
    ratio = images.shape[1] / images.shape[2]
    # Points of a picture, and of what stands below it.
    width = 72 * WIDE / (SIDE_BY_SIDE * PITCH + 0.1) * min(1.0, TALLEST / ratio)
    height, below = width * ratio, APART + LINE * len(captions[0])
    figure, (axes,) = panels(math.ceil(len(images) / SIDE_BY_SIDE) * (height + below) / 72 + 0.1)
    _tiles(axes, images, SIDE_BY_SIDE, below / height, captions, PITCH * width - APART)
    return figure


@styled()
def rows_of_kinds(kinds: Sequence[Kind]) -> Figure:
    """Draw rows of each kind below one another, so that an example stands above its own changed forms."""
    figure, grid = panels(0.1 + 0.95 * len(kinds), len(kinds))
    for axes, kind in zip(grid, kinds, strict=True):
        height, width = kind.images.shape[1:3]
        points = 72 * min(WIDE / (1.6 + PITCH * len(kind.images)), 0.95 / 1.35 * width / height)
        captions = [(caption,) for caption in kind.captions]
        _tiles(axes, kind.images, len(kind.images), 0.0, captions, PITCH * points - APART)
        axes.text(-0.12 * width, height / 2, kind.title.replace(" (", "\n("), ha="right", va="center", fontsize=9)
        axes.set_ylim(height * 1.35, 0)
        axes.set_xlim(-1.6 * width, len(kind.images) * PITCH * width)
    return figure


@styled()
def receptive_fields(fields: Fields) -> Figure:
    """Draw fields of one layer: orange where a weight is above zero, purple where it is below."""
    values = fields.values
    scale = np.maximum(np.abs(values).max(tuple(range(1, values.ndim)), keepdims=True), 1e-12)
    columns = 24 if values.shape[2] <= 5 else 16  # kernels of few pixels are seen in less room
    lines = math.ceil(len(values) / columns)
    ratio = min(values.shape[1] / values.shape[2], TALLEST)
    figure, (axes,) = panels(0.15 + lines * WIDE / columns * ratio)
    shown = (values / scale + 1) / 2
    # People who do not see some colours read this scale too.
    _tiles(axes, shown if values.ndim == 4 else mpl.colormaps["PuOr_r"](shown)[..., :3], columns, 0.14)
    return figure


def _tiles(
    axes: Axes,
    images: Images,
    columns: int,
    below: float,
    captions: Sequence[Sequence[str]] = (),
    room: float = 0.0,
) -> None:
    """Draw images as tiles, with gaps that let the page through. below: room under each, in shares of its height.
    captions: lines of each. room: points that a line may take."""
    height, width = images.shape[1:3]
    for index, image in enumerate(images):
        line, column = divmod(index, columns)
        left, top = column * width * PITCH, line * height * (1 + below)
        coloured = image if image.ndim == 3 else np.repeat(image[..., None], 3, 2)
        axes.imshow(np.clip(coloured, 0, 1), interpolation="none", extent=(left, left + width, top + height, top))
        if captions:
            place = left + width / 2, top + height + 0.04 * min(height, width)
            text = "\n".join(fitted(each, room, CAPTION) for each in captions[index])
            axes.text(*place, text, ha="center", va="top", fontsize=CAPTION, linespacing=LINE / CAPTION)
    lines = math.ceil(len(images) / columns)
    axes.set_xlim(-0.05 * width, columns * PITCH * width)
    axes.set_ylim(lines * height * (1 + below), -0.02 * height)
    axes.set_aspect("equal")
    axes.set_axis_off()


@styled()
def shares_of_time(shares: Sequence[dict[str, float]]) -> Figure:
    """Draw what each stage did, as shares of its time."""
    figure, (axes,) = panels(0.9 + 0.34 * len(shares))
    left = np.zeros(len(shares))
    # Without publish, whose thread is at work beside the other one: with it they would be more than the whole.
    for name, kind in (("compute", 0), ("input", 3), ("credit", 4), ("blocked", 5), ("exchange", 6)):
        label = ACTIVITIES[kind] if kind else "computes"
        # A stranger's shares may be any numbers.
        widths = np.array([max(0.0, min(1.0, stage.get(name, 0.0))) for stage in shares])
        axes.barh(range(len(shares)), widths, left=left, color=KIND_COLOURS[kind], label=label, height=0.62)
        left += widths
    _stages(axes, len(shares))
    axes.set_xlim(0, max(1.0, float(left.max())))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:.0f} %"))
    axes.set_xlabel("share of the stage's time")
    figure.legend(loc="outside upper right", ncols=4)
    return figure


@styled()
def timeline(found: Timeline) -> Figure:
    """Draw the work of all stages as shares of short times, and below it single spans from its middle."""
    stages = len(found.shares)
    figure, (whole, part) = panels(1.8 + 0.75 * min(stages, 16), lines=2)
    bins = found.shares.shape[2]
    x = (np.arange(bins + 1)) * found.seconds / bins
    for stage in range(stages):
        bottom = np.full(bins, float(stage) - 0.4)
        for kind in range(len(ACTIVITIES)):
            top = bottom + 0.8 * np.clip(found.shares[stage, kind], 0, 1)
            if found.shares[stage, kind].any():
                whole.stairs(top, x, baseline=bottom, fill=True, color=KIND_COLOURS[kind], linewidth=0)
            bottom = top
    # trace.json is written anew at each start.
    whole.set_title("since the run began, or was last resumed: what each stage did with its time")
    part.set_title("a moment in the middle of that, span by span")
    if found.spans:
        starts, seconds = [span.start for span in found.spans], [span.seconds for span in found.spans]
        tints = [KIND_COLOURS[span.kind] for span in found.spans]
        part.barh([span.stage for span in found.spans], seconds, 0.8, starts, color=tints, linewidth=0)
        part.set_xlim(found.spans[0].start, max(span.start + span.seconds for span in found.spans))
    for axes in (whole, part):
        _stages(axes, stages)
        axes.set_xlabel("seconds")
        axes.xaxis.set_major_locator(MaxNLocator(8))
    whole.set_xlim(0, found.seconds)
    used = [kind for kind in range(len(ACTIVITIES)) if found.shares[:, kind].any()]
    hands = [Patch(color=KIND_COLOURS[kind], label=ACTIVITIES[kind]) for kind in used]
    figure.legend(handles=hands, loc="outside upper right", ncols=6)
    return figure


@styled()
def memory_of_stages(memory: Memory) -> Figure:
    """Draw what was foretold of each stage, kind by kind, and what was measured."""
    figure, (axes,) = panels(1.1 + 0.42 * len(memory.layers))
    left = np.zeros(len(memory.layers))
    tints = (FAINT, SERIES[5], SERIES[0], SERIES[2], SERIES[4], SERIES[1], SERIES[3], INK)
    for kind, name in enumerate(MEMORY_KINDS):
        sizes = np.array([stage[kind] for stage in memory.predicted]) / 2**20
        if sizes.any():
            axes.barh(range(len(left)), sizes, left=left, color=tints[kind], label=name, height=0.55)
        left += sizes
    if peaks := {stage: peak / 2**20 for stage, peak in enumerate(memory.measured) if peak is not None}:
        stage = np.array(list(peaks))
        axes.vlines(list(peaks.values()), stage - 0.4, stage + 0.4, color=INK, linewidth=2.4, label="measured peak")
    _stages(axes, len(left))
    axes.set_xlabel("MiB")
    figure.legend(loc="outside upper right", ncols=9)
    return figure


def _stages(axes: Axes, count: int) -> None:
    axes.set_ylim(count - 0.5, -0.5)
    axes.yaxis.set_major_locator(MaxNLocator(min(count, 16), integer=True))
    if count <= 16:
        axes.set_yticks(range(count), [f"stage {index}" for index in range(count)])
    axes.grid(False, axis="y")

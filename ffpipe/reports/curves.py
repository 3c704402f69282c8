"""Pictures of numbers against steps: errors, losses, learning rates, sizes of weights and activities."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from numpy.typing import NDArray

from ffpipe.reports.drawing import HALF, INK, colours, few, panels, shortened, styled
from ffpipe.reports.gather import HEAD, Curve, block_name

# Points of a series that a picture has room for, and the ratio of numbers beyond which their scale is logarithmic.
MOST_POINTS = 400
LARGE_RATIO = 30.0
DASHES_OF_RUNS = ("-", "--", "-.", ":")
# Small pictures side by side.
PANELS_A_LINE = 4
DASHES = {"test": "-", "validation": "--", "train": ":"}
PERCENT = FuncFormatter(lambda share, _: f"{100 * share:g} %")


@styled()
def blocks_against_steps(
    curves: Sequence[Curve], title: str, label: str, epoch: float, percent: bool = False
) -> Figure:
    """Draw a series of each block. epoch: steps of one; 0: not known."""
    figure, (axes,) = panels(3.3, width=HALF)
    blocks = [curve for curve in curves if curve.name != block_name(HEAD)]
    named = few(len(blocks))
    for index, (curve, colour) in enumerate(zip(blocks, colours(len(blocks)), strict=True)):
        _plot(axes, curve, color=colour, label=curve.name if index in named else None)
    for curve in curves:
        if curve.name == block_name(HEAD):
            _plot(axes, curve, color=INK, linestyle="--", label="softmax head")
    axes.set_title(title)
    axes.set_ylabel(label)
    _scale(axes, curves, percent)
    _against_steps(axes, epoch)
    _legend(figure, [axes], 4)
    return figure


@styled()
def errors_against_steps(errors: Mapping[str, Sequence[Curve]], epoch: float) -> Figure:
    """Draw the errors of every read-out on every split. errors: by split."""
    figure, (axes,) = panels(3.6)
    readouts = list(dict.fromkeys(curve.name for curves in errors.values() for curve in curves))
    colour = dict(zip(readouts, colours(len(readouts)), strict=True))
    for split, curves in errors.items():
        for curve in curves:
            marker = "o" if split == "test" or len(curve.steps) < 30 else ""
            _plot(
                axes, curve, color=colour[curve.name], label=f"{split}, by {curve.name}", marker=marker,
                linestyle=DASHES.get(split, "-."), markersize=6 if split == "test" else 3.5,
            )  # fmt: skip
    axes.set_ylabel("share of examples answered wrongly")
    _scale(axes, [curve for curves in errors.values() for curve in curves], True)
    _against_steps(axes, epoch)
    _legend(figure, [axes], 6)
    return figure


@dataclass(frozen=True)
class OfRun:
    """A series of one of several runs. index: of the run, for its colour. epoch: steps of one; 0: not known."""

    index: int
    name: str
    curve: Curve
    epoch: float


@styled()
def runs_against_epochs(found: Sequence[OfRun], runs: int, title: str) -> Figure:
    """Draw errors of each of several runs. runs: how many there are in all."""
    figure, (axes,) = panels(3.6)
    by_epoch = all(each.epoch for each in found)
    _plot_runs(axes, found, runs, by_epoch, most_dots=29)
    axes.set_title(title)
    axes.set_ylabel("share")
    axes.set_xlabel("epochs" if by_epoch else "steps")
    axes.set_xlim(left=0)
    _scale(axes, [each.curve for each in found], True)
    _legend(figure, [axes], 3)
    return figure


@styled()
def runs_by_block(blocks: Mapping[str, Sequence[OfRun]], runs: int, label: str, percent: bool) -> Figure:
    """Draw a small picture of each block, and in it a series of each of several runs. runs: how many there are in all.

    blocks: series by the name of the block. The scales of all are the same, so that blocks can be compared too.
    """
    columns = min(len(blocks), PANELS_A_LINE)
    lines = -(-len(blocks) // columns)
    figure, grid = panels(0.9 + 2.1 * lines, lines, columns, sharey=True)
    shown = [each for found in blocks.values() for each in found]
    by_epoch = all(each.epoch for each in shown)
    longest = max(each.curve.steps[-1] / (each.epoch if by_epoch else 1) for each in shown)
    for axes, (block, found) in zip(grid, blocks.items(), strict=False):
        _plot_runs(axes, found, runs, by_epoch, most_dots=1, width=1.2)
        axes.set_title(block)
        axes.set_xlim(0, 1.03 * longest)
        axes.xaxis.set_major_locator(MaxNLocator(5))
    for axes in grid[len(blocks) :]:
        axes.set_axis_off()
    for axes in grid[len(blocks) - columns : len(blocks)]:
        axes.set_xlabel("epochs" if by_epoch else "steps")
    for axes in grid[::columns]:
        axes.set_ylabel(label)
    # All share the scale of the first.
    _scale(grid[0], [each.curve for each in shown], percent)
    _legend(figure, grid, 3)
    return figure


def _plot_runs(
    axes: Axes, found: Sequence[OfRun], runs: int, by_epoch: bool, most_dots: int, width: float | None = None
) -> None:
    """Draw a series of each run. most_dots: points that a series may have to be drawn with dots."""
    for each in found:
        steps, values = _thinned(each.curve)
        axes.plot(
            steps / (each.epoch if by_epoch else 1), values, DASHES_OF_RUNS[each.index % 4],
            color=colours(runs)[each.index], label=shortened(each.name, 40), markersize=4,
            marker="o" if len(values) <= most_dots else "", linewidth=width,
        )  # fmt: skip


def _legend(figure: Figure, panels: Iterable[Axes], columns: int) -> None:
    """Name each series once, below the picture, where a name can hide no line."""
    named = {name: hand for axes in panels for hand, name in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(list(named.values()), list(named), loc="outside lower center", ncols=min(columns, len(named)))


def _plot(axes: Axes, curve: Curve, **style: object) -> None:
    steps, values = _thinned(curve)
    if len(values) == 1:  # a line of one point is not seen
        style = {"marker": "o", **{name: value for name, value in style.items() if (name, value) != ("marker", "")}}
    axes.plot(steps, values, **style)  # type: ignore[arg-type]  # any style


def _thinned(curve: Curve) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return steps and means of neighbouring points, where there are more than a picture has room for."""
    steps, values = np.array(curve.steps, np.float64), np.array(curve.values, np.float64)
    if len(values) <= MOST_POINTS:
        return steps, values
    parts = np.array_split(np.arange(len(values)), MOST_POINTS)
    return np.array([steps[part[-1]] for part in parts]), np.array([values[part].mean() for part in parts])


def _scale(axes: Axes, curves: Sequence[Curve], percent: bool) -> None:
    """Choose a linear or a logarithmic scale, and what stands at its ticks."""
    finite = [value for curve in curves for value in curve.values if math.isfinite(value)]
    positive = [value for value in finite if value > 0]
    wide = bool(positive) and max(positive) > LARGE_RATIO * min(positive)
    if wide and len(positive) == len(finite):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(
            LogLocator(subs=(1.0, 2.0, 5.0) if max(positive) < 1e3 * min(positive) else (1.0,))
        )
        # Else a scale of less than a power of ten has a number at each of its small ticks too.
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.yaxis.set_major_formatter(PERCENT if percent else FuncFormatter(lambda value, _: f"{value:g}"))
        return
    if finite and min(finite) >= 0:
        # At least a little: a scale of zeros alone has no extent, of which matplotlib warns.
        axes.set_ylim(0, max(max(finite) * 1.06, 1e-9))
    if percent:
        axes.yaxis.set_major_formatter(PERCENT)


def _against_steps(axes: Axes, epoch: float) -> None:
    """Put steps below the picture, and epochs above it where an epoch is known."""
    axes.set_xlabel("steps")
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    if epoch:
        above = axes.secondary_xaxis("top", functions=(partial(np.multiply, 1 / epoch), partial(np.multiply, epoch)))
        above.set_xlabel("epochs")
        above.xaxis.set_major_locator(MaxNLocator(8, integer=axes.get_xlim()[1] > 2 * epoch))

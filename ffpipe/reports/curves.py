"""Pictures of numbers against steps: errors, losses, learning rates, sizes of weights and activities."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from numpy.typing import ArrayLike, NDArray

from ffpipe.reports.drawing import HALF, INK, WIDE, colours, few, shortened, styled
from ffpipe.reports.gather import HEAD, Curve, block_name

# Points of a series that a picture has room for, and the ratio of numbers beyond which their scale is logarithmic.
MOST_POINTS = 400
LARGE_RATIO = 30.0
DASHES_OF_RUNS = ("-", "--", "-.", ":")
# Small pictures side by side.
PANELS_A_LINE = 4
DASHES = {"test": "-", "validation": "--", "train": ":"}
MARKERS = {"test": "o", "validation": "", "train": ""}
PERCENT = FuncFormatter(lambda share, _: f"{100 * share:g} %")


def blocks_against_steps(
    curves: Sequence[Curve], title: str, label: str, epoch: float, percent: bool = False
) -> Figure:
    """Draw a series of each block. epoch: steps of one; 0: not known."""
    with styled():
        figure = Figure(figsize=(HALF, 3.3))
        axes = figure.subplots()
        blocks = [curve for curve in curves if curve.name != block_name(HEAD)]
        named = few(len(blocks))
        for index, (curve, colour) in enumerate(zip(blocks, colours(len(blocks)), strict=True)):
            _plot(axes, curve, color=colour, label=curve.name if index in named else None)
        for curve in curves:
            if curve.name == block_name(HEAD):
                _plot(axes, curve, color=INK, linestyle="--", label="softmax head")
        axes.set_title(title)
        axes.set_ylabel(label)
        _scale(axes, [value for curve in curves for value in curve.values], percent)
        _against_steps(axes, epoch)
        _legend(figure, axes, 4)
    return figure


def errors_against_steps(errors: Mapping[str, Sequence[Curve]], epoch: float) -> Figure:
    """Draw the errors of every read-out on every split. errors: by split."""
    with styled():
        figure = Figure(figsize=(WIDE, 3.6))
        axes = figure.subplots()
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
        _scale(axes, [value for curves in errors.values() for curve in curves for value in curve.values], True)
        _against_steps(axes, epoch)
        _legend(figure, axes, 6)
    return figure


@dataclass(frozen=True)
class OfRun:
    """A series of one of several runs. index: of the run, by which it has its colour. epoch: steps of one; 0: not
    known."""

    index: int
    name: str
    curve: Curve
    epoch: float


def runs_against_epochs(found: Sequence[OfRun], runs: int, title: str, label: str, percent: bool) -> Figure:
    """Draw a series of each of several runs. runs: how many there are in all."""
    with styled():
        figure = Figure(figsize=(WIDE, 3.6))
        axes = figure.subplots()
        by_epoch = all(each.epoch for each in found)
        for each in found:
            steps, values = _thinned(each.curve)
            axes.plot(
                steps / (each.epoch if by_epoch else 1), values, DASHES_OF_RUNS[each.index % 4],
                color=colours(runs)[each.index], label=shortened(each.name, 40), markersize=4,
                marker="o" if len(values) < 30 else "",
            )  # fmt: skip
        axes.set_title(title)
        axes.set_ylabel(label)
        axes.set_xlabel("epochs" if by_epoch else "steps")
        axes.set_xlim(left=0)
        _scale(axes, [value for each in found for value in each.curve.values], percent)
        _legend(figure, axes, 3)
    return figure


def runs_by_block(blocks: Mapping[str, Sequence[OfRun]], runs: int, label: str, percent: bool) -> Figure:
    """Draw a small picture of each block, and in it a series of each of several runs. runs: how many there are in all.

    blocks: series by the name of the block. The scales of all are the same, so that blocks can be compared too.
    """
    columns = min(len(blocks), PANELS_A_LINE)
    lines = -(-len(blocks) // columns)
    with styled():
        figure = Figure(figsize=(WIDE, 0.9 + 2.1 * lines))
        grid = figure.subplots(lines, columns, squeeze=False, sharey=True).flatten()
        by_epoch = all(each.epoch for found in blocks.values() for each in found)
        longest = max(
            each.curve.steps[-1] / (each.epoch if by_epoch else 1) for found in blocks.values() for each in found
        )
        named: dict[str, Line2D] = {}
        for axes, (block, found) in zip(grid, blocks.items(), strict=False):
            for each in found:
                steps, values = _thinned(each.curve)
                (line,) = axes.plot(
                    steps / (each.epoch if by_epoch else 1), values, DASHES_OF_RUNS[each.index % 4],
                    color=colours(runs)[each.index], linewidth=1.2, markersize=4,
                    marker="o" if len(values) == 1 else "",
                )  # fmt: skip
                named.setdefault(each.name, line)
            axes.set_title(block)
            axes.set_xlim(0, 1.03 * longest)
            axes.xaxis.set_major_locator(MaxNLocator(5))
        for axes in grid[len(blocks) :]:
            axes.set_axis_off()
        for axes in grid[max(0, len(blocks) - columns) : len(blocks)]:
            axes.set_xlabel("epochs" if by_epoch else "steps")
        for axes in grid[::columns]:
            axes.set_ylabel(label)
        _scale(grid[0], [value for found in blocks.values() for each in found for value in each.curve.values], percent)
        labels = [shortened(name, 40) for name in named]
        figure.legend(list(named.values()), labels, loc="outside lower center", ncols=min(3, len(named)))
    return figure


def _legend(figure: Figure, axes: Axes, columns: int) -> None:
    """Name the series below the picture, where a name can hide no line."""
    hands, names = axes.get_legend_handles_labels()
    figure.legend(hands, names, loc="outside lower center", ncols=min(columns, len(names)))


def _plot(axes: Axes, curve: Curve, **style: object) -> None:
    steps, values = _thinned(curve)
    if len(values) == 1:
        style = {"marker": "o", **{name: value for name, value in style.items() if (name, value) != ("marker", "")}}
    axes.plot(steps, values, **style)  # type: ignore[arg-type]  # any style


def _thinned(curve: Curve) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return steps and means of neighbouring points, where there are more than a picture has room for."""
    steps, values = np.array(curve.steps, np.float64), np.array(curve.values, np.float64)
    if len(values) <= MOST_POINTS:
        return steps, values
    parts = np.array_split(np.arange(len(values)), MOST_POINTS)
    return np.array([steps[part[-1]] for part in parts]), np.array([values[part].mean() for part in parts])


def _scale(axes: Axes, values: Sequence[float], percent: bool) -> None:
    """Choose a linear or a logarithmic scale, and what stands at its ticks."""
    finite = [value for value in values if math.isfinite(value)]
    positive = [value for value in finite if value > 0]
    wide = bool(positive) and max(positive) > LARGE_RATIO * min(positive)
    if wide and len(positive) == len(finite):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(
            LogLocator(subs=(1.0, 2.0, 5.0) if max(positive) < 1e3 * min(positive) else (1.0,))
        )
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.yaxis.set_major_formatter(PERCENT if percent else FuncFormatter(lambda value, _: f"{value:g}"))
        return
    if finite and min(finite) >= 0:
        axes.set_ylim(0, max(max(finite) * 1.06, 1e-9))
    if percent:
        axes.yaxis.set_major_formatter(PERCENT)


def _times(factor: float) -> Callable[[ArrayLike], ArrayLike]:
    return lambda values: np.multiply(values, factor)


def _against_steps(axes: Axes, epoch: float) -> None:
    """Put steps below the picture, and epochs above it where an epoch is known."""
    axes.set_xlabel("steps")
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    if epoch:
        above = axes.secondary_xaxis("top", functions=(_times(1 / epoch), _times(epoch)))
        above.set_xlabel("epochs")
        above.xaxis.set_major_locator(MaxNLocator(8, integer=axes.get_xlim()[1] > 2 * epoch))

"""Curves of our runs beside the published ones, as PNG.

    python scripts/plot_curves.py mono-forward|dgl [--results scripts/results] [--folder docs/curves]

mono-forward: validation loss of each layer by epoch; theirs learn one after another, ours all at once. dgl: accuracy
of each block by epoch; theirs is of the test split, ours of the validation split. Needs matplotlib.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

SCRIPTS = Path(__file__).parent


class Curves(NamedTuple):
    """One line a block, as (epoch, figure)."""

    source: str
    blocks: list[list[tuple[int, float]]]


# BeyondBackpropagation (arXiv 2511.01061), slurm_logs/mf/MF_C10_MLP_s1-1400918.out.
MONO_FORWARD = Curves(
    "BeyondBackpropagation, one layer after another",
    [
        list(enumerate(losses, 1))
        for losses in (
            (1.640, 1.519, 1.495, 1.472, 1.451, 1.412, 1.463, 1.397, 1.412, 1.368, 1.364, 1.383, 1.346, 1.387, 1.345),
            (1.275, 1.237, 1.221, 1.206, 1.166, 1.159, 1.194, 1.155, 1.162, 1.173, 1.139, 1.141, 1.141, 1.134, 1.124),
            (1.131, 1.125, 1.128, 1.123, 1.140, 1.136, 1.145, 1.136),
        )
    ],
)
# DGL (arXiv 1901.08164), learning_curves/parallel.log: test accuracy in percent, rate .1 until epoch 15, then a fifth.
DGL_EPOCHS = (1, 2, 3, 4, 5, 10, 15, 16, 20, 30, 31, 40, 46, 50)
DGL = Curves(
    "DGL's parallel.log, test split",
    [
        list(zip(DGL_EPOCHS, accuracies, strict=True))
        for accuracies in (
            (39.36, 45.49, 50.13, 56.20, 52.10, 59.27, 62.13, 71.59, 71.88, 72.09, 76.14, 76.97, 78.21, 78.35),
            (43.16, 52.03, 52.51, 61.54, 55.73, 68.24, 65.83, 78.28, 78.66, 75.76, 83.90, 84.12, 85.19, 85.25),
            (46.95, 51.24, 52.52, 62.04, 58.83, 69.50, 68.43, 80.88, 81.63, 79.18, 86.20, 86.61, 87.98, 87.90),
            (49.48, 56.63, 56.48, 67.07, 65.31, 73.90, 76.23, 84.30, 84.61, 83.13, 88.77, 88.93, 90.01, 89.86),
        )
    ],
)


Measure = Callable[[dict[str, Any], str], float]


def of_losses(evaluation: dict[str, Any], block: str) -> float:
    return float(evaluation["losses"][block])


def of_accuracy(evaluation: dict[str, Any], block: str) -> float:
    return 100 - 100 * float(evaluation["errors"][block])


def curves(path: Path, measure: Measure) -> Curves:
    """Return the results of a run's validations, from the summary of a row and seed."""
    summary = json.loads(path.read_text(encoding="utf-8"))
    steps_per_epoch = summary["steps"] // summary["epochs"]
    found = [evaluation for evaluation in summary["evaluations"] if evaluation["split"] == "validation"]
    names = sorted(name for name in found[0]["errors"] if name.startswith("block."))
    lines = [[(round(each["step"] / steps_per_epoch), measure(each, name)) for each in found] for name in names]
    return Curves(f"ffpipe {path.parent.parent.name}, validation split", lines)


PUBLISHED: dict[str, tuple[Curves, Measure, str]] = {
    "mono-forward": (MONO_FORWARD, of_losses, "validation loss, nats"),
    "dgl": (DGL, of_accuracy, "accuracy, %"),
}


def draw(theirs: Curves, ours: dict[str, list[Curves]], label: str, path: Path) -> None:
    """Draw ours, by row, as a line for each seed, theirs as dots of the same colour."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    for index, published in enumerate(theirs.blocks):
        axes.plot(*zip(*published, strict=True), "o:", color=f"C{index}", markersize=4, linewidth=0.8)
        for style, seeds in zip(("-", "--", "-."), ours.values(), strict=False):
            for seed, mine in enumerate(seeds):
                said = None if seed else f"block {index}, {mine.source}"  # once for all seeds
                axes.plot(*zip(*mine.blocks[index], strict=True), style, color=f"C{index}", label=said)
    axes.plot([], [], "o:", color="grey", label=theirs.source)
    axes.set(xlabel="epoch", ylabel=label)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120, metadata={"Software": None})
    plt.close(figure)
    print(path)


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("row", choices=PUBLISHED)
    parser.add_argument("--results", type=Path, default=SCRIPTS / "results")
    parser.add_argument("--folder", type=Path, default=SCRIPTS.parent / "docs" / "curves")
    options = parser.parse_args()
    row = options.row
    every = sorted(options.results.glob(f"{row}*/*/summary.json"))
    found = [path for path in every if not path.parts[-3].endswith("-backprop")]
    if not found:
        print(f"{options.results}: no finished run of {row}: python scripts/reproduce.py {row}", file=sys.stderr)
        return 2
    theirs, measure, label = PUBLISHED[row]
    ours: dict[str, list[Curves]] = {}
    for path in found:
        ours.setdefault(path.parent.parent.name, []).append(curves(path, measure))
    draw(theirs, ours, label, options.folder / f"{row}.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())

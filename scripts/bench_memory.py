"""Memory and speed against depth, width and batch size: backpropagation, and this trainer by its engines.

    python scripts/bench_memory.py [PART...] [--again] [--device cuda]

Parts, all by default:

depth-WIDTH  peak resident memory of the largest stage, and examples a second, at 2 to 64 layers, batch 100
batch        the same at 8 layers of 1000 with batches of 100, 400 and 1200
stages       one layer a stage, 2 to 16 stages: the peak of one stage
conv         4 and 16 convolutions of 128 channels at 8 x 8 with class heads, batch 400
transformer  the same of transformer blocks of width 256 on 64 tokens, batch 50
settings     chunks of more than one minibatch and a head on all layers, which the other parts do not have
tensors      exact bytes of the tensors of one stage at 2 to 64 layers, as torch's allocator counts them

The driver, which trains nothing, and Ray's own processes are not counted. With --device cuda what is counted are the
bytes of tensors on the GPU instead of those of the process.

Every row is a run in a process of its own (memory_run.py) on one thread a process, with what arithmetic had predicted
beside what was measured. Rows that were run are kept in scripts/results/memory.json and not run again without
--again; the last line is JSON, the plot scripts/results/memory.png.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl
from memory_tensors import stage_tensors
from rich.console import Console
from rich.table import Table

mpl.use("Agg")
from matplotlib import pyplot as plt  # after the choice of a backend that needs no screen

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "memory.json"
PLOT = HERE / "results" / "memory.png"
DEPTHS = (2, 4, 8, 16, 32, 64)
SETTINGS = (100, 400)
BATCHES = (100, 400, 1200)
STEPS = 14
# Ways to train, and what they are called in the table.
WAYS: dict[str, dict[str, Any]] = {
    "backpropagation": {"kind": "backprop"},
    "... checkpointing": {"kind": "checkpointing"},
    "... accumulation": {"kind": "accumulation"},
    "streaming, 1 stage": {"kind": "ray", "stages": 1},
    "streaming, 2 stages": {"kind": "ray", "stages": 2},
    "streaming, 4 stages": {"kind": "ray", "stages": 4},
    "layerwise": {"kind": "layerwise"},
}
ONE_LAYER = "one layer a stage"
BLOCK_DEPTHS = (4, 16)
BLOCKS = {"conv": {"width": 128, "batch": 400}, "transformer": {"width": 256, "batch": 50}}

Run = dict[str, Any]


def runs(part: str) -> Iterator[tuple[str, Run]]:
    """Yield way and sizes of the rows of a part."""
    if part.startswith("depth-"):
        for depth in DEPTHS:
            for way, fixed in WAYS.items():
                if fixed.get("stages", 1) <= depth:
                    yield way, fixed | {"depth": depth, "width": int(part.removeprefix("depth-")), "batch": 100}
    elif part == "batch":
        for batch in BATCHES:
            for way, fixed in WAYS.items():
                yield way, fixed | {"depth": 8, "width": 1000, "batch": batch}
    elif part == "stages":
        for depth in DEPTHS[:4]:
            yield ONE_LAYER, {"kind": "ray", "stages": depth, "depth": depth, "width": 1000, "batch": 100}
    elif part in BLOCKS:
        for depth in BLOCK_DEPTHS:
            for way in ("streaming, 2 stages", "layerwise", ONE_LAYER):
                fixed = WAYS.get(way, {"kind": "ray", "stages": depth})
                yield way, fixed | BLOCKS[part] | {"depth": depth, "blocks": part}
    elif part == "settings":
        for batch in SETTINGS:
            fixed = {"depth": 16, "width": 1000, "batch": batch, "seen": 15}
            yield "layerwise, its own chunk, head on all layers", fixed | {"kind": "layerwise", "chunk": 0}
            if batch == SETTINGS[0]:
                yield "2 stages, chunk 4, head on all layers", fixed | {"kind": "ray", "stages": 2, "chunk": 4}


def measure(run: Run, known: dict[str, Any], device: str) -> dict[str, Any]:
    """Measure one run, or return what is known of it. Exits where it fails."""
    key = key_of(run, device)
    if key not in known:
        steps = max(2, STEPS * 100 // run["batch"])
        command = [sys.executable, str(HERE / "memory_run.py"), json.dumps(json.loads(key) | {"steps": steps})]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=_environment())
        if done.returncode:
            sys.exit(f"{key}: {done.stderr.strip().splitlines()[-1:]}")
        known[key] = json.loads(done.stdout.splitlines()[-1])
        _keep(known)
    found: dict[str, Any] = known[key]
    return found


def key_of(run: Run, device: str) -> str:
    """Return a run's sizes, as the benchmark keeps them and hands them to the run."""
    return json.dumps(run | ({"device": device} if device != "cpu" else {}), sort_keys=True)


def _environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1"}


def _keep(known: dict[str, Any]) -> None:
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def table_of(part: str, known: dict[str, Any], device: str) -> tuple[Table, list[dict[str, Any]]]:
    table = Table(
        "depth", "width", "batch", "way", "peak MB", "predicted MB", "off", "sum MB", "examples/s", title=part
    )
    rows = []
    for way, run in runs(part):
        found = measure(run, known, device)
        off = found["predicted"] / found["peak"] - 1
        rows.append(run | found | {"way": way, "off": off})
        sizes = [f"{found[name] / 1e6:,.0f}" for name in ("peak", "predicted")]
        cells = [str(run[name]) for name in ("depth", "width", "batch")]
        rate = f"{found['examples_per_second']:,.0f}"
        table.add_row(*cells, way, *sizes, f"{off:+.1%}", f"{found['sum'] / 1e6:,.0f}", rate)
    return table, rows


def tensor_table() -> tuple[Table, dict[str, Any]]:
    table = Table("layers", "middle stage MB", "predicted", "last stage MB", "predicted", title="tensors, width 1000")
    found: dict[str, Any] = {}
    for depth in DEPTHS:
        found[str(depth)] = of = stage_tensors(depth, 1000, 100, 4)
        cells = [f"{size / 1e6:.2f}" for name in ("middle", "last") for size in of[name]]
        table.add_row(str(depth), *cells)
    return table, found


def spread(sizes: list[int]) -> float:
    """Return how far the largest is above the smallest."""
    return max(sizes) / min(sizes) - 1 if sizes else 0.0


def plot(rows: list[dict[str, Any]]) -> None:
    """Draw the peak of the largest stage against depth, a panel for each width."""
    widths = sorted({row["width"] for row in rows})
    figure, panels = plt.subplots(1, len(widths), figsize=(1 + 5 * len(widths), 4.5), squeeze=False)
    for width, axes in zip(widths, panels[0], strict=True):
        for way in (*WAYS, ONE_LAYER):
            # A run that two parts have in common is one point.
            points = sorted({(row["depth"], row["peak"] / 2**20) for row in rows if _is(row, way, width)})
            if points:
                axes.plot(*zip(*points, strict=True), marker="o", label=way)
        axes.set_xscale("log", base=2)
        axes.set_xticks(DEPTHS, [str(depth) for depth in DEPTHS])
        axes.set_xlabel(f"layers of {width} units, batch 100")
        axes.set_ylabel("peak of the largest stage, MiB resident")
        axes.set_ylim(bottom=0)
        axes.legend()
        axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(PLOT, dpi=90)


def known_depths(known: dict[str, Any]) -> list[dict[str, Any]]:
    """Return all runs of the parts that the plot shows, so that it is whole whichever of them was run now."""
    rows = [(way, run) for part in ("depth-1000", "depth-2000", "stages") for way, run in runs(part)]
    return [run | known[key_of(run, "cpu")] | {"way": way} for way, run in rows if key_of(run, "cpu") in known]


def _is(row: dict[str, Any], way: str, width: int) -> bool:
    return (row["way"], row["width"]) == (way, width)


def main() -> None:
    parts = ("depth-1000", "depth-2000", "batch", "stages", *BLOCKS, "settings", "tensors")
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(parts)}")
    parser.add_argument("--again", action="store_true", help="run also what is known")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="cuda: tensors on the GPU instead")
    options = parser.parse_args()
    if unknown := [part for part in options.parts if part not in parts]:
        parser.error(f"unknown part {unknown[0]!r}; there are {', '.join(parts)}")
    known: dict[str, Any] = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    told: dict[str, Any] = {"benchmark": "memory"}
    every: list[dict[str, Any]] = []
    for part in options.parts or parts:
        if part == "tensors":
            table, told["tensors"] = tensor_table()
        else:
            if options.again:
                for _, run in runs(part):
                    known.pop(key_of(run, options.device), None)
            table, rows = table_of(part, known, options.device)
            every += rows
        Console(width=120).print(table)
    depths = [row for row in every if row["batch"] == 100 and "blocks" not in row]
    told["worst_prediction"] = max((abs(row["off"]) for row in every), default=None)
    for part in BLOCKS:
        rows = [row for row in every if row.get("blocks") == part]
        for way in sorted({row["way"] for row in rows}):
            told[f"growth of {part}, {way}"] = spread([row["peak"] for row in rows if row["way"] == way])
    for way in ("layerwise", ONE_LAYER):
        told[f"growth of {way}"] = {
            str(width): spread([row["peak"] for row in depths if row["way"] == way and row["width"] == width])
            for width in sorted({row["width"] for row in depths if row["way"] == way})
        }
    if options.device == "cpu" and depths:
        plot(known_depths(known))
    print(json.dumps(told))


if __name__ == "__main__":
    main()

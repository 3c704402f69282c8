"""Scaling: throughput against stages, size of messages, batch and link, measured, beside what `ffpipe plan` forecasts.

    python scripts/scaling.py [PART...]     parts: strong, weak, hard, message, batch, link; all by default

strong   one network on more and more stages: 16 layers of 10 ms, and 4 real ones of 1000 units
weak     a layer more for each stage: of 20 ms, and real
hard     the same with hard negatives and a lag of 128
message  4 stages of 20 ms that send 0.3 to 4.8 MB a minibatch
batch    4 real layers of 1000 units on 2 stages, by batch size
link     3 stages of 20 ms on three hosts (network namespaces; Linux, root), by the rate of each host's link

Layers of a set time stand for devices that this machine does not have; real ones are run where there are cores for
them. Each point is measured in a process of its own and kept in scripts/results/scaling.json: broken off, the sweep
goes on where it was; --again measures anew. The forecast is made anew each time, from the times of the layers alone.
Writes scaling.csv and scaling.png beside it. The last line is JSON. Rates are medians of the rounds of what comes out
of the full pipeline."""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import matplotlib as mpl
from hosts import NotAllowed, make_hosts
from rayhosts import RayHosts
from rich.console import Console
from rich.table import Table
from scaling_run import CORES, Point, forecast_of

from ffpipe.system.units import format_rate

mpl.use("Agg")
from matplotlib import pyplot as plt  # after the choice of a backend that needs no screen

HERE = Path(__file__).parent
RESULTS = HERE / "results"
KNOWN, CSV, PLOT = RESULTS / "scaling.json", RESULTS / "scaling.csv", RESULTS / "scaling.png"
ROUNDS = 3
GBIT = 1e9 / 8
HOSTS = 3
SECONDS = 600.0


def set_time(depth: int, stages: int, **sizes: Any) -> Point:
    return Point("set", depth, stages, steps=300, rounds=ROUNDS, **sizes)


def real(depth: int, stages: int, *, batch: int = 100) -> Point:
    return Point("real", depth, stages, steps=40_000 // batch, rounds=ROUNDS, batch=batch)


STAGES = (1, 2, 4, 8, 16)
PARTS: dict[str, list[Point]] = {
    "strong": [
        *(set_time(16, stages, milliseconds=10.0) for stages in STAGES),
        *(real(4, stages) for stages in (1, 2, 4) if stages <= CORES),
    ],
    "weak": [
        *(set_time(stages, stages) for stages in STAGES),
        *(real(stages, stages) for stages in (1, 2, 4) if stages <= CORES),
    ],
    "hard": [set_time(stages, stages, negatives="hard") for stages in STAGES[1:]],
    "message": [set_time(4, 4, width=width) for width in (250, 500, 1000, 2000, 4000)],
    "batch": [real(4, 2, batch=batch) for batch in (25, 50, 100, 200, 400)],
    "link": [set_time(HOSTS, HOSTS, link=gigabits * GBIT) for gigabits in (2.0, 1.0, 0.4, 0.2)],
}


def measure(point: Point, known: dict[str, Any]) -> dict[str, Any]:
    """Run a point, or tell what is known of it. Raises NotAllowed where there can be no hosts; exits where it fails."""
    key = key_of(point)
    if key not in known:
        done = _over_hosts(key, point.link) if point.link else _here(key)
        if done.returncode:
            sys.exit(f"{key}: {done.stderr.strip()[-2000:]}")
        known[key] = json.loads(done.stdout.splitlines()[-1])
        RESULTS.mkdir(exist_ok=True)
        KNOWN.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    found: dict[str, Any] = known[key]
    return found


def key_of(point: Point) -> str:
    """Return its sizes, as the sweep keeps them and hands them to the run."""
    return json.dumps(dataclasses.asdict(point), sort_keys=True)


def _command(key: str) -> list[str]:
    return [sys.executable, str(HERE / "scaling_run.py"), key]


def _here(key: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(_command(key), capture_output=True, text=True, check=False, env=environment)


def _over_hosts(key: str, link: float) -> subprocess.CompletedProcess[str]:
    """Run on the first of three hosts, whose links carry so many bytes a second in each direction."""
    with ExitStack() as on:
        short = tempfile.TemporaryDirectory(prefix="ffh-", dir="/tmp", ignore_cleanup_errors=True)
        folder = Path(on.enter_context(short))
        hosts = on.enter_context(make_hosts(HOSTS, folder))
        cluster = RayHosts(hosts, folder)
        for host in hosts:
            on.enter_context(host.limited(f"{round(link * 8 / 1e6)}mbit"))
        return hosts[0].run(*_command(key), env=cluster.environment, timeout=SECONDS)


def row_of(part: str, point: Point, found: dict[str, Any]) -> dict[str, Any]:
    """Return a line of the table and of the CSV."""
    return {
        "part": part,
        "layers": f"{point.depth} {'real' if point.layers == 'real' else f'of {point.milliseconds:g} ms'}",
        "stages": point.stages,
        "negatives": point.negatives,
        "width": point.width,
        "batch": point.batch,
        "link": format_rate(point.link) if point.link else "",
        "chunk": found["chunk"],
        "window": found["window"],
        "examples_per_second": round(found["measured"], 1),
        "least": round(found["least"], 1),
        "most": round(found["most"], 1),
        "speed_up": round(found["measured"] / found["one_stage"], 3),
        "efficiency": round(found["measured"] / found["slowest_stage"], 3),
        "forecast": round(found["forecast"], 1),
        "off": round(found["forecast"] / found["measured"] - 1, 4),
        "whole": round(found["whole"], 1),
        "forecast_whole": round(found["forecast_whole"], 1),
        "off_whole": round(found["forecast_whole"] / found["whole"] - 1, 4),
        "bottleneck": found["bottleneck"],
    }


SHOWN = ("layers", "stages", "width", "batch", "link", "chunk", "examples_per_second", "speed_up", "efficiency")
SHARES = ("off", "off_whole")


def table_of(part: str, rows: list[dict[str, Any]]) -> Table:
    names = [name.replace("_", " ").replace("examples per second", "examples/s") for name in SHOWN]
    table = Table(*names, "forecast", "off", "whole run off", title=part)
    for row in rows:
        table.add_row(*(str(row[name]) for name in (*SHOWN, "forecast")), *(f"{row[name]:+.1%}" for name in SHARES))
    return table


def plot(rows: list[dict[str, Any]]) -> None:
    """Draw speed-up against stages, measured as points, forecast as lines."""
    figure, axes = plt.subplots(figsize=(7, 4.5))
    for part in ("strong", "weak", "hard"):
        for kind in ("of", "real"):
            line = [row for row in rows if row["part"] == part and row["layers"].split()[1] == kind]
            if len(line) > 1:
                stages = [row["stages"] for row in line]
                # Weak scaling does more work with every stage: its speed-up is that of all layers together.
                forecast = [row["speed_up"] * (1 + row["off"]) for row in line]
                (drawn,) = axes.plot(stages, forecast, label=f"{part}, {'real' if kind == 'real' else 'set time'}")
                axes.plot(stages, [row["speed_up"] for row in line], "o", color=drawn.get_color())
    axes.plot(STAGES, STAGES, ":", color="grey", label="one a stage")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.set_xticks(STAGES, [str(count) for count in STAGES])
    axes.set_yticks(STAGES, [str(count) for count in STAGES])
    axes.set_xlabel("stages")
    axes.set_ylabel("speed-up over one stage\n(points: measured, lines: forecast)")
    axes.legend()
    axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(PLOT, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--again", action="store_true", help="measure points anew that are known")
    options = parser.parse_args()
    if unknown := [part for part in options.parts if part not in PARTS]:
        parser.error(f"unknown part {unknown[0]!r}; there are {', '.join(PARTS)}")
    known: dict[str, Any] = json.loads(KNOWN.read_text(encoding="utf-8")) if KNOWN.exists() else {}
    rows: list[dict[str, Any]] = []
    for part in options.parts or PARTS:
        if options.again:
            for point in PARTS[part]:
                known.pop(key_of(point), None)
        try:
            measured = [(point, measure(point, known)) for point in PARTS[part]]
        except NotAllowed as error:
            print(f"{part}: cannot be run here, hosts are {error}")
            continue
        found = [row_of(part, point, each | forecast_of(point, each["costs"])) for point, each in measured]
        Console(width=140).print(table_of(part, found))
        rows += found
    if not rows:
        sys.exit(1)
    with CSV.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    plot(rows)
    worst = max(rows, key=lambda row: abs(row["off"]))
    of = [worst[name] for name in ("part", "layers", "stages")]
    print(json.dumps({"benchmark": "scaling", "points": len(rows), "worst_forecast": worst["off"], "of": of}))


if __name__ == "__main__":
    main()

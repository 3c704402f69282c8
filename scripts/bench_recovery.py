"""The cost of snapshots, and how long a run takes to be where it was after a stage is killed.

    python scripts/bench_recovery.py [--rounds 5] [--kills 6] [--width 1000] [--layers 4] [--steps 1050]

Two Ray stages, batch 100, hard negatives, random bytes in the size of MNIST's images, memory kept that steps free, all
else as by default.

Snapshots: interleaved rounds with one every 100 steps, to a temporary folder, and with none before the end; rates are
of the last stage in steady state, and the ratio is the median of those of the pairs.

Recovery: SIGKILL of the first and the last stage in turn, in the middle of a run. Timed is from the kill until the last
stage is past the step at which it was then, less the time that the lost steps take at the rate of the rounds without a
kill. Its parts, in seconds: until the driver notices; the back-off; placement of new actors; measuring; set-up, with
reading the snapshot; and the rest, mostly filling the pipeline. Last comes one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from arguments import natural, positive
from bench_pipeline import BATCH, Sizes, make_config, write_data
from rich.console import Console
from rich.table import Table

from ffpipe.config.schema import Config
from ffpipe.engines.ray.settings import prepare_ray
from ffpipe.pipeline.job import Job, Layout, OnReport, Start, make_job
from ffpipe.planning.layout import Measured
from ffpipe.runs.folder import new_run
from ffpipe.runs.interrupt import Interrupt
from ffpipe.runs.log import RunLog
from ffpipe.runs.run import Run
from ffpipe.runs.view import View
from ffpipe.storage.store import Store
from ffpipe.telemetry.report import History, StageReport

prepare_ray()
from ffpipe.engines.ray.engine import RayEngine  # noqa: E402  # Ray reads its settings when it is imported

STEPS_PER_EPOCH = 150
SNAPSHOT_STEPS = 100
# Half-way between two snapshots, with a whole one since the kill before.
FIRST_KILL, KILL_EVERY = 250, 300
PARTS = ("noticed", "back-off", "placement", "measuring", "set-up", "rest")


class TimedEngine(RayEngine):
    """Notes when it has come to what."""

    def __init__(self) -> None:
        super().__init__()
        self.marks: dict[str, float] = {}

    def layout_again(self, job: Job, store: Store) -> Layout:
        self.marks["again"] = time.time()
        return super().layout_again(job, store)

    def measure(self, job: Job) -> Measured:
        self.marks["placed"] = time.time()
        return super().measure(job)

    def run(self, job: Job, layout: Layout, store: Store, start: Start, scratch: Path, on_report: OnReport) -> None:
        self.marks["measured"] = time.time()
        super().run(job, layout, store, start, scratch, on_report)

    def _listen(self, *arguments: Any) -> None:
        self.marks["set up"] = time.time()
        super()._listen(*arguments)

    def kill(self, stage: int) -> None:
        os.kill(self.group.processes[stage].id, signal.SIGKILL)


@dataclass
class Kill:
    """One kill: of which stage, when, with the last stage at which step, and what became of it."""

    stage: int
    at: float
    step: int
    from_step: int = 0
    back_at: float = 0.0
    marks: dict[str, float] = field(default_factory=dict)

    def recovery(self, rate: float) -> float:
        """Return the seconds until it was where it had been, less those of the lost steps at `rate` steps a second."""
        return self.back_at - self.at - (self.step - self.from_step) / rate

    def parts(self, rate: float, back_off: float) -> dict[str, float]:
        """Return the parts of those seconds, by name."""
        again, placed, measured, set_up = (self.marks[name] for name in ("again", "placed", "measured", "set up"))
        known = (again - back_off - self.at, back_off, placed - again, measured - placed, set_up - measured)
        return dict(zip(PARTS, (*known, self.recovery(rate) - sum(known)), strict=True))


class Killer(View):
    """A view that kills stages of a run in turn, and notes when the last stage is where it was."""

    def __init__(self, engine: TimedEngine, kills: int) -> None:
        self.engine = engine
        self.left = kills
        self.kills: list[Kill] = []
        self.last: StageReport | None = None

    def report(self, report: StageReport) -> None:
        if report.stage != 1 or not report.step:
            return
        self.last = report
        if self.kills and not self.kills[-1].back_at:
            self._look_for_return(report)
        elif self.left and report.step >= FIRST_KILL + KILL_EVERY * len(self.kills):
            self.left -= 1
            kill = Kill(len(self.kills) % 2, time.time(), report.step)
            self.engine.kill(kill.stage)
            self.kills.append(kill)

    def _look_for_return(self, report: StageReport) -> None:
        kill = self.kills[-1]
        if report.began_at > kill.at and report.step >= kill.step:
            # The report says when its step was done; the one that counts was some steps before.
            done, begun = report.began_at + report.train_seconds, report.began_at + report.train_began
            since = report.step - kill.from_step
            kill.back_at = done - (report.step - kill.step) * (done - begun) / since
            kill.marks = dict(self.engine.marks)

    def note(self, text: str) -> None:
        if self.kills:
            self.kills[-1].from_step = int(text.partition("going on after step ")[2].split()[0])


def train(config: Config, kills: int) -> tuple[float, list[Kill]]:
    """Train one run; return minibatches a second of the last stage, and what became of the kills."""
    job = make_job(config)
    engine = TimedEngine()
    try:
        view = Killer(engine, kills)
        layout = engine.layout(job)
        folder = new_run(job.config)
        folder.make()
        with folder.lock():
            log = RunLog(job, folder, folder.store(config), view, History(), None, time.time())
            Run(job, engine, folder, log, view, Interrupt()).go(layout)
    finally:
        engine.close()
    assert view.last is not None
    assert not kills or len(view.kills) == kills
    assert all(kill.back_at for kill in view.kills)
    return view.last.step / (view.last.train_seconds - view.last.train_began), view.kills


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--width", type=positive, default=1000)
    parser.add_argument("--layers", type=positive, default=4)
    parser.add_argument("--steps", type=positive, default=1050, help=f"of a round, in multiples of {STEPS_PER_EPOCH}")
    parser.add_argument("--rounds", type=positive, default=5)
    parser.add_argument("--kills", type=natural, default=6)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        os.environ["FFPIPE_CACHE"] = f"{place}/cache"
        data = Path(place) / "data.npz"
        write_data(data, STEPS_PER_EPOCH)
        plain = make_config(Sizes(options.width, options.layers, lag=48), data, "hard", 2)

        def config(name: str, steps: int, snapshot_steps: int) -> Config:
            execution = replace(plain.execution, run_dir=f"{place}/{name}", snapshot_steps=snapshot_steps)
            training = replace(plain.training, epochs=-(-steps // STEPS_PER_EPOCH))
            return replace(plain, training=training, execution=execution)

        rates: dict[str, list[float]] = {"none": [], "every 100 steps": []}
        for turn in range(options.rounds):
            # Each goes first in turn, so that what drifts hits both alike.
            for name in sorted(rates, reverse=turn % 2 == 1):
                every = 0 if name == "none" else SNAPSHOT_STEPS
                rates[name].append(train(config(f"{turn} {name}", options.steps, every), 0)[0])
        rate = statistics.median(rates["every 100 steps"])
        long = config("killed", FIRST_KILL + KILL_EVERY * options.kills, SNAPSHOT_STEPS)
        kills = train(long, options.kills)[1] if options.kills else []
    console = Console(width=110)
    table = Table("snapshots", "examples/s (median)", "least", "most")
    for name, values in rates.items():
        cells = (statistics.median(values), min(values), max(values))
        table.add_row(name, *(f"{each * BATCH:,.0f}" for each in cells))
    console.print(table)
    ratio = statistics.median(b / a for a, b in zip(*rates.values(), strict=True))
    console.print(f"with snapshots, {ratio:.3f} of the rate without")
    result: dict[str, Any] = {"benchmark": "recovery", "width": options.width, "layers": options.layers}
    result["snapshots_rate_ratio"] = ratio
    if kills:
        table = Table("killed", "at step", "went on from", "seconds", *PARTS)
        for kill in kills:
            parts = kill.parts(rate, long.execution.back_off)
            seconds = [f"{each:.2f}" for each in (kill.recovery(rate), *parts.values())]
            table.add_row(("first", "last")[kill.stage], str(kill.step), str(kill.from_step), *seconds)
        console.print(table)
        recoveries = [round(kill.recovery(rate), 2) for kill in kills]
        result |= {"recovery_seconds": recoveries, "longest": max(recoveries)}
    print(json.dumps(result))


if __name__ == "__main__":
    main()

"""A seeded programme of faults against real runs: every run must end with the digest of the undisturbed one.

    python scripts/drill.py [--runs 20] [--seed 1]

Each run trains the digits (three layers, hard negatives, a snapshot every 40 of 1,680 steps) through two or three Ray
stages in a process of its own, which breaks itself by a programme drawn from the seed:

    kill S       SIGKILL of one stage, at its first sign of life, in the middle, or near the end
    kill two     SIGKILL of two stages at once
    stop         SIGSTOP of a stage for longer than the deadline
    snapshot     SIGKILL of a stage while a snapshot is being written
    evaluation   SIGKILL of a stage at a step after which the network is evaluated
    driver       SIGKILL of the driver, then `resume` on another number of stages
    cut          the same, and the newest snapshot is cut before the resume

Prints a table, and last one line of JSON; exit status 1 where a digest differs, a run hangs past its deadline, or a
process or temporary folder is left behind.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from own_stages import own_stages
from rich.console import Console
from rich.table import Table

from ffpipe import Config, override, recipe, resume, train
from ffpipe.telemetry.report import StageReport
from ffpipe.telemetry.view import QuietView

EPOCHS, STEPS_PER_EPOCH = 60, 28
STEPS = EPOCHS * STEPS_PER_EPOCH
EVALUATE_EVERY = 4
RUN_DEADLINE = 300.0


@dataclass(frozen=True)
class Fault:
    """kind: see above. step: not before the run has come so far. stages: which, by their order of start."""

    kind: str
    step: int
    stages: tuple[int, ...] = ()


def make_config(folder: Path, stages: int) -> Config:
    fields = {
        "training.epochs": EPOCHS,
        "training.dims": [64, 90, 70, 50],
        "execution.stages": stages,
        "execution.snapshot_steps": 40,
        "execution.evaluate_every": EVALUATE_EVERY,
        "execution.stage_timeout": 4,
        "execution.attempts": 10,
        "execution.back_off": 0.1,
        "execution.run_dir": str(folder),
    }
    return override(recipe("digits"), fields)


def draw_programme(chance: random.Random, stages: int) -> list[Fault]:
    """Four to seven faults in order of their step; the driver dies last, if at all, since that ends the process."""
    faults = []
    for _ in range(chance.randint(4, 6)):
        kind = chance.choices(["kill", "kill two", "stop", "snapshot", "evaluation"], [5, 2, 1, 2, 2])[0]
        step = chance.choice([1, chance.randint(2, STEPS - 200), STEPS - 60])
        if kind == "evaluation":
            step = chance.randint(1, EPOCHS // EVALUATE_EVERY - 1) * EVALUATE_EVERY * STEPS_PER_EPOCH
        count = 2 if kind == "kill two" else 1
        faults.append(Fault(kind, step, tuple(chance.sample(range(stages), count))))
    faults.sort(key=lambda fault: fault.step)
    if chance.random() < 0.6:
        # Where the programme goes on with what is left after the resume.
        place = chance.randint(1, len(faults))
        step = faults[place - 1].step + 20
        faults.insert(place, Fault(chance.choice(["driver", "cut"]), min(step, STEPS - 50)))
    return faults


class Breaker(QuietView):
    """Carries out a programme on the run of this process, and keeps a list of what it has done."""

    def __init__(self, faults: list[Fault], log: Path, checkpoints: Path) -> None:
        self.faults = faults
        self.log = log
        self.checkpoints = checkpoints

    def report(self, report: StageReport) -> None:
        if not self.faults or report.step < self.faults[0].step:
            return
        fault = self.faults[0]
        if fault.kind == "snapshot" and not self._is_being_written():
            return
        processes = own_stages()
        if fault.kind in ("driver", "cut"):
            self._note(fault)
            os.kill(os.getpid(), signal.SIGKILL)
        if len(processes) <= max(fault.stages):
            return  # the stages are being built anew
        self.faults.pop(0)
        self._note(fault)
        number = signal.SIGSTOP if fault.kind == "stop" else signal.SIGKILL
        for stage in fault.stages:
            os.kill(processes[stage], number)

    def _is_being_written(self) -> bool:
        return any(not (folder / "manifest.json").exists() for folder in self.checkpoints.glob("step-*"))

    def _note(self, fault: Fault) -> None:
        with self.log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(fault)) + "\n")


def child(folder: Path, stages: int, programme: str, log: Path) -> None:
    """In the process that is broken: train, or go on where the run is there already."""
    faults = [Fault(f["kind"], f["step"], tuple(f["stages"])) for f in json.loads(programme)]
    view = Breaker(faults, log, folder / "checkpoints")
    if folder.exists():
        resume(folder, {"execution.stages": stages}, view)
    else:
        train(make_config(folder, stages), view)


def drill(folder: Path, log: Path, chance: random.Random) -> tuple[list[Fault], str]:
    """One run through its programme; returns what was done to it and its digest."""
    stages = chance.choice([2, 3])
    faults = draw_programme(chance, stages)
    while True:
        arguments = [str(folder), str(stages), json.dumps([asdict(fault) for fault in faults]), str(log)]
        done = subprocess.run(
            [sys.executable, __file__, "--child", *arguments],
            timeout=RUN_DEADLINE,
            capture_output=True,
            text=True,
            check=False,
        )
        happened = [Fault(**{**json.loads(line), "stages": ()}) for line in log.read_text().splitlines()]
        if done.returncode == 0:
            return happened, json.loads((folder / "summary.json").read_text())["weights_sha256"]
        if done.returncode != -signal.SIGKILL:
            raise SystemExit(f"a run ended with status {done.returncode}:\n{done.stderr[-2000:]}")
        ended = next(i for i, fault in enumerate(faults) if fault.kind in ("driver", "cut"))
        if faults[ended].kind == "cut":
            cut_newest(folder / "checkpoints")
        stages, faults = chance.choice([1, 2, 3]), [f for f in faults[ended + 1 :] if max(f.stages, default=0) == 0]


def cut_newest(checkpoints: Path) -> None:
    """Half of one layer's file in the newest whole snapshot, if there is an older one to fall back on."""
    whole = sorted(checkpoints.glob("*/manifest.json"))
    if len(whole) > 1:
        path = whole[-1].parent / "layer-001.safetensors"
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def leftovers(temporary: Path) -> list[str]:
    """Processes that still work in this folder for temporary files, and what lies in it."""
    found = [path.name for path in temporary.iterdir()]
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            try:
                if str(temporary).encode() in (path / "cmdline").read_bytes():
                    found.append(f"process {path.name}")
            except OSError:
                continue
    return found


def wait_until(done: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not done() and time.monotonic() < deadline:
        time.sleep(0.2)


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        child(Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4], Path(sys.argv[5]))
        return
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    table = Table("run", "faults", "what", "seconds", "digest")
    kinds: Counter[str] = Counter()
    wrong = 0
    with tempfile.TemporaryDirectory() as place, tempfile.TemporaryDirectory(prefix="ff-", dir="/tmp") as temporary:
        os.environ["TMPDIR"] = temporary
        quiet = override(make_config(Path(place) / "undisturbed", 1), {"execution.engine": "local"})
        expected = train(quiet).weights_sha256
        for run in range(options.runs):
            log = Path(place) / f"{run}.log"
            log.touch()
            started = time.monotonic()
            happened, digest = drill(Path(place) / str(run), log, random.Random(f"{options.seed}/{run}"))
            kinds.update(fault.kind for fault in happened)
            wrong += digest != expected
            what = ", ".join(f"{fault.kind} at {fault.step}" for fault in happened)
            verdict = "same" if digest == expected else f"DIFFERS: {digest}"
            table.add_row(str(run), str(len(happened)), what, f"{time.monotonic() - started:.0f}", verdict)
        # The folder of a driver that was killed last is swept by the next one to start; none follows here.
        from ffpipe.pipeline.cluster import sweep

        wait_until(lambda: not any(name.startswith("process") for name in leftovers(Path(temporary))), 20)
        sweep(Path(temporary))
        left = leftovers(Path(temporary))
    Console(width=140).print(table)
    result = {"drill": dict(kinds), "runs": options.runs, "faults": kinds.total(), "wrong": wrong, "left": left}
    print(json.dumps(result))
    sys.exit(1 if wrong or left else 0)


if __name__ == "__main__":
    main()

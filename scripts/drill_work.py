"""One run through what is dealt to it: its processes, the resumes between them, and what must be so at the end."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow.parquet as pq
import torch
from drill_faults import PLACES, SIGNALS, Fault, Programme
from drill_host import leftovers, stages_left, temporary_files

from ffpipe import Config, Result, override, recipe, train
from ffpipe.config.fields import to_toml

HERE = Path(__file__).resolve().parent
EPOCHS, STEPS_PER_EPOCH, LAYERS = 60, 28, 3
STEPS = EPOCHS * STEPS_PER_EPOCH
RAYLET_CPUS = ("1", "1", "1")
PROCESS_DEADLINE = 300.0
# By what a run must end: the exit status, and what it must have said.
ENDINGS = {
    "driver": (-signal.SIGKILL, ""),
    "head": (1, ""),
    "disk full at the end": (1, "could not be written"),
    "GCS stopped": (1, "ffpipe resume"),
    "GCS stopped, a stage killed": (1, "ffpipe resume"),
    **{f"{name} at the {place}": (130, "ffpipe resume") for name in SIGNALS for place in PLACES},
}


@dataclass(frozen=True)
class Hand:
    """The faults that are dealt to one run. place: "own" (a cluster of its own), "raylets" (of several), "disk" (a
    small one)."""

    place: str
    stages: int
    faults: list[Fault]


@dataclass
class Outcome:
    """The outcome of a run. wrong: what should not have been."""

    happened: list[str] = field(default_factory=list)
    resumes: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    seconds: float = 0.0


class Wrong(Exception):
    """A run did what it must not."""


def make_config(run: Path, hand: Hand, checkpoints: str) -> Config:
    fields = {
        "training.epochs": EPOCHS,
        "training.dims": [64, 90, 70, 50],
        "execution.stages": hand.stages,
        "execution.cpus": 1.0 if hand.place == "raylets" else 0.0,
        "execution.snapshot_steps": 40,
        "execution.evaluate_every": 4,
        "execution.checkpoints": checkpoints,
        "execution.stage_timeout": 5,
        "execution.attempts": 10,
        "execution.back_off": 0.1,
        "execution.run_dir": str(run),
    }
    return override(recipe("digits"), fields)


def undisturbed(run: Path) -> Result:
    """Train the run that all others must equal, as plain sequential code."""
    torch.set_num_threads(1)  # more would wait for each other on a busy host
    return train(override(make_config(run, Hand("own", 1, []), ""), {"execution.engine": "local"}))


class Work:
    """One run through its hand, from its first process to its last. disk: where a small one is, if anywhere."""

    def __init__(self, hand: Hand, folder: Path, temporary: Path, disk: str) -> None:
        folder.mkdir()
        self.hand = hand
        self.temporary = temporary
        self.run = folder / "run"
        self.config = folder / "config.toml"
        self.log = folder / "log"
        self.mounted = bool(disk)
        self.disk = disk if hand.place == "disk" else ""
        self.checkpoints = Path(self.disk) / folder.name if self.disk else self.run / "checkpoints"
        made = make_config(self.run, hand, str(self.checkpoints) if self.disk else "")
        self.config.write_text(to_toml(made))
        self.programme = Programme(folder / "programme")
        self.programme.write(hand.faults)
        self.programme.tell("disk", self.disk)
        self.stages = hand.stages
        self.to_cut = sum(fault.kind == "cut" for fault in hand.faults)
        self.outcome = Outcome()

    def go(self, undisturbed: Result) -> Outcome:
        started = time.monotonic()
        wrong = self.outcome.wrong
        try:
            self._go()
            self._check(undisturbed)
        except Wrong as error:
            wrong.append(str(error))
        missing = Counter(fault.kind for fault in self.hand.faults) - Counter(self.outcome.happened)
        wrong += [f"{kind} did not happen" for kind in missing.elements()]
        left = [
            *leftovers(self.temporary, shared_memory=self.mounted),
            *temporary_files(self.run),
            *temporary_files(self.checkpoints),
        ]
        wrong += [f"{name} was left" for name in left]
        if self.disk:
            shutil.rmtree(self.checkpoints, ignore_errors=True)
        self.outcome.seconds = time.monotonic() - started
        return self.outcome

    def _go(self) -> None:
        elsewhere = ["--execution.checkpoints", str(self.checkpoints)] if self.disk else []
        arguments = ["train", str(self.config), *elsewhere]
        while arguments:
            with self._cluster() as environment:
                ended = ""
                while arguments and ended != "head":
                    ended = self._process(arguments, environment)
                    if ended == "disk full at the end" and self.disk:
                        (Path(self.disk) / "filler").unlink()
                    arguments = self._resume() if self._cut() or ended else []

    def _process(self, arguments: list[str], environment: dict[str, str]) -> str:
        """Run one process. Returns the fault that ended it, "" for none."""
        before = self.programme.happened()
        command = [sys.executable, str(HERE / "drill_run.py"), str(self.programme.folder), *arguments]
        with self.log.open("a") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **environment})
            try:
                status = process.wait(PROCESS_DEADLINE)
            except subprocess.TimeoutExpired:
                raise Wrong(f"worked for more than {PROCESS_DEADLINE:g} s") from None
            finally:
                process.kill()
                process.wait()
        happened = [self.hand.faults[i].kind for i in self.programme.happened() if i not in before]
        self.outcome.happened += happened
        ending = [kind for kind in happened if kind in ENDINGS]
        # A fault that comes with the last chunk may come too late to end anything.
        if status == 0 and all(kind.startswith("SIG") and kind.endswith("at the end") for kind in ending):
            return ""
        text = self.log.read_text()
        for kind in ending:  # of two that come at once, either may be what ends the run
            must, says = ENDINGS[kind]
            if status == must and says in text:
                return kind
        last = (text.strip().splitlines() or ["it said nothing"])[-1]
        raise Wrong(f"ended with status {status} after {', '.join(happened) or 'nothing'}: {last}")

    def _resume(self) -> list[str]:
        """Resume on more stages than before or on fewer, in turn."""
        done = self.outcome.resumes
        more = self.stages < LAYERS and (not done or done[-1] == "fewer")
        needs_two = any(f.kind == "two at once" for f in self.hand.faults) > ("two at once" in self.outcome.happened)
        self.stages = self.stages + 1 if more else 2 if needs_two else 1
        done.append("more" if more else "fewer")
        return ["resume", str(self.run), "--stages", str(self.stages)]

    def _cut(self) -> bool:
        """Cut the newest whole snapshot, if that is still to be done and there is one."""
        whole = sorted(self.checkpoints.glob("*/manifest.json"))
        if not self.to_cut or not whole:
            return False
        self.to_cut -= 1
        self.outcome.happened.append("cut")
        path = whole[-1].parent / "layer-001.safetensors"
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        return True

    @contextmanager
    def _cluster(self) -> Iterator[dict[str, str]]:
        """Start a cluster of several raylets where one is asked for. Yields what its processes are told by their
        environment."""
        if self.hand.place != "raylets":
            yield {}
            return
        with tempfile.TemporaryDirectory(prefix="ray-", dir=self.temporary) as folder:
            command = [sys.executable, str(HERE / "drill_raylets.py"), folder, *RAYLET_CPUS]
            with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as cluster:
                assert cluster.stdin is not None
                assert cluster.stdout is not None
                address, attached, gcs = cluster.stdout.readline().split()
                self.programme.tell("attached", attached)
                self.programme.tell("gcs", gcs)
                try:
                    yield {"RAY_ADDRESS": address}
                    self.outcome.wrong += [f"{stage} was left in the cluster" for stage in stages_left(self.temporary)]
                finally:
                    cluster.stdin.close()
                    cluster.wait(PROCESS_DEADLINE)

    def _check(self, undisturbed: Result) -> None:
        """Check what must be so when the run has ended."""
        summary, text = json.loads((self.run / "summary.json").read_text()), self.log.read_text()
        happened = self.outcome.happened
        if summary["weights_sha256"] != undisturbed.weights_sha256:
            raise Wrong(f"the digest is {summary['weights_sha256']}")
        if summary["evaluations"] != undisturbed.summary["evaluations"]:
            raise Wrong("there are other evaluations")
        if not pq.read_table(self.run / "metrics.parquet").equals(
            pq.read_table(undisturbed.run_dir / "metrics.parquet")
        ):
            raise Wrong("there are other metrics")
        if "cut" in happened and "was cut: it has" not in text:
            raise Wrong("nobody has said that a file was cut")
        if "disk full" in happened and "training goes on" not in text:
            raise Wrong("nobody has said that a snapshot could not be written")
        if "raylet, no room" in happened and not summary["stages"] < self.stages:
            raise Wrong(f"there are still {self.stages} stages")

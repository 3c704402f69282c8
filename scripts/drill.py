"""A seeded programme of faults against real runs: every run must end with the digest of the undisturbed one.

    python scripts/drill.py [--rounds 6] [--seed 1]

A run trains the digits (three layers, hard negatives, a snapshot every 40 of 1,680 steps) on two or three Ray stages,
by `ffpipe` in a process of its own (drill_run.py). A round deals out every fault once, over five runs. On a cluster of
their own:

    first chunk          SIGKILL of a stage in its first chunk
    middle               SIGKILL of a stage somewhere in between
    last chunk           SIGKILL of a stage in its last chunk
    two at once          SIGKILL of two stages
    snapshot             SIGKILL of a stage with a file of a snapshot written and not yet renamed
    evaluation           SIGKILL of a stage during an evaluation
    set-up               SIGKILL of a stage while it is set up after another fault
    stop                 SIGSTOP of a stage for longer than the deadline
    only raylet          SIGKILL of the raylet, with all stages
    driver               SIGKILL of the driver, then `resume`
    cut                  half of a file of the newest snapshot is gone when a run has ended; then `resume`

On a cluster of several raylets (drill_raylets.py), each stage on its own:

    raylet               SIGKILL of a stage's raylet; there is another with room
    raylet, no room      SIGKILL of a stage's raylet; the run goes on with fewer stages
    driver's raylet      SIGKILL of the raylet to which the driver is attached
    head                 SIGKILL of that and of the GCS: the run ends with status 1; `resume` on a new cluster

With its snapshots on a disk of a few megabytes:

    disk full            for a hundred steps: the run warns and goes on
    disk full at the end the run ends with status 1 and says what there is; there is room again; `resume`

A resume is on more or on fewer stages in turn. Prints a table, and last one line of JSON. Exit status 1 where a digest
differs, a fault did not happen, a run ended otherwise than it must or worked past its deadline, or where a process, a
temporary file or shared memory was left.
"""

from __future__ import annotations

import argparse
import json
import os
import random
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

from drill_faults import Fault, Programme
from drill_host import adopt_orphans, leftovers, small_disk, stages_left, temporary_files
from rich.console import Console
from rich.table import Table

from ffpipe import Config, override, recipe, train
from ffpipe.pipeline.ray_settings import prepare_ray

HERE = Path(__file__).resolve().parent
EPOCHS, STEPS_PER_EPOCH, LAYERS = 60, 28, 3
STEPS = EPOCHS * STEPS_PER_EPOCH
PROCESS_DEADLINE = 300.0
ON_OWN_CLUSTER = (
    *("first chunk", "middle", "last chunk", "two at once", "snapshot", "evaluation"),
    *("set-up", "stop", "only raylet", "driver", "cut"),
)
# Those of one run, in their order.
ON_RAYLETS = (("raylet", "driver's raylet", "raylet, no room"), ("raylet", "head", "raylet, no room"))
ON_SMALL_DISK = ("disk full", "disk full at the end")
# By what a run must end: the exit status, and what it must have said.
ENDINGS = {
    "driver": (-signal.SIGKILL, ""),
    "head": (1, ""),
    "disk full at the end": (1, "could not be written"),
}
RAYLET_CPUS = ("1", "1", "1")
# Ray notices a dead node after five missed calls, one each three seconds; and gives a dead GCS a minute to come back.
QUICK_RAY = {
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_gcs_rpc_server_reconnect_timeout_s": "10",
}


@dataclass(frozen=True)
class Hand:
    """What is dealt to one run. place: where it runs, one of the three above."""

    place: str
    stages: int
    faults: list[Fault]


@dataclass
class Outcome:
    """What became of a run. stages: of each layout. wrong: what should not have been."""

    happened: list[str] = field(default_factory=list)
    resumes: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    seconds: float = 0.0


class Wrong(Exception):
    """A run did what it must not."""


def deal(chance: random.Random, turn: int) -> list[Hand]:
    """One round: every kind of fault once."""
    own = list(ON_OWN_CLUSTER)
    chance.shuffle(own)
    half = len(own) // 2
    hands = [("own", own[:half]), ("own", own[half:])]
    hands += [("raylets", list(kinds)) for kinds in ON_RAYLETS]
    hands += [("disk", list(ON_SMALL_DISK))]
    # The first resume of a run that starts on two stages is on more, of one that starts on three on fewer.
    return [
        Hand(place, 2 if place == "raylets" else 2 + (turn + index) % 2, [draw(kind, chance) for kind in kinds])
        for index, (place, kinds) in enumerate(hands)
    ]


def draw(kind: str, chance: random.Random) -> Fault:
    """A fault of this kind, somewhere in the run."""
    stage = chance.randrange(LAYERS)
    match kind:
        case "first chunk" | "last chunk" | "set-up" | "cut":
            return Fault(kind, stage)
        case "middle":
            return Fault(kind, stage, chance.randint(50, STEPS - 400), delay=chance.uniform(0.0, 0.03))
        case "raylet" | "disk full":
            return Fault(kind, stage, chance.randint(50, 500))
        case "driver's raylet" | "head":
            return Fault(kind, stage, chance.randint(600, 1000))
        case "raylet, no room":
            return Fault(kind, stage, chance.randint(1100, STEPS - 200))
        case "disk full at the end":
            return Fault(kind, stage, STEPS - 60)
    return Fault(kind, stage, chance.randint(50, STEPS - 200))


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
        self.config.write_text(make_config(self.run, hand, str(self.checkpoints) if self.disk else "").to_toml())
        self.programme = Programme(folder / "programme")
        self.programme.write(hand.faults)
        self.programme.tell("disk", self.disk)
        self.stages = hand.stages
        self.to_cut = sum(fault.kind == "cut" for fault in hand.faults)
        self.outcome = Outcome()

    def go(self, digest: str) -> Outcome:
        started = time.monotonic()
        wrong = self.outcome.wrong
        try:
            self._go()
            self._check(digest)
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
        arguments = ["train", str(self.config)]
        while arguments:
            with self._cluster() as environment:
                ended = ""
                while arguments and ended != "head":
                    ended = self._process(arguments, environment)
                    if ended == "disk full at the end" and self.disk:
                        (Path(self.disk) / "filler").unlink()
                    arguments = self._resume() if self._cut() or ended else []

    def _process(self, arguments: list[str], environment: dict[str, str]) -> str:
        """One process of the run. Returns the fault that ended it, "" for none."""
        before = self.programme.happened()
        command = [sys.executable, str(HERE / "drill_run.py"), str(self.programme.folder), *arguments]
        with self.log.open("a") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **environment})
            try:
                status = process.wait(PROCESS_DEADLINE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                raise Wrong(f"worked for more than {PROCESS_DEADLINE:g} s") from None
        happened = [self.hand.faults[i].kind for i in self.programme.happened() if i not in before]
        self.outcome.happened += happened
        ended = next((kind for kind in happened if kind in ENDINGS), "")
        must, says = ENDINGS.get(ended, (0, ""))
        text = self.log.read_text()
        if status != must or says not in text:
            last = (text.strip().splitlines() or ["it said nothing"])[-1]
            raise Wrong(f"ended with status {status} after {', '.join(happened) or 'nothing'}: {last}")
        return ended

    def _resume(self) -> list[str]:
        """On more stages than before or on fewer, in turn."""
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
        """Where asked for, a cluster of several raylets. Gives what its processes are told by their environment."""
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
                    self.outcome.wrong += [f"{stage} was left in the cluster" for stage in stages_left()]
                finally:
                    cluster.stdin.close()
                    cluster.wait(PROCESS_DEADLINE)

    def _check(self, digest: str) -> None:
        """What must be so when the run has ended."""
        summary, text = json.loads((self.run / "summary.json").read_text()), self.log.read_text()
        happened = self.outcome.happened
        if summary["weights_sha256"] != digest:
            raise Wrong(f"the digest is {summary['weights_sha256']}")
        if "cut" in happened and "was cut: it has" not in text:
            raise Wrong("nobody has said that a file was cut")
        if "disk full" in happened and "training goes on" not in text:
            raise Wrong("nobody has said that a snapshot could not be written")
        if "raylet, no room" in happened and not summary["stages"] < self.stages:
            raise Wrong(f"there are still {self.stages} stages")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    adopt_orphans()
    chance = random.Random(options.seed)
    hands = [hand for turn in range(options.rounds) for hand in deal(chance, turn)]
    table = Table("run", "on", "what happened", "faults", "resumed on", "seconds", "verdict")
    outcomes, started = [], time.monotonic()
    with tempfile.TemporaryDirectory() as place, tempfile.TemporaryDirectory(prefix="ff-", dir="/tmp") as temporary:
        os.environ["TMPDIR"] = temporary
        prepare_ray()  # all clusters of this drill share a token
        os.environ.update(QUICK_RAY)
        undisturbed = make_config(Path(place) / "undisturbed", Hand("own", 1, []), "")
        digest = train(override(undisturbed, {"execution.engine": "local"})).weights_sha256
        with small_disk(Path(place) / "disk") as disk:
            for index, hand in enumerate(hands):
                outcome = Work(hand, Path(place) / str(index), Path(temporary), disk).go(digest)
                outcomes.append(outcome)
                verdict = "; ".join(outcome.wrong) or "same digest, nothing left"
                what, resumes = ", ".join(outcome.happened), ", ".join(outcome.resumes)
                row = (hand.place, what, str(len(outcome.happened)), resumes, f"{outcome.seconds:.0f}", verdict)
                table.add_row(str(index), *row)
                print(index, *row, sep=" | ", file=sys.stderr)
    Console(width=160).print(table)
    kinds = Counter(kind for outcome in outcomes for kind in outcome.happened)
    result = {
        "drill": dict(sorted(kinds.items())),
        "runs": len(outcomes),
        "faults": kinds.total(),
        "resumed on": dict(Counter(resume for outcome in outcomes for resume in outcome.resumes)),
        "disk": "small disk" if disk else "bound on the size of files",
        "wrong": [wrong for outcome in outcomes for wrong in outcome.wrong],
        "seconds": round(time.monotonic() - started),
    }
    print(json.dumps(result))
    sys.exit(1 if result["wrong"] else 0)


if __name__ == "__main__":
    main()

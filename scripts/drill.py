"""A seeded programme of faults against real runs: every run must end with the digest of the undisturbed one.

    python scripts/drill.py [--rounds 6] [--seed 1]

A run trains the digits (three layers, hard negatives, a snapshot every 40 of 1,680 steps) on two or three Ray stages,
by `ffpipe` in a process of its own (drill_run.py). A round deals out every kind of fault over six runs, of signals and
of stops of the GCS some in turn. On a cluster of their own:

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
    SIGINT at the start, SIGTERM at the snapshot, ...: signals to the driver in its first chunk, while a snapshot is
                         written, in its last chunk: it saves and ends with status 130; then `resume`
    GCS stopped          SIGSTOP of the GCS, alone or with SIGKILL of a stage: status 1 within a deadline; then `resume`
    cut                  half of a file of the newest snapshot is gone when a run has ended; then `resume`

On a cluster of several raylets (drill_raylets.py), each stage on its own:

    raylet               SIGKILL of a stage's raylet; there is another with room
    raylet, no room      SIGKILL of a stage's raylet; the run goes on with fewer stages
    driver's raylet      SIGKILL of the raylet to which the driver is attached
    head                 SIGKILL of that and of the GCS: the run ends with status 1; `resume` on a new cluster

With its snapshots on a disk of a few megabytes:

    disk full            for a hundred steps: the run warns and goes on
    disk full at the end the run ends with status 1 and says what there is; there is room again; `resume`

A resume is on more or on fewer stages in turn. Prints a table, and last one line of JSON. Exit status 1 where weights,
metrics or evaluations differ, a fault did not happen, a run ended otherwise than it must or worked past its deadline,
or where a process, a temporary file or shared memory was left. Small disks need root; see drill_host.py.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from arguments import positive
from drill_faults import PLACES, SIGNALS, Fault
from drill_host import small_disk
from drill_work import LAYERS, STEPS, Hand, Work, undisturbed
from rich.console import Console
from rich.table import Table

from ffpipe.engines.ray.headwatch import PATIENCE
from ffpipe.engines.ray.settings import prepare_ray

ON_OWN_CLUSTER = (
    *("first chunk", "middle", "last chunk", "two at once", "snapshot", "evaluation"),
    *("set-up", "stop", "only raylet", "driver", "cut"),
)
# Faults that end a process: as many of each round, in turn over the rounds; each ends a process of the run.
SERVICES = ("GCS stopped", "GCS stopped, a stage killed")
ASKED_TO_END = tuple(f"{name} at the {place}" for name in SIGNALS for place in PLACES)
# Those of one run, in their order.
ON_RAYLETS = (("raylet", "driver's raylet", "raylet, no room"), ("raylet", "head", "raylet, no room"))
ON_SMALL_DISK = ("disk full", "disk full at the end")
# Ray takes a node for dead after five missed calls, one each three seconds; gives a dead GCS a minute to come back,
# then ends the program; and gives actors whose owner has died half a minute to end. Nobody waits for that here, but a
# run is to notice by itself that the GCS is gone, for which it has PATIENCE.
QUICK_RAY = {
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_gcs_rpc_server_reconnect_timeout_s": f"{PATIENCE + 15:.0f}",
    "RAY_actor_graceful_shutdown_timeout_ms": "2000",
}


LOG_TAIL = 8000


def deal(chance: random.Random, turn: int) -> list[Hand]:
    """Deal one round: every kind of fault, of those that end a process some in turn."""
    own = list(ON_OWN_CLUSTER)
    chance.shuffle(own)
    half = len(own) // 2
    hands = [("own", own[:half]), ("own", own[half:])]
    hands += [("raylets", list(kinds)) for kinds in ON_RAYLETS]
    hands += [("disk", list(ON_SMALL_DISK))]
    signals = [ASKED_TO_END[(3 * turn + each) * 5 % len(ASKED_TO_END)] for each in range(3)]
    hands += [("own", [*signals, SERVICES[turn % len(SERVICES)]])]
    # The first resume of a run that starts on two stages is on more, of one that starts on three on fewer. Runs that
    # lose their head are always resumed, and so are those whose disk is full at their end: each round has both kinds.
    always = {"raylets": 2, "disk": 3}
    return [
        Hand(place, always.get(place, 2 + (turn + index) % 2), [draw(kind, chance) for kind in kinds])
        for index, (place, kinds) in enumerate(hands)
    ]


def draw(kind: str, chance: random.Random) -> Fault:
    """Draw a fault of this kind, somewhere in the run."""
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


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=positive, default=6)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # by way of every `finally`
    chance = random.Random(options.seed)
    hands = [hand for turn in range(options.rounds) for hand in deal(chance, turn)]
    table = Table("run", "on", "what happened", "faults", "resumed on", "seconds", "verdict")
    outcomes, started = [], time.monotonic()
    with tempfile.TemporaryDirectory() as place, tempfile.TemporaryDirectory(prefix="ff-", dir="/tmp") as temporary:
        os.environ["TMPDIR"] = temporary
        prepare_ray()  # all clusters of this drill share a token
        os.environ.update(QUICK_RAY)
        expected = undisturbed(Path(place) / "undisturbed")
        with small_disk(Path(place) / "disk") as disk:
            for index, hand in enumerate(hands):
                work = Work(hand, Path(place) / str(index), Path(temporary), disk)
                outcome = work.go(expected)
                outcomes.append(outcome)
                verdict = "; ".join(outcome.wrong) or "same digest, nothing left"
                what, resumes = ", ".join(outcome.happened), ", ".join(outcome.resumes)
                row = (hand.place, what, str(len(outcome.happened)), resumes, f"{outcome.seconds:.0f}", verdict)
                table.add_row(str(index), *row)
                print(index, *row, sep=" | ", file=sys.stderr)
                if outcome.wrong:
                    print(hand, work.log.read_text()[-LOG_TAIL:], sep="\n", file=sys.stderr)
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

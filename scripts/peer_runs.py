"""The contenders of bench_peers.py and runs of them: their processes, what these say, and the memory that they hold."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from peer_networks import BATCH, WIDTHS, config_of
from process_tree import MemoryWatch

HERE = Path(__file__).parent
SECONDS = 1200.0
LOCAL = {"execution.engine": "local"}
# The title that Ray gives the process of a stage.
STAGE = "ray::StageActor"


def refusal(network: str, stages: int) -> str:
    """Explain why a network cannot be cut into so many stages of as many equal shares of a minibatch; "": it can."""
    blocks = len(config_of(network, 1).training.blocks)
    if 2 <= stages <= blocks and BATCH % stages == 0:
        return ""
    return f"--stages {stages}: {network} has {blocks} blocks and minibatches of {BATCH}: give 2 or 4"


@dataclass(frozen=True)
class Contender:
    """One way to train. peer: what scripts/peer.py is asked for; None: ffpipe, with a config of `kind` and `fields`."""

    name: str
    peer: dict[str, Any] | None = None
    kind: str = ""
    fields: dict[str, Any] = field(default_factory=dict)

    @property
    def learns(self) -> str:
        """Its way to learn: "backprop", "heads", "contrast" or "exact"."""
        return self.kind or "backprop"


@dataclass(frozen=True)
class Figures:
    """The figures of one run, as bench_peers.py says what they are."""

    rate: float
    busy: float
    messages: float

    @classmethod
    def of(cls, lines: list[str]) -> Figures:
        """Put together what the processes of a run say, each of one or several stages or ranks."""
        said = [json.loads(line) for line in lines]
        busy, messages = ([share for each in said for share in each[name]] for name in ("busy", "messages"))
        return cls(min(each["rate"] for each in said), statistics.mean(busy), sum(messages))


def contenders(network: str, stages: int, microbatches: list[int]) -> list[Contender]:
    """Return all ways to train a network, through so many stages where they have any."""
    blocks = len(config_of(network, 1).training.blocks)
    found = [
        Contender("one process", {"way": "one", "world": 1}),
        Contender("one process, 2 threads", {"way": "one", "world": 1, "threads": 2}),
        Contender(f"data parallel, {stages} processes", {"way": "ddp", "world": stages}),
    ]
    for way, name, parts in (("gpipe", "GPipe", 1), ("1f1b", "1F1B", 1), ("interleaved", "interleaved 1F1B", 2)):
        for count in microbatches:
            # With fewer than stages there is no full pipeline, and an interleaved one takes multiples of their number.
            if count >= stages and parts * stages <= blocks and (parts == 1 or count % stages == 0):
                asked = {"way": way, "world": stages, "microbatches": count}
                found.append(Contender(f"{name}, {stages} stages, {count} microbatches", asked))
    several = {"execution.engine": "ray", "execution.stages": stages}
    kinds = {"heads": "class heads"} | ({"contrast": "hard negatives"} if network in WIDTHS else {})
    found += [Contender(f"ffpipe, {text}, {stages} stages", kind=kind, fields=several) for kind, text in kinds.items()]
    # Blocks that learn from a part of a minibatch at a time hold as little at once as a pipeline's microbatches.
    for count in microbatches if network == "dgl" else ():
        name = f"ffpipe, class heads in parts, {stages} stages, {count} microbatches"
        found.append(Contender(name, kind="heads", fields=several | {"training.accumulation": count}))
    found += [Contender(f"ffpipe, {text}, one process", kind=kind, fields=LOCAL) for kind, text in kinds.items()]
    return found


def commands_of(contender: Contender, network: str, steps: int, folder: str) -> list[list[str]]:
    """Return what Python is given for each process of a contender."""
    if contender.peer is None:
        fields = {"execution.stages": 1, **contender.fields, "execution.run_dir": f"{folder}/run"}
        asked = {"network": network, "kind": contender.kind, "steps": steps, "fields": fields}
        return [["-c", "from peer_ffpipe import main; main()", json.dumps(asked)]]
    asked = {"place": f"{folder}/meet", "steps": steps, "network": network, "batch": BATCH, **contender.peer}
    return peer_commands(asked)


def run(contender: Contender, network: str, steps: int) -> Figures:
    """Train so many steps. Ends the program with what was said where that fails."""
    with tempfile.TemporaryDirectory(prefix="ff-") as folder:
        return Figures.of(output(commands_of(contender, network, steps, folder), contender.name))


def memory_of(contender: Contender, network: str, steps: int) -> MemoryWatch:
    """Train so many steps under a watch on memory."""
    with tempfile.TemporaryDirectory(prefix="ff-") as folder:
        running = started(commands_of(contender, network, steps, folder), contender.name)
        title = STAGE if contender.fields.get("execution.engine") == "ray" else ""
        with MemoryWatch([process.pid for process in running], title) as watch:
            ended(running, contender.name)
    return watch


def peer_commands(asked: dict[str, Any]) -> list[list[str]]:
    """Return what Python is given for each process of a contender that is not ffpipe."""
    return [[str(HERE / "peer.py"), json.dumps(asked), str(rank)] for rank in range(asked["world"])]


def started(commands: list[list[str]], name: str) -> list[subprocess.Popen[str]]:
    """Start Python processes side by side on loopback."""
    paths = os.pathsep.join([str(HERE), str(HERE.parent)])
    threads = "2" if "2 threads" in name else "1"
    environment = os.environ | {"PYTHONPATH": paths, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": threads}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": environment}
    return [subprocess.Popen([sys.executable, *command], **pipes) for command in commands]


def ended(running: list[subprocess.Popen[str]], name: str) -> list[str]:
    """Wait for processes, and return the last line of each. Ends the program with what was said where one fails."""
    lines = []
    try:
        for process in running:
            said, wrong = process.communicate(timeout=SECONDS)
            if process.returncode:
                sys.exit(f"{name}: {(wrong.strip().splitlines() or ['failed'])[-1]}")
            lines.append(said.strip().splitlines()[-1])
    finally:
        for process in running:
            process.kill()
            process.wait()
    return lines


def output(commands: list[list[str]], name: str) -> list[str]:
    """Run Python processes side by side; returns the last line of each."""
    return ended(started(commands, name), name)

"""A network larger than its memory: trained, evaluated, used and exported layer by layer in a control group.

    python scripts/deep_network.py [--layers 100] [--width 2000] [--examples 10000] [--limit 1.5GiB]

Trains the network of recipe `paper-unsupervised`, with so many layers, for an epoch on MNIST (FFPIPE_DATA) by the
layerwise engine, in a group whose memory and page cache together are held to the limit; asks for the same by
backpropagation in such a group, which is refused, and has two steps of it done all the same, which is killed; trains
the network by the local engine without a limit, and compares digests. The last line is JSON. Exit status 1 where
anything is not as it should be. Needs Linux, root, and about three times the bytes of the network on disk.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from arguments import positive, size
from memory_group import MemoryGroup
from rich.console import Console
from rich.table import Table
from safetensors import safe_open

from ffpipe.system.units import format_size

HOST = 1 << 50  # no limit
REFUSED, KILLED = 2, -signal.SIGKILL


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--layers", type=positive, default=100)
    parser.add_argument("--width", type=positive, default=2000)
    parser.add_argument("--examples", type=positive, default=10_000)
    parser.add_argument("--limit", type=size, default=size("1.5GiB"), metavar="SIZE")
    parser.add_argument("--folder", default="runs", help="where run folders go, and are removed from")
    options = parser.parse_args()
    limit = options.limit
    Path(options.folder).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="deep-", dir=options.folder) as folder:
        deep = Deep(options.layers, options.width, options.examples, Path(folder).absolute())
        deep.layerwise(limit)
        deep.after_training(limit)
        deep.backprop(limit)
        deep.local()
    Console(width=120).print(deep.table)
    same = len(set(deep.digests)) == 1 and len(deep.digests) == 2
    weights = 4 * options.width**2 * options.layers
    told = {"benchmark": "deep_network", "limit": limit, "weights_bytes": weights, "same_digest": same, **deep.told}
    print(json.dumps(told))
    sys.exit(0 if same and deep.whole else 1)


class Deep:
    """The runs of one such network, and what came of them."""

    def __init__(self, layers: int, width: int, examples: int, folder: Path) -> None:
        self.folder = folder
        self.layers, self.width = layers, width
        dims = ",".join(["784", *[str(width)] * layers])
        head_from = str(max(0, layers - 3))
        self.train = ["train", "paper-unsupervised", "--training.dims", dims, "--training.head-from", head_from]
        self.train += ["--epochs", "1", "--train-limit", str(examples), "--snapshot-steps", "0", "--stages", "0"]
        self.table = Table("what", "within", "it took at most", "status", "seconds", "came out")
        self.digests: list[str] = []
        self.whole = False
        self.told: dict[str, Any] = {}

    def layerwise(self, limit: int) -> None:
        run = self.folder / "layerwise"
        took = self._do("train, layerwise", limit, [*self.train, *_into(run, "layerwise")])
        summary = _summary(run)
        self.digests.append(summary.get("weights_sha256", "none"))
        self.told |= {"layerwise": took | {"test_error": summary.get("test_error_softmax")}}

    def after_training(self, limit: int) -> None:
        """Evaluate, predict and export what was trained, all of it, under the same limit."""
        run, image, out = str(self.folder / "layerwise"), self.folder / "image.npy", self.folder / "deep.safetensors"
        np.save(image, np.zeros((28, 28), dtype=np.float32))
        for command in (["evaluate", run], ["predict", run, str(image)], ["export", run, str(out)]):
            self.told[command[0]] = self._do(command[0], limit, command)
        with safe_open(out, "np") as exported:
            self.whole = len(exported.keys()) == 2 * self.layers + 3
        out.unlink()

    def backprop(self, limit: int) -> None:
        """Run backpropagation, which is to fail: its weights alone are more than the limit."""
        command = [*self.train, *_into(self.folder / "backprop", "layerwise"), "--backprop"]
        self.told["backprop"] = self._do("train, backpropagation", limit, command, REFUSED)
        steps = {"kind": "backprop", "depth": self.layers, "width": self.width, "batch": 100, "steps": 2}
        command = [str(Path(__file__).parent / "memory_run.py"), json.dumps(steps)]
        self.told["backprop, not refused"] = self._do("two steps of it", limit, command, KILLED)

    def local(self) -> None:
        run = self.folder / "local"
        self.told["local"] = self._do("train, local", HOST, [*self.train, *_into(run, "local")])
        self.digests.append(_summary(run).get("weights_sha256", "nothing"))

    def _do(self, what: str, limit: int, command: list[str], status: int = 0) -> dict[str, Any]:
        """Run a command of ffpipe, or a script. status: the expected one."""
        program = [command[0]] if command[0].endswith(".py") else ["-m", "ffpipe", command[0]]
        started = time.monotonic()
        with MemoryGroup(min(limit, HOST)) as group:
            done = group.run([sys.executable, *program, *command[1:]])
            most = group.most
        seconds = time.monotonic() - started
        lines = (done.stdout + done.stderr).strip().splitlines()
        if done.returncode != status:
            sys.exit(f"{what}: exit status {done.returncode}, not {status}: {' '.join(lines[-1:])}")
        said = next((line for line in reversed(lines) if not line.startswith("run folder")), "")
        within = "no limit" if limit == HOST else format_size(limit)
        self.table.add_row(what, within, format_size(most), str(done.returncode), f"{seconds:.0f}", said[:60])
        return {"status": done.returncode, "most_bytes": most, "seconds": round(seconds, 1)}


def _into(run: Path, engine: str) -> list[str]:
    return ["--run-dir", str(run), "--engine", engine]


def _summary(run: Path) -> dict[str, Any]:
    path = run / "summary.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return found


if __name__ == "__main__":
    if os.geteuid():
        sys.exit("a control group needs root")
    main()

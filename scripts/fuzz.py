"""Thousands of requests that nobody would type, each of which must end well, within bounds.

    python scripts/fuzz.py [options data places] [--requests 10000] [--seed 0] [--only N ...]

Every request is made from its kind and its number (fuzz_requests.py) and is asked of the command line in a folder of
its own. It must end within 60 seconds (one that trains is interrupted after 20), take no more than 2 GiB, change
nothing outside its folder, raise nothing, exit with status 0, 1, 2 or 130, and where it is refused say so in one
printable line. Prints what is wrong with the number that brings it back, and last one line of JSON; exit status 1 where
anything is.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from collections import Counter
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from arguments import positive

KINDS = ("options", "data", "places")
SECONDS, SECONDS_TO_TRAIN = 60.0, 20.0
MOST_BYTES = 2 << 30
STATUSES = (0, 1, 2, 130)
LONGEST_LINE = 3000


def make_run(folder: Path) -> Path:
    """Make a finished run on a file of random images."""
    import ffpipe

    images, labels = np.random.default_rng(1).integers(0, 256, (120, 8, 8), dtype=np.uint8), np.arange(120) % 3
    np.savez(folder.with_suffix(".npz"), images=images, labels=labels)
    fields = {
        "training.epochs": 1,
        "training.dims": [64, 10, 10],
        "training.data.source": "npz",
        "training.data.test_count": 20,
        "training.data.validation": 0,
        "training.data.train": [str(folder.with_suffix(".npz"))],
        "execution.engine": "local",
        "execution.evaluate_every": 0,
        "execution.run_dir": str(folder),
    }
    ffpipe.train(ffpipe.override(ffpipe.recipe("digits"), fields))
    return folder


def work(kind: str, numbers: list[int], place: Path) -> None:
    """Ask requests one after the other; prints a line before each, and one with its result after it."""
    from fuzz_requests import request

    from ffpipe.commands.cli import COMMANDS

    for command in COMMANDS.values():  # which on a busy machine takes as long as a request may
        if command.needs:
            import_module(command.needs)
    run = place / "whole"
    for number in numbers:
        folder = place / f"{kind}-{number}"
        folder.mkdir()
        print(json.dumps({"begins": number}), file=sys.__stdout__, flush=True)
        arguments = request(kind, number, run, folder)
        result = {"number": number, "arguments": [repr(each) for each in arguments], **ask(arguments, folder)}
        print(json.dumps(result), file=sys.__stdout__, flush=True)
        os.chdir(place)
        shutil.rmtree(folder, ignore_errors=True)


def ask(arguments: list[str], folder: Path) -> dict[str, Any]:
    """Ask one request, and return what became of it."""
    from ffpipe.commands.cli import main

    def enough(*_: object) -> None:
        raise KeyboardInterrupt

    os.chdir(folder)
    outside = folder.parent / "outside"
    before, wrong = _seen(outside), []
    Path("/proc/self/clear_refs").write_text("5")  # the peak of memory begins anew
    out, err = io.StringIO(), io.StringIO()
    signal.signal(signal.SIGALRM, enough)
    signal.setitimer(signal.ITIMER_REAL, SECONDS_TO_TRAIN)
    status: int | str | None
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = main(arguments)
    except SystemExit as error:
        status = 0 if error.code is None else error.code
    except BaseException:
        status = None
        wrong.append(traceback.format_exc()[-1500:])
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    said = err.getvalue()
    if status is not None and status not in STATUSES:
        wrong.append(f"exit status {status}")
    last = said.splitlines()[-1:] or [""]
    if status == 2 and (not last[0].isprintable() or len(last[0]) > LONGEST_LINE or not last[0].startswith("ffpipe: ")):
        wrong.append(f"said {last[0][:300]!r}")
    if "Traceback" in said + out.getvalue():
        wrong.append(f"a traceback: {said[-500:]!r}")
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    if int(peak.split()[1]) * 1024 > MOST_BYTES:
        wrong.append(f"took {peak.split()[1]} kB")
    if _seen(outside) != before:
        wrong.append("changed what lies outside")
    return {"status": status, "wrong": wrong}


def _seen(folder: Path) -> dict[str, tuple[int, int]]:
    """List names, sizes and times of all that lies in a folder."""
    return {
        str(path): (path.lstat().st_size, path.lstat().st_mtime_ns)
        for path in [folder, *folder.rglob("*")]
    }  # fmt: skip


def ask_all(kind: str, numbers: list[int], place: Path) -> tuple[Counter[str], list[str]]:
    """Ask requests of processes that are replaced where one hangs or dies. Returns statuses, and what is wrong."""
    statuses, wrong = Counter[str](), list[str]()
    left = list(numbers)
    while left:
        command = [sys.executable, __file__, kind, "--work", str(place), "--only", *map(str, left)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        lines: queue.Queue[str] = queue.Queue()
        assert process.stdout is not None
        threading.Thread(target=_read, args=(process.stdout, lines), daemon=True).start()
        number = left[0]
        while left:
            try:
                line = lines.get(timeout=SECONDS if number in left else 3 * SECONDS)
            except queue.Empty:
                line = ""
                wrong.append(f"{kind} {number}: works for more than {SECONDS:g} s")
            told = json.loads(line) if line else {}
            if "begins" in told:
                number = told["begins"]
            elif told:
                left.remove(told["number"])
                statuses[str(told["status"])] += 1
                if statuses.total() % 1000 == 0:
                    print(f"{kind}: {statuses.total():,} requests, {len(wrong)} wrong", flush=True)
                wrong += [f"{kind} {told['number']}: {each}: {' '.join(told['arguments'])}" for each in told["wrong"]]
            else:
                if process.poll() is not None and not any(f"{kind} {number}: works" in each for each in wrong):
                    wrong.append(f"{kind} {number}: the process ended with status {process.returncode}")
                left = [each for each in left if each > number]
                shutil.rmtree(place / f"{kind}-{number}", ignore_errors=True)
                break
        process.kill()
        process.wait()
    return statuses, wrong


def _read(source: Any, lines: queue.Queue[str]) -> None:
    """Put each line of a process where it is waited for; an empty one at its end."""
    for line in source:
        lines.put(line)
    lines.put("")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("kinds", nargs="*", default=list(KINDS), help=", ".join(KINDS))
    parser.add_argument("--requests", type=positive, default=10_000, help="of each kind")
    parser.add_argument("--seed", type=int, default=0, help="number of the first")
    parser.add_argument("--only", type=int, nargs="+", default=[], help="these numbers alone")
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)  # in a process of its own
    options = parser.parse_args()
    if unknown := [kind for kind in options.kinds if kind not in KINDS]:
        parser.error(f"unknown kind {unknown[0]!r}: give {', '.join(KINDS)}")
    if options.work:
        work(options.kinds[0], options.only, options.work)
        return 0
    numbers = options.only or list(range(options.seed, options.seed + options.requests))
    told: dict[str, Any] = {}
    wrong: list[str] = []
    with tempfile.TemporaryDirectory(prefix="ff-fuzz-") as folder:
        place = Path(folder)
        make_run(place / "whole")
        (place / "outside").mkdir()
        (place / "outside" / "kept").write_text("kept")
        for kind in options.kinds:
            statuses, found = ask_all(kind, numbers, place)
            for each in found:
                print(each, flush=True)
            wrong += found
            told[kind] = dict(sorted(statuses.items()))
    print(json.dumps({"fuzz": told, "seed": options.seed, "wrong": len(wrong)}))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

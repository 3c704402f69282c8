"""Digests of the weights of short runs, held against recorded ones, to find a change of arithmetic.

A change that claims to leave the arithmetic alone must leave every digest as it is. The runs are those of the recipes,
cut short, and of variants of `digits` and `mnist` that reach the other rules of training. Bits also depend on the
processor and on torch, so there is a record for each kind of processor and version of torch.

    python scripts/digests.py                 # every case against tests/digests.json
    python scripts/digests.py --record        # write what this machine finds there
    python scripts/digests.py digits/adaptive # only the cases whose names begin so

Cases of MNIST need FFPIPE_DATA, a folder that holds mnist/.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from pathlib import Path

from digest_cases import MNIST_FILES, Cases, digits_cases, local_cases, mnist_cases

import ffpipe
from ffpipe import Config, override

import torch  # isort: skip - after ffpipe, which sets what torch reads from the environment

RECORD = Path(__file__).resolve().parent.parent / "tests" / "digests.json"

Measured = dict[str, float | str | None]
Record = dict[str, dict[str, Measured]]  # by kind of machine, then by case

# Cases whose test errors are recorded too.
TESTED = ("digits/wide-digits", "digits/recipe-paper-unsupervised", "digits/bfloat16", "mnist/recipe-mnist")


def measure(config: Config, tested: bool = False) -> Measured:
    """Train on one thread, in a folder that is removed, and return the digest; `tested`: the test errors too.

    Leaves torch with one thread.
    """
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        result = ffpipe.train(override(config, {"execution.run_dir": str(Path(folder) / "run")}))
    errors = {"goodness": result.test_error_goodness, "softmax": result.test_error_softmax} if tested else {}
    return {"weights_sha256": result.weights_sha256, **{f"test_error_{name}": each for name, each in errors.items()}}


def complaint(measured: Measured, recorded: Measured | None) -> str:
    """Return what differs between a run and its record; empty where nothing does."""
    if recorded is None:
        return "not recorded: run scripts/digests.py --record where the arithmetic is right"
    names = sorted(name for name in {*measured, *recorded} if measured.get(name) != recorded.get(name))
    return ", ".join(f"{name} is {measured.get(name)}, recorded is {recorded.get(name)}" for name in names)


def kind_of_machine(processors: Path = Path("/proc/cpuinfo")) -> str:
    """Name what bits depend on: the processor's vendor, family and instructions, and torch's version.

    processors: a description by Linux; where it is missing, the platform's name of the processor stands for it.
    """
    # bfloat16 counts: processors of one family have AVX-512 with and without it, and sum in another order.
    also = [name for name in ("avx512_bf16", "amx_bf16") if torch.cpu.get_capabilities().get(name)]
    parts = [_processor(processors), torch.backends.cpu.get_cpu_capability(), *also]
    return f"{' '.join(parts)}, torch {torch.__version__}"


def read_record(path: Path = RECORD) -> Record:
    """Read all records; empty where there is no file yet."""
    record: Record = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return record


def write_record(record: Record, path: Path = RECORD) -> None:
    """Write all records, sorted, a line for each value."""
    path.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def merged(record: Record, kind: str, measured: dict[str, Measured], known: set[str]) -> Record:
    """Return the record with what was measured on a kind of machine, and without cases that are not known any more.

    Other kinds, and cases that were not measured, stay as they are.
    """
    kept = {name: each for name, each in record.get(kind, {}).items() if name in known}
    return {**record, kind: {**kept, **measured}}


def _processor(processors: Path) -> str:
    """Name vendor and family of the first processor: x86 and ARM call them differently."""
    try:
        first = processors.read_text(encoding="utf-8", errors="replace").split("\n\n")[0]
    except OSError:
        first = ""
    pairs = (line.partition(":") for line in first.splitlines())
    fields = {name.strip(): value.strip() for name, _, value in pairs}
    for vendor, family in (("vendor_id", "cpu family"), ("CPU implementer", "CPU part")):
        if vendor in fields:
            return f"{fields[vendor]} family {fields.get(family, 'unknown')}"
    return platform.processor() or platform.machine() or "unknown processor"


def main() -> int:
    """Measure the cases that were asked for, say how they compare, and record them if that was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prefixes", nargs="*", help="how the names of cases begin; none: all")
    parser.add_argument("--record", action="store_true", help=f"write tests/{RECORD.name}")
    options = parser.parse_args()

    with tempfile.TemporaryDirectory() as place:
        return compare(options, parser, local_cases(Path(place)))


def compare(options: argparse.Namespace, parser: argparse.ArgumentParser, local: Cases) -> int:
    """Run what was asked for. Returns the exit status."""
    folder = os.environ.get("FFPIPE_DATA", "")
    at_hand = bool(folder) and all((Path(folder) / "mnist" / name).is_file() for name in MNIST_FILES)
    cases = {**digits_cases(), **local, **(mnist_cases(folder) if at_hand else {})}
    if not at_hand:
        print("without MNIST: set FFPIPE_DATA to a folder that holds mnist/")
    chosen = {name: each for name, each in cases.items() if name.startswith(tuple(options.prefixes) or "")}
    if not chosen:
        parser.error(f"no case begins with {' or '.join(options.prefixes)}")

    kind, record = kind_of_machine(), read_record()
    print(f"{kind}: {len(record.get(kind, {}))} recorded, {len(chosen)} to run")
    measured, differing, began = {}, 0, time.perf_counter()
    for name, make in chosen.items():
        start = time.process_time()
        measured[name] = measure(make(), name in TESTED)
        text = complaint(measured[name], record.get(kind, {}).get(name))
        differing += bool(text)
        seconds = time.process_time() - start
        print(f"{name:40} {measured[name]['weights_sha256']} {seconds:5.1f} s  {text or 'as recorded'}", flush=True)
    print(
        f"{differing} of {len(chosen)} differ, {time.perf_counter() - began:.0f} s, {time.process_time():.0f} s of CPU"
    )
    if options.record:
        write_record(merged(record, kind, measured, {*digits_cases(), *local, *mnist_cases(folder)}))
        return 0
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())

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
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import ffpipe
from ffpipe import Config, override, recipe

import torch  # isort: skip - after ffpipe, which sets what torch reads from the environment

RECORD = Path(__file__).resolve().parent.parent / "tests" / "digests.json"

Fields = dict[str, Any]
Measured = dict[str, float | str | None]
Record = dict[str, dict[str, Measured]]  # by kind of machine, then by case

RECIPES = (
    "augmented",
    "digits",
    "digits-cnn",
    "ff-py",
    "five-digits-supervised",
    "five-digits-unsupervised",
    "hinton",
    "hinton-exact",
    "keras",
    "keras-exact",
    "mnist",
    "mnist-cnn",
    "paper-supervised",
    "paper-unsupervised",
    "pff",
    "symba",
    "tf-five-digits",
    "tf-five-digits-supervised",
    "tf-layer-by-layer",
)

# Networks of local losses, each a few steps on random data of the shape that it is for.
LOCAL = {
    "mono-forward": (32, 32, 3),
    "hinton-lrf": (28, 28),
    "nokland-mlp": (28, 28),
    "cwcomp": (28, 28),
    "cwcomp-fashion": (28, 28),
    "cwcomp-cifar10": (32, 32, 3),
    "dgl": (32, 32, 3),
    "fashion-cnn": (28, 28),
    "cifar10-local": (32, 32, 3),
    "char-lm": (),
}
LOCAL_BATCH, LOCAL_STEPS = 8, 5

# One process, one stage, and nothing beside the training and the test after it.
PLAIN: Fields = {
    "execution.engine": "local",
    "execution.stages": 1,
    "execution.evaluate_every": 0,
    "execution.snapshot_steps": 0,
}

# Steps for a prediction to come back as negatives at the default lag of 48: 60 of digits, 54 of MNIST.
DIGITS: Fields = {
    "training.data.source": "digits",
    "training.data.split_seed": 0,
    "training.data.train_limit": 1000,
    "training.data.validation": 97,
    "training.data.test_count": 300,
    "training.batch_size": 50,
    "training.epochs": 3,
}
# The test of all 10,000 would take longer than the training.
MNIST: Fields = {
    "training.data.source": "idx",
    "training.data.train_limit": 1800,
    "training.data.validation": 20,
    "training.data.test_count": 40,
    "training.epochs": 3,
}
MNIST_FILES = ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz")

# A minibatch is the whole training set, with 50 updates of a layer on it.
FULL_BATCH: Fields = {
    "training.data.train_limit": 500,
    "training.batch_size": 500,
    "training.epochs": 2,
    "training.dims": [784, 200, 200],
}

# On top of these for the digits.
DIGITS_STEPS: dict[str, Fields] = {
    "keras-exact": FULL_BATCH,
    "ff-py": {"training.data.split_seed": -1},
    "tf-five-digits": {"training.data.split_seed": -1},
    "tf-five-digits-supervised": {"training.data.split_seed": -1},
    "tf-layer-by-layer": {"training.epochs": 4},
}

# On top of these for MNIST, where a recipe has minibatches of its own.
MNIST_STEPS: dict[str, Fields] = {
    "five-digits-supervised": {"training.data.train_limit": 2500, "training.epochs": 8},
    "five-digits-unsupervised": {"training.data.train_limit": 2500, "training.epochs": 8},
    "keras-exact": FULL_BATCH,
    "pff": {"training.epochs": 2},
    "tf-five-digits": {"training.data.train_limit": 2500},
    "tf-five-digits-supervised": {"training.data.train_limit": 2500},
    "tf-layer-by-layer": {"training.data.train_limit": 2500, "training.epochs": 4},
}

# Widest layer, by what a processor without products in bfloat16 can do in a few seconds.
WIDEST_OF_DIGITS = {"bfloat16": 80, "float32": 200, "float64": 200}
WIDEST_OF_MNIST = {"bfloat16": 80, "float32": 1000}
WIDEST_OF_VARIANTS = {"bfloat16": 80, "float32": 150, "float64": 150}  # of MNIST

# The widest recipe as it is, but in float32.
WIDE: Fields = {"training.precision": "float32", "training.data.train_limit": 1000, "training.epochs": 1}

HARD: Fields = {"training.negatives": "hard"}
VARIANTS: dict[str, Fields] = {
    "float32": {"training.precision": "float32"},
    "float64": {"training.precision": "float64"},
    "bfloat16": {"training.precision": "bfloat16"},
    "lag-0": {**HARD, "training.negative_lag": 0},
    "lag-3": {**HARD, "training.negative_lag": 3},
    "lag-24": {**HARD, "training.negative_lag": 24},
    "lag-0-bfloat16": {**HARD, "training.negative_lag": 0, "training.precision": "bfloat16"},
    "random": {"training.negatives": "random"},
    "fixed": {"training.negatives": "fixed"},
    "shuffled": {"training.negatives": "shuffled"},
    "adaptive": {"training.negatives": "adaptive", "training.negative_lag": 8},
    "hybrid": {"training.negatives": "hybrid", "training.labels": "none"},
    "others": {"training.negatives": "others", "training.data.positive_classes": 5},
    "others-unlabelled": {
        "training.negatives": "others",
        "training.labels": "none",
        "training.data.positive_classes": 5,
    },
    "overlay": {"training.labels": "overlay", "training.label_strength": 2.0},
    "append": {"training.labels": "append"},
    "dropout": {"training.dropout": 0.1},
    "jitter": {"training.jitter": 1},
    "dropout-and-jitter-lag-0": {"training.dropout": 0.2, "training.jitter": 2, "training.negative_lag": 0},
    "softplus": {"training.objective": "softplus", "training.temperature": 2.0},
    "symba": {"training.objective": "symba"},
    "mean-goodness": {"training.goodness": "mean", "training.threshold": 1.5},
    "l2": {"training.normalization": "l2"},
    "glorot": {"training.initialization": "glorot"},
    "no-peer": {"training.peer": 0.0},
    "constant-rate": {"training.schedule": "constant"},
    "phases-apart": {"training.phases": "apart"},
    "phases-apart-softplus": {"training.phases": "apart", "training.objective": "softplus"},
    "local-steps": {"training.local_steps": 3, "training.negatives": "random"},
    "hand-on-after": {"training.hand_on": "after"},
    "local-steps-after": {"training.local_steps": 3, "training.hand_on": "after", "training.phases": "apart"},
    "no-head": {"training.head": False, "training.negatives": "random"},
    "readouts-from-0": {"training.head_from": 0, "training.goodness_from": 0},
    "averaging": {"training.optimizer.kind": "averaging", "training.optimizer.averaging": 0.8},
    "sgd-momentum": {"training.optimizer.kind": "SGD", "training.optimizer.options": {"momentum": 0.9}},
    "adam": {"training.optimizer.kind": "Adam", "training.optimizer.learning_rate": 0.001},
    "adam-bfloat16": {
        "training.optimizer.kind": "Adam",
        "training.optimizer.learning_rate": 0.001,
        "training.precision": "bfloat16",
    },
    "adamw": {"training.optimizer.kind": "AdamW", "training.optimizer.learning_rate": 0.001},
    "nadam": {"training.optimizer.kind": "NAdam", "training.optimizer.learning_rate": 0.001},
    "rmsprop": {"training.optimizer.kind": "RMSprop", "training.optimizer.learning_rate": 0.001},
    "head-adam": {"training.head_optimizer.kind": "Adam", "training.head_optimizer.learning_rate": 0.001},
    "backprop": {"training.method": "backprop"},
}

# Cases whose test errors are recorded too.
TESTED = ("digits/wide-digits", "digits/recipe-paper-unsupervised", "digits/bfloat16", "mnist/recipe-mnist")


def digits_cases() -> dict[str, Config]:
    """Return the cases on the packaged digits by name: every recipe, and the variants of `digits`."""

    def short(name: str, fields: Fields) -> Config:
        return _narrowed(_shortened(name, {**PLAIN, **DIGITS, **fields}), 64, WIDEST_OF_DIGITS)

    recipes = {
        f"recipe-{name}": short(name, DIGITS_STEPS.get(name, {}))
        for name in RECIPES
        if name != "mnist-cnn"  # whose heads are for larger images
    }
    wide = override(recipe("digits"), {**PLAIN, **DIGITS})
    variants = {name: short("digits", fields) for name, fields in VARIANTS.items()}
    return _named("digits", {**recipes, **variants, "wide-digits": wide})


def mnist_cases(folder: str) -> dict[str, Config]:
    """Return the cases on a slice of MNIST by name: every recipe but `digits`, and variants of `mnist`.

    folder: holds mnist/. The names do not depend on it.
    """
    files = {"training.data.train": [str(Path(folder) / "mnist" / name) for name in MNIST_FILES]}

    def short(name: str, fields: Fields) -> Config:
        return _shortened(name, {**PLAIN, **MNIST, **files, **fields})

    recipes = {
        f"recipe-{name}": _narrowed(short(name, MNIST_STEPS.get(name, {})), 784, WIDEST_OF_MNIST)
        for name in RECIPES
        if name != "digits"
    }
    lag = {"training.negative_lag": 24}
    variants = {
        name: _narrowed(short("mnist", {**lag, **fields}), 784, WIDEST_OF_VARIANTS) for name, fields in VARIANTS.items()
    }
    return _named("mnist", {**recipes, **variants, "wide-paper-supervised": short("paper-supervised", WIDE)})


def local_cases(folder: Path) -> dict[str, Config]:
    """Return the cases of LOCAL by name, and write what they train on into a folder.

    Epochs have one step, so that milestones and windows of epochs come to pass.
    """
    fields: Fields = {
        **PLAIN,
        "training.epochs": LOCAL_STEPS,
        "training.batch_size": LOCAL_BATCH,
        "training.data.train_limit": LOCAL_BATCH,
        "training.data.validation": 4,
        "training.data.test_count": 4,
    }
    cases = {}
    for name, shape in LOCAL.items():
        if shape:
            path = folder / f"{'x'.join(map(str, shape))}.npz"
            images = np.random.default_rng(1).integers(0, 256, (LOCAL_BATCH + 8, *shape), dtype=np.uint8)
            np.savez(path, images=images, labels=np.arange(len(images)) % 10)
            data: Fields = {"training.data.source": "npz", "training.data.train": [str(path)]}
        else:
            path = folder / "text.txt"
            path.write_text("the quick brown fox jumps over the lazy dog\n" * 60)
            data = {"training.data.train": [str(path)]}
        cases[f"recipe-{name}"] = override(_with_short_windows(recipe(name)), {**fields, **data})
    return _named("local", cases)


def _shortened(name: str, fields: Fields) -> Config:
    """Return a recipe with fewer epochs, and as much fewer those of its blocks."""
    whole = recipe(name)
    made = override(whole, fields)
    epochs, of = made.training.epochs, whole.training.epochs
    blocks = tuple(
        replace(each, first_epoch=each.first_epoch * epochs // of, last_epoch=each.last_epoch * epochs // of)
        for each in made.training.blocks
    )
    return replace(made, training=replace(made.training, blocks=blocks))


def _with_short_windows(config: Config) -> Config:
    """Have the blocks of a recipe learn until the last of the few epochs, where they would learn for longer."""
    blocks = tuple(replace(each, last_epoch=min(each.last_epoch, LOCAL_STEPS)) for each in config.training.blocks)
    return replace(config, training=replace(config.training, blocks=blocks))


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


def _narrowed(config: Config, features: int, widest: dict[str, int]) -> Config:
    widths = (min(width, widest[config.training.precision]) for width in config.training.dims[1:])
    return override(config, {"training.dims": [features, *widths]})


def _named(data: str, cases: dict[str, Config]) -> dict[str, Config]:
    return {f"{data}/{name}": each for name, each in cases.items()}


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


def compare(options: argparse.Namespace, parser: argparse.ArgumentParser, local: dict[str, Config]) -> int:
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
    for name, config in chosen.items():
        start = time.process_time()
        measured[name] = measure(config, name in TESTED)
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

"""Requests that nobody would type: made from a seed alone, in a folder of their own.

options   commands with fields and values of every kind
data      files and folders of examples, whole, damaged or of another form than their name says
places    run folders of strangers, with links and with names of places outside in their config
"""

from __future__ import annotations

import functools
import json
import os
import random
import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.feather
import pyarrow.parquet as pq
import tomli_w
from PIL import Image

from ffpipe.config.fields import Leaf, leaves
from ffpipe.config.recipes import RECIPES

# Small enough that one which is right after all trains in a moment.
SMALL = [
    *("--engine", "local", "--epochs", "1", "--training.dims", "64", "10", "8"),
    *("--training.data.train-limit", "60", "--training.batch-size", "10", "--execution.evaluate-every", "0"),
]
WORDS = (
    *("", " ", "0", "1", "2", "3", "7", "-1", "10", "64", "1e3", ".5", "1.", "nan", "inf", "-inf", "1e400", "true"),
    *(
        "false",
        "none",
        "None",
        "null",
        "hard",
        "random",
        "adam",
        "Adam",
        "SGD",
        "cpu",
        "cuda",
        "cuda:9",
        "ray",
        "local",
    ),
    *("99999999999999999999", "9223372036854775807", "0x10", "1_000", "²", "٣", "a" * 300, "a,b", "1,2", ",", "a=b"),
    *(
        "\x1b[31m",
        "\udcff",
        "é",
        "日本",
        "..",
        "/",
        "~",
        "~nobody",
        "/dev/null",
        "/dev/zero",
        "/proc/self/mem",
        "a/b/c",
    ),
    *("s3://", "s3://b/k", "gs:/x", "file:///nowhere", "http://127.0.0.1:1/x", "ftp://x", "://", "-", "--", "-x", "{}"),
    *("8GiB", "1MB", "-1GB", "1e9", "in(a,b)", "!in(a)", "%s", "{0}", "$HOME", "`id`", "os:system", "x.py:f", "mod:f"),
    *("'", '"', "[]", "a=1,2", "layerwise"),
)
# As many features as the data have.
DIMS = ("--training.dims", "0", "10", "8")
COMMANDS = (
    "train",
    "plan",
    "resume",
    "evaluate",
    "predict",
    "export",
    "data",
    "show",
    "runs",
    "recipes",
    "completion",
    "x",
)
# Fields that need a network, or that may make a run take minutes.
LEFT_OUT = {
    "execution.engine",
    "training.epochs",
    "execution.start_timeout",
    "execution.back_off",
    "training.local_steps",
}


# Fields of a config that name a place, code or a program.
NAMING = (
    *(("execution", name) for name in ("checkpoints", "spool", "run_dir", "data_dir", "engine")),
    ("training", "model"),
)


def request(kind: str, seed: int, run: Path, folder: Path) -> list[str]:
    """Return the arguments of one request. run: a finished run to take copies of. folder: empty, for its files."""
    chance = random.Random(f"{kind} {seed}")
    return {"options": _options, "data": _data, "places": _places}[kind](chance, run, folder)


@functools.cache
def _fields() -> tuple[Leaf, ...]:
    return tuple(leaf for leaf in leaves() if leaf.name not in LEFT_OUT)


def _word(chance: random.Random, leaf: Leaf | None = None) -> str:
    """Draw a value for a field: one of its kind, or anything."""
    if leaf is None or chance.random() < 0.2:
        return chance.choice(WORDS)
    if leaf.choices:
        return str(chance.choice(leaf.choices))
    kind = str(leaf.annotation)
    if "bool" in kind:
        return chance.choice(("true", "false", "0", "1"))
    if "int" in kind:
        return str(chance.choice((0, 1, 2, 3, 5, 8, 10, 16, 64, 100, -1, 10 ** chance.randint(0, 12))))
    if "float" in kind:
        return f"{chance.uniform(0, 1) * 10 ** chance.randint(-6, 3):.3g}"
    return chance.choice(WORDS)


def _given(chance: random.Random, most: int) -> list[str]:
    """Draw up to so many fields with values."""
    found = []
    for leaf in chance.choices(_fields(), k=chance.randint(0, most)):
        name = leaf.name.replace("_", "-") if chance.random() < 0.97 else leaf.name[:-1]
        many = chance.choice((1, 2, 3)) if leaf.is_sequence else 1 if chance.random() < 0.95 else chance.choice((0, 2))
        values = [_word(chance, leaf) for _ in range(many)]
        found += [f"--{name}", *values] if chance.random() < 0.8 else [f"--{name}={' '.join(values)}"]
    return found


def _options(chance: random.Random, run: Path, folder: Path) -> list[str]:
    command = chance.choice(COMMANDS) if chance.random() < 0.5 else "train"
    if command in ("train", "plan"):
        recipe = "digits" if chance.random() < 0.9 else chance.choice((*RECIPES, _word(chance)))
        dry = command == "train" and (recipe != "digits" or chance.random() < 0.8)
        small = SMALL if recipe == "digits" else []
        return [command, recipe, *small, *_given(chance, 3), *["--dry-run"] * dry, "--run-dir", "made"]
    copy = shutil.copytree(run, folder / "run")
    what = [str(copy.name)] if chance.random() < 0.8 else [_word(chance)]
    rest = [_word(chance) for _ in range(chance.randint(0, 2))]
    return [command, *what, *rest, *_given(chance, 2)]


def _images(chance: random.Random) -> tuple[np.ndarray, np.ndarray]:
    """Draw images of any shape and kind of number, and labels of any kind; every second time what most people have."""
    if chance.random() < 0.5:
        numbers = np.random.default_rng(chance.randrange(1 << 30))
        return numbers.integers(0, 256, (40, 8, 8), dtype=np.uint8), numbers.integers(0, 3, 40)
    count, shape = (
        chance.randint(0, 30),
        chance.choice(((8, 8), (64,), (8, 8, 1), (4, 4, 3), (3, 4, 4), (), (1,), (2, 2, 2, 2))),
    )
    numbers = np.random.default_rng(chance.randrange(1 << 30))
    kind = chance.choice(("u1", "i8", "f4", "f8", "?", "i2", "U3", "O"))
    raw = numbers.integers(0, chance.choice((2, 256, 70000)), (count, *shape))
    images = raw.astype("u1" if kind == "u1" else "i8") if kind in ("u1", "O") else raw.astype(kind)
    labels: np.ndarray = numbers.integers(chance.choice((-2, 0, 1)), chance.choice((2, 3, 300)), count)
    if chance.random() < 0.3:
        labels = np.array([f"class {each}" for each in labels]) if chance.random() < 0.5 else labels.astype(float)
    return images, labels[: chance.choice((count, count, max(0, count - 1)))]


def _write(path: Path, chance: random.Random) -> Path:
    """Write a file of examples, or a folder, in one of the forms that are read."""
    images, labels = _images(chance)
    flat = images.reshape(len(images), int(np.prod(images.shape[1:])))
    columns = {f"p{i}": pa.array(flat[:, i].tolist()) for i in range(min(flat.shape[1], 70))}
    form = chance.choice(("npz", "npy", "csv", "parquet", "arrow", "folder", "nothing", "bytes"))
    match form:
        case "npz":
            arrays: dict[str, Any] = {chance.choice(("images", "x_train", "X")): images, "labels": labels}
            np.savez(path.with_suffix(".npz"), **arrays)
            return path.with_suffix(".npz")
        case "npy":
            np.save(path.with_suffix(".npy"), images)
            return path.with_suffix(".npy")
        case "csv" | "parquet" | "arrow" if len(labels) == len(images):
            table = pa.table({chance.choice(("label", "class", "y")): pa.array(labels.tolist()), **columns})
            path = path.with_suffix(f".{form}")
            writers: dict[str, Callable[..., object]] = {
                "csv": pyarrow.csv.write_csv, "parquet": pq.write_table, "arrow": pyarrow.feather.write_feather
            }  # fmt: skip
            writers[form](table, str(path))
            return path
        case "folder":
            for index in range(chance.randint(0, 6)):
                place = path / chance.choice(("a", "b", "\x1b[1m", "é", ".hidden", "train/a", "test/a"))
                place.mkdir(parents=True, exist_ok=True)
                mode = chance.choice(("L", "RGB", "RGBA", "P", "1", "I;16", "F", "CMYK"))
                size = (chance.randint(1, 9), chance.randint(1, 9))
                suffix = "tiff" if mode in ("F", "CMYK", "I;16") else "png"
                Image.new(mode, size).save(place / f"{index}.{suffix}")
            path.mkdir(exist_ok=True)
            return path
        case "nothing":
            return path
    path.write_bytes(chance.randbytes(chance.randint(0, 200)))
    return path


def _damage(path: Path, chance: random.Random) -> Path:
    """Cut the file, change it, or give it another ending."""
    if path.is_file() and chance.random() < 0.3:
        data = bytearray(path.read_bytes())
        for _ in range(chance.randint(1, 4)):
            if data:
                data[chance.randrange(len(data))] = chance.randrange(256)
        path.write_bytes(data[: chance.randint(0, len(data))] if chance.random() < 0.4 else data)
    if path.exists() and chance.random() < 0.2:
        other = path.with_suffix(chance.choice((".npz", ".csv", ".parquet", ".png", ".gz", ".npy", "")))
        if not other.exists():
            path = path.rename(other)
    return path


def _data(chance: random.Random, run: Path, folder: Path) -> list[str]:
    name = str(_damage(_write(folder / "given", chance), chance).relative_to(folder))
    names = [name] * chance.choice((1, 1, 1, 2))
    given = _given(chance, 1) if chance.random() < 0.3 else []
    match chance.choice(("data", "train", "predict", "evaluate")):
        case "data":
            return ["data", *names, *given, *(["--png", "samples.png"] if chance.random() < 0.2 else [])]
        case "train":
            small = ["--engine", "local", "--epochs", "1", "--training.batch-size", "2"]
            small += [
                "--training.data.test-count",
                "-1",
                "--training.data.validation",
                "0",
                "--execution.evaluate-every",
                "0",
            ]
            return ["train", "digits", *small, *DIMS, "--run-dir", "made", *given, "--data", *names]
        case "predict":
            shutil.copytree(run, folder / "run")
            return ["predict", "run", *names, *(["--top", "2"] if chance.random() < 0.3 else [])]
    shutil.copytree(run, folder / "run")
    return ["evaluate", "run", "--training.data.train", *names, "--split", "train"]


def _places(chance: random.Random, run: Path, folder: Path) -> list[str]:
    copy = shutil.copytree(run, folder / chance.choice(("run", "r\x1b[1mun", "é", " ", "-run", "run.toml")))
    outside = folder.parent / "outside"
    places = [str(outside), f"../{outside.name}", f"file://{outside}", str(outside / "new"), "/dev/shm/x", *WORDS]
    config = copy / "config.toml"
    tree = tomllib.loads(config.read_text())
    for _ in range(chance.randint(0, 3)):
        half, field = chance.choice(NAMING)
        place = chance.choice(places)
        tree[half][field] = place.encode(errors="replace").decode()
    config.write_text(tomli_w.dumps(tree))
    for _ in range(chance.randint(0, 2)):
        files = sorted(path for path in copy.rglob("*") if path != config)
        victim = chance.choice(files)
        if victim.is_symlink() or not victim.exists():
            continue
        shutil.rmtree(victim) if victim.is_dir() else victim.unlink()
        match chance.choice(("link", "loop", "pipe", "gone", "number", "folder")):
            case "link":
                victim.symlink_to(chance.choice((outside, outside / "kept", Path("/dev/zero"), Path("/etc/hostname"))))
            case "loop":
                victim.symlink_to(victim)
            case "pipe":
                os.mkfifo(victim)
            case "number":
                victim.write_text(json.dumps(chance.choice((1, [], {}, "x", None))))
            case "folder":
                victim.mkdir()
    name = copy.name if not copy.name.startswith("-") else f"./{copy.name}"
    command = chance.choice(("resume", "evaluate", "predict", "export", "show", "runs", "train"))
    further = {
        "resume": ["--epochs", "2", "--engine", "local", "--stages", "1"],
        "predict": ["image.npy"],
        "export": ["out.safetensors"],
        "train": ["--dry-run"],
    }
    if command == "predict":
        np.save(folder / "image.npy", np.zeros((8, 8), np.uint8))
    what = "." if command == "runs" else f"{name}/config.toml" if command == "train" else name
    return [command, what, *further.get(command, [])]

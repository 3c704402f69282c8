"""Whatever is in the files of a run, they are read in bounded memory and time, and what is wrong is said in one line.

Files are mutated by bytes and by structure; a stranger can make every digest agree, so tensors are signed anew after
they were changed. `FFPIPE_FUZZ=20000 pytest tests/test_fuzz.py` tries more than the few of every day.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import resource
import shutil
import signal
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import tomli_w
import torch

import ffpipe
from ffpipe.cli import main
from ffpipe.config import Config
from ffpipe.errors import Diverged, UserError
from ffpipe.pipeline.job import Job, Start, make_job
from ffpipe.pipeline.local import LocalEngine
from ffpipe.run import verified
from ffpipe.runs import open_run
from ffpipe.store import Store
from ffpipe.telemetry.view import QuietView

CASES = int(os.environ.get("FFPIPE_FUZZ", "60"))
# Beyond what the process has when a case begins. A case may train a small network.
MORE_BYTES = 512 << 20
SECONDS = 20.0
LAYER, HEAD, MANIFEST = "layer-001.safetensors", "head.safetensors", "manifest.json"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of 28 steps with snapshots of steps 20 and 28."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    fields = {
        "training.epochs": 1,
        "training.dims": [64, 20, 20, 20],
        "training.data.validation": 0,
        "training.data.test_count": 30,
        "training.data.train_limit": 1400,
        "training.head_optimizer.kind": "Adam",
        "training.negative_lag": 3,
        "execution.engine": "local",
        "execution.stages": 1,
        "execution.evaluate_every": 0,
        "execution.snapshot_steps": 20,
        "execution.back_off": 0,
        "execution.run_dir": str(folder),
    }
    ffpipe.train(ffpipe.override(ffpipe.recipe("digits"), fields))
    np.save(folder.parent / "image.npy", np.zeros(64, dtype=np.float32))
    return folder


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    return fresh(run, tmp_path / "copy")


def fresh(run: Path, to: Path) -> Path:
    """A copy of the run in place of what is there."""
    shutil.rmtree(to, ignore_errors=True)
    return Path(shutil.copytree(run, to))


def newest(run: Path) -> Path:
    return max(run.glob("checkpoints/*"))


class Notes(QuietView):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


@contextmanager
def bounded() -> Iterator[None]:
    """No more than MORE_BYTES and SECONDS for what is within."""

    def late(*_: object) -> None:
        raise TimeoutError(f"more than {SECONDS} s")

    status = Path("/proc/self/status").read_text().split("VmData:")[1]
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    before = signal.signal(signal.SIGALRM, late)
    resource.setrlimit(resource.RLIMIT_DATA, (int(status.split()[0]) * 1024 + MORE_BYTES, hard))
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
        signal.signal(signal.SIGALRM, before)


def well(ask: Callable[[], object]) -> str:
    """Ask within bounds: an answer, or a refusal in one line. Returns that line, empty where it was answered."""
    try:
        with bounded():
            ask()
    except (UserError, Diverged) as error:
        assert "\n" not in str(error)
        return str(error)
    return ""


def read_by_all(run: Path) -> None:
    """As `load` and as `resume` read the newest snapshot; what is accepted is gone on from."""
    well(lambda: ffpipe.load(run))
    folder, config = open_run(run)
    job = job_of(config.to_toml())
    if not well(lambda: verified(folder.store(config), newest(run).name, job)):
        view = Notes()
        well(lambda: ffpipe.resume(run, view=view))
        assert view.notes == []


@cache
def job_of(text: str) -> Job:
    return make_job(Config.from_toml(text, where="config.toml"))


# Bytes


NUMBERS = (b"-1", b"0", b"1", b"1e400", b"-1e-400", b"nan", b"1.5", b"99999999", b"9223372036854775808", b"1" + b"0" * 15)


def by_bytes(data: bytes, chance: random.Random) -> bytes:
    """One to four small changes: flip, cut, splice, insert, repeat, another number."""
    for _ in range(chance.randint(1, 4)):
        a, b = sorted(chance.randrange(len(data) + 1) for _ in range(2))
        b = min(b, a + chance.choice((1, 4, 30, 300)))
        digits = [i for i in range(len(data[:4096])) if data[i : i + 1].isdigit()]
        match chance.choice(("flip", "cut", "end", "splice", "insert", "repeat", "number", "number")):
            case "flip" if data:
                place = chance.choice((chance.randrange(len(data)), chance.randrange(min(len(data), 1000))))
                data = data[:place] + bytes([data[place] ^ 1 << chance.randrange(8)]) + data[place + 1 :]
            case "cut":
                data = data[:a] + data[b:]
            case "end":
                data = data[:a]
            case "splice":
                place = chance.randrange(len(data) + 1)
                data = data[:place] + data[a:b] + data[place:]
            case "insert":
                data = data[:a] + chance.choice((chance.randbytes(8), b"\0", b"\n", b"[", b'"', b"{", b"\xff")) + data[a:]
            case "repeat":
                data = data[:a] + data[a:b] * chance.choice((2, 10, 1000)) + data[b:]
            case "number" if digits:
                first = last = chance.choice(digits)
                while data[last : last + 1].isdigit():
                    last += 1
                data = data[:first] + chance.choice(NUMBERS) + data[last:]
    return data


# Structure


VALUES: tuple[Any, ...] = (
    -1, 0, 1, 2, 3, 7, 50, 1000, 10**6, 10**9, 10**12, 10**18, 2**53, 2**53 + 1, 2**63, -(2**63), 10**30,
    0.0, -1.0, 0.5, 1e-300, 1e30, 1e38, 1e300, float("inf"), float("nan"), True, False,
    "", "x", "0", "nan", "\0", "a" * 5000, "../../x", "/dev/zero", "[/b]", "file:///nowhere", "s3:", "://", "\x1b[2J", "step",
    "Adam", "SGD", "NAdam", "Adafactor", "Rprop", "append", "overlay", "hard", "random", "fixed", "bfloat16", "float64",
    [], [1], [0] * 2000, [10**9, 10**9], [64, 10**7, 10**7], [[[]]], {}, {"a": 1}, {"foreach": True}, {"momentum": 0.9},
)  # fmt: skip


def by_structure(tree: Any, chance: random.Random) -> Any:
    """One to three places of a tree get another value, vanish, or are given another name or a copy."""
    for _ in range(chance.randint(1, 3)):
        places = [place for place in walk(tree) if place]
        if not places:
            return tree
        *path, last = chance.choice(places)
        branch = tree
        for part in path:
            branch = branch[part]
        match chance.choice(("value", "value", "value", "without", "name", "copy")):
            case "value":
                branch[last] = json.loads(json.dumps(chance.choice(VALUES)))
            case "without":
                del branch[last]
            case "name" if isinstance(branch, dict):
                branch[chance.choice((f"{last}x", "", "a.b", "é\n", "layer-001.safetensors"))] = branch.pop(last)
            case "copy" if isinstance(branch, list):
                branch += branch[:] * chance.choice((1, 50))
            case _:
                pass
    return tree


def walk(tree: Any, here: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield here
    inner = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in inner:
        yield from walk(value, (*here, key))


def by_tensors(data: bytes, chance: random.Random) -> bytes:
    """A safetensors file whose tensors are others: absent, of another name, shape, dtype or value."""
    state = safetensors.torch.load(data)
    dtypes = (torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int8, torch.bool, torch.complex64)
    for _ in range(chance.randint(1, 2)):
        name = chance.choice(sorted(state))
        tensor = state[name]
        match chance.choice(("absent", "name", "more", "shape", "dtype", "value")):
            case "absent" if len(state) > 1:
                del state[name]
            case "name":
                state[chance.choice(("prediction.x", "prediction.99999999999", "", "a" * 3000, f"{name}.0"))] = state.pop(name)
            case "more":
                extra = ("prediction.-5", "prediction.28", "weight.9", "optimizer.9.weight.step", "optimizer.bias.step")
                state[chance.choice(extra)] = tensor.clone()
            case "shape":
                shapes = ((0,), (), (1,), tensor.shape[::-1], (1, *tensor.shape), (0, 10**9))
                state[name] = torch.zeros(chance.choice(shapes), dtype=tensor.dtype)
            case "dtype":
                state[name] = tensor.to(chance.choice(dtypes))
            case "value":
                state[name] = torch.full_like(tensor, chance.choice((-1, 0, 1, 2**40, -(2**62))))
                if tensor.is_floating_point():
                    state[name].fill_(chance.choice((float("nan"), float("inf"), -1.0, 1e38)))
            case _:
                pass
    return safetensors.torch.save({name: tensor.contiguous() for name, tensor in state.items()})


def sign(path: Path) -> None:
    """Make the manifest agree with a file."""
    manifest = path.with_name(MANIFEST)
    tree, data = json.loads(manifest.read_text()), path.read_bytes()
    tree["files"][path.name] |= {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    manifest.write_text(json.dumps(tree))


# What reads them


def ask_config(run: Path, data: bytes) -> None:
    """Held against the data, cut, tried for two steps; and read with the snapshots of the run."""
    path = run / "config.toml"
    path.write_bytes(data)
    engine = LocalEngine()
    jobs = []
    if not well(lambda: jobs.append(make_job(Config.read(path)))):
        job, store = jobs[0], Store(str(run / "elsewhere"))
        layouts = []
        if not well(lambda: layouts.append(engine.layout(job))):
            plan = replace(layouts[0].plan, steps=min(job.steps, 2))
            well(lambda: engine.run(job, replace(layouts[0], plan=plan), store, Start(), lambda report: None))
    well(lambda: ffpipe.load(run))


def ask_past(run: Path, data: bytes) -> None:
    (run / "past.json").write_bytes(data)
    if not well(lambda: open_run(run)[0].read_past()):
        well(lambda: ffpipe.resume(run))


def ask_manifest(run: Path, data: bytes) -> None:
    (newest(run) / MANIFEST).write_bytes(data)
    read_by_all(run)


def ask_layer(run: Path, data: bytes) -> None:
    path = newest(run) / LAYER
    path.write_bytes(data)
    sign(path)
    read_by_all(run)


def ask_head(run: Path, data: bytes) -> None:
    path = newest(run) / HEAD
    path.write_bytes(data)
    sign(path)
    read_by_all(run)


def json_structure(data: bytes, chance: random.Random) -> bytes:
    return json.dumps(by_structure(json.loads(data), chance)).encode()


def toml_structure(data: bytes, chance: random.Random) -> bytes:
    return tomli_w.dumps(by_structure(tomllib.loads(data.decode()), chance)).encode()


KINDS: dict[str, tuple[str, Callable[[Path, bytes], None], Callable[[bytes, random.Random], bytes]]] = {
    "config": ("config.toml", ask_config, toml_structure),
    "past": ("past.json", ask_past, json_structure),
    "manifest": (f"checkpoints/step-00000028/{MANIFEST}", ask_manifest, json_structure),
    "layer": (f"checkpoints/step-00000028/{LAYER}", ask_layer, by_tensors),
    "head": (f"checkpoints/step-00000028/{HEAD}", ask_head, by_tensors),
}


@pytest.mark.parametrize("kind", KINDS)
def test_mutated_files(kind: str, run: Path, tmp_path: Path) -> None:
    name, ask, structure = KINDS[kind]
    data = (run / name).read_bytes()
    for number in range(CASES):
        chance = random.Random(f"{kind} {number}")
        changed = chance.choice((by_bytes, structure))(data, chance)
        try:
            ask(fresh(run, tmp_path / "copy"), changed)
        except BaseException:
            print(f"{kind}, case {number}: {changed[:3000]!r}")
            raise

"""Files of a run with anything in them: read in bounded memory and time, and what is wrong is said in one line.

Files are mutated by bytes and by structure; a stranger can make every digest agree, so tensors are signed anew after
they were changed. `FFPIPE_FUZZ=20000 pytest tests/test_fuzz.py` tries more than the few of every day; what it found
is in test_strangers.py. Requests of the command line are those of scripts/fuzz.py, which tries thousands.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tomllib
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import tomli_w
from covering import only
from damage import by_bytes, by_structure, by_tensors
from repository import SCRIPTS
from strangers import HEAD, LAYER, MANIFEST, MORE_BYTES, Notes, bounded, fresh, make_run, newest, sign

import ffpipe
from ffpipe.config.fields import from_toml, read_config, to_toml
from ffpipe.engines.local import LocalEngine
from ffpipe.pipeline.job import Job, Start, make_job
from ffpipe.runs.folder import open_run
from ffpipe.runs.resumed import verified
from ffpipe.storage.store import Store
from ffpipe.system.errors import Diverged, UserError

CASES = int(os.environ.get("FFPIPE_FUZZ", "60"))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "run")


def well(ask: Callable[[], object]) -> str:
    """Ask within bounds. Returns what was said where it was refused, empty where it was answered."""
    try:
        with bounded():
            ask()
    except (UserError, Diverged) as error:
        return str(error)
    return ""


def read_by_all(run: Path) -> None:
    """Read the newest snapshot as `load` and as `resume` do, and train on from what is accepted."""
    well(lambda: ffpipe.load(run))
    folder, config = open_run(run)
    job = job_of(to_toml(config))
    if not well(lambda: verified(folder.store(config), newest(run).name, job)):
        view = Notes()
        well(lambda: ffpipe.resume(run, view=view))
        assert view.notes == []


@cache
def job_of(text: str) -> Job:
    return make_job(from_toml(text, where="config.toml"))


def ask_config(run: Path, data: bytes) -> None:
    """Hold a config against the data, cut it, try it for two steps, and read it with the snapshots of the run."""
    path = run / "config.toml"
    path.write_bytes(data)
    engine = LocalEngine()
    jobs = []
    if not well(lambda: jobs.append(make_job(read_config(path)))):
        job, store = jobs[0], Store(str(run / "elsewhere"))
        layouts = []
        # A larger one is not a small network, and may be wanted.
        if not well(lambda: layouts.append(engine.layout(job))) and job.least_bytes < MORE_BYTES // 16:
            plan = replace(layouts[0].plan, steps=min(job.steps, 2))
            well(lambda: engine.run(job, replace(layouts[0], plan=plan), store, Start(), run, lambda report: None))
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


@pytest.mark.parametrize("kind", only(("config", "layer"), KINDS))
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


# A CPU second makes about two of them.
REQUESTS = 36
FUZZ = SCRIPTS / "fuzz.py"


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="it measures memory as Linux tells it")
def test_requests_that_nobody_would_type() -> None:
    """Options, data and places, of each kind a few dozen."""
    done = subprocess.run(
        [sys.executable, str(FUZZ), "--requests", str(REQUESTS)],
        capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["wrong"] == 0
    assert {kind: sum(statuses.values()) for kind, statuses in found["fuzz"].items()} == dict.fromkeys(
        ("options", "data", "places"), REQUESTS
    )
    assert all({"0", "2"} <= statuses.keys() for statuses in found["fuzz"].values())

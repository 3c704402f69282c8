"""Snapshots in a real S3 server: Ceph's gateway on loopback (scripts/install_parts.sh installs it)."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest
from ceph import KEY, SECRET, Ceph, ceph_or_skip
from commands import refused
from hosts import wait_for
from pyarrow import fs
from rayhosts import summary
from repository import REPOSITORY

from ffpipe import override, recipe, train
from ffpipe.commands.cli import main
from ffpipe.storage import checkpoint
from ffpipe.storage.store import Store

SECONDS = 300.0
SMALL = ("--training.dims", "64", "20", "20", "--train-limit", "100", "--snapshot-steps", "4")
LOCAL = (*SMALL, "--engine", "local")
FIELDS = {"training.dims": [64, 20, 20], "training.data.train_limit": 100, "execution.engine": "local"}


@pytest.fixture(scope="module")
def _key() -> Iterator[None]:
    """The key, where a person would have it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", KEY)
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        yield


@pytest.fixture(scope="module")
def ceph(_key: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ceph]:
    """A server with an empty bucket named "bucket"."""
    with ceph_or_skip(tmp_path_factory.mktemp("ceph")) as ceph:
        files, _ = fs.FileSystem.from_uri(f"{ceph.uri('bucket')}&allow_bucket_creation=true")
        files.create_dir("bucket")
        yield ceph


def digest_of_local(run: Path, epochs: int) -> str:
    """Return the digest of the weights that a run with snapshots on this machine comes to."""
    fields = {**FIELDS, "training.epochs": epochs, "execution.run_dir": str(run)}
    return train(override(recipe("digits"), fields)).weights_sha256


def steps(store: Store) -> list[int]:
    """List the steps of the whole snapshots there."""
    return [int(folder.removeprefix("step-")) for folder in checkpoint.whole_snapshots(store)]


@contextmanager
def trainer(said: IO[str], *words: str) -> Iterator[subprocess.Popen[str]]:
    """Run `ffpipe train` in a group of its own, which ends with it."""
    command = [sys.executable, "-m", "ffpipe", "train", "digits", *SMALL, *words]
    places = (str(REPOSITORY), os.environ.get("PYTHONPATH", ""))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, places))}
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.DEVNULL, stdout=said, stderr=said, text=True, start_new_session=True
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.long
def test_snapshots_are_written_pruned_and_read(ceph: Ceph, tmp_path: Path) -> None:
    place, run = ceph.uri("bucket/whole"), str(tmp_path / "run")
    options = (*LOCAL, "--epochs", "10", "--execution.checkpoints", place, "--run-dir", run)
    assert main(["train", "digits", *options]) == 0
    store = Store(place)
    last = summary(tmp_path / "run")["steps"]
    assert store.exists("run")
    assert steps(store)[-1] == last
    # The newest two, and nothing of those before.
    assert store.folders("step-") == checkpoint.whole_snapshots(store)
    assert len(steps(store)) == 2
    assert summary(tmp_path / "run")["weights_sha256"] == digest_of_local(tmp_path / "local", 10)
    assert main(["evaluate", run]) == 0


@pytest.mark.long
@pytest.mark.parametrize("engine", ["local", "ray"])
def test_a_run_that_is_killed_goes_on_from_there(engine: str, ceph: Ceph, tmp_path: Path) -> None:
    place, run = ceph.uri(f"bucket/killed-{engine}"), str(tmp_path / "run")
    store = Store(place)
    with (tmp_path / "said").open("w") as said:
        options = ("--epochs", "200", "--stages", "2", "--execution.checkpoints", place, "--run-dir", run)
        with trainer(said, "--engine", engine, *options) as process:

            def has_begun() -> bool:
                assert process.poll() is None, (tmp_path / "said").read_text()
                return bool(steps(store))

            wait_for("there is a snapshot", has_begun, SECONDS)
            os.killpg(process.pid, signal.SIGKILL)
    assert main(["resume", run, "--engine", "local", "--snapshot-steps", "200"]) == 0
    assert summary(tmp_path / "run")["weights_sha256"] == digest_of_local(tmp_path / "local", 200)


@pytest.mark.long
def test_a_server_that_goes_away_and_comes_back(ceph: Ceph, tmp_path: Path) -> None:
    """Training goes on, and so do snapshots when the server is there again."""
    place, run = ceph.uri("bucket/away"), str(tmp_path / "run")
    store, log = Store(place), tmp_path / "said"
    epochs = 20_000  # more than it comes to
    with log.open("w") as said:
        options = ("--engine", "local", "--epochs", str(epochs), "--execution.checkpoints", place, "--run-dir", run)
        with trainer(said, *options) as process:

            def until(what: str, says: str) -> None:
                def is_so() -> bool:
                    assert process.poll() is None, log.read_text()
                    return says in log.read_text()

                wait_for(what, is_so, SECONDS)

            wait_for("there is a snapshot", lambda: bool(steps(store)), SECONDS)
            ceph.end_gateway()
            until("it is said", "could not be written")
            ceph.start_gateway()

            def is_written_again() -> bool:
                lost = re.findall(r"a snapshot could not be written: .*?/step-(\d+)/", log.read_text())
                return steps(store)[-1] > max(map(int, lost))

            wait_for("there is a snapshot later than those that were lost", is_written_again, SECONDS)
            process.send_signal(signal.SIGINT)
            assert process.wait(SECONDS) == 130, log.read_text()
    assert "training goes on" in log.read_text()
    assert f"saved after step {steps(store)[-1]}" in log.read_text()
    assert SECRET not in log.read_text()


@pytest.mark.long
def test_a_server_that_goes_away_for_good(ceph: Ceph, tmp_path: Path) -> None:
    """The run comes to its end, says in one line what there is, and goes on from there where the server is again."""
    place, run = ceph.uri("bucket/gone"), str(tmp_path / "run")
    store, log = Store(place), tmp_path / "said"
    with log.open("w") as said:
        options = ("--engine", "local", "--epochs", "200", "--execution.checkpoints", place, "--run-dir", run)
        with trainer(said, *options, "--execution.snapshot-steps", "100") as process:
            wait_for("there is a snapshot", lambda: bool(steps(store)), SECONDS)
            ceph.end_gateway()
            try:
                assert process.wait(SECONDS) == 1, log.read_text()
            finally:
                ceph.start_gateway()
    last = log.read_text().splitlines()[-1]
    assert last.startswith(
        "ffpipe: the run failed: the last snapshot, of step 400, could not be written; what there was"
    )
    assert f"after step {steps(store)[-1]} is in {place}" in last
    assert SECRET not in log.read_text()
    assert main(["resume", run]) == 0
    assert summary(tmp_path / "run")["weights_sha256"] == digest_of_local(tmp_path / "local", 200)


@pytest.mark.long
@pytest.mark.parametrize(
    ("key", "secret", "bucket", "says"),
    [
        (KEY, "wrong", "bucket", "access was refused by S3"),
        ("nobody", SECRET, "bucket", "access was refused by S3"),
        (KEY, SECRET, "nowhere", "snapshots cannot be written to"),
    ],
)
def test_no_place_for_snapshots(
    key: str,
    secret: str,
    bucket: str,
    says: str,
    ceph: Ceph,
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
    place = ceph.uri(f"{bucket}/run")
    refused(["train", "digits", *LOCAL, "--run-dir", "run", "--execution.checkpoints", place], says, capsys)
    assert not list(here.iterdir())


@pytest.mark.long
def test_a_server_that_takes_connections_and_says_nothing(
    ceph: Ceph, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ceph.freeze_gateway()
    try:
        place = ceph.uri("bucket/silent")
        refused(["train", "digits", *LOCAL, "--run-dir", "run", "--execution.checkpoints", place], "no answer", capsys)
    finally:
        ceph.thaw_gateway()
    assert not list(here.iterdir())

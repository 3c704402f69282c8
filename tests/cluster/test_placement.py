"""Placement, data and snapshots over three hosts of which each has a disk of its own."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rayhosts import RayHosts, summary

from ffpipe import override, recipe, train

pytestmark = pytest.mark.long

EPOCHS = 4
FIELDS = {"training.dims": [64, 60, 50, 40], "training.epochs": EPOCHS}
OPTIONS = ("--training.dims", "64", "60", "50", "40", "--epochs", str(EPOCHS), "--stages", "3", "--execution.cpus", "1")


def digest_of_local(run: Path, fields: dict[str, Any]) -> str:
    """Return the digest of the weights that plain sequential code comes to."""
    local = {"execution.engine": "local", "execution.run_dir": str(run)}
    return train(override(recipe("digits"), {**FIELDS, **fields, **local})).weights_sha256


def test_a_stage_to_a_host_by_placement_and_by_labels(whole_ray_hosts: RayHosts, tmp_path: Path) -> None:
    digest = digest_of_local(tmp_path / "local", {})
    apart = (*OPTIONS, "--execution.placement", "one-host-each", "--execution.labels", "host=host3,host2,host1")
    with whole_ray_hosts.command(
        whole_ray_hosts.hosts[0], "train", "digits", *apart, "--run-dir", str(tmp_path / "run")
    ) as program:
        assert program.wait() == 0, program.text
    assert summary(tmp_path / "run")["weights_sha256"] == digest


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            ("--execution.labels", "host=host9"),
            "stage 0 asks for 1 CPU on a host with host=host9, but no host has that",
        ),
        (("--execution.memory", "900GiB"), "3 stage(s) need 2,700.00 GiB memory, the cluster has"),
        (("--execution.resources", "fast=0,0,1"), "need 1 fast, the cluster has 0"),
    ],
)
def test_what_hosts_have_not(options: tuple[str, ...], says: str, whole_ray_hosts: RayHosts, tmp_path: Path) -> None:
    run = str(tmp_path / "run")
    with whole_ray_hosts.command(
        whole_ray_hosts.hosts[0], "train", "digits", *OPTIONS, *options, "--run-dir", run
    ) as program:
        assert program.wait() == 2, program.text
    assert says in program.text
    assert not (tmp_path / "run").exists()


def test_snapshots_on_a_disk_that_other_hosts_do_not_see_are_refused(whole_ray_hosts: RayHosts, tmp_path: Path) -> None:
    run, disk = tmp_path / "run", whole_ray_hosts.folder / "disk"
    own = ("--execution.checkpoints", str(disk / "snapshots"))
    head = whole_ray_hosts.hosts[0]
    with whole_ray_hosts.command(head, "train", "digits", *OPTIONS, *own, "--run-dir", str(run)) as program:
        assert program.wait() == 2, program.text
    assert f"checkpoints go to {disk / 'snapshots'}, which host 10.77.0." in program.text
    assert "does not see: give --execution.checkpoints a folder that all hosts share" in program.text
    assert not run.exists()
    assert "snapshots" not in head.run("ls", str(disk)).stdout


@pytest.fixture
def on_the_disk_of_the_driver(whole_ray_hosts: RayHosts, tmp_path: Path) -> dict[str, Any]:
    """Data that no other host sees. Returns the fields with which they are read here."""
    random = np.random.default_rng(1)
    images, labels = random.integers(0, 256, (500, 64), dtype=np.uint8), np.arange(500) % 10
    np.savez(tmp_path / "data.npz", images=images, labels=labels)
    disk = whole_ray_hosts.folder / "disk"
    assert whole_ray_hosts.hosts[0].run("cp", str(tmp_path / "data.npz"), str(disk / "data.npz")).returncode == 0
    return {"training.data.source": "npz", "training.data.train": [str(tmp_path / "data.npz")]}


def refused_then_sent(hosts: RayHosts, folder: Path, where: tuple[str, ...]) -> str:
    """Run without the data on the first stage's hosts, then with the driver's. Returns the digest of the weights."""
    driver, data = hosts.hosts[0], str(hosts.folder / "disk" / "data.npz")
    elsewhere = (*OPTIONS, *where, "--training.data.source", "npz", "--training.data.train", data)
    with hosts.command(driver, "train", "digits", *elsewhere, "--run-dir", str(folder / "a")) as program:
        assert program.wait() == 2, program.text
    assert re.search(r"host 10\.77\.0\.[23] of the first stage does not have the data", program.text)
    assert not (folder / "a").exists()
    sent = (*elsewhere, "--execution.data-from", "driver", "--run-dir", str(folder / "b"))
    with hosts.command(driver, "train", "digits", *sent) as program:
        assert program.wait() == 0, program.text
    return str(summary(folder / "b")["weights_sha256"])


def test_data_of_the_driver_alone(
    whole_ray_hosts: RayHosts, on_the_disk_of_the_driver: dict[str, Any], tmp_path: Path
) -> None:
    digest = digest_of_local(tmp_path / "local", on_the_disk_of_the_driver)
    elsewhere = ("--execution.labels", "host=host3,host2,host1")
    assert refused_then_sent(whole_ray_hosts, tmp_path, elsewhere) == digest


def test_data_for_replicas_of_the_first_stage_on_several_hosts(
    whole_ray_hosts: RayHosts, on_the_disk_of_the_driver: dict[str, Any], tmp_path: Path
) -> None:
    digest = digest_of_local(tmp_path / "local", {**on_the_disk_of_the_driver, "training.shards": 2})
    replicas = ("--stages", "1", "--training.shards", "2", "--execution.replicas", "2")
    apart = ("--execution.placement", "one-host-each")
    assert refused_then_sent(whole_ray_hosts, tmp_path, (*replicas, *apart)) == digest

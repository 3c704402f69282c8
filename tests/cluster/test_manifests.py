"""The files of cluster/ that nothing can be started from here: by their schemas, Ray's own validator, and linters."""

from __future__ import annotations

import gzip
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config
from repository import REPOSITORY

CLUSTER = REPOSITORY / "cluster"
MANIFESTS = ("raycluster.yaml", "rayjob.yaml")
TO_EDIT = (
    *("settings.sh", "slurm/symmetric.sbatch", "slurm/shared-nodes.sbatch", "ray-up/hosts.yaml", "ray-up/aws.yaml"),
    *("kuberay/raycluster.yaml", "kuberay/rayjob.yaml", "kuberay/Dockerfile"),
)
SHELL = sorted(
    str(path.relative_to(REPOSITORY))
    for folder in (CLUSTER, REPOSITORY / "scripts")
    for path in folder.rglob("*")
    if path.suffix in (".sh", ".sbatch")
)


def read(name: str) -> Any:
    return yaml.safe_load((CLUSTER / name).read_text())


def pinned(package: str) -> str:
    """Return the version of a package in constraints.txt."""
    found = re.search(rf"^{package}==(.+)$", (REPOSITORY / "constraints.txt").read_text(), re.MULTILINE)
    assert found
    return found[1]


def tool(name: str) -> str:
    """Return a program of the environment that the tests run in."""
    path = shutil.which(name, path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    return path or pytest.skip(f"there is no {name}: pip install 'ffpipe[dev]'")


@pytest.mark.parametrize("name", TO_EDIT)
def test_there_is_one_place_to_edit(name: str) -> None:
    text = (CLUSTER / name).read_text()
    assert len(re.findall(r"^ *# >>> edit here", text, re.MULTILINE)) == 1
    assert len(re.findall(r"^ *# <<< edit here", text, re.MULTILINE)) == 1
    assert text.index(">>> edit here") < text.index("<<< edit here")


@pytest.mark.parametrize("path", SHELL)
def test_shell(path: str) -> None:
    done = subprocess.run([tool("shellcheck"), path], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", ["symmetric", "shared-nodes"])
def test_what_sbatch_reads(name: str) -> None:
    """It stops at the first command, in silence."""
    lines = (CLUSTER / "slurm" / f"{name}.sbatch").read_text().splitlines()
    first = next(number for number, line in enumerate(lines) if line and not line.startswith("#"))
    options = [line.split()[1] for line in lines[:first] if line.startswith("#SBATCH ")]
    assert len(options) == sum(line.startswith("#SBATCH") for line in lines)
    assert "--ntasks-per-node=1" in options
    assert ("--exclusive" in options) == (name == "symmetric")


def test_dockerfile() -> None:
    done = subprocess.run(
        [tool("hadolint"), str(CLUSTER / "kuberay" / "Dockerfile")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", ["hosts", "aws"])
def test_ray_up(name: str) -> None:
    """As `ray up` does it: fill out what is not said, then check."""
    config = read(f"ray-up/{name}.yaml")
    whole = prepare_config(config)
    validate_config(whole)
    (head,) = [line for line in config["head_start_ray_commands"] if "ray start" in line]
    (worker,) = [line for line in config["worker_start_ray_commands"] if "ray start" in line]
    assert "--dashboard-host=127.0.0.1" in head
    assert all("RAY_AUTH_MODE=token" in line for line in (head, worker))
    mounts = dict(config["file_mounts"])
    assert mounts.pop("~/.ray/auth_token") == "~/.ray/auth_token"
    # Files that install ffpipe, and nothing that Ray would read besides.
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    needed = {"ffpipe", "cluster", "pyproject.toml", "constraints.txt", project["readme"], "LICENSE"}
    assert mounts == {f"~/ffpipe/{name}": name for name in needed}
    assert all((REPOSITORY / name).exists() for name in needed)
    # All goes into the environment that Ray runs in, also what Ray adds by default.
    setup = [*whole["head_setup_commands"], *whole["worker_setup_commands"]]
    assert all("~/ffpipe-venv/bin/pip install" in line for line in setup if "pip install" in line)
    workers = whole["available_node_types"]["worker" if name == "aws" else "local.cluster.node"]
    assert workers["min_workers"] == workers["max_workers"] == whole["max_workers"] == 2
    if name == "aws":  # stages on all hosts write snapshots
        assert all("IamInstanceProfile" in each["node_config"] for each in whole["available_node_types"].values())
    assert f"wait.py 127.0.0.1:6379 {workers['max_workers'] + 1}" in (CLUSTER / f"ray-up/{name}.yaml").read_text()


def test_ray_up_refuses_what_is_wrong() -> None:
    """So that the test above can fail."""
    with pytest.raises(jsonschema.ValidationError):
        validate_config(prepare_config({**read("ray-up/hosts.yaml"), "file_mount": {}}))


def cluster_of(manifest: dict[str, Any]) -> dict[str, Any]:
    """Return the specification of its Ray cluster."""
    spec: dict[str, Any] = manifest["spec"]
    return spec if manifest["kind"] == "RayCluster" else spec["rayClusterSpec"]


@pytest.mark.parametrize("name", MANIFESTS)
def test_what_a_manifest_says(name: str) -> None:
    manifest = read(f"kuberay/{name}")
    assert manifest["apiVersion"] == "ray.io/v1"
    cluster = cluster_of(manifest)
    assert cluster["rayVersion"] == pinned("ray")
    assert cluster["authOptions"] == {"mode": "token"}
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    version = re.search(r'^version = "(.+)"$', (REPOSITORY / "pyproject.toml").read_text(), re.MULTILINE)
    assert version
    for group in groups:
        (container,) = group["template"]["spec"]["containers"]
        assert container["image"] == f"REGISTRY/ffpipe:{version[1]}"
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
    dashboard = cluster["headGroupSpec"]["rayStartParams"]["dashboard-host"]
    if manifest["kind"] == "RayJob":
        # The operator asks the dashboard how the job is, in every mode; only in this one it waits for the workers.
        assert dashboard == "0.0.0.0"
        assert manifest["spec"].get("submissionMode", "K8sJobMode") == "K8sJobMode"
        assert manifest["spec"]["shutdownAfterJobFinishes"] is True
    else:
        assert dashboard == "127.0.0.1"


def schemas() -> dict[str, Any]:
    """Read KubeRay's schemas of its kinds, as strict as the server is about fields that it does not know."""
    folder = os.environ.get("FFPIPE_SCHEMAS", "")
    if not folder:
        pytest.skip("FFPIPE_SCHEMAS names no folder with KubeRay's CustomResourceDefinitions (*.yaml or *.yaml.gz)")
    found = {}
    for path in sorted(Path(folder).glob("*.yaml*")):
        text = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        for document in yaml.safe_load_all(text):
            if document and document["kind"] == "CustomResourceDefinition":
                versions = {each["name"]: each["schema"]["openAPIV3Schema"] for each in document["spec"]["versions"]}
                found[document["spec"]["names"]["kind"]] = closed(versions["v1"])
    return found


def closed(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the same, with no fields but those that it names, unless it says otherwise."""
    for part in _objects(schema):
        if "properties" in part and not part.get("x-kubernetes-preserve-unknown-fields"):
            part.setdefault("additionalProperties", False)
    schema["properties"]["metadata"] = {"type": "object"}
    return schema


def _objects(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield schema
    under = [*schema.get("properties", {}).values(), schema.get("items"), schema.get("additionalProperties")]
    for each in under:
        if isinstance(each, dict):
            yield from _objects(each)


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_manifest_fits_its_schema(name: str) -> None:
    manifest = read(f"kuberay/{name}")
    schema = schemas()[manifest["kind"]]
    jsonschema.validate(manifest, schema)
    cluster_of(manifest)["headGroupSpec"]["rayStartParam"] = {}
    with pytest.raises(jsonschema.ValidationError, match="rayStartParam"):
        jsonschema.validate(manifest, schema)

"""Snapshots on disk: one safetensors file a layer, one for the head, and a manifest that is written last.

    checkpoints/step-00001400/layer-000.safetensors ... head.safetensors manifest.json

Kept by layer and not by stage, so that any partition can read them. A folder without a manifest is no
snapshot. Nothing here is pickled, and every file is read only after its SHA-256 agrees.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import msgspec
import safetensors
import safetensors.torch
from msgspec import Meta
from torch import Tensor

from ffpipe.errors import UserError
from ffpipe.telemetry.report import WrittenFile

FORMAT = 1
HEAD = "head.safetensors"


@dataclass(frozen=True)
class FileEntry:
    """What the manifest knows of one file."""

    sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
    size: Annotated[int, Meta(ge=0)]
    weights_sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]


@dataclass(frozen=True)
class Input:
    """What the network takes: the shape of an image, the width of a row with its label, the classes."""

    shape: tuple[int, ...]
    width: Annotated[int, Meta(ge=1)]
    classes: Annotated[int, Meta(ge=2)]


@dataclass(frozen=True)
class Manifest:
    """The index of a whole snapshot. weights_sha256 does not depend on the partition."""

    format: int
    step: Annotated[int, Meta(ge=0)]
    input: Input
    weights_sha256: str
    files: dict[str, FileEntry]


def layer_file(index: int) -> str:
    return f"layer-{index:03d}.safetensors"


def snapshot_folder(checkpoints: Path, step: int) -> Path:
    return checkpoints / f"step-{step:08d}"


def weights_digest(weights: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, shapes, dtypes and bytes of tensors, in the order given."""
    digest = hashlib.sha256()
    for name, tensor in weights.items():
        array = tensor.detach().cpu().contiguous().numpy()
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array.data)
    return digest.hexdigest()


def combined_digest(files: Mapping[str, str]) -> str:
    """One digest from those of the layers and the head, in layer order, the head last."""
    ordered = sorted(files, key=lambda name: (name == HEAD, name))
    return hashlib.sha256("".join(files[name] for name in ordered).encode()).hexdigest()


def write_tensors(folder: Path, step: int, name: str, state: Mapping[str, Tensor], weights: str) -> WrittenFile:
    """Write one file of a snapshot; whole or not at all. weights: the digest of the weights in it."""
    folder.mkdir(parents=True, exist_ok=True)
    data = safetensors.torch.save({k: v.detach().cpu().contiguous() for k, v in state.items()})
    _write_whole(folder / name, data)
    return WrittenFile(step, name, hashlib.sha256(data).hexdigest(), len(data), weights)


def write_manifest(checkpoints: Path, step: int, files: Sequence[WrittenFile], takes: Input, keep: int) -> Manifest:
    """Make a snapshot whole, then remove all but the `keep` newest whole ones."""
    entries = {f.name: FileEntry(f.sha256, f.size, f.weights_sha256) for f in sorted(files, key=lambda f: f.name)}
    digest = combined_digest({f.name: f.weights_sha256 for f in files})
    manifest = Manifest(FORMAT, step, takes, digest, entries)
    folder = snapshot_folder(checkpoints, step)
    _write_whole(folder / "manifest.json", json.dumps(asdict(manifest), indent=1).encode())
    for old in whole_snapshots(checkpoints)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return manifest


def whole_snapshots(checkpoints: Path) -> list[Path]:
    """Folders of snapshots that have a manifest, oldest first."""
    return sorted(path.parent for path in checkpoints.glob("step-*/manifest.json"))


def read_manifest(folder: Path) -> Manifest:
    """Raises UserError naming the file and what is wrong with it."""
    path = folder / "manifest.json"
    try:
        manifest = msgspec.json.decode(path.read_bytes(), type=Manifest)
    except (OSError, msgspec.MsgspecError) as error:
        raise UserError(f"checkpoint {path} cannot be read: {error}") from None
    if manifest.format != FORMAT:
        raise UserError(f"checkpoint {path} has format {manifest.format}; this ffpipe reads format {FORMAT}")
    return manifest


def read_tensors(folder: Path, manifest: Manifest, name: str, shapes: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    """The tensors of one file, checked against the manifest and against the shapes that must be in it.

    Raises UserError naming the file: absent, altered, a tensor missing or of another shape.
    """
    path = folder / name
    entry = manifest.files.get(name)
    if entry is None:
        raise UserError(
            f"checkpoint {folder} has no {name}: its manifest lists {', '.join(manifest.files) or 'no file'}"
        )
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"checkpoint file {path} cannot be read: {error.strerror}") from None
    if len(data) != entry.size or hashlib.sha256(data).hexdigest() != entry.sha256:
        raise UserError(
            f"checkpoint file {path} was altered: it has {len(data)} bytes of {entry.size} and another SHA-256"
        )
    try:
        state = safetensors.torch.load(data)
    except safetensors.SafetensorError as error:
        raise UserError(f"checkpoint file {path} is no safetensors file: {error}") from None
    for tensor, shape in shapes.items():
        if tensor not in state:
            raise UserError(f"checkpoint file {path} lacks the tensor {tensor!r}")
        if tuple(state[tensor].shape) != tuple(shape):
            raise UserError(
                f"checkpoint file {path}: {tensor!r} is {tuple(state[tensor].shape)}, expected {tuple(shape)}"
            )
    return state


def _write_whole(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)

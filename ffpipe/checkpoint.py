"""Snapshots: one safetensors file a layer, one for the head, and a manifest that is written last.

    checkpoints/step-00001400/layer-000.safetensors ... head.safetensors manifest.json

Kept by layer and not by stage, so that any partition can read them. A folder without a manifest is no
snapshot. Nothing here is pickled, and every file is read only after its SHA-256 agrees.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated

import msgspec
import safetensors
import safetensors.torch
from msgspec import Meta
from torch import Tensor

from ffpipe.errors import UserError
from ffpipe.store import Store
from ffpipe.telemetry.report import WrittenFile

FORMAT = 1
HEAD = "head.safetensors"
MANIFEST = "manifest.json"
# A manifest lists a file a layer; this is room for thousands.
LARGEST_MANIFEST = 16 << 20

Sha256 = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]


@dataclass(frozen=True)
class FileEntry:
    """What the manifest knows of one file."""

    sha256: Sha256
    size: Annotated[int, Meta(ge=0)]
    weights_sha256: Sha256


@dataclass(frozen=True)
class Input:
    """What the network takes: the shape of an image, the width of a row with its label, the classes."""

    shape: tuple[Annotated[int, Meta(ge=1)], ...]
    width: Annotated[int, Meta(ge=1)]
    classes: Annotated[int, Meta(ge=2)]


@dataclass(frozen=True)
class Manifest:
    """The index of a whole snapshot. weights_sha256 does not depend on the partition."""

    format: int
    step: Annotated[int, Meta(ge=0)]
    input: Input
    weights_sha256: Sha256
    files: dict[str, FileEntry]


def layer_file(index: int) -> str:
    return f"layer-{index:03d}.safetensors"


def folder_of(step: int) -> str:
    """Name of the folder of a step's snapshot."""
    return f"step-{step:08d}"


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


def write_tensors(store: Store, step: int, name: str, state: Mapping[str, Tensor], weights: str) -> WrittenFile:
    """Write one file of a snapshot; whole or not at all. weights: the digest of the weights in it. Raises OSError."""
    data = safetensors.torch.save({k: v.detach().cpu().contiguous() for k, v in state.items()})
    store.write(f"{folder_of(step)}/{name}", data)
    return WrittenFile(step, name, hashlib.sha256(data).hexdigest(), len(data), weights)


def write_manifest(store: Store, step: int, files: Sequence[WrittenFile], takes: Input) -> Manifest:
    """Make a snapshot whole. Raises OSError."""
    entries = {f.name: FileEntry(f.sha256, f.size, f.weights_sha256) for f in sorted(files, key=lambda f: f.name)}
    digest = combined_digest({f.name: f.weights_sha256 for f in files})
    manifest = Manifest(FORMAT, step, takes, digest, entries)
    store.write(f"{folder_of(step)}/{MANIFEST}", json.dumps(asdict(manifest), indent=1).encode())
    return manifest


def prune(store: Store, keep: int) -> None:
    """Remove what is older than the `keep` newest whole snapshots, whole or not. Raises OSError."""
    kept = whole_snapshots(store)[-keep:]
    for folder in store.folders("step-"):
        if kept and folder < kept[0]:
            remove(store, folder)


def forget_after(store: Store, step: int) -> None:
    """Remove the whole snapshots after a step: a run that goes on from there comes by them again. Raises OSError."""
    for folder in whole_snapshots(store):
        if folder > folder_of(step):
            remove(store, folder)


def remove(store: Store, folder: str) -> None:
    """Remove a snapshot: its manifest first, so that what is left of it is none."""
    store.remove(f"{folder}/{MANIFEST}")
    store.remove_folder(folder)


def whole_snapshots(store: Store) -> list[str]:
    """Folders of snapshots that have a manifest, oldest first."""
    return [folder for folder in store.folders("step-") if store.exists(f"{folder}/{MANIFEST}")]


def read_manifest(store: Store, folder: str) -> Manifest:
    """Raises UserError naming the file and what is wrong with it."""
    path = f"{folder}/{MANIFEST}"
    try:
        manifest = msgspec.json.decode(store.read(path, LARGEST_MANIFEST), type=Manifest)
    except (OSError, msgspec.MsgspecError, RecursionError) as error:
        raise UserError(f"checkpoint {store.place(path)} cannot be read: {error}") from None
    if manifest.format != FORMAT:
        raise UserError(
            f"checkpoint {store.place(path)} has format {manifest.format}; this ffpipe reads format {FORMAT}"
        )
    return manifest


def read_tensors(
    store: Store, folder: str, manifest: Manifest, name: str, shapes: Mapping[str, Sequence[int]]
) -> dict[str, Tensor]:
    """The tensors of one file, checked against the manifest and against the shapes that must be in it.

    Raises UserError naming the file: absent, altered, a tensor missing or of another shape.
    """
    place = store.place(f"{folder}/{name}")
    data = _checked_bytes(store, folder, manifest, name)
    try:
        state = safetensors.torch.load(data)
    except (safetensors.SafetensorError, ValueError, KeyError) as error:
        raise UserError(f"checkpoint file {place} is no safetensors file: {error}") from None
    for tensor, shape in shapes.items():
        if tensor not in state:
            raise UserError(f"checkpoint file {place} lacks the tensor {tensor!r}")
        if tuple(state[tensor].shape) != tuple(shape):
            raise UserError(
                f"checkpoint file {place}: {tensor!r} is {tuple(state[tensor].shape)}, expected {tuple(shape)}"
            )
    return state


def _checked_bytes(store: Store, folder: str, manifest: Manifest, name: str) -> bytes:
    place = store.place(f"{folder}/{name}")
    entry = manifest.files.get(name)
    if entry is None:
        listed = ", ".join(manifest.files) or "no file"
        raise UserError(f"checkpoint {store.place(folder)} has no {name}: its manifest lists {listed}")
    try:
        data = store.read(f"{folder}/{name}", entry.size)
    except OSError as error:
        raise UserError(f"checkpoint file {place} cannot be read: {error}") from None
    if len(data) != entry.size:
        raise UserError(f"checkpoint file {place} was cut: it has {len(data)} bytes of {entry.size}")
    if hashlib.sha256(data).hexdigest() != entry.sha256:
        raise UserError(f"checkpoint file {place} was altered: its SHA-256 is not that of the manifest")
    return data


def verify(store: Store, folder: str, layers: int, *, head: bool) -> Manifest:
    """Read every file of a snapshot once. Raises UserError naming the first that is wrong or missing."""
    manifest = read_manifest(store, folder)
    for name in [*(layer_file(i) for i in range(layers)), *([HEAD] if head else [])]:
        _checked_bytes(store, folder, manifest, name)
    return manifest

"""Snapshots: one safetensors file a layer, one for the head, and a manifest that is written last.

    checkpoints/run
    checkpoints/step-00001400/layer-000.safetensors ... head.safetensors manifest.json

The file `run` names the run that they belong to. Files are kept by layer and not by stage, so that any partition can
read them. A folder without a manifest is not a snapshot. Nothing here is pickled, and every file is read only after its
SHA-256 agrees.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Annotated, NamedTuple

import msgspec
import safetensors.torch
import torch
from msgspec import Meta
from torch import Tensor

from ffpipe.config.limits import MOST_UNITS
from ffpipe.data.scale import Given
from ffpipe.storage.store import Store
from ffpipe.storage.tensorfile import data, pieces
from ffpipe.system.errors import Misfit, Unreachable, UserError, reason, refusing
from ffpipe.telemetry.report import WrittenFile

FORMAT = 1
HEAD = "head.safetensors"
MANIFEST = "manifest.json"
OWNER = "run"
# A manifest lists a file a layer, 0.25 MB for 1,000 of them, and the names of all classes, of any length.
LARGEST_MANIFEST = 64 << 20
# Dtypes that NumPy has no name for.
WITHOUT_NUMPY = (torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2)
FOLDER = re.compile("step-[0-9]{8}")

Sha256 = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]


@dataclass(frozen=True)
class FileEntry:
    """An entry of the manifest for one file."""

    sha256: Sha256
    size: Annotated[int, Meta(ge=0)]
    weights_sha256: Sha256


def name_of(label: int, names: Sequence[str]) -> str:
    """Return the name of a class, or its number where classes have no names."""
    return names[label] if label < len(names) else str(label)


@dataclass(frozen=True)
class Input:
    """The input of a network: the shape of an image, the width of a row with its label, the classes. names: of these,
    where they are more than numbers. scale: of the user's own images. Neither decides anything that is trained."""

    shape: Annotated[tuple[Annotated[int, Meta(ge=1, le=MOST_UNITS)], ...], Meta(min_length=1, max_length=32)]
    width: Annotated[int, Meta(ge=1, le=2 * MOST_UNITS)]
    classes: Annotated[int, Meta(ge=2, le=MOST_UNITS)]
    names: tuple[str, ...] = field(default=(), compare=False, repr=False)
    scale: Given = field(default=Given(), compare=False, repr=False)

    def name(self, label: int) -> str:
        return name_of(label, self.names)


@dataclass(frozen=True)
class Manifest:
    """The index of a whole snapshot. weights_sha256 does not depend on the partition."""

    format: int
    step: Annotated[int, Meta(ge=0)]
    input: Input
    weights_sha256: Sha256
    files: dict[str, FileEntry]


class TensorSpec(NamedTuple):
    """The dtype, shape and values that a tensor of a file has to have. largest: what its values may be, from 0 on;
    None: anything. optional: it may be absent."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    largest: int | None = None
    optional: bool = False

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor."""
        return math.prod(self.shape) * self.dtype.itemsize


TensorSpecs = Mapping[str, TensorSpec]


def layer_file(index: int) -> str:
    """Return the name of a block's file."""
    return f"layer-{index:03d}.safetensors"


def folder_of(step: int) -> str:
    """Name of the folder of a step's snapshot."""
    return f"step-{step:08d}"


def weights_digest(weights: Mapping[str, Tensor]) -> str:
    """Compute the SHA-256 over names, shapes, dtypes and bytes of tensors, in the order given."""
    digest = hashlib.sha256()
    for name, tensor in weights.items():
        tensor = tensor.detach().cpu().contiguous()
        known = tensor.dtype not in WITHOUT_NUMPY
        dtype = tensor.numpy().dtype.str if known else str(tensor.dtype)
        digest.update(f"{name} {dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(data(tensor))
    return digest.hexdigest()


def combined_digest(files: Mapping[str, str]) -> str:
    """Combine the digests of the layers and the head, in layer order, the head last."""
    ordered = sorted(files, key=lambda name: (name == HEAD, name))
    return hashlib.sha256("".join(files[name] for name in ordered).encode()).hexdigest()


def write_tensors(store: Store, step: int, name: str, state: Mapping[str, Tensor], weights: str) -> WrittenFile:
    """Write one file of a snapshot; whole or not at all. weights: the digest of the weights in it. Raises OSError."""
    # Summed while the pieces pass: to read the file back would take as long again.
    digest, sizes = hashlib.sha256(), []

    def seen(piece: bytes | memoryview) -> bytes | memoryview:
        digest.update(piece)
        sizes.append(len(piece))
        return piece

    store.write(f"{folder_of(step)}/{name}", map(seen, pieces(state)))
    return WrittenFile(step, name, digest.hexdigest(), sum(sizes), weights)


def write_manifest(store: Store, step: int, files: Sequence[WrittenFile], takes: Input) -> Manifest:
    """Make a snapshot whole. Raises OSError, also for names of classes with which nobody would read it again."""
    # In order of names, since reports of stages come in any.
    entries = {f.name: FileEntry(f.sha256, f.size, f.weights_sha256) for f in sorted(files, key=lambda f: f.name)}
    digest = combined_digest({f.name: f.weights_sha256 for f in files})
    manifest = Manifest(FORMAT, step, takes, digest, entries)
    text = json.dumps(asdict(manifest), indent=1).encode()
    if len(text) > LARGEST_MANIFEST:
        raise OSError(errno.EFBIG, f"the names of {len(takes.names):,} classes are too long for a manifest")
    store.write(f"{folder_of(step)}/{MANIFEST}", [text])
    return manifest


def owner(store: Store) -> str:
    """Return the run that said that it keeps its snapshots here; empty where none has. Raises UserError."""
    with refusing(f"{store.place(OWNER)}, the name of a run, cannot be read"):
        # Bytes that no run's name has are not damage: the place is not free all the same.
        return store.read(OWNER, 64).decode("ascii", "replace") if store.exists(OWNER) else ""


def refuse_taken(store: Store, run: str) -> None:
    """Refuse a place that belongs to another run than this; "": to any."""
    if owner(store) not in ("", run):
        raise UserError(
            f"{store.root} is for the snapshots of another run: give another place, or if nobody else uses it remove "
            f"the file {store.place(OWNER)}"
        )


def claim(store: Store, run: str) -> None:
    """Say whose snapshots will be here, which also tries whether anything can be written. Raises UserError."""
    refuse_taken(store, run)
    with refusing(f"snapshots cannot be written to {store.root}"):
        store.with_retries(lambda: store.write(OWNER, [run.encode()]))


def disclaim(store: Store, run: str) -> None:
    """Give a place back in which a run has saved nothing."""
    with contextlib.suppress(OSError, UserError):
        if owner(store) == run and not whole_snapshots(store):
            store.remove(OWNER)
            store.remove_empty()


def prune(store: Store, keep: int) -> None:
    """Remove all but the `keep` newest whole snapshots, older folders without a manifest, and what killed writers left
    in those that stay. Raises OSError."""
    # By name, which is in order of steps since all have the same number of digits.
    kept = whole_snapshots(store)[-keep:]
    # A folder without a manifest goes once a later snapshot is whole: every live stage is through with it by then.
    for folder in _folders(store):
        if kept and folder < kept[-1] and folder not in kept:
            remove(store, folder)
    for folder in kept:
        store.remove_temporary(folder)


def forget_after(store: Store, step: int) -> None:
    """Remove the whole snapshots after a step: a run that goes on from there comes by them again. A folder without a
    manifest stays, to be written over. Raises OSError."""
    for folder in whole_snapshots(store):
        if folder > folder_of(step):
            remove(store, folder)


def remove(store: Store, folder: str) -> None:
    """Remove a snapshot: its manifest first, so that what is left of it is none."""
    # A reader takes a folder with a manifest for whole, whatever else is missing in it.
    store.remove(f"{folder}/{MANIFEST}")
    store.remove_folder(folder)


def whole_snapshots(store: Store) -> list[str]:
    """Return the folders of snapshots that have a manifest, oldest first; their files are read by resumed.py. Raises
    Unreachable where that is unknown."""
    try:
        return [folder for folder in _folders(store) if store.exists(f"{folder}/{MANIFEST}")]
    except OSError as error:
        raise Unreachable(f"{store.root}, the place of the snapshots, cannot be read: {reason(error)}") from None


def _folders(store: Store) -> list[str]:
    return [folder for folder in store.folders("step-") if FOLDER.fullmatch(folder)]


def read_manifest(store: Store, folder: str) -> Manifest:
    """Read the manifest of a snapshot. Raises UserError naming the file and what is wrong with it; Unreachable where
    its format is another than this ffpipe's."""
    path = f"{folder}/{MANIFEST}"
    damage = (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
    with refusing(f"snapshot {store.place(path)} cannot be read", damage):
        manifest = msgspec.json.decode(store.read(path, LARGEST_MANIFEST), type=Manifest)
    # A later ffpipe may have written it: whoever passed over it would remove it.
    if manifest.format != FORMAT:
        raise Unreachable(
            f"snapshot {store.place(path)} has format {manifest.format}; this ffpipe reads format {FORMAT}"
        )
    if folder_of(manifest.step) != folder:
        raise UserError(f"snapshot {store.place(path)} is of step {manifest.step}, which is not that of its folder")
    return manifest


def read_tensors(store: Store, folder: str, manifest: Manifest, name: str, contents: TensorSpecs) -> dict[str, Tensor]:
    """Return the tensors of one file, checked against the manifest and against what must be in it, no less and no more.

    Raises UserError naming the file: absent or altered; Misfit: a tensor that is missing, not expected, or of another
    kind. Whoever wrote the file may have written the manifest too: nothing in either is believed before it is checked.
    """
    where = f"snapshot file {store.place(f'{folder}/{name}')}"
    try:
        state = safetensors.torch.load(_read(store, folder, manifest, name))
    except (UserError, MemoryError):  # for want of memory a file is not damaged
        raise
    except Exception as error:  # as many ways to fail as a header that lies has
        raise UserError(f"{where} is not a safetensors file: {error}") from None
    if missing := sorted(name for name, kept in contents.items() if name not in state and not kept.optional):
        raise Misfit(f"{where} lacks the tensor {missing[0]!r}")
    if more := sorted(state.keys() - contents.keys()):
        raise Misfit(f"{where} has the tensor {more[0]!r}, which no run of this config writes")
    for tensor in (name for name in contents if name in state):  # safetensors gives them in any order
        kept, found = contents[tensor], state[tensor]
        if (tuple(found.shape), found.dtype) != (kept.shape, kept.dtype):
            is_now, expected = f"{found.dtype} {tuple(found.shape)}", f"{kept.dtype} {kept.shape}"
            raise Misfit(f"{where}: {tensor!r} is {is_now}, expected {expected}")
        if kept.largest is not None and not ((found >= 0) & (found <= kept.largest)).all():
            raise Misfit(f"{where}: {tensor!r} is {found.tolist()}, expected 0 to {kept.largest}")
    return state


def _read(store: Store, folder: str, manifest: Manifest, name: str) -> bytes:
    """Return the bytes of a file as the manifest knows it. Raises UserError."""
    entry = manifest.files.get(name)
    if entry is None:
        listed = ", ".join(manifest.files) or "no file"
        raise UserError(f"snapshot {store.place(folder)} has no {name}: its manifest lists {listed}")
    where = f"snapshot file {store.place(f'{folder}/{name}')}"
    with refusing(f"{where} cannot be read"):
        found = store.read(f"{folder}/{name}", entry.size)
    if len(found) != entry.size:
        raise UserError(f"{where} was cut: it has {len(found)} bytes of {entry.size}")
    if hashlib.sha256(found).hexdigest() != entry.sha256:
        raise UserError(f"{where} was altered: its SHA-256 is not that of the manifest")
    return found

"""A trained network as one file for other programs: its weights, or a program that computes its scores. No Ray.

The ending of the file's name says which; what other endings stand for is not written under their name.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch
from torch import Tensor, nn

from ffpipe.config.fields import to_toml
from ffpipe.learn.block import Block
from ffpipe.learn.dense import FFDense
from ffpipe.learn.items import META
from ffpipe.learn.user_model import describe_error
from ffpipe.learn.workspace import Workspace
from ffpipe.runs.inference import loaded
from ffpipe.runs.model import Given
from ffpipe.runs.saved import SavedRun
from ffpipe.storage import tensorfile
from ffpipe.system.errors import UserError, refusing
from ffpipe.system.files import new_file, replacing

# A protocol buffer has no more, and weights in a file beside it would not be one file.
LARGEST_ONNX = 2**31 - 1


class Format(NamedTuple):
    """A format of files: what they hold, and how they are written. needs: packages beside those of ffpipe."""

    holds: str
    write: Callable[[SavedRun, BinaryIO], None]
    needs: tuple[str, ...] = ()


def export(
    run: str | Path,
    out: str | Path,
    *,
    model: Given | None = None,
    allow_code: Iterable[str] = (),
    changes: Mapping[str, Any] | None = None,
) -> Path:
    """Write a run's network to one file, as the ending of its name says: .safetensors, .pt2 or .onnx.

    .safetensors has all weights: layer0.weight (width, fan_in) as in torch.nn.Linear, layer0.bias (width,), ...,
    head1.weight (classes, width), ..., head.bias (classes,) where there is one; how to use them is in its metadata.
    Blocks that were trained by autograd are in it as block0.NAME, by the names of their state_dict. They are float32,
    or float64 where the run has that precision.

    .pt2 (torch.export) and .onnx (with the packages onnx and onnxscript) are programs: images (n, *shape), float32 and
    as in training (0 to 1), or ids (n, T), give scores (n, classes) by the run's default read-out, for any n.

    model, allow_code, changes: as for `load`. Raises UserError where `out` exists, can't be written or has another
    ending, where the folder is not a run, has no whole snapshot or a damaged one, and where torch cannot make a program
    of the network.
    """
    form, path = _format(Path(out)), new_file(out)
    saved = SavedRun.of(run, None, model, allow_code, changes)
    with refusing(f"cannot write {path}"), replacing(path, f".{os.getpid()}") as file:
        form.write(saved, file)
    return path


def _format(path: Path) -> Format:
    """Return the format that a name stands for. Raises UserError where it is none that can be written here."""
    ending = path.suffix.lower()
    known = ", ".join(f"{each} ({form.holds})" for each, form in FORMATS.items())
    if ending not in FORMATS:
        what = f"ends in {ending!r}, which is not written" if ending else "has no ending"
        raise UserError(f"{path} {what}: give a name that ends in one of {known}")
    if missing := [name for name in FORMATS[ending].needs if find_spec(name) is None]:
        raise UserError(f"{path}: {ending} needs the packages {' and '.join(missing)}: install them, or give .pt2")
    return FORMATS[ending]


def _metadata(saved: SavedRun) -> dict[str, str]:
    """Return the metadata that a reader of the file needs."""
    takes = saved.network.takes
    return {
        "format": "ffpipe",
        "config": to_toml(saved.config),
        "shape": " ".join(map(str, takes.shape)),
        "classes": str(takes.classes),
        "names": json.dumps(takes.names),
        "divisor": f"{takes.scale.divisor_of_bytes(saved.config.training.data.scale):g}",  # of bytes
    }


def _write_weights(saved: SavedRun, file: BinaryIO) -> None:
    """Write all tensors, of which one block's at a time is in memory."""
    head = saved.head()
    weights = head.weights() if head else {}
    of_head = {f"head{index}.weight": weights[f"weight.{index}"].t() for index in saved.network.taps}
    of_head |= {"head.bias": weights["bias"]} if "bias" in weights else {}
    # The header needs shapes alone, so that no more than one block has to be in memory at a time.
    outlines, block_of = dict(of_head), dict[str, int]()
    for index in range(len(saved.network)):
        named = _named(saved.network.make(index, Workspace(META)))
        outlines |= named
        block_of |= dict.fromkeys(named, index)
    file.write(tensorfile.header(outlines, _metadata(saved)))
    # A block's file is read once where its names follow each other.
    block = functools.lru_cache(maxsize=1)(lambda index: _named(saved.block(index)))
    for name in tensorfile.order(outlines):
        file.write(tensorfile.data(of_head[name] if name in of_head else block(block_of[name])[name]))


def _named(block: Block) -> dict[str, Tensor]:
    """Return the weights of a block by their names in an exported file."""
    if isinstance(block, FFDense):
        return {f"layer{block.index}.weight": block.weight.t(), f"layer{block.index}.bias": block.bias}
    return {f"block{block.index}.{name}": tensor for name, tensor in block.weights().items()}


def _write_program(saved: SavedRun, file: BinaryIO) -> None:
    program = _recorded(saved, torch.export.export)
    torch.export.save(program, file, extra_files={"ffpipe.json": json.dumps(_metadata(saved))})


def _write_onnx(saved: SavedRun, file: BinaryIO) -> None:
    """Write an ONNX model of one protocol buffer. Raises UserError where its weights do not fit into one."""
    if saved.bytes_of_weights > LARGEST_ONNX:
        raise UserError(f"the weights are more than the {LARGEST_ONNX:,} bytes of one .onnx file: give .pt2")
    names: dict[str, Any] = {"input_names": ["images"], "output_names": ["scores"]}
    program = _recorded(saved, functools.partial(torch.onnx.export, dynamo=True, verbose=False, **names))
    program.model.metadata_props.update(_metadata(saved))
    file.write(program.model_proto.SerializeToString())


def _recorded(saved: SavedRun, record: Callable[..., Any]) -> Any:
    """Record the network for any number of examples. record: takes a module, examples of its arguments, and which of
    their sizes are free. Raises UserError where torch cannot follow it."""
    network: nn.Module = loaded(saved)
    takes, tokens = saved.network.takes, saved.config.training.inputs == "tokens"
    # Traced with two examples, as torch takes sizes of 0 and 1 for fixed.
    examples = torch.zeros(2, *(saved.network.inputs.shape if tokens else takes.shape))
    free = {"images": {0: torch.export.Dim("n")}}
    try:
        with _quiet():
            return record(network, (examples.long() if tokens else examples,), dynamic_shapes=free)
    except Exception as error:  # a user's module has as many ways to resist as torch has to say so
        raise UserError(
            f"torch cannot make a program of the network: {describe_error(error)}; give .safetensors"
        ) from None


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what torch's exporters say of their own insides out of the output."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logger.setLevel(before)


FORMATS = {
    ".safetensors": Format("the weights", _write_weights),
    ".pt2": Format("a program of torch.export", _write_program),
    ".onnx": Format("a program for other runtimes", _write_onnx, ("onnx", "onnxscript")),
}

"""Labelled images that a run is tested on beside its own: by the classes, shape and scale that it was trained on.

It must not know a file format, nor how a set is split.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ffpipe.data import npz
from ffpipe.data.discover import discover
from ffpipe.data.inputs import Inputs, mode_of
from ffpipe.data.labels import Classes, plain
from ffpipe.data.remote import fetched, to_terminal
from ffpipe.data.source import Part
from ffpipe.data.sources import KNOWN_SETS, part_of_files, refuse_other_columns
from ffpipe.system.errors import UserError
from ffpipe.system.files import expanded

FIELD = "--data"


@dataclass(frozen=True)
class Labelled:
    """Images with their classes. count: how many there are. pairs: one pass over them, an image as a row (features,)
    with the number of its class. found: what the source made of what it was given, for people."""

    count: int
    pairs: Iterator[tuple[NDArray[np.float32], int]]
    found: str


def labelled(names: Sequence[str], inputs: Inputs, classes: Classes) -> Labelled:
    """Open labelled images in files, a folder or a pattern; where they have a test part, that alone.

    inputs: what images of the run are. classes: those of the run. Raises UserError, also while the pairs are read: no
    such file, no labels, a class that the run does not know, images of another shape.
    """
    part, source = _part(names, inputs)
    contents = part.open()
    labels = plain(contents.labels, contents.where)
    # Files of a known set have the published numbers of its classes, and no names.
    names_of_numbers = contents.names or (classes.names if inputs.data.source in KNOWN_SETS else ())
    numbers = classes.numbers(labels, contents.where, names_of_numbers)
    divisor = inputs.divisor_of(contents, source)
    images = (image for block in contents.blocks() for image in block)
    rows = inputs.rows(enumerate(images), contents.shape, divisor, contents.where)

    def pairs() -> Iterator[tuple[NDArray[np.float32], int]]:
        for (_, row), number in zip(rows, numbers.tolist(), strict=True):
            if isinstance(row, UserError):
                raise row
            yield row, number

    return Labelled(len(numbers), pairs(), contents.found)


def _part(names: Sequence[str], inputs: Inputs) -> tuple[Part, str]:
    """Return the part in these files, which is not read yet, and its source."""
    found = discover(names)
    if found.source == "text":
        raise UserError(f"{FIELD} is a text, but the run was trained on images: give a folder or files of these")
    files = fetched(found.test or found.train, FIELD, to_terminal)
    data = replace(
        inputs.data,
        source=found.source,  # type: ignore[arg-type]  # one of the words of the field
        mode=mode_of(inputs.shape),  # type: ignore[arg-type]  # as above
    )
    if found.source == "npz" and len(files) == 1 and (part := npz.test_part(expanded(files[0]), data.arrays, FIELD)):
        return part, found.source
    refuse_other_columns(inputs.data, found.source, files, FIELD)
    return part_of_files("test" if found.test else "train", files, data, FIELD), found.source

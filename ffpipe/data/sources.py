"""The sources that `training.data.source` names: known sets, and forms of files. One table for all that ask for them.

It must not know how a set is split.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ffpipe.config.data import Data
from ffpipe.data import cifar10, columns, digits, folder, idx, mnist, npz
from ffpipe.data.discover import known_kind, table_files
from ffpipe.data.npz import Role
from ffpipe.data.source import Part
from ffpipe.data.tables import TABLES
from ffpipe.system.errors import UserError, nearest
from ffpipe.system.files import expanded

Progress = Callable[[str], None]


@dataclass(frozen=True)
class KnownSet:
    """A set that ffpipe finds or downloads by itself. parts: the training and the test part, if it has one, by the
    folder with local copies."""

    classes: int
    parts: Callable[[str, Progress], tuple[Part, Part | None]]


@dataclass(frozen=True)
class FileForm:
    """A form of files that a user names. part: one part, of files, which there are `least` to `most` of."""

    least: int
    most: int
    takes: str
    part: Callable[[list[Path], Role, Data, str], Part]


# Functions and not their results, so that nothing is looked for until a config asks for it.
KNOWN_SETS: dict[str, KnownSet] = {
    "digits": KnownSet(digits.CLASSES, lambda data_dir, progress: (digits.part(), None)),
    "mnist": KnownSet(mnist.CLASSES, mnist.parts),
    "fashion-mnist": KnownSet(mnist.CLASSES, partial(mnist.parts, known=mnist.FASHION_MNIST)),
    "cifar10": KnownSet(cifar10.CLASSES, cifar10.parts),
}
FILE_FORMS: dict[str, FileForm] = {
    "idx": FileForm(2, 2, "two: IMAGES LABELS", lambda paths, role, data, field: idx.part(paths[0], paths[1], field)),
    "npy": FileForm(
        2, 2, "two: IMAGES LABELS", lambda paths, role, data, field: npz.npy_part(paths[0], paths[1], field)
    ),
    "npz": FileForm(
        1, 2, "one, or two: IMAGES LABELS", lambda paths, role, data, field: npz.part(paths, role, data.arrays, field)
    ),
    "folder": FileForm(
        1,
        1,
        "one folder, with a folder for each class",
        lambda paths, role, data, field: folder.part(paths[0], data.mode, data.size, field),
    ),
}

# Fields that say how files are read, and the sources that read them so.
READ_BY = {
    "image_column": (*TABLES,),
    "label_column": (*TABLES,),
    "arrays": ("npz",),
    "mode": ("folder", *TABLES),
    "size": ("folder", *TABLES),
}


def unread(data: Data) -> list[str]:
    """Return the names of fields that say how files of other sources are read."""
    return [name for name, sources in READ_BY.items() if data.source not in sources]


def part_of_files(role: Role, names: tuple[str, ...], data: Data, field: str = "") -> Part:
    """Return the part in files that the user names. field: by which, in messages; empty: that of the role. Raises
    UserError where they are of another source, or too many."""
    field, paths = field or f"training.data.{role}", [expanded(name) for name in names]
    _refuse_other_form(paths, data.source, field)
    if data.source in TABLES:
        files = table_files(data.source, names, field)
        return columns.part(data.source, TABLES[data.source], files, _wanted(data), field)
    form = FILE_FORMS.get(data.source)
    if form is None:
        raise UserError(f"training.data.source {data.source!r}: {nearest(data.source, (*FILE_FORMS, *TABLES))}")
    if not form.least <= len(paths) <= form.most:
        raise UserError(f"{field} names {len(paths)} file(s), but {data.source} takes {form.takes}")
    return form.part(paths, role, data, field)


def refuse_other_columns(
    data: Data, source: str, names: Sequence[str], field: str, wanted: columns.Wanted | None = None
) -> None:
    """Refuse files of `source` whose pixels are in other columns than those of the training files of `data`.

    wanted: columns of these files; None: as in training. Columns are known by their places alone where the training
    files are not there any more, as beside a run that was copied. Raises UserError.
    """
    if data.source not in TABLES or source not in TABLES:
        return
    try:
        train = TABLES[data.source](table_files(data.source, data.train, "training.data.train")[0])
    except UserError:
        return
    other = TABLES[source](table_files(source, names, field)[0])
    columns.refuse_other_pixels(train, other, _wanted(data), wanted or _wanted(data))


def _wanted(data: Data) -> columns.Wanted:
    return columns.Wanted(data.image_column, data.label_column, data.mode, data.size)


def _refuse_other_form(paths: Sequence[Path], source: str, field: str) -> None:
    """Refuse the first file that is of another known form than its source reads."""
    for path in paths:
        if path.is_file() and (kind := known_kind(path)) not in ("", source, "text"):
            raise UserError(
                f"{field}: {path} is a file for training.data.source {kind!r}, not {source!r}: set that, or give it "
                "as --data, where formats are found"
            )

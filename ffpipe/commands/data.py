"""`ffpipe data`: what ffpipe makes of files, without training."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ffpipe.commands.options import SOURCE, add_fields, given, settable
from ffpipe.config.fields import override
from ffpipe.config.recipes import RECIPES, get_recipe
from ffpipe.system.errors import UserError, escaped
from ffpipe.system.files import new_file, replacing

if TYPE_CHECKING:
    from rich.table import Table

    from ffpipe.data.examples import Examples
    from ffpipe.data.splits import Splits

# Examples of each class in the picture, and classes that the table spells out.
SAMPLES, MOST_CLASSES = 10, 50
# Images, and values of them, whose least and greatest value the table has.
SAMPLE, SAMPLE_VALUES = 1000, 1 << 24
# The most rows and columns of an example in the picture: larger ones have only some of theirs, at even distances.
MOST_SIDE = 256


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `ffpipe data`."""
    parser.add_argument(
        "files", nargs="*", metavar="FILE", help="files, a folder, or the name of a recipe whose data are meant"
    )
    parser.add_argument("--png", metavar="FILE", help="new PNG file, with examples of each class")
    add_fields(parser, ("data-dir", "train-limit"), [name for name in settable() if name.startswith("training.data.")])


def run(options: argparse.Namespace) -> None:
    """Print what the data that were named are, and write some of each class as a PNG. Raises UserError."""
    import numpy as np
    from rich.console import Console
    from rich.table import Table

    from ffpipe.data.splits import load_splits

    # Before the data are read, which may take long.
    names, picture = options.files, None if options.png is None else new_file(options.png)
    # A file or folder that lies here goes before the recipe of its name.
    if not names or (len(names) == 1 and names[0] in RECIPES and not Path(names[0]).exists()):
        config = get_recipe(names[0] if names else "digits")
    else:
        from ffpipe.data.discover import discover, on

        found = discover(names, given(options).get(SOURCE, ""))
        config = on(get_recipe("char-lm" if found.source == "text" else "digits"), found)
    config, console = override(config, given(options)), Console(emoji=False)
    data = config.training.data
    splits = load_splits(data, config.execution.data_dir)
    stored = splits.train.stored
    scale = stored.meaning.scale
    # The first ones alone: a set may be larger than memory.
    sample = splits.train.images(np.arange(min(len(splits.train), SAMPLE, 1 + SAMPLE_VALUES // splits.features)))
    kinds = [
        ("shape of an image", " x ".join(map(str, splits.shape))),
        ("numbers", f"{scale.given}, divided by {scale.divisor:g}: {sample.min():g} to {sample.max():g}"),
    ]
    if splits.is_text:
        kinds = [("a sequence", f"{data.length:,} {data.symbols}, each told from those before it")]
    counts = [f"{len(part):,} {name}" for name, part in _parts(splits).items()]
    table = Table(show_header=False, box=None, pad_edge=False)
    for name, value in (
        ("source", data.source),
        ("training part", ", ".join(data.train) or "of the set"),
        ("test part", ", ".join(data.test) or ("of the set" if len(splits.stored) > 1 else "set aside")),
        *kinds,
        ("sequences" if splits.is_text else "examples", ", ".join(counts)),
        ("symbols" if splits.is_text else "classes", f"{splits.classes:,}"),
    ):
        table.add_row(name, escaped(value))
    # Without markup: names of files and classes may have brackets.
    console.print(table, markup=False)
    if not splits.is_text:
        console.print()
        console.print(_classes(splits), markup=False)
    for line in splits.found:
        console.print(escaped(line), markup=False)
    if picture:
        write_samples(splits, picture)
        console.print(escaped(f"wrote {picture}: {SAMPLES} examples of each class, a row for each"), markup=False)


def _parts(splits: Splits) -> dict[str, Examples]:
    return {"training": splits.train, "validation": splits.validation, "test": splits.test}


def _classes(splits: Splits) -> Table:
    """Return the classes with their names and how many examples of each there are."""
    import numpy as np
    from rich.table import Table

    parts = _parts(splits)
    table = Table("class", "name", *parts, box=None, pad_edge=False)
    counts = [np.bincount(each.labels(np.arange(len(each))), minlength=splits.classes) for each in parts.values()]
    for label in range(min(splits.classes, MOST_CLASSES)):
        name = splits.names[label] if splits.names else ""
        table.add_row(str(label), escaped(name), *(f"{each[label]:,}" for each in counts))
    if splits.classes > MOST_CLASSES:
        table.add_row("...")
    return table


def write_samples(splits: Splits, path: Path) -> None:
    """Write a PNG with a row of examples for each class. Raises UserError where examples are not pictures."""
    import numpy as np
    from PIL import Image

    from ffpipe.data.inputs import mode_of

    if not mode_of(splits.shape):
        raise UserError(
            f"images of shape {splits.shape} are not pictures, which are (height, width) or (height, width, channels): "
            "set training.data.shape, or leave --png out"
        )
    shape = (*splits.shape, 1)[:3]
    apart = -(-max(shape[:2]) // MOST_SIDE)
    height, width = (-(-side // apart) for side in shape[:2])
    channels = shape[2]
    labels = splits.train.labels(np.arange(len(splits.train)))
    shown = range(min(splits.classes, MOST_CLASSES))
    sheet = np.zeros((len(shown) * (height + 1), SAMPLES * (width + 1), channels), np.uint8)
    for label in shown:
        for at, row in enumerate(np.flatnonzero(labels == label)[:SAMPLES]):
            top, left = label * (height + 1), at * (width + 1)
            image = splits.train.images(np.array([row])).reshape(shape)[::apart, ::apart]
            sheet[top : top + height, left : left + width] = np.rint(np.clip(image * 255, 0, 255))
    try:
        with replacing(path, ".part") as file:
            Image.fromarray(sheet[:, :, 0] if channels == 1 else sheet).save(file, "PNG")
    except OSError as error:
        raise UserError(f"cannot write {path}: {error}") from None

"""The contents of files and folders, worked out from their names and first bytes: a source, and its training and test
part.

This module must not read more of a file than tells its format.
"""

from __future__ import annotations

import glob
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

from ffpipe.config.fields import checked
from ffpipe.config.schema import Config, Data
from ffpipe.data.below import files_below, is_hidden, is_of_runs
from ffpipe.data.remote import fetched, to_terminal
from ffpipe.data.tables import TABLES, comma_separated
from ffpipe.system.errors import UserError, refusing
from ffpipe.system.files import expanded, names_of, scheme_of, size_of

_ENDINGS = {
    "csv": (".csv", ".tsv", ".csv.gz", ".tsv.gz"),
    "parquet": (".parquet",),
    "arrow": (".arrow", ".feather", ".ipc"),
    "npz": (".npz",),
    "npy": (".npy",),
    "text": (".txt",),
}
# Arrow's streams begin without a name: the four bytes are a mark before each of their messages. An archive begins with
# an array, or with its end where it has none.
_MAGIC = {
    b"PAR1": "parquet",
    b"ARROW1": "arrow",
    b"\xff\xff\xff\xff": "arrow",
    b"PK\x03\x04": "npz",
    b"PK\x05\x06": "npz",
    b"\x93NUMPY": "npy",
}
_IDX, _GZIP = b"\0\0", b"\x1f\x8b"
# The first kind that there is tests, and files of the others are left alone: what validates is set aside from the
# training part.
_TESTS = ("test", "t10k", "validation", "valid", "val", "dev")
# These begin other words too: values.csv tests nothing.
_WHOLE_WORDS = ("val", "dev")
# Endings of pictures, which are read from folders.
PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp")


@dataclass(frozen=True)
class Found:
    """A source, and the files of its parts. test: empty where there are none."""

    source: str
    train: tuple[str, ...]
    test: tuple[str, ...] = ()


def discover(names: Sequence[str], source: str = "") -> Found:
    """Work out what these files, folder or pattern are, or files by URI; a folder by URI is all of the training part.

    source: what the user says that they are, for files whose contents do not tell. Raises UserError where nothing is
    known of them.
    """
    if "" in names:  # which would be the working folder
        raise UserError("--data has an empty name: give files, a folder or URIs")
    remote = any(map(scheme_of, names))
    paths = [Path(name) for name in fetched(names, "--data", to_terminal)] if remote else matching(names, "--data")
    if not remote and (folders := [path for path in paths if path.is_dir()]):
        if len(paths) > 1:
            raise UserError(f"--data names the folder {folders[0]} and others: give one folder alone, or files")
        return _folder(folders[0])
    kinds = {kind_of(path, source) for path in paths}
    if len(kinds) != 1:  # none of a folder in a store that is empty
        raise UserError(f"--data names files of several formats: {', '.join(sorted(kinds))}; give those of one")
    found = _parts(kinds.pop(), paths)
    if not remote:
        return found
    if len(paths) == len(names):  # no folder
        name_of = dict(zip(map(str, paths), names, strict=True))
        return Found(found.source, *(tuple(name_of[path] for path in part) for part in (found.train, found.test)))
    if found.test:
        raise UserError(
            f"--data: {', '.join(names)} has files of a test part, such as {Path(found.test[0]).name}: name the files "
            "of the training part one by one, and those of the test part beside them"
        )
    return Found(found.source, tuple(names))


def with_data(config: Config, data: str | Path | Sequence[str | Path]) -> Config:
    """Return the config on data of your own: what `ffpipe train --data` makes of a recipe.

    data: a folder, a file, files or a pattern, or URIs. The number of features, the classes, means and deviations
    become those of the data; a tenth of the training part validates, and another tenth tests where there is no test
    part, both drawn from all of it. Raises UserError where nothing is known of the data, and for data that are of
    another kind than the config takes.
    """
    return on(checked(config), discover(names_of(data, "data", "paths of files, and save arrays by np.savez first")))


def on(config: Config, found: Found) -> Config:
    """Return the config of a recipe on other data: what depended on its own is worked out from these.

    A tenth of the training part is set aside to validate on, and one to test on where there is no test part. Raises
    UserError for a text that a network on images would get, and for pictures that one on tokens would.
    """
    training, own = config.training, config.training.data
    text, tokens = found.source == "text", training.inputs == "tokens"
    if text and not tokens:
        raise UserError(f"--data is a text, but {config.recipe} trains on images: give char-lm, or a config on tokens")
    if tokens and found.source == "folder":
        raise UserError(f"--data are pictures, but {config.recipe} trains on tokens: give digits-cnn or mnist-cnn")
    data = Data(
        source=found.source,  # type: ignore[arg-type]  # one of the words of the field
        train=found.train,
        test=found.test,
        validation=-1,
        test_count=0 if found.test else -1,
        # A recipe's -1 is for a set that is mixed; the user's may be sorted by class.
        split_seed=-1 if text else own.split_seed if own.split_seed > 0 else 0,
        length=own.length,
        symbols=own.symbols,
        train_limit=own.train_limit,
        positive_classes=own.positive_classes,
    )
    training = replace(training, data=data, dims=(0, *training.dims[1:]), mean=(), deviation=())
    return replace(config, training=training)


def kind_of(path: Path, said: str = "") -> str:
    """Return the source that reads a file. said: what the user says that it is. Raises UserError."""
    with refusing(f"{path}: cannot be read"):
        size_of(path)  # which refuses what an open would wait for
        with path.open("rb") as file:
            start = file.read(8)
    for magic, kind in _MAGIC.items():
        if start.startswith(magic):
            return kind
    # Neither begins in a way of its own.
    for kind in (said, _ending(path)):
        if kind in ("csv", "text"):
            return kind
    # Gzip's first bytes do not say what is within.
    name = path.name.lower()
    if start.startswith(_IDX) or (start.startswith(_GZIP) and "idx" in name):
        return "idx"
    if name.endswith(PICTURES):
        raise UserError(f"{path} is one picture: give the folder that has a folder of pictures for each class")
    raise UserError(
        f"{path}: its format is not known: expected a folder of pictures, CSV, Parquet, Arrow, npz, npy, IDX or a "
        "text; name a table .csv and a text .txt, or give --training.data.source csv or text"
    )


def known_kind(path: Path) -> str:
    """Return the source that reads a file; empty where that is not known."""
    with suppress(UserError):
        return kind_of(path)
    return ""


def matching(names: Sequence[str], field: str) -> list[Path]:
    """Return the files that names and patterns stand for, in their order. Raises UserError where there is none."""
    paths: list[Path] = []
    for name in names:
        path = expanded(name)
        # A file's own name may have brackets.
        found = sorted(glob.glob(str(path))) if glob.has_magic(name) and not path.exists() else [str(path)]
        if not found or not Path(found[0]).exists():
            raise UserError(f"{field}: there is no file or folder {name}")
        paths += map(Path, found)
    return paths


def table_files(source: str, names: Sequence[str], field: str) -> list[Path]:
    """Return the files of a table: a folder stands for those in it, and one that `datasets` saved for its own.

    Raises UserError where a folder has none.
    """
    files: list[Path] = []
    for path in matching(names, field):
        if not path.is_dir():
            files.append(path)
            continue
        inside = _saved(path) if source == "arrow" else []
        inside = inside or _tables_in(path, source)
        if not inside:
            raise UserError(f"{field}: there is no {source} file in the folder {path}")
        files += inside
    return files


def tables_below(root: Path) -> list[Path]:
    """Return the tables below a folder in sorted order, hidden ones left out; of a data set that `datasets` saved its
    own files alone, in their order.

    Raises UserError where such a set names files elsewhere.
    """
    found: list[Path] = []
    for folder, files in groupby(files_below(root), lambda path: path.parent):
        found += _saved(folder) or [path for path in files if _ending(path) in TABLES]
    # Sorted, a folder's own files stand before and after those of a folder in it, and a saved set would be found twice.
    return list(dict.fromkeys(found))


def _tables_in(root: Path, source: str) -> list[Path]:
    # A link that leads nowhere is refused when it is read.
    return [path for path in files_below(root) if _ending(path) == source and not path.is_dir()]


def _folder(path: Path) -> Found:
    """Find the data set in a folder."""
    if (splits := _json(path / "dataset_dict.json").get("splits")) and isinstance(splits, list):
        train, test = _named_parts([path / str(split) for split in splits])
        return Found("arrow", tuple(map(str, train)), tuple(map(str, test)))
    if (path / "state.json").is_file():
        return Found("arrow", (str(path),))
    with refusing(str(path)):
        inside = sorted(each for each in path.iterdir() if not is_hidden(each))
        files = [each for each in inside if not each.is_dir()]
        folders = [each for each in inside if each.is_dir() and not is_of_runs(each)]
    for source in (*TABLES, "npz", "npy"):
        if some := [each for each in files if _ending(each) == source]:
            return _parts(source, some)
    if some := [each for each in files if "ubyte" in each.name]:
        # torchvision keeps what it unpacked beside what it downloaded.
        return _parts("idx", [each for each in some if not (each.suffix == ".gz" and each.with_suffix("") in some)])
    if folders:
        train, test = _named_parts(folders)
        if test and any(each.is_dir() for each in train[0].iterdir()):
            return Found("folder", (str(train[0]),), (str(test[0]),))
        for source in TABLES:
            if some := _tables_in(path, source):
                return _parts(source, some)
        # One class is none: the folder may stand above that of the classes.
        if len(folders) == 1 and (folders[0].name.lower().startswith("train") or _has_classes(folders[0])):
            return Found("folder", (str(folders[0]),))
        return Found("folder", (str(path),))
    if any(each.name.lower().endswith(PICTURES) for each in files):
        raise UserError(f"{path}: it has pictures but no classes: give a folder that has a folder for each class")
    raise UserError(f"{path}: the folder has neither data in a known format nor folders of pictures")


def _has_classes(folder: Path) -> bool:
    """Return whether a folder has several folders, and no pictures beside them."""
    inside = [each for each in folder.iterdir() if not is_hidden(each)]
    beside = [each for each in inside if not each.is_dir()]
    return len(inside) - len(beside) > 1 and not any(each.name.lower().endswith(PICTURES) for each in beside)


def _parts(source: str, paths: Sequence[Path]) -> Found:
    """Tell files of the training part from those of the test part by their names."""
    train, test = _named_parts(paths)
    if source in ("idx", "npy"):
        train, test = _images_first(train), _images_first(test)
    # Kaggle's test files have no column of labels.
    if source == "csv" and test and comma_separated(train[0]).schema.names != comma_separated(test[0]).schema.names:
        test = []
    return Found(source, tuple(map(str, train)), tuple(map(str, test)))


def _named_parts(paths: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Return the paths of the training and of the test part, by their names; the first of several kinds of tests."""
    kinds = {kind: [path for path in paths if _is_of(kind, path.name.lower())] for kind in _TESTS}
    tests = [path for some in kinds.values() for path in some]
    train = [path for path in paths if path not in tests]
    named = [path for path in train if path.name.lower().startswith("train")]
    if not train:
        return list(paths), []
    return named or train, next((some for some in kinds.values() if some), [])


def _is_of(kind: str, name: str) -> bool:
    rest = name.removeprefix(kind).removeprefix("set")[:1]
    return name.startswith(kind) and not (kind in _WHOLE_WORDS and rest.isalpha())


def _images_first(paths: Sequence[Path]) -> list[Path]:
    # In whatever order they are given: labels.npy images.npy is such a pair too.
    return sorted(paths, key=lambda path: "label" in path.name.lower() or path.name.lower().startswith("y"))


def _ending(path: Path) -> str:
    """Return the source that files of this name usually have; empty where none is known."""
    return next((kind for kind, endings in _ENDINGS.items() if path.name.lower().endswith(endings)), "")


def _saved(folder: Path) -> list[Path]:
    """Return the files of a data set that `datasets` saved, in their order; none where it saved none."""
    files = _json(folder / "state.json").get("_data_files")
    if not isinstance(files, list):
        return []
    # In this order, and no others: `datasets` keeps results of its own work in the same folder.
    names = [str(each["filename"]) for each in files if isinstance(each, dict) and "filename" in each]
    if any(Path(name).name != name for name in names):
        raise UserError(f"{folder / 'state.json'}: it names a file elsewhere; expected files of the folder")
    return [folder / name for name in names]


def _json(path: Path) -> dict[str, object]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}

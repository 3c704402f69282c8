"""Files that are damaged, of another form than they are read as, or not data of pictures are refused in one line."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from broken import damaged, read_or_refused
from forms import FORMS, IMAGES, LABELS, NAMES, Make, found, npz, parquet, pictures, table, write
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ffpipe.config.schema import Data
from ffpipe.data.splits import load_splits
from ffpipe.system.errors import UserError


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (npz(x=IMAGES, y=np.zeros((30, 3))), "labels have 3 numbers a row, but row 0 is not one-hot"),
        (npz(x=IMAGES, y=LABELS + 0.5), "the label 0.5 at row 0 is not a whole number"),
        (npz(x=IMAGES, y=np.full(30, np.nan)), "the label nan at row 0 is not a whole number"),
        (npz(x=IMAGES, y=np.array(["", *["a"] * 29])), "the label at row 0 is .*; expected a name or a number"),
        (npz(x=IMAGES, y=LABELS + (1 << 40)), "is not a likely class number"),
        (
            npz(x_train=IMAGES, y_train=NAMES[LABELS], x_test=IMAGES, y_test=np.array(["fox"] * 30)),
            "the label 'fox' at row 0 is none of the training part's classes: cat, dog, emu",
        ),
        (write("a.csv", "one,two\n1,2\n3,4\n"), "label_column is 'label', but there is no such column"),
        (write("a.csv", "label,p,p\n1,2,3\n"), "the column 'p' is there twice"),
        (write("a.csv", ""), "it is empty"),
        (write("a.csv", "\nlabel,p\n1,2\n"), "its first line is empty; expected names of columns, or numbers"),
        (write("a.csv", f"label,p\n1,{'x' * 200_000}\n"), "cannot be read: field larger than field limit"),
        (
            parquet(table("pixels", pa.array([[0], *[[0, 1]] * 29]))),
            r"labels in 'label' have the shapes \(1,\), \(2,\)",
        ),
        (write("a.csv", "label,p,q\n1,2,3\n0,1\n"), "cannot be read: .*columns"),
        (write("a.csv", b"label,p\n\xff\xfe\n"), "cannot be read|not only columns"),
        (write("a.arrow", b"ARROW1\0\0nothing"), "cannot be read"),
        (write("a.bin", b"what is it"), "its format is not known: expected a folder of pictures, CSV"),
        (lambda folder: folder, "the folder has neither data in a known format nor folders of pictures"),
        (lambda folder: folder / "nowhere", "--data: there is no file or folder"),
    ],
)
def test_what_is_refused(make: Make, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message) as caught:
        found(tmp_path, make)
    assert "\n" not in str(caught.value)


def test_a_picture_that_cannot_be_decoded_is_named(tmp_path: Path) -> None:
    folder = pictures()(tmp_path)
    assert isinstance(folder, Path)
    (folder / "dog" / "notes.PNG").write_text("what I saw")
    with pytest.raises(UserError, match=r"dog/notes\.PNG: it cannot be decoded: it is not PNG, JPEG, BMP, GIF or WebP"):
        found(tmp_path, lambda _: folder)


DAMAGED = ("npz", "CSV", "CSV, tabs, gzipped", "Arrow file", "Arrow stream", "Feather", "Parquet, nested")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), form=st.sampled_from(DAMAGED))
def test_damaged_files_are_refused_in_a_line_or_read(tmp_path: Path, data: st.DataObject, form: str) -> None:
    folder = Path(tempfile.mkdtemp(dir=tmp_path))
    path = FORMS[form](folder)
    assert isinstance(path, Path)
    changed = damaged(data, path.read_bytes(), 4)
    path.write_bytes(changed[: data.draw(st.integers(1, len(changed)))] if data.draw(st.booleans()) else changed)
    with read_or_refused():
        splits = found(folder, lambda _: path)
        assert len(splits.train.images(np.arange(len(splits.train)))) == len(splits.train)


@pytest.mark.parametrize(
    ("source", "form", "kind"),
    [("parquet", "CSV", "csv"), ("parquet", "Arrow stream", "arrow"), ("npz", "Parquet, list", "parquet")],
)
def test_a_file_of_another_source_is_named(source: Any, form: str, kind: str, tmp_path: Path) -> None:
    data = Data(source=source, train=(str(FORMS[form](tmp_path)),), test_count=3)
    with pytest.raises(UserError, match=rf"is a file for training\.data\.source '{kind}', not '{source}'"):
        load_splits(data)


def test_an_unknown_source_is_named() -> None:
    """From Python a config may come here unchecked."""
    source: Any = "parquett"
    with pytest.raises(UserError, match=r"training\.data\.source 'parquett': did you mean 'parquet'\?"):
        load_splits(Data(source=source, train=("a.parquett",)))

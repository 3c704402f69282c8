"""The same pictures in every form that people have them in, for tests that read them."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.feather
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from ffpipe.config.recipes import get_recipe
from ffpipe.data.discover import discover, on
from ffpipe.data.source import OpenedPart
from ffpipe.data.splits import Splits, load_splits

IMAGES = np.random.default_rng(0).integers(0, 256, (30, 4, 4), np.uint8)
IMAGES[0, 0, 0] = 255
LABELS = np.arange(30) % 3
NAMES = np.array(["cat", "dog", "emu"])
NUMBERS = list(IMAGES.reshape(30, -1))
Make = Callable[[Path], "Path | list[Path]"]


def everything(contents: OpenedPart) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return all images of an opened part and its labels. Its blocks have to be of the dtype that it says."""
    blocks = list(contents.blocks())
    assert all(block.dtype == contents.dtype for block in blocks)
    return np.concatenate(blocks).reshape(-1, *contents.shape), contents.labels


def npz(**arrays: NDArray[Any]) -> Make:
    def make(folder: Path) -> Path:
        np.savez(folder / "set.npz", **arrays)  # type: ignore[arg-type]  # a name is taken for an option
        return folder / "set.npz"

    return make


def npy(folder: Path) -> list[Path]:
    np.save(folder / "labels.npy", LABELS)
    np.save(folder / "images.npy", IMAGES)
    return [folder / "labels.npy", folder / "images.npy"]


def csv(
    delimiter: str = ",", header: bool = True, last: bool = False, packed: bool = False, labels: Any = LABELS
) -> Make:
    def make(folder: Path) -> Path:
        columns = [("label", labels), *((f"pixel{at}", IMAGES.reshape(30, -1)[:, at]) for at in range(16))]
        columns = [*columns[1:], columns[0]] if last else columns
        lines = [delimiter.join(name for name, _ in columns)] if header else []
        lines += [delimiter.join(str(values[row]) for _, values in columns) for row in range(30)]
        text = ("\n".join(lines) + "\n").encode()
        path = folder / ("set.csv.gz" if packed else "set.csv")
        path.write_bytes(gzip.compress(text) if packed else text)
        return path

    return make


def table(kind: str = "list", label: Any = None) -> pa.Table:
    """Make a table of the pictures as encoded ones, lists of any depth, a tensor, or a column a pixel."""
    labels = pa.array(LABELS) if label is None else label
    if kind == "pixels":
        return pa.table({**{f"p{at}": IMAGES.reshape(30, -1)[:, at] for at in range(16)}, "label": labels})
    if kind == "png":
        column = hugging_face(IMAGES)
    elif kind == "tensor":
        column = pa.FixedShapeTensorArray.from_numpy_ndarray(IMAGES)
    elif kind == "nested":
        column = pa.array(IMAGES.tolist(), pa.list_(pa.list_(pa.uint8())))
    else:
        column = pa.array(NUMBERS, pa.list_(pa.uint8()))
    return pa.table({"image": column, "label": labels})


def parquet(made: pa.Table, parts: int = 1) -> Make:
    def make(folder: Path) -> Path:
        (folder / "set").mkdir()
        for part, rows in enumerate(np.array_split(np.arange(30), parts)):
            pq.write_table(made.take(rows), folder / "set" / f"train-{part:05d}.parquet")
        return folder / "set" / "train-00000.parquet" if parts == 1 else folder / "set"

    return make


def arrow(stream: bool) -> Make:
    def make(folder: Path) -> Path:
        made = table("png")
        opened = pa.ipc.new_stream if stream else pa.ipc.new_file
        with opened(str(folder / "set.arrow"), made.schema) as sink:
            sink.write_table(made, max_chunksize=7)
        return folder / "set.arrow"

    return make


def of_pandas(name: str, ending: str) -> Make:
    """Return what writes a column of row numbers too, as pandas does, which calls it so."""

    def make(folder: Path) -> Path:
        made = table("pixels")
        numbers = pa.array(np.arange(30)[::-1])
        if ending == "parquet":
            pq.write_table(made.append_column(name, numbers), folder / "set.parquet")
        else:
            pyarrow.csv.write_csv(made.add_column(0, name, numbers), folder / "set.csv")
        return folder / f"set.{ending}"

    return make


def feather(folder: Path) -> Path:
    pyarrow.feather.write_feather(table(), str(folder / "set.feather"))
    return folder / "set.feather"


def datasets(folder: Path) -> Path:
    """Write a set as Hugging Face's `datasets` saves it with two splits, with names of the classes in the schema."""
    info = {"info": {"features": {"label": {"_type": "ClassLabel", "names": NAMES.tolist()}}}}
    made = table("png").replace_schema_metadata({b"huggingface": json.dumps(info)})
    (folder / "set").mkdir()
    (folder / "set" / "dataset_dict.json").write_text(json.dumps({"splits": ["train", "test"]}))
    for split in ("train", "test"):
        place = folder / "set" / split
        place.mkdir()
        with pa.ipc.new_stream(str(place / "data-00000-of-00001.arrow"), made.schema) as sink:
            sink.write_table(made)
        files = [{"filename": "data-00000-of-00001.arrow"}]
        (place / "state.json").write_text(json.dumps({"_data_files": files}))
    return folder / "set"


def encode(pixels: NDArray[Any], form: str = "PNG", mode: str = "") -> bytes:
    stream = io.BytesIO()
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(stream, form)
    return stream.getvalue()


def hugging_face(images: Iterable[NDArray[Any]]) -> pa.Array:
    """Make a column of encoded pictures as Hugging Face has them."""
    rows = [{"bytes": encode(each), "path": None} for each in images]
    return pa.array(rows, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))


def pictures(*parts: str) -> Make:
    """Return a folder a class, with what is found in such folders beside; names count from one class to the next."""

    def make(folder: Path) -> Path:
        for part in parts or ("",):
            for row, (image, label) in enumerate(zip(IMAGES, LABELS, strict=True)):
                place = folder / "set" / part / NAMES[label]
                place.mkdir(parents=True, exist_ok=True)
                (place / f"{row:03d}.png").write_bytes(encode(image))
        (folder / "set" / ".DS_Store").write_bytes(b"\0")
        (folder / "set" / "README.txt").write_text("pictures")
        (folder / "set" / parts[0] if parts else folder / "set").joinpath("cat", ".hidden").write_bytes(b"\0")
        return folder / "set"

    return make


FORMS: dict[str, Make] = {
    "npz": npz(x=IMAGES, y=LABELS),
    "one-hot": npz(x=IMAGES, y=np.eye(3, dtype=np.float32)[LABELS]),
    "whole floats as labels": npz(x=IMAGES, y=LABELS.astype(np.float64)),
    "text of digits as labels": npz(x=IMAGES, y=LABELS.astype(str)),
    "labels in a column": npz(x=IMAGES, y=LABELS[:, None].astype(np.int8)),
    "from one": npz(x=IMAGES, y=LABELS + 1),
    "negative": npz(x=IMAGES, y=LABELS - 1),
    "names": npz(x=IMAGES, y=NAMES[LABELS]),
    "bytes as names": npz(x=IMAGES, y=NAMES[LABELS].astype("S")),
    "Fortran order": npz(x=np.asfortranarray(IMAGES), y=LABELS),
    **{f"numbers of {t}": npz(x=IMAGES.astype(t), y=LABELS) for t in ("i2", ">u2", "i8", "f2", "f4", ">f8")},
    "Keras": npz(x_train=IMAGES, y_train=LABELS, x_test=IMAGES / 255, y_test=LABELS),
    "MedMNIST": npz(
        train_images=IMAGES, train_labels=LABELS[:, None], val_images=IMAGES[:2], test_images=IMAGES, test_labels=LABELS
    ),
    "npy": npy,
    "CSV": csv(),
    "CSV, semicolons": csv(";"),
    "CSV, tabs, gzipped": csv("\t", packed=True),
    "CSV without names": csv(header=False),
    "CSV of words, without names": csv(header=False, labels=NAMES[LABELS]),
    "CSV, the label last": csv(last=True),
    "CSV of pandas": of_pandas("", "csv"),
    "CSV of pandas, read and written again": of_pandas("Unnamed: 0", "csv"),
    "Parquet of pandas": of_pandas("__index_level_0__", "parquet"),
    **{f"Parquet, {kind}": parquet(table(kind)) for kind in ("list", "png", "tensor", "nested", "pixels")},
    "Parquet, names": parquet(table(label=pa.array(NAMES[LABELS]))),
    "Parquet, a dictionary": parquet(table(label=pa.array(NAMES[LABELS]).dictionary_encode())),
    "Parquet, one-hot": parquet(table(label=pa.array(np.eye(3)[LABELS].tolist()))),
    "Parquet, shards": parquet(table(), parts=3),
    "Arrow file": arrow(stream=False),
    "Arrow stream": arrow(stream=True),
    "Feather": feather,
    "datasets": datasets,
    "folders": pictures(),
    "folders of two parts": pictures("train", "test"),
}


def found(folder: Path, make: Make, **fields: Any) -> Splits:
    made = make(folder)
    config = on(get_recipe("digits"), discover([str(each) for each in (made if isinstance(made, list) else [made])]))
    fields = {"validation": 0, "test_count": 0 if config.training.data.test else -1, "split_seed": -1} | fields
    return load_splits(replace(config.training.data, **fields))


def write(name: str, data: bytes | str) -> Make:
    def make(folder: Path) -> Path:
        path = folder / name
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_bytes(data if isinstance(data, bytes) else data.encode())
        return path

    return make

"""The fields of a config that name the data and say how they are split."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from msgspec import Meta

from ffpipe.config.limits import MOST_UNITS
from ffpipe.system.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Data:
    """The source of the examples and how they are split."""

    # Listed once more, since data/sources.py, whose names they are, is above this package.
    source: Annotated[
        Literal[
            "digits",
            "mnist",
            "fashion-mnist",
            "cifar10",
            "folder",
            "csv",
            "npz",
            "npy",
            "parquet",
            "arrow",
            "idx",
            "text",
        ],
        Meta(
            description="digits, mnist, fashion-mnist and cifar10 are known sets; the others read what is named in "
            "train and test: folder has a folder of pictures for each class, arrow is of Hugging Face's datasets, "
            "text reads one file, or tiny shakespeare where none is named"
        ),
    ] = "digits"
    train: Annotated[
        tuple[str, ...],
        Meta(
            description="training files: idx, npy and npz take IMAGES LABELS (npz one archive, too); csv, parquet and "
            "arrow files, folders of them or patterns in quotes; folder one folder"
        ),
    ] = ()
    test: Annotated[
        tuple[str, ...], Meta(description="test files, in the form of train; none: test_count examples are set aside")
    ] = ()
    image_column: Annotated[
        str,
        Meta(
            description="parquet, arrow, csv: column of the images; empty: the only image column, or a column a pixel"
        ),
    ] = ""
    label_column: Annotated[str, Meta(description="parquet, arrow, csv: column of the labels")] = "label"
    arrays: Annotated[
        tuple[str, ...],
        Meta(description="npz: arrays of images and labels, of training and then of test; none: by usual names"),
    ] = ()
    shape: Annotated[
        tuple[Annotated[int, Meta(ge=1, le=MOST_UNITS)], ...],
        Meta(description="shape of one image, height width [channels]; none: as the data have it"),
    ] = ()
    mode: Annotated[
        Literal["", "L", "RGB", "RGBA"], Meta(description="pictures: colours to read; empty: what all have in common")
    ] = ""
    size: Annotated[
        # 4096 x 4096 are the most values that an image may have (data/source.py).
        tuple[Annotated[int, Meta(ge=1, le=4096)], ...],
        Meta(max_length=2, description="pictures: height and width to resize to, or one for both; none: as they are"),
    ] = ()
    scale: Annotated[
        float, Meta(ge=0, description="what numbers of images are divided by; 0: 255 where they are bytes, else 1")
    ] = 0.0
    symbols: Annotated[
        Literal["characters", "bytes"], Meta(description="text: what an id stands for; characters are 256 at most")
    ] = "characters"
    length: Annotated[
        int, Meta(ge=1, le=MOST_UNITS, description="text: symbols of a sequence, of which each predicts the next")
    ] = 64
    classes: Annotated[
        int,
        Meta(
            ge=0,
            le=MOST_UNITS,
            description="number of classes; 0: that of the known set, else what the training labels are",
        ),
    ] = 0
    validation: Annotated[
        int, Meta(ge=-1, description="examples set aside from the training set for validation; -1: a tenth of it")
    ] = 0
    test_count: Annotated[
        int, Meta(ge=-1, description="examples set aside for the test where the set has none; -1: a tenth of it")
    ] = 0
    # Shuffled by default: many files are sorted by class, and the end of such a one, set aside, is of one class.
    split_seed: Annotated[
        int, Meta(ge=-1, description="shuffles the training set before it is split; -1: the order of the file")
    ] = 0
    order: Annotated[
        Literal["shuffled", "file"],
        Meta(description="of the training examples in an epoch: drawn anew for each, or that of the file in all"),
    ] = "shuffled"
    train_limit: Annotated[int, Meta(ge=0, description="use only the first N training examples; 0: all")] = 0
    positive_classes: Annotated[
        int, Meta(ge=0, description="the first N classes alone are to be told apart, the rest are negatives; 0: all")
    ] = 0

    def check(self) -> None:
        """Refuse values that contradict each other, and names that would stand for the working folder."""
        for field, names in (("train", self.train), ("test", self.test)):
            if "" in names:
                raise UserError(f"training.data.{field} has an empty name: give files, folders or URIs")
        if self.order == "file" and self.split_seed != -1:
            raise UserError(
                "training.data.order is 'file', but training.data.split_seed shuffles the examples before they are "
                "split: set it to -1"
            )

"""One split of a data set, read by row: compact while it lies in the cache, float32 for the rows that are asked for.

It must not know how the split was made or which rows make a minibatch.
"""

from __future__ import annotations

from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from ffpipe.data.arrow import Stored


class Examples:
    """An immutable view on a memory-mapped canonical file.

    features: values of one image, the product of `shape`. classes: labels are 0..classes-1. shape: of one image,
    e.g. (28, 28) or (32, 32, 3).
    """

    def __init__(self, stored: Stored, order: NDArray[np.int64] | None = None, classes: int = 0) -> None:
        """order: int64 (n,), the row of `stored` behind each example; None: all rows as they are stored.

        classes: where they are fewer than those of `stored`, whose rows then hold no others; 0: the same.
        """
        self.stored = stored  # the file behind the view
        self._order = order
        self.features: int = stored.features
        self.classes: int = classes or stored.classes
        self.shape: tuple[int, ...] = stored.shape

    def __len__(self) -> int:
        return len(self.stored) if self._order is None else len(self._order)

    def images(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the images as float32 (n, features), a fresh array; `rows` is (n,) of any integer dtype.

        Integers of the source are scaled to [0, 1] (bytes / 255, digits / 16), floats are as they were. Raises
        IndexError for a row that is not in 0..len-1.
        """
        raw = self.raw(rows)
        # Indexing has copied them already, so that a division by 1 would only copy once more.
        if self.stored.divisor == 1 and raw.dtype == np.float32:
            return raw
        scaled: NDArray[np.float32] = np.divide(raw, self.stored.divisor, dtype=np.float32)
        return scaled

    def raw(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Return the examples as they are stored, uint8 or float32 (n, features), not scaled; `rows` as in `images`."""
        return self.stored.images(self.stored_rows(rows))

    def labels(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the labels as int64 (n,), a fresh array; `rows` as in `images`."""
        return self.stored.labels(self.stored_rows(rows))

    # Views on a mapped file would be pickled with all that they show.
    def __reduce__(self) -> NoReturn:
        raise TypeError("Examples are not pickled: call load_splits in the other process, it finds them in the cache")

    def stored_rows(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the rows of the part of the source that examples are from, int64 (n,); `rows` as in `images`."""
        rows = np.asarray(rows, dtype=np.int64)
        # NumPy would take a negative row from the end.
        if len(rows) and not 0 <= rows.min() <= rows.max() < len(self):
            raise IndexError(f"rows {rows.min()} to {rows.max()} are not all in 0..{len(self) - 1}")
        return rows if self._order is None else self._order[rows]

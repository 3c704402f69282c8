"""The maker of ffpipe/data/digits.parquet from scikit-learn's copy of the UCI digits.

    python scripts/make_digits.py [FILE]

The same versions of scikit-learn and pyarrow write the same bytes. scikit-learn is needed here and nowhere at run time.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from sklearn.datasets import load_digits

FILE = Path(__file__).parents[1] / "ffpipe" / "data" / "digits.parquet"


def main(file: Path) -> None:
    digits = load_digits()
    pixels = digits.data.astype(np.uint8)
    if not np.array_equal(pixels, digits.data) or pixels.max() > 16:
        sys.exit("the pixels are not integers from 0 to 16: this is not the set that ffpipe knows")
    images = pa.FixedSizeListArray.from_arrays(pa.array(pixels.reshape(-1)), pixels.shape[1])
    table = pa.table({"image": images, "label": pa.array(digits.target.astype(np.int64))})
    pq.write_table(table, file, compression="zstd", compression_level=19)
    print(f"{file}: {table.num_rows} digits, {file.stat().st_size} bytes")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else FILE)

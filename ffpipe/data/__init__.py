"""From any source of labelled images to float32 minibatches, by way of one memory-mapped Arrow file per part.

In the order in which data meets them: `source` (what every source is turned into), the sources themselves
(`digits`, `mnist` with `download`, `idx`, `npz`, `parquet` with `images`), `arrow` (the canonical file), `cache`
(where it lies), `examples` (a split, read by row), `splits` (train, validation, test) and `sampler` (which rows
make a minibatch). Nothing here knows about torch, layers or Ray.
"""

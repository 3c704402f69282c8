"""The way from any source of labelled images to float32 minibatches, through one memory-mapped Arrow file per part.

In the order in which data meets them: `discover` (what files and folders hold), `source` (what every source is turned
into), the sources themselves (`digits`; `mnist`, `cifar10` and `text` with `known` and `download`; `idx`, `npz`,
`folder`, `columns` with `tables` and `images`), `arrow` (the canonical file), `cache` (where it lies), `examples` (a
split, read by row), `splits` (train, validation, test) and `sampler` (which rows make a minibatch). Images to predict
take another way: `inputs` and `unlabelled`. Nothing here knows about torch, layers or Ray.
"""

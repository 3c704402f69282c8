"""Bounds far beyond what can be trained, and within what can be counted, allocated for and named.

A config may come from a stranger: these numbers keep it from asking for what ends the process.
"""

from __future__ import annotations

# Up to here every whole number is a float64 too.
LARGEST_INTEGER = 2**53
# The largest float32, in which most of what is configured is computed; torch, which would say so, is not imported here.
LARGEST_FLOAT = (2.0 - 2.0**-23) * 2.0**127
MOST_UNITS = 1 << 24  # of a layer, features of an image, classes
MOST_LAYERS = 1000  # files of layers are numbered with three digits
MOST_SHARDS = 1 << 10
MOST_LAG = 1 << 16  # a snapshot keeps a prediction for each
MOST_SECONDS = 1_000_000
# Ray starts with no less.
LEAST_OBJECT_STORE = 75 << 20

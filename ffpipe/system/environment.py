"""Settings that torch, and MKL which computes its products on the CPU, read once from their environment.

This module must therefore not import torch. A variable that is set already is somebody's choice and stays.
"""

from __future__ import annotations

import os
import platform
from pathlib import Path

VENDOR_BYTES = 4096  # of the first processor


def prepare(processors: Path = Path("/proc/cpuinfo")) -> None:
    """Set what torch is to find here, unless it is set already. processors: what Linux says of them."""
    # Whole huge pages within large tensors (7/8 of 16 MiB, half of 4), where Linux gives them to those who ask: a
    # layer's update passes once over all of its weights, and finding small pages takes as long as the pass does.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    # Without it cuBLAS may sum in another order each time.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # The same bits on any number of threads, on processors for which MKL has such a mode: strict CNR is of Intel's with
    # AVX2 or AVX-512 and costs nothing (300 x 1000 by 1000 x 1000 in float32, on a Xeon with AMX: 3.31 ms with and
    # without). On others products do not depend on threads, or are left to one (learn/products.py).
    try:
        with processors.open("rb") as file:
            vendor = file.read(VENDOR_BYTES).decode(errors="replace")
    except OSError:
        vendor = platform.processor()
    if "GenuineIntel" in vendor:
        os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")

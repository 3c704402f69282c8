"""What MKL, which computes torch's products on the CPU, is told through its environment. It reads that at its first
product, so this module must not import torch."""

from __future__ import annotations

import os
import platform
from pathlib import Path

VENDOR_BYTES = 4096  # of the first processor


def prepare_mkl(processors: Path = Path("/proc/cpuinfo")) -> None:
    """Ask for the same bits on any number of threads, on processors for which MKL has such a mode.

    It is called strict CNR, and is of Intel's processors with AVX2 or AVX-512. It costs nothing (300 x 1000 by 1000 x
    1000 in float32, on a Xeon with AMX: 3.31 ms with and without). On others products do not depend on threads, or are
    left to one (ff/products.py). What is set already is somebody's choice. processors: what Linux says of them.
    """
    try:
        with processors.open("rb") as file:
            vendor = file.read(VENDOR_BYTES).decode(errors="replace")
    except OSError:
        vendor = platform.processor()
    if "GenuineIntel" in vendor:
        os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")

"""Memory and CPUs of this host and this process: a request for more is refused before anything is allocated for it."""

from __future__ import annotations

import contextlib
import ctypes
import math
import mmap
import os
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ffpipe.system.errors import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray

# From malloc.h of glibc.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
# Weights of 590 KB, of 16 blocks in turn, left holes of 5 % of a process where only what has 1 MiB went back.
LARGE_BLOCK, LARGEST_KEPT = 1 << 18, 32 << 20
KEPT_AT_MOST = (1 << 31) - 1
# Arrays that go from process to process through memory that they share, and whose pages are not left mapped.
LARGE_ARRAY = 1 << 20
# Files in which Linux tells of memory and CPUs, by their paths below the root; and of kills, in control groups of
# version 2 and 1.
ROOT, STATUS = Path("/"), Path("/proc/self/status")
GROUPS, ROOT_OF_GROUPS = "proc/self/cgroup", "sys/fs/cgroup"
MEMORY_OF_HOST, COUNTS_OF_HOST = "proc/meminfo", "proc/vmstat"
COUNTS_OF_KILLS = ("memory.events", "memory.oom_control")


def host_bytes() -> int:
    """Return the host's memory, or the limit of this process or of its control group where that is lower."""
    limits = [resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA)]
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([physical, *_group_limits(), *(limit for limit in limits if limit != resource.RLIM_INFINITY)])


def room(root: Path = ROOT) -> tuple[int, str]:
    """Return the bytes that processes here can come to have, and whose they are: "this host has free", say."""
    free = next((number << 10 for number in _numbers(root / MEMORY_OF_HOST, "MemAvailable:")), host_bytes())
    return min([(free, "this host has free"), *((limit, "this control group has") for limit in _group_limits(root))])


def hard_limit(root: Path = ROOT) -> float:
    """Return the bytes beyond which a process of this control group is killed; no limit where there is swap space."""
    swap = any(_numbers(root / MEMORY_OF_HOST, "SwapTotal:"))
    return math.inf if swap else min(_group_limits(root), default=math.inf)


def oom_kills(root: Path = ROOT) -> int:
    """Return how often the system has killed a process for want of memory, on this host and in this process's control
    groups: what has grown since has killed another."""
    texts = [text for file in COUNTS_OF_KILLS for text in _group_settings("memory", file, root)]
    counts = [number for text in texts for number in _numbers_in(text, "oom_kill")]
    return sum([*counts, *_numbers(root / COUNTS_OF_HOST, "oom_kill")])


def host_cpus(root: Path = ROOT) -> int:
    """Return the host's CPUs, or the quota of this process's control group where that is lower; at least one."""
    # In whole ones, as Ray counts.
    return max(1, int(min([float(os.cpu_count() or 1), *_group_quotas(root)])))


def _group_limits(root: Path = ROOT) -> list[int]:
    """Return the bytes of memory that this process's control groups allow."""
    files = ("memory.max", "memory.limit_in_bytes")
    texts = [text for file in files for text in _group_settings("memory", file, root)]
    return [int(text) for text in texts if text.isdecimal()]  # else "max"


def _group_quotas(root: Path) -> list[float]:
    """Return the CPUs that this process's control groups allow."""
    pairs = [tuple(text.split()) for text in _group_settings("cpu", "cpu.max", root)]
    files = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
    pairs += zip(*(_group_settings("cpu", file, root) for file in files), strict=True)
    return [int(quota) / int(period) for quota, period in pairs if quota.isdecimal()]  # else "max" or -1


def _group_settings(controller: str, file: str, root: Path) -> Iterator[str]:
    """Yield the texts of this file of the control groups that this process is in."""
    try:
        lines = (root / GROUPS).read_text().splitlines()
    except OSError:  # a system without control groups
        return
    for line in lines:
        _, controllers, name = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        # In version 1 each controller has a tree of its own, in version 2 all have one.
        top = root / ROOT_OF_GROUPS / (controller if controllers else "")
        # A limit is as often on a group around the own one. In a container that may be the root of what can be seen.
        own = top / name.lstrip("/")
        for place in (own, *(outer for outer in own.parents if outer.is_relative_to(top))):
            with contextlib.suppress(OSError):
                yield (place / file).read_text().strip()


def keep_freed(largest: int = LARGEST_KEPT) -> None:
    """Have glibc's allocator keep freed blocks of up to `largest` bytes: at most 32 MiB, for more it cannot.

    A step by autograd frees its tensors and the next one takes the same again: each page that the system gave back and
    brought in anew would be zeroed (four convolutions on MNIST: 1.6 times as long a step). Blocks that are kept leave
    holes too small for the next ones. Does nothing where the C library has no such switch.
    """
    with contextlib.suppress(AttributeError, OSError):
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, largest)
        libc.mallopt(M_TRIM_THRESHOLD, KEPT_AT_MOST)


def give_back_at_once() -> None:
    """Have large blocks go back to the system when they are freed, as tensors are on glibc only while they are few.

    By itself its allocator learns from a freed block of up to 32 MiB to keep blocks of that size, and peaks of one
    moment then stay for good. Does nothing where the C library has no such switch.
    """
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, LARGE_BLOCK)


def unmap(array: NDArray[Any]) -> None:
    """Take the pages of an array in shared memory or in a file out of this process; they come back when they are read.

    Such pages count as memory of each process that has read them. Never for an array in memory of the process's own,
    whose contents would be lost. Does nothing where there is no such call.
    """
    page, address = os.sysconf("SC_PAGE_SIZE"), array.ctypes.data
    # The system takes whole pages, and those at either end may have bytes of other arrays.
    start, end = -(-address // page) * page, (address + array.nbytes) // page * page
    if end > start:
        with contextlib.suppress(AttributeError, OSError):
            ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), mmap.MADV_DONTNEED)


def unmap_large(array: NDArray[Any]) -> None:
    """Take the pages of an array in shared memory out of this process if they are worth the call: each message lies
    elsewhere, and they would add up."""
    if array.nbytes >= LARGE_ARRAY:
        unmap(array)


def anonymous_bytes() -> int:
    """Return the bytes that this process has in memory now and that are in no file."""
    return next((number << 10 for number in _numbers(STATUS, "RssAnon:")), process_bytes())


def process_bytes() -> int:
    """Return the bytes that this process has in memory now."""
    return _status_bytes("VmRSS:")


def peak_bytes() -> int:
    """Return the most bytes that this process ever had in memory. Those of getrusage begin with what its parent had."""
    return _status_bytes("VmHWM:")


def _status_bytes(field: str) -> int:
    found = _numbers(STATUS, field)
    # On macOS only the peak is known, in bytes.
    return found[0] << 10 if found else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _numbers(file: Path, name: str) -> list[int]:
    """Return the numbers that a file of the system gives beside a name; none where there is no such file."""
    try:
        return _numbers_in(file.read_text(), name)
    except OSError:
        return []


def _numbers_in(text: str, name: str) -> list[int]:
    pairs = (line.split() for line in text.splitlines())
    return [int(number) for first, number, *_ in (pair for pair in pairs if len(pair) > 1) if first == name]


def refuse_beyond_host(needed: int, what: str, instead: str) -> None:
    """Refuse `what` where it needs more than the host has. instead: what to give."""
    have = host_bytes()
    if needed > have:
        raise UserError(
            f"{what} needs at least {needed / 2**30:,.1f} GiB, this host has {have / 2**30:,.1f}: {instead}"
        )

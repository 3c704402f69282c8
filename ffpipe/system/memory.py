"""What this host has: a request for more is refused before anything is allocated for it."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import resource
from collections.abc import Iterator
from pathlib import Path

from ffpipe.system.errors import UserError

# From malloc.h of glibc.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
LARGE_BLOCK, LARGEST_KEPT = 1 << 20, 32 << 20
KEPT_AT_MOST = (1 << 31) - 1


def host_bytes() -> int:
    """The host's memory, or the limit of this process or of its control group where that is lower."""
    limits = [resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA)]
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([physical, *_group_limits(), *(limit for limit in limits if limit != resource.RLIM_INFINITY)])


def host_cpus() -> int:
    """The host's CPUs, or the quota of this process's control group, in whole ones as Ray counts, where that is lower;
    one at least."""
    return max(1, int(min([float(os.cpu_count() or 1), *_group_quotas()])))


GROUPS, ROOT_OF_GROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


def _group_limits(groups: Path = GROUPS, root: Path = ROOT_OF_GROUPS) -> list[int]:
    """Bytes of memory of the control groups that this process is in."""
    found = []
    for place, version in _groups("memory", groups, root):
        with contextlib.suppress(OSError, ValueError):  # not here, or "max"
            found.append(int((place / ("memory.limit_in_bytes" if version == 1 else "memory.max")).read_text()))
    return found


def _group_quotas(groups: Path = GROUPS, root: Path = ROOT_OF_GROUPS) -> list[float]:
    """CPUs of the control groups that this process is in."""
    found = []
    for place, version in _groups("cpu", groups, root):
        with contextlib.suppress(OSError, ValueError, ZeroDivisionError):  # not here, or "max"
            if version == 1:
                words = [(place / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period")]
            else:
                words = (place / "cpu.max").read_text().split()
            quota, period = map(int, words)
            found += [quota / period] if quota > 0 else []  # -1: none
    return found


def _groups(controller: str, groups: Path, root: Path) -> Iterator[tuple[Path, int]]:
    """Folders of the control groups that this process is in, and their version: in 1 each controller has a tree of its
    own, in 2 all have one."""
    try:
        lines = groups.read_text().splitlines()
    except OSError:  # a system without control groups
        return
    for line in lines:
        _, controllers, name = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        top = root / controller if controllers else root
        # A limit is as often on a group around the own one. In a container that may be the root of what can be seen.
        own = top / name.lstrip("/")
        for place in (own, *(outer for outer in own.parents if outer.is_relative_to(top))):
            yield place, 1 if controllers else 2


def keep_freed() -> None:
    """Have glibc's allocator keep freed blocks of up to 32 MiB, the largest for which it can.

    A step by autograd frees its tensors and the next one takes the same again: each page that the system gave back and
    brought in anew would be zeroed (four convolutions on MNIST: 1.6 times as long a step). Does nothing where the C
    library has no such switch.
    """
    with contextlib.suppress(AttributeError, OSError):
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT)
        libc.mallopt(M_TRIM_THRESHOLD, KEPT_AT_MOST)


def give_back_at_once() -> None:
    """Have large blocks go back to the system when they are freed, as tensors are on glibc only while they are few.

    By itself its allocator learns from a freed block of up to 32 MiB to keep blocks of that size, and peaks of one
    moment then stay for good. Does nothing where the C library has no such switch.
    """
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, LARGE_BLOCK)


def unmap(address: int, size: int) -> None:
    """Take the pages of shared memory or of a file out of this process; they come back when they are read.

    Never for memory of its own, whose contents would be lost. Does nothing where there is no such call.
    """
    page = os.sysconf("SC_PAGE_SIZE")
    start, end = -(-address // page) * page, (address + size) // page * page
    if end > start:
        with contextlib.suppress(AttributeError, OSError):
            ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), mmap.MADV_DONTNEED)


def unmap_around(address: int) -> None:
    """Take all pages of the shared mapping that holds this address out of this process.

    The system brings in pages around those that are touched, which `unmap` of what was touched leaves. Does nothing
    for memory of the process's own, or where mappings cannot be known.
    """
    try:
        with open("/proc/self/maps", "rb") as file:
            for line in file:
                where, permissions = line.split(b" ", 2)[:2]
                start, end = (int(number, 16) for number in where.split(b"-"))
                if start <= address < end:
                    if permissions.endswith(b"s"):
                        unmap(start, end - start)
                    return
    except OSError:
        return


def process_bytes() -> int:
    """What this process has in memory now."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:  # macOS, where only the most that it ever had is known
        return peak_bytes()


def peak_bytes() -> int:
    """The most that this process ever had in memory. What getrusage gives begins with what its parent had."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:  # macOS, which counts in bytes
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM:"))


def refuse_beyond_host(needed: int, what: str, instead: str) -> None:
    """Raises UserError where `what` needs more than the host has. instead: what to give."""
    have = host_bytes()
    if needed > have:
        raise UserError(
            f"{what} needs at least {needed / 2**30:,.1f} GiB, this host has {have / 2**30:,.1f}: {instead}"
        )

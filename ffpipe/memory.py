"""What fits this host: a request for more is refused before anything is allocated for it."""

from __future__ import annotations

import os
import resource

from ffpipe.errors import UserError


def host_bytes() -> int:
    """The host's memory, or this process's own limit where that is lower."""
    limits = [resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA)]
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([physical, *(limit for limit in limits if limit != resource.RLIM_INFINITY)])


def refuse_beyond_host(needed: int, what: str, instead: str) -> None:
    """Raises UserError where `what` needs more than the host has. instead: what to give."""
    have = host_bytes()
    if needed > have:
        raise UserError(
            f"{what} needs at least {needed / 2**30:,.1f} GiB, this host has {have / 2**30:,.1f}: {instead}"
        )

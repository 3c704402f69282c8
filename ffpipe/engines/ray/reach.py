"""The place of snapshots as the hosts of all stages reach it: each is asked for a mark that the driver has written.

Ray is not known here.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterable
from contextlib import suppress

from ffpipe.storage.store import Store
from ffpipe.system.errors import UserError, reason, refusing

# Asks a host for `problem_here`, given the mark, and waits for the answer.
Ask = Callable[[str], str]


def problem_here(store: Store, mark: str) -> str:
    """Return the reason why this host cannot reach the snapshots; empty: it can. mark: a file that the driver wrote."""

    def tried() -> str:
        if not store.exists(mark):
            return "does not see"
        # To see the mark is not enough: a folder that hosts share may be mounted read-only on this one.
        own = f"{mark}-{os.getpid()}"
        store.write(own, [b""])
        store.remove(own)
        return ""

    try:
        return store.with_retries(tried)
    except OSError as error:
        return f"cannot write to ({reason(error)})"


def check_reach(store: Store, hosts: Iterable[tuple[str, Ask]]) -> None:
    """Raise UserError naming the first host that does not reach the snapshots. hosts: what each is called, and what
    asks it."""
    # A name that no earlier run can have left on a disk of a host's own.
    mark = f".mark-{secrets.token_hex(8)}"
    with refusing(f"snapshots cannot be written to {store.root}"):
        store.with_retries(lambda: store.write(mark, [b""]))
    try:
        for host, ask in hosts:
            if problem := ask(mark):
                raise UserError(
                    f"checkpoints go to {store.root}, which host {host} {problem}: give --execution.checkpoints a "
                    "folder that all hosts share, or a URI such as s3://bucket/run"
                )
    finally:
        with suppress(OSError):  # a mark that stays must not end the run
            store.with_retries(lambda: store.remove(mark))
        store.remove_empty()

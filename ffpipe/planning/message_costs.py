"""Costs of a message between stages on one host: as fitted on a known machine, or measured on this one and kept.

`ffpipe plan --calibrate` measures them (engines/ray/message_costs.py) and writes a file in the cache folder, which
later forecasts on this machine read.
"""

from __future__ import annotations

import os
import platform
import tempfile
from pathlib import Path

import msgspec

from ffpipe.data.cache import folder
from ffpipe.system.errors import UserError, reason
from ffpipe.system.files import read_whole, replacing

LARGEST_FILE = 4096


class MessageCosts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Seconds of a processor for a message, but for `answer`, and bytes a second.

    item: what a stage does with a message beside its blocks. call: sending one, and as much again for taking it in.
    copy: into the object store, and as much again out of it. answer: until an answer is back with who waits for it,
    which no message of a run does, beside the calls. origin: where the figures are from, in words.
    """

    item: float
    call: float
    copy: float
    answer: float
    origin: str


# Two cores of an AMD EPYC (family 26) with Ray 2.60, fitted to `scripts/scaling.py`.
FITTED = MessageCosts(
    item=0.5e-3,
    call=0.7e-3,
    copy=1.0e9,
    answer=1.5e-3,
    origin="as on two cores of an AMD EPYC (--calibrate measures here)",
)


def kept_costs() -> MessageCosts:
    """Return the costs that were measured on this machine, or else FITTED."""
    try:
        return msgspec.json.decode(read_whole(_file(), LARGEST_FILE), type=MessageCosts)
    except (OSError, UserError, msgspec.DecodeError):  # a file of the cache that is lost or damaged is not missed
        return FITTED


def keep_costs(costs: MessageCosts | None) -> Path:
    """Write costs for `kept_costs`; None: write nothing, but see that they could be. Raises UserError where the cache
    folder cannot be written."""
    path = _file()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Tried before they are measured, which takes half a minute that would be lost.
        if costs is None:
            tempfile.TemporaryFile(dir=path.parent).close()
        else:
            with replacing(path) as sink:
                sink.write(msgspec.json.encode(costs))
    except OSError as error:
        instead = "FFPIPE_CACHE names another folder for the cache"
        raise UserError(f"cannot write {path}: {reason(error)}; {instead}") from None
    return path


def _file() -> Path:
    """Name the file of this kind of host, since hosts of several kinds may share a cache folder."""
    return folder() / f"messages-{platform.machine()}-{os.cpu_count()}-{platform.node()}.json"

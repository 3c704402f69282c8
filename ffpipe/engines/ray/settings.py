"""Settings of Ray in its environment. It reads that when it is imported, so this module must not import it."""

from __future__ import annotations

import os
import secrets
import sys
import tempfile
from pathlib import Path

# A temporary folder that leaves room, in the 107 bytes of a Unix socket's path, for
# "/ffpipe-PPPPPPP-XXXXXXXX/r/session_YYYY-MM-DD_HH-MM-SS_XXXXXX_PPPPPPP/sockets/plasma_store".
LONGEST_FOLDER = 17
PREFIX = "ffpipe"


def folder_of_clusters() -> Path:
    """Return the folder in which each cluster of our own has one that begins with PREFIX."""
    folder = Path(tempfile.gettempdir())
    return folder if len(os.fsencode(folder)) <= LONGEST_FOLDER else Path("/tmp")


def prepare_ray() -> None:
    """Set what a cluster of our own needs; to be called before Ray is imported."""
    # The settings of a cluster that is joined count, and a program that has imported Ray has made its own choice.
    if "ray" in sys.modules or os.environ.get("RAY_ADDRESS"):
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # With this off, Ray takes the loopback address for its own and listens nowhere else.
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    if "RAY_AUTH_MODE" not in os.environ:
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    # Ray runs workers at a lower priority than its own processes. Stages are what this cluster is for: at equal
    # priority two stages on two cores came 1 % nearer to their bound.
    os.environ.setdefault("RAY_worker_niceness", "0")
    # Leave the variable that names the GPUs alone for actors that ask for none; the other way is deprecated.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")


def load_ray() -> None:
    """Import Ray with the settings of `prepare_ray`, for the memory that it takes in this process."""
    prepare_ray()
    import ray  # noqa: F401  # for its size

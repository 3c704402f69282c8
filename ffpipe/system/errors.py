"""The ways in which a request can end badly; the command line turns them into exit statuses."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

# A message quotes what a file holds, which may be anything.
LONGEST_LINE = 2000
# The user and the secret in scheme://user:secret@place; in an address of S3 the secret may have slashes, and stand
# alone. A message may be a stranger's: the lengths keep it from being searched again and again.
_USER = re.compile(
    r"(\w:/{1,2})[^/\s@]{1,200}:[^/\s@]{1,200}@"
    r"|(s3:/{1,2})(?:[^/\s@]{0,200}:[^\s@]{0,200}|[^/\s@]{1,200})@",
    re.IGNORECASE,
)
_PARAMETER = re.compile(r"([?&][^=&?\s]*=)[^&\s'\"]+")
_SECRET = re.compile("key|secret|token|password|signature", re.IGNORECASE)


def escaped(text: object) -> str:
    """Return what people may be shown of a text from elsewhere: control characters as escapes, no secret of a URI."""
    shown = without_keys(str(text))
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in shown)


def without_keys(text: str) -> str:
    """Return a text in which users, secrets and tokens of URIs are left out."""
    shown = _USER.sub(lambda found: f"{found[1] or found[2]}***@", text)
    return _PARAMETER.sub(lambda found: f"{found[1]}***" if _SECRET.search(found[1]) else found[0], shown)


def one_line(message: object) -> str:
    """Turn a message into one line for a terminal: control characters escaped, and the middle left out if need be."""
    # The middle, since a message begins with what is wrong and ends with what to give instead.
    line = escaped(" ".join(str(message).split()))
    half = (LONGEST_LINE - 5) // 2
    return line if len(line) <= LONGEST_LINE else f"{line[:half]} ... {line[-half:]}"


def reason(error: BaseException) -> str:
    """Spell an exception as part of a line: what the system says of it, else the first line of what it says itself."""
    within = getattr(error, "reason", None)
    if isinstance(within, BaseException):  # urllib's errors have the system's in them
        return reason(within)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = str(getattr(error, "strerror", None) or (lines[0] if lines else type(error).__name__))
    return told.removesuffix(".")  # a line goes on, or ends without one


class UserError(Exception):
    """The request was wrong (exit status 2): one line saying what, where, and what would be right."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


@contextmanager
def refusing(what: str, kinds: type[Exception] | tuple[type[Exception], ...] = OSError) -> Iterator[None]:
    """Turn errors of these kinds within the block into UserErrors: WHAT: why."""
    try:
        yield
    except kinds as error:
        raise UserError(f"{what}: {reason(error)}") from None


class Unreachable(UserError):
    """Files cannot be read at the moment, or by this ffpipe, which says nothing of what is in them."""


class Misfit(UserError):
    """A whole snapshot that is not of this network, though nothing is wrong with it. It is passed over, and removed as
    the run goes on, only where an older one fits; else the run is refused."""


class RunFailed(Exception):
    """The request was right and the run failed all the same (exit status 1)."""


class ReplicasDiffer(RunFailed):
    """Replicas of a stage that have different weights: none of them can be trusted, so no recovery goes on."""


class StageLost(RunFailed):
    """A stage, its host or the way to it is gone; what it knew is in the last whole snapshot."""


class OutOfMemory(RunFailed):
    """A stage was killed for want of memory. It would be again, so it is tried no more often than a program's error."""


class ClusterLost(RunFailed):
    """The head node of the cluster is gone, and with it all that the cluster knew. Nothing can be tried again there."""


class Diverged(RunFailed):
    """A loss is not finite. It would be again, so nothing is tried again."""


class Interrupted(Exception):
    """The end of a run that was interrupted and has saved what it had (exit status 130)."""


def refuse_other(given: object, kinds: type | tuple[type, ...], name: str, instead: str) -> None:
    """Raise UserError for an argument of another kind than a public function takes. instead: what to give.

    >>> refuse_other("digits", (int, float), "rate", "a number")
    Traceback (most recent call last):
    ffpipe.system.errors.UserError: rate is a value of type str: give a number
    """
    if not isinstance(given, kinds):
        came = f"the class {given.__name__}" if isinstance(given, type) else f"a value of type {type(given).__name__}"
        raise UserError(f"{name} is {came}: give {instead}")


def nearest(given: str, allowed: Iterable[str]) -> str:
    """Return a closing phrase for an unknown name: the nearest right one, or else all of them.

    >>> nearest("mnits", ["digits", "mnist"])
    "did you mean 'mnist'?"
    """
    allowed = list(allowed)
    close = difflib.get_close_matches(given, allowed, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"there are: {', '.join(allowed)}"

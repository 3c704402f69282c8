"""The parts of a report as plain data: a value or the reason why it is missing, and what a page is made of.

A page is a list of sections, each a list of items. It must not know how an item was found, nor how it is drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

from ffpipe.learn.network import Silent
from ffpipe.learn.user_model import describe_error
from ffpipe.system.errors import UserError, one_line, reason

if TYPE_CHECKING:
    from matplotlib.figure import Figure

T = TypeVar("T")
S = TypeVar("S")

# Errors that name what is wrong with a run, its data or this host.
EXPECTED = (UserError, OSError, Silent, MemoryError)


@dataclass(frozen=True)
class Shown(Generic[T]):
    """A value that a report shows, or the reason why it is missing."""

    value: T | None = None
    missing: str = ""

    def then(self, make: Callable[[T], S], user_code: bool = False) -> Shown[S]:
        """Make another part from the value, as `attempt` does; without a value the reason stays the same."""
        if self.value is None:
            return Shown(missing=self.missing)
        value = self.value
        return attempt(lambda: make(value), user_code)

    def beside(self, other: Shown[S]) -> Shown[tuple[T, S]]:
        """Join two values; where one is missing, so are both."""
        if self.value is None or other.value is None:
            return Shown(missing=self.missing or other.missing)
        return Shown((self.value, other.value))


def attempt(make: Callable[[], T], user_code: bool = False) -> Shown[T]:
    """Make a value, or keep the reason why that failed.

    user_code: whether code of the user's takes part, which may raise anything.
    """
    try:
        return Shown(make())
    except EXPECTED as error:
        return Shown(missing=one_line(error if isinstance(error, (UserError, Silent)) else reason(error)))
    except Exception as error:
        if not user_code:  # a mistake of ffpipe's own is to be seen
            raise
        return Shown(missing=one_line(describe_error(error)))


class Picture(NamedTuple):
    """A figure. name: of its file as a PNG, without the ending. alt: says in words what is to be seen.

    wide: takes the whole width of the page, or else half of it.
    """

    name: str
    figure: Figure
    alt: str
    caption: str = ""
    wide: bool = True


class Table(NamedTuple):
    """Rows of cells, as text. folded: shown when a reader asks for it. beside: to the right of a half-width picture."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    folded: bool = False
    beside: bool = False


class Passage(NamedTuple):
    """A stretch of text, of which some pieces are marked. folded: shown when a reader asks for it."""

    pieces: Sequence[tuple[str, bool]]
    caption: str = ""
    folded: bool = False


class Missing(NamedTuple):
    """A thing that cannot be shown, and the reason."""

    what: str
    reason: str


class Tile(NamedTuple):
    """A number that stands out, and what it is."""

    number: str
    label: str


Item = Picture | Table | Passage | Missing


class Section(NamedTuple):
    """A part of a page with a title of its own."""

    title: str
    items: Sequence[Item]
    intro: str = ""

    @classmethod
    def of(cls, title: str, what: str, part: Shown[T], make: Callable[[T], tuple[Sequence[Item], str]]) -> Section:
        """Make a section from a value: its items and its intro; or say why `what` is missing."""
        return cls(title, [Missing(what, part.missing)]) if part.value is None else cls(title, *make(part.value))


class Page(NamedTuple):
    """All of a report. refresh: seconds after which a browser reads the file again; 0: never."""

    title: str
    subtitle: str
    status: str
    tiles: Sequence[Tile]
    sections: Sequence[Section]
    refresh: int = 0

    @property
    def pictures(self) -> list[Picture]:
        return [item for section in self.sections for item in section.items if isinstance(item, Picture)]

"""The look of pictures, and figures as SVG or PNG.

Figures are drawn in colours for a light page. In SVG each of them becomes a variable of the page, so that the very same
picture is right on a dark page too.
"""

from __future__ import annotations

import base64
import io
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import NamedTuple

import matplotlib as mpl
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path

from ffpipe.reports.style import MAKER
from ffpipe.system.errors import escaped

# Colours for a light page and, by these, for a dark one. The six of the series are told apart by people who do not
# see some colours, after Okabe and Ito.
INK, FAINT, GRID, PAPER = "#23272d", "#646c76", "#dde2e8", "#ffffff"
SERIES = ("#0072b2", "#d55e00", "#009e73", "#b4578f", "#e69f00", "#56b4e9")
DARK = {INK: "#e4e7eb", FAINT: "#9aa3ad", GRID: "#363c44", PAPER: "#1b1f24"}
DARK |= zip(SERIES, ("#4ea8de", "#ff8547", "#34c79c", "#e08abf", "#f2b632", "#a3d8f7"), strict=True)
RIGHT, WRONG = SERIES[0], SERIES[1]
# Inches of a picture as wide as the page, and of one of two side by side.
WIDE, HALF = 10.0, 5.0
# Letters of a text at which its width is first looked at.
LONGEST_FITTED = 60
# SVG beyond this is held against a PNG of the same figure.
LARGE_SVG = 150_000
STYLE = {
    "font.family": ["DejaVu Sans", "sans-serif"],
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.facecolor": "none",  # the page's own is seen, light or dark
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "text.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "round",
    "figure.facecolor": "none",
    "figure.constrained_layout.use": True,
    "svg.fonttype": "none",  # text, in place of the outlines of its letters
    "svg.hashsalt": "ffpipe",  # names of parts are by chance without one
    "text.parse_math": False,  # names of classes may have dollars
    "image.composite_image": False,  # which would blur small pictures
}


@contextmanager
def styled() -> Iterator[None]:
    """Draw within this block, or in a function that this decorates, as all pictures of a report are drawn."""
    # After a reset: the user's own settings may be any.
    with style.context(STYLE, after_reset=True), warnings.catch_warnings():
        # A font may lack a letter of a class's name; in SVG the browser finds another font.
        warnings.filterwarnings("ignore", message=".*[Gg]lyph")
        warnings.filterwarnings("ignore", message=".*constrained_layout")
        yield


def panels(
    height: float, lines: int = 1, columns: int = 1, width: float = WIDE, sharey: bool = False
) -> tuple[Figure, list[Axes]]:
    """Make a figure of so many inches, and the axes in it, line by line."""
    figure = Figure(figsize=(width, height))
    return figure, list(figure.subplots(lines, columns, squeeze=False, sharey=sharey).flat)


@cache
def colours(count: int) -> tuple[str, ...]:
    """Return colours of so many series: six that differ, or where there are more a scale from dark to bright."""
    if count <= len(SERIES):
        return SERIES[:count]
    scale = mpl.colormaps["viridis"]
    chosen = []
    for index in range(count):
        share = index / (count - 1)
        # A light page has no use for the brightest part of the scale, a dark one none for the darkest.
        light, dark = to_hex(scale(0.83 * share)), to_hex(scale(0.27 + 0.73 * share))
        DARK.setdefault(light, dark)
        chosen.append(light)
    return tuple(chosen)


def few(count: int, most: int = 8) -> set[int]:
    """Choose the series that a legend names: all, or the first, the last and some between."""
    if count <= most:
        return set(range(count))
    return {round(index * (count - 1) / (most - 2)) for index in range(most - 1)}


def shortened(text: str, most: int) -> str:
    """Cut a text from elsewhere to a length that a picture has room for, with nothing in it that is not seen."""
    text = escaped(text)
    return text if len(text) <= most else text[: most - 1] + "…"


def fitted(text: str, width: float, size: float) -> str:
    """Leave out the middle of a text from elsewhere, until it is at most so many points wide in letters of a size."""
    whole, letters = escaped(text), FontProperties(size=size)
    shown = whole
    for most in range(min(len(whole), LONGEST_FITTED), 0, -1):
        if most < len(whole):
            shown = f"{whole[: most // 2]}…{whole[len(whole) - (most - 1) // 2 :]}"
        # By width and not by letters, some of which are four times as wide as others.
        if text_to_path.get_text_width_height_descent(shown, letters, ismath=False)[0] <= width:
            break
    return shown


class Drawn(NamedTuple):
    """A picture as a part of an HTML page. colours: those for a light page that it has as variables."""

    html: str
    colours: frozenset[str] = frozenset()


def drawn(figure: Figure, name: str, alt: str) -> Drawn:
    """Draw a figure as SVG, or as a PNG where that is smaller. alt: in words, escaped for HTML."""
    svg, used = _svg(figure, name, alt)
    if len(svg) > LARGE_SVG:
        image = png(figure)
        if len(image) * 4 // 3 < len(svg):  # as Base64
            data = base64.b64encode(image).decode()
            return Drawn(f'<img class="png" alt="{alt}" src="data:image/png;base64,{data}">')
    return Drawn(svg, used)


def png(figure: Figure) -> bytes:
    """Draw a figure as a PNG for a light page, which says by whom it was made."""
    sink = io.BytesIO()
    with styled():
        figure.savefig(sink, format="png", dpi=150, facecolor=PAPER, metadata={"Software": MAKER})
    return sink.getvalue()


def _svg(figure: Figure, name: str, alt: str) -> tuple[str, frozenset[str]]:
    sink = io.StringIO()
    # Again: some settings, as those of SVG, are read when a figure is saved.
    with styled():
        # Without date and maker, so that the same figure gives the same text.
        figure.savefig(sink, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
        figure.set_layout_engine("none")  # all has found its place, which takes as long as to draw it
    text = sink.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style[^>]*>.*?</style>|<!--.*?-->", "", text, flags=re.DOTALL)
    # Several pictures stand in one page, and names of their parts must not meet. Most are referred to by none.
    referred = set(re.findall(r'(?:xlink:href="|url\()#([^")]+)', text))
    text = re.sub(r' id="([^"]+)"', lambda found: f' id="{name}-{found[1]}"' if found[1] in referred else "", text)
    text = re.sub(r'(xlink:href="#|url\(#)', rf"\g<1>{name}-", text)
    text = re.sub(r" ?font-family: [^;\"]*;", "", text)  # the page's own
    used: set[str] = set()

    def variable(found: re.Match[str]) -> str:
        if found[2] not in DARK:
            return found[0]
        used.add(found[2])
        return f"{found[1]}var(--c{found[2].removeprefix('#')})"

    text = re.sub(r"((?:fill|stroke|stop-color): ?)(#[0-9a-f]{6})\b", variable, text)
    width, height = (size * 72 for size in figure.get_size_inches())
    size = f'viewBox="0 0 {width:g} {height:g}" style="max-width:{width * 1.5:.0f}px"'
    head = f'<svg role="img" aria-label="{alt}" {size} xmlns:xlink="http://www.w3.org/1999/xlink"><title>{alt}</title>'
    # In place of the first tag; not by `sub`, for which a backslash in a name has a meaning.
    return re.sub(r"\n\s*", "\n", head + text.partition(">")[2]), frozenset(used)


def variables(used: Sequence[str], dark: bool) -> str:
    """Return the values of the page's variables for colours, as CSS."""
    return "".join(f"--c{each.removeprefix('#')}:{DARK[each] if dark else each};" for each in sorted(used))

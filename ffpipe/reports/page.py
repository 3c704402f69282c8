"""A report as one HTML file that needs nothing else: no script, no style and no picture from elsewhere.

Every text is escaped here, whatever it is: a run folder may be a stranger's. It must not know what a report is about.
"""

from __future__ import annotations

from html import escape
from itertools import groupby

from ffpipe.reports.drawing import DARK, Drawn, drawn, variables
from ffpipe.reports.parts import Item, Missing, Page, Passage, Picture, Section, Table
from ffpipe.reports.style import CSS, DARK_PAGE, LIGHT_PAGE, MARK
from ffpipe.system.errors import escaped

# The browser is told to fetch nothing, should something have slipped through.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
# A cell that is longer is cut: it may be a stranger's.
LONGEST_CELL = 300


def html(page: Page) -> str:
    """Make the whole file."""
    pictures = {item.name: drawn(item.figure, item.name, _safe(item.alt)) for item in page.pictures}
    used = sorted({colour for each in pictures.values() for colour in each.colours} & DARK.keys())
    light, dark = (
        f":root{{{base}{variables(used, is_dark)}}}" for base, is_dark in ((LIGHT_PAGE, False), (DARK_PAGE, True))
    )
    refresh = f'<meta http-equiv="refresh" content="{page.refresh}">' if page.refresh else ""
    tiles = "".join(
        f'<div class="tile"><b>{_safe(t.number)}</b><span>{_safe(t.label)}</span></div>' for t in page.tiles
    )
    links = "".join(f'<a href="#{_anchor(s)}">{_safe(s.title)}</a>' for s in page.sections)
    sections = "".join(_section(section, pictures) for section in page.sections)
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">{MARK}'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">{refresh}'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{_safe(page.title)}</title><style>{light}@media(prefers-color-scheme:dark){{{dark}}}{CSS}</style></head>\n"
        f'<body><main><header><h1>{_safe(page.title)}<span class="status">{_safe(page.status)}</span></h1>'
        f'<p>{_safe(page.subtitle)}</p></header><div class="tiles">{tiles}</div><nav>{links}</nav>\n'
        f"{sections}</main></body></html>\n"
    )


def _section(section: Section, pictures: dict[str, Drawn]) -> str:
    parts = []
    for narrow, items in groupby(section.items, key=_is_narrow):
        made = "".join(_item(item, pictures) for item in items)
        parts.append(f'<div class="pair">{made}</div>' if narrow else made)
    intro = f"<p>{_safe(section.intro)}</p>" if section.intro else ""
    return f'<section id="{_anchor(section)}"><h2>{_safe(section.title)}</h2>{intro}{"".join(parts)}</section>\n'


def _is_narrow(item: Item) -> bool:
    """Tell whether an item takes half the width, so that two of them stand side by side."""
    return (isinstance(item, Picture) and not item.wide) or (isinstance(item, Table) and item.beside)


def _item(item: Item, pictures: dict[str, Drawn]) -> str:
    if isinstance(item, Picture):
        caption = f"<figcaption>{_safe(item.caption)}</figcaption>" if item.caption else ""
        return f'<figure class="{"wide" if item.wide else "half"}">{pictures[item.name].html}{caption}</figure>'
    if isinstance(item, Missing):
        return f'<p class="missing">{_safe(item.what)}: {_safe(item.reason)}</p>'
    made = _table(item) if isinstance(item, Table) else _passage(item)
    if not item.folded:
        return made
    return f"<details><summary>{_safe(item.caption or 'more')}</summary>{made}</details>"


def _table(table: Table) -> str:
    # A table without rows has no columns to zip, and a head all the same.
    columns = list(zip(*table.rows, strict=True)) or [()] * len(table.head)
    right = [bool(column) and all(map(_is_number, column)) for column in columns]

    def line(tag: str, cells: tuple[str, ...] | list[str]) -> str:
        kinds = (' class="n"' if number else "" for number in right)
        made = (f"<{tag}{kind}>{_safe(cell[:LONGEST_CELL])}</{tag}>" for cell, kind in zip(cells, kinds, strict=True))
        return f"<tr>{''.join(made)}</tr>"

    caption = f"<caption>{_safe(table.caption)}</caption>" if table.caption and not table.folded else ""
    body = "".join(line("td", list(row)) for row in table.rows)
    head = f"<thead>{line('th', list(table.head))}</thead>"
    return f'<div class="table"><table>{caption}{head}<tbody>{body}</tbody></table></div>'


def _is_number(cell: str) -> bool:
    """Tell whether a cell begins with a number and thus stands at the right of its column."""
    return cell in ("", "-") or cell.lstrip("+-")[:1].isdigit()


def _passage(passage: Passage) -> str:
    text = "".join(f"<mark>{_lines(piece)}</mark>" if marked else _lines(piece) for piece, marked in passage.pieces)
    caption = f"<figcaption>{_safe(passage.caption)}</figcaption>" if passage.caption and not passage.folded else ""
    return f"<pre>{text}</pre>{caption}"


def _lines(text: str) -> str:
    """Escape a text that keeps its line breaks."""
    return "\n".join(map(_safe, text.split("\n")))


def _safe(text: str) -> str:
    """Escape a text for HTML: control characters are made visible, and nothing in it is markup."""
    return escape(escaped(text))


def _anchor(section: Section) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in section.title.lower())

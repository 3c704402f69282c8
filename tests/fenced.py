"""Fenced blocks of the documents: what is to be run of a page, and whether it printed what the page shows.

A comment in the page speaks of the next block, or of that above it where it stands in the very next line:

    <!-- run: COMMAND -->       run this first; readers do not see it
    <!-- not run: REASON -->    leave the block alone
    <!-- long: REASON -->       run it among the long tests only
    <!-- file: NAME -->         keep it as that file; where the repository has the file, both must be the same
    <!-- status: NUMBER -->     the exit status of its last command
    <!-- ray: REASON -->        its runs keep engine ray, where all others have `--engine local` added

What a block shows of its output may leave things out: `...` is anything, within a line or as lines of its own. Times,
sizes, dates, and the chunk and window that were chosen may be others, shares of errors a little. Lines of progress,
which slow machines print, need not be shown.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field

# Languages whose blocks are run, whose blocks are held against the config, and which are for reading alone.
RUN = ("console", "bash", "python")
READ = ("toml", "text", "json")
WORDS = ("run", "not run", "long", "file", "status", "ray")
# Percentage points by which processors of other kinds may come to another error.
POINTS = 2.0

# Lines that a command prints every ten seconds, on a machine that needs as many.
PROGRESS = re.compile(r"tested [\d,]+ of [\d,]+ examples|epoch \d+/\d+ +step .*")

_COMMENT = re.compile(r"<!--(.*?)-->", re.DOTALL)
_FENCE = re.compile(r"^(?P<indent> *)(?P<marks>`{3,}|~{3,}) *(?P<language>[^\s`{]*).*$")
_UNITS = r"(?:s|ms|min|h|[kMGT]?i?B|[KMG]iB|examples/s|MB/s|GB/s|steps/s|/s)\b"
_PARTS = re.compile(
    rf"(?P<any>\.\.\.)|(?P<stamp>\d{{8}}-\d{{6}})|(?P<share>\d+(?:\.\d+)?) ?%"
    rf"|(?P<chosen>chunk \d+, window \d+)|(?P<amount>\d[\d,.]* ?{_UNITS})"
)


@dataclass(frozen=True)
class Fence:
    """One block. line: of its first mark, counted from 1. said: the comments before it, by word."""

    line: int
    language: str
    text: str
    said: dict[str, list[str]] = field(default_factory=dict)

    @property
    def is_run(self) -> bool:
        return self.language in RUN and not ({"not run", "file"} & set(self.said))

    @property
    def fault(self) -> str:
        """The first fault of the block's marks; empty: none."""
        if unknown := set(self.said) - set(WORDS):
            return f"unknown word {min(unknown)!r}: {', '.join(WORDS)}"
        if empty := [word for word, texts in self.said.items() if not all(texts)]:
            return f"{empty[0]!r} says nothing"
        if self.language not in (*RUN, *READ):
            return f"language {self.language!r}: give {', '.join((*RUN, *READ))}"
        if self.language == "console" and self.is_run and not list(self.commands()):
            return "no line begins with '$ '"
        return ""

    def commands(self) -> Iterator[tuple[str, list[str]]]:
        """Yield each command of a block of the console, and the lines that the page shows below it."""
        command, shown = "", list[str]()
        lines = iter(self.text.splitlines())
        for line in lines:
            if not line.startswith("$ "):
                shown.append(line)
                continue
            if command:
                yield command, shown
            command, shown = line[2:], []
            while command.endswith("\\"):
                command += "\n" + next(lines)
        if command:
            yield command, shown


def fences(page: str) -> list[Fence]:
    """Find all blocks of a page, in order."""
    found: list[Fence] = []
    lines = iter(enumerate(page.splitlines(), 1))
    between: list[str] = []
    last = 0  # the line with which the block before ended
    for number, line in lines:
        begin = _FENCE.match(line)
        if not begin:
            if number == last + 1 and found and (said := _said(line)):
                found[-1].said.update(said)
            else:
                between.append(line)
            continue
        inside = []
        for last, inner in lines:  # noqa: B007  # read above
            end = _FENCE.match(inner)
            if end and end["marks"].startswith(begin["marks"]) and not end["language"]:
                break
            inside.append(inner)
        text = textwrap.dedent("\n".join(inside)) + "\n"
        found.append(Fence(number, begin["language"], text, _said("\n".join(between))))
        between = []
    return found


def _said(text: str) -> dict[str, list[str]]:
    """Find the words of the comments in a text between two blocks, and what each says; leave other comments alone."""
    said: dict[str, list[str]] = {}
    for comment in _COMMENT.findall(text):
        word, colon, rest = comment.strip().partition(":")
        if colon:
            said.setdefault(word, []).append(rest.strip())
    return said


def difference(shown: list[str], printed: str) -> str:
    """Say what the page shows and was not printed; empty: nothing. A page may show no output at all."""
    expected = [" ".join(line.split()) for line in shown if line.strip()]
    if not expected:
        return ""
    lines = [line for line in printed.splitlines() if line.strip() and not PROGRESS.match(line)]
    text = "".join(" ".join(line.split()) + "\n" for line in lines)
    pattern, shares = _pattern(expected)
    match = re.fullmatch(pattern, text, re.DOTALL)
    told = f"the page shows\n{_indented(chr(10).join(shown))}\nprinted was\n{_indented(printed)}"
    if match is None:
        return told
    far = [
        f"{share}% for {got}%"
        for share, got in zip(shares, match.groups(), strict=True)
        if abs(float(share) - float(got)) > POINTS
    ]
    return f"{', '.join(far)}: {told}" if far else ""


def _indented(text: str) -> str:
    return textwrap.indent(text, "    ")


def _pattern(expected: list[str]) -> tuple[str, list[str]]:
    """Make a pattern of the lines that may be printed; return it with its shares, one for each of its groups."""
    pattern, shares = "", []
    for line in expected:
        if line == "...":
            pattern += r"(?:[^\n]*\n)*?"
            continue
        place = 0
        for part in _PARTS.finditer(line):
            pattern += re.escape(line[place : part.start()])
            place = part.end()
            if part["any"]:
                pattern += r"[^\n]*?"
            elif part["stamp"]:
                pattern += r"\d{8}-\d{6}"
            elif part["share"]:
                pattern += r"(\d+(?:\.\d+)?) ?%"
                shares.append(part["share"])
            elif part["chosen"]:
                pattern += r"chunk \d+, window \d+"
            else:
                pattern += rf"\d[\d,.]* ?{_UNITS}"
        pattern += re.escape(line[place:]) + r"\n"
    return pattern, shares

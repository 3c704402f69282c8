"""A check of the mechanical part of the rules for English (CONTRIBUTING.md, Style): first words, and "has not".

    python scripts/plain_english.py [FILE OR FOLDER ...]

Prints a line for each place that breaks a rule, and exits with 1 if there is one:
- The docstring of a function begins with a verb, one of VERBS: add yours if it says more than those do. Tests,
  fixtures, properties, `__init__` (which describes its arguments) and recipes (whose docstrings are titles that
  `ffpipe recipes` shows) do without.
- The docstring of a module, a class or a property begins with a noun or what belongs to one, and not with one of
  NO_NOUNS.
- No sentence of a docstring, a comment or an error begins with one of BARE, which would need the signature beside it.
- Nothing "has not" a thing: it does not have it. Nor "is" it "no" thing: it is not one (but there may be none).
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

DEFAULT = ("ffpipe", "scripts", "tests", "examples", "cluster", "docs", "README.md", "CONTRIBUTING.md", "CHANGELOG.md")
VERBS = """
    Accept Add Allow Answer Append Apply Ask Average Begin Bound Bring Build Call Change Check Choose Claim Classify
    Collect Combine Compare Compute Configure Continue Convert Copy Correlate Count Cut Deal Decide Declare Decode
    Describe Die Discard Do Download Draw Drop End Escape Estimate Evaluate Execute Exit Expect Explain Export Fetch
    Fill Find Finish Flatten Follow Forecast Fork Free Get Give Go Hand Have Hear Hold Import Install Join Judge Keep
    Kill Lay Learn Leave Let List Load Look Lose Make Map Mark Measure Mix Mount Move Multiply Name Normalise Note
    Number Open Parse Pass Pick Pickle Place Plant Play Predict Prepare Print Probe Process Provide Publish Put Queue
    Raise Read Record Refuse Remove Replace Resume Return Reverse Run Save Say Scale Score See Send Set Shift Shorten
    Show Simulate Sort Spell Split Stand Start Stop Sum Take Tell Time Train Turn Unwrap Update Use Wait Work Write
    Yield
"""
NO_NOUNS = """
    Adds After Against Asks Before Between Build Decides Delivers Does Draw Ends Follow Follows From Gives Hands
    Has Holds How If In Is It Keeps Kills Knows Learns Makes Not On Over Prints Raises Reads Return Returns Says See
    Sends Shows Somebody Something Stands Stops Takes Tells Wait Watches Whatever When Whose With Works Write Writes
"""
BARE = ("Of", "That", "What", "Which", "Who", "Where", "Whether")

_SENTENCE = re.compile(r"(?:^|(?<=[.!?] ))(" + "|".join(BARE) + r")\b(?! [^.?]*\?)")
_HAS_NOT = re.compile(r"\bha(?:s|ve|d) not(?=[.,;:)]|$| (?:a|an|any|the|all|one|that|this|its|their|those|these)\b)")
_IS_NO = re.compile(r"(?<!here )\b(?:is|are|was|were) no (?!more\b|longer\b|one\b|better\b|two\b)[a-z`{]")
_DECORATORS = re.compile(r"property|fixture|composite")
_TITLES = re.compile(r"recipes\.py$|five_digits\.py$")

Found = Iterator[tuple[int, str]]  # line, and what is wrong there


def faults(path: Path) -> Found:
    """Yield what breaks a rule in a file of Python or of text."""
    text = path.read_text(encoding="utf-8")
    for number, line in enumerate(text.splitlines(), 1):
        if match := _HAS_NOT.search(line):
            yield number, f"{match[0]!r}: write 'does not have' or the like"
        if path.suffix == ".py" and (match := _IS_NO.search(line)):
            yield number, f"{match[0]!r}: write 'is not a' or the like"
    if path.suffix == ".py":
        tree = ast.parse(text)
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                yield from _of_docstring(node, titles=bool(_TITLES.search(path.name)))
            elif isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
                yield from _of_message(node.exc)
        yield from _of_comments(path)


def _of_docstring(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef, titles: bool) -> Found:
    text = ast.get_docstring(node)
    if not text:
        return
    line = node.body[0].lineno
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        plain = not any(_DECORATORS.search(ast.unparse(decorator)) for decorator in node.decorator_list)
        named = node.name == "__init__" or node.name.startswith("test_") or (titles and node.name[0] != "_")
        first = text.split()[0].rstrip(",.:;")
        if plain and not named and first not in VERBS.split():
            yield line, f"the docstring of {node.name} begins with {first!r}, which is not one of the verbs here"
    is_property = isinstance(node, ast.FunctionDef) and any("property" in ast.unparse(d) for d in node.decorator_list)
    if is_property or isinstance(node, ast.Module | ast.ClassDef):
        first = text.split()[0].rstrip(",.:;")
        if first in NO_NOUNS.split():
            yield line, f"the docstring begins with {first!r}: name what it describes"
    yield from _of_sentences(line, text)


def _of_message(call: ast.Call) -> Found:
    for argument in call.args[:1]:
        start = argument.values[0] if isinstance(argument, ast.JoinedStr) and argument.values else argument
        if isinstance(start, ast.Constant) and isinstance(start.value, str):
            yield from _of_sentences(start.lineno, start.value)


def _of_comments(path: Path) -> Found:
    """Yield what is wrong in comments; lines that follow each other are one text."""
    begin, last, words = 0, 0, ""
    with path.open("rb") as file:
        for token in tokenize.tokenize(file.readline):
            if token.type != tokenize.COMMENT:
                continue
            line = token.start[0]
            alone = token.line.lstrip().startswith("#")
            if not (alone and line == last + 1):
                yield from _of_sentences(begin, words)
                begin, words = line, ""
            last, words = line if alone else 0, f"{words} {token.string.lstrip('# ')}"
    yield from _of_sentences(begin, words)


def _of_sentences(line: int, text: str) -> Found:
    for match in _SENTENCE.finditer(" ".join(text.split())):
        yield line, f"a sentence begins with {match[1]!r}: name its subject"


def main() -> int:
    """Check the files and folders of the command line; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="*", type=Path, default=[Path(name) for name in DEFAULT])
    wrong = 0
    for root in parser.parse_args().paths:
        files = [root] if root.is_file() else sorted(root.rglob("*"))
        for path in (path for path in files if path.suffix in (".py", ".md")):
            for line, fault in faults(path):
                print(f"{path}:{line}: {fault}")
                wrong += 1
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

"""A check of the tests: plants mistakes in the core, one at a time, and sees which test finds each.

    python scripts/mutations.py [--only NAME ...] [--list]

Every mistake (mutation_list.py) is planted in a copy of the tree, in which the tests run that should find it, then if
need be all others of `make test`. Prints a line for each, and exits with 1 where one is not found, with 2 where a line
is no longer what it was or the tests do not pass without a mistake.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from mutation_list import MUTATIONS, Mutation

REPOSITORY = Path(__file__).resolve().parent.parent
# Examples that hypothesis makes of each property, and makes again the next time.
THOROUGH = "--hypothesis-profile=thorough"
FOUND, NOT_FOUND = 1, 0  # exit statuses of pytest
SECONDS = 1800
ENDLESS = "tests that do not end"


class Broken(Exception):
    """The check cannot be made, and why."""


def left_out(folder: str, names: list[str]) -> set[str]:
    """Name what of a folder is not copied: hidden folders, and what programs have made."""
    made = {"__pycache__", *(("build", "dist", "runs") if Path(folder) == REPOSITORY else ())}
    return {name for name in names if name in made or (name.startswith(".") and Path(folder, name).is_dir())}


def misplaced(mutations: Iterable[Mutation]) -> list[str]:
    """Name the mistakes whose line does not stand just once in its file."""
    return [
        f"{each.name}: {each.file} has {count} times: {each.old}"
        for each in mutations
        if (count := (REPOSITORY / each.file).read_text(encoding="utf-8").count(each.old)) != 1
    ]


def run(tree: Path, arguments: Sequence[str]) -> tuple[int, str]:
    """Run tests in a copy of the tree until one fails. Returns pytest's exit status, and the test that failed."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "--tb=no", "-rfE", "-p", "no:cacheprovider", THOROUGH]
    environment = os.environ | {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(
            [*command, *arguments],
            cwd=tree,
            env=environment,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return FOUND, ENDLESS
    failed = re.search(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", done.stdout, re.MULTILINE)
    if done.returncode not in (FOUND, NOT_FOUND) and not failed:
        raise Broken(f"pytest {' '.join(arguments)} ended with {done.returncode}: {(done.stdout + done.stderr)[-500:]}")
    return done.returncode, failed[1] if failed else ""


def find(tree: Path, mutation: Mutation) -> str:
    """Plant a mistake, return the test that finds it, empty for none, and take the mistake back."""
    path = tree / mutation.file
    whole = path.read_text(encoding="utf-8")
    path.write_text(whole.replace(mutation.old, mutation.new), encoding="utf-8")
    try:
        status, test = run(tree, mutation.tests)
        if status == NOT_FOUND:
            status, test = run(tree, [f"--ignore={each}" for each in mutation.tests])
        return test
    finally:
        path.write_text(whole, encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """Check the tests. Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="mistakes whose names begin so")
    parser.add_argument("--list", action="store_true", help="print names and tests, and run nothing")
    options = parser.parse_args(arguments)
    chosen = [each for each in MUTATIONS if not options.only or each.name.startswith(tuple(options.only))]
    if not chosen:
        parser.error(f"no mistake has a name that begins with {options.only[0]!r}: see --list")
    if options.list:
        print("\n".join(f"{each.name}: {each.file}, {' '.join(each.tests)}" for each in chosen))
        return 0
    if wrong := misplaced(chosen):
        print("\n".join(wrong), file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="ff-mutations-") as folder:
        tree = Path(folder) / "tree"
        shutil.copytree(REPOSITORY, tree, ignore=left_out)
        try:
            _, failed = run(tree, sorted({test for each in chosen for test in each.tests}))
            if failed:
                raise Broken(f"{failed} fails without a mistake")
            missed = 0
            for each in chosen:
                test = find(tree, each)
                missed += not test
                print(f"{each.name}: {'found by ' + test if test else 'NOT FOUND'}", flush=True)
        except Broken as error:
            print(error, file=sys.stderr)
            return 2
    print(f"{len(chosen) - missed} of {len(chosen)} mistakes found")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())

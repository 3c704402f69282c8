"""`ffpipe recipes`: the named runs."""

from __future__ import annotations

import argparse

from ffpipe.config.recipes import RECIPES


def run(options: argparse.Namespace) -> None:
    """List the recipes, each with the first paragraph of its docstring."""
    from rich.console import Console
    from rich.table import Table

    table = Table("recipe", "what it is", box=None, pad_edge=False)
    for name, recipe in RECIPES.items():
        table.add_row(name, " ".join((recipe.__doc__ or "").split("\n\n")[0].split()))
    Console().print(table)

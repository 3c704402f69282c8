"""The outside of a block: what others see of it, without its weights."""

from __future__ import annotations

from dataclasses import dataclass

from ffpipe.learn.rates import Rates
from ffpipe.learn.spec import RowSpec


@dataclass(frozen=True)
class Outline:
    """One block of a network: its place, its edges and when it learns. hidden: rows of its body, on which its objective
    is; outputs: rows that it hands on. silent: whether it never says anything of the answer."""

    index: int
    name: str
    inputs: RowSpec
    hidden: RowSpec
    outputs: RowSpec
    rates: Rates
    keep: str = ""
    use: tuple[str, ...] = ()
    silent: bool = False

    def __str__(self) -> str:
        """Name the block, as messages do."""
        return f"block {self.index} ({self.name})"

"""Cutting layers into stages: contiguous groups whose costliest is as cheap as contiguous cuts allow."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise


def partition(costs: Sequence[float], stages: int) -> list[range]:
    """Cut layers with these costs into `stages` non-empty contiguous groups.

    The largest sum of a group is minimal; among such cuts the later stages get the spare layers last.
    Raises ValueError where there are more stages than layers.

    >>> partition([1, 1, 1, 3], 2)
    [range(0, 3), range(3, 4)]
    """
    layers = len(costs)
    if not 1 <= stages <= layers:
        raise ValueError(f"cannot cut {layers} layers into {stages} stages")
    total = [0.0, *accumulate(costs)]
    # best[k][n]: the least possible largest group when the first n layers make k groups; cut[k][n]: its last cut.
    best = [[0.0] + [float("inf")] * layers]
    cut = [[0] * (layers + 1)]
    for groups in range(1, stages + 1):
        row, cuts = [float("inf")] * (layers + 1), [0] * (layers + 1)
        for n in range(groups, layers + 1):
            for k in range(groups - 1, n):
                worst = max(best[groups - 1][k], total[n] - total[k])
                if worst < row[n]:
                    row[n], cuts[n] = worst, k
        best.append(row)
        cut.append(cuts)
    ends = [layers]
    for groups in range(stages, 0, -1):
        ends.append(cut[groups][ends[-1]])
    ends.reverse()
    return [range(a, b) for a, b in pairwise(ends)]


def layer_costs(dims: Sequence[int]) -> list[float]:
    """Multiply-adds of a layer's step for each example: what the cut balances when nothing was measured."""
    return [float(a * b) for a, b in pairwise(dims)]

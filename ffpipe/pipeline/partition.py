"""Cutting layers into stages: contiguous groups whose slowest is as fast as contiguous cuts allow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise


def partition(
    seconds: Sequence[Sequence[float]],
    extra: Sequence[float] | None = None,
    fits: Callable[[range], bool] = lambda layers: True,
) -> list[range]:
    """Cut layers into one non-empty contiguous group a stage.

    seconds[stage][layer]: what the layer costs on the device of that stage. extra[stage]: what the stage costs
    beside its layers (the source, the head). fits: whether a stage may have these layers. The costliest stage is as
    cheap as it can be. Raises ValueError where there are more stages than layers, or no cut of which every stage fits.

    >>> partition([[1, 1, 1, 3], [1, 1, 1, 3]])
    [range(0, 3), range(3, 4)]
    """
    stages, layers = len(seconds), len(seconds[0]) if seconds else 0
    if not 1 <= stages <= layers:
        raise ValueError(f"cannot cut {layers} layers into {stages} stages")
    extra = extra or [0.0] * stages
    # best[n]: the least possible costliest stage when the stages so far take the first n layers; cuts: where the
    # last of them begins.
    best = [0.0] + [float("inf")] * layers
    cuts: list[list[int]] = []
    for stage in range(stages):
        total = [0.0, *accumulate(seconds[stage])]
        row, cut = [float("inf")] * (layers + 1), [0] * (layers + 1)
        for n in range(stage + 1, layers + 1):
            for k in range(n - 1, stage - 1, -1):
                own = total[n] - total[k] + extra[stage]
                if own > row[n]:  # and with more layers it only grows
                    break
                worst = max(best[k], own)
                # `fits` is asked last: it works out the memory of a stage.
                if worst <= row[n] and worst < float("inf") and fits(range(k, n)):
                    row[n], cut[n] = worst, k
        best = row
        cuts.append(cut)
    if best[layers] == float("inf"):
        raise ValueError(f"no cut of {layers} layers into {stages} stages fits")
    ends = [layers]
    for cut in reversed(cuts):
        ends.append(cut[ends[-1]])
    return [range(a, b) for a, b in pairwise(reversed(ends))]

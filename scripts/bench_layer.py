"""Milliseconds a minibatch of one layer: our step, its two matrix products alone, the plain autograd version.

    python scripts/bench_layer.py [--widths 500 1000 2000 4000] [--rounds 7] [--threads 1]

All do the same work on the same rows: B positive, B negative and B neutral rows (the head's) through a
square layer of that width, an update from the positive and negative ones, and normalised activities of all
three for the next layer. Rounds are interleaved; a figure is the median of its rounds. Last comes one line
of JSON, in which `efficiency` is the products' share of our step.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch
from arguments import above_0, positive
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn.functional import softplus

from ffpipe.config.schema import Optimizer, Training
from ffpipe.learn.block import Step
from ffpipe.learn.dense import FFDense
from ffpipe.learn.precision import PRECISIONS
from ffpipe.learn.spec import NEUTRAL, PAIRS, RowLayout
from ffpipe.learn.workspace import Workspace

BATCH = 100
CPU = torch.device("cpu")


def our_step(width: int, precision: str) -> Callable[[], None]:
    training = Training(precision=precision, optimizer=Optimizer(weight_decay=0.001))  # type: ignore[arg-type]  # str
    layer = FFDense(0, width, width, training, Workspace(CPU))
    layout = RowLayout(BATCH, PAIRS, (NEUTRAL,))
    rows = unit_rows(width, PRECISIONS[precision].products)
    out = torch.empty_like(rows)
    return lambda: void(layer.learn(rows, layout, None, Step(0), out))


def products(width: int, precision: str) -> Callable[[], None]:
    """Return a function of the forward product over all rows, and the gradient's over the rows that are trained on."""
    dtype = PRECISIONS[precision].products
    rows, weight = unit_rows(width, dtype), torch.randn(width, width, dtype=dtype)
    out, delta, average = torch.empty(len(rows), width, dtype=dtype), unit_rows(width, dtype), torch.zeros_like(weight)

    def run() -> None:
        torch.mm(rows, weight, out=out)
        average.addmm_(rows[: 2 * BATCH].t(), delta[: 2 * BATCH], beta=0.9, alpha=0.001)

    return run


def autograd(width: int, precision: str, *, passes: int) -> Callable[[], None]:
    """Return a step by torch.autograd and torch.optim.SGD with momentum.

    passes=2 is what the common PyTorch programs do: a pass that trains, then one with the new weights whose
    activities are handed on. passes=1 hands on those of the training pass, as we do.
    """
    linear = torch.nn.Linear(width, width)
    optimizer = torch.optim.SGD(linear.parameters(), lr=0.01, momentum=0.9, weight_decay=0.001)
    positive, negative, neutral = unit_rows(width, torch.float32).split(BATCH)
    amp = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16")

    def activity(rows: Tensor) -> Tensor:
        return torch.relu(linear(rows))

    def goodness(activity: Tensor) -> Tensor:
        return activity.float().pow(2).sum(1)

    def hand_on(rows: Tensor) -> Tensor:
        return rows / (rows.pow(2).mean(1, keepdim=True).sqrt() + 1e-8)

    def run() -> None:
        with amp:
            h_positive, h_negative = activity(positive), activity(negative)
            loss = softplus(width - goodness(h_positive)) + softplus(goodness(h_negative) - width)
        optimizer.zero_grad()
        loss.mean().backward()
        optimizer.step()
        with torch.no_grad(), amp:
            if passes == 2:
                h_positive, h_negative = activity(positive), activity(negative)
            for rows in (h_positive, h_negative, activity(neutral)):
                hand_on(rows)

    return run


def unit_rows(width: int, dtype: torch.dtype) -> Tensor:
    rows = torch.randn(3 * BATCH, width, generator=torch.Generator().manual_seed(1)).abs_()
    return (rows / rows.pow(2).mean(1, keepdim=True).sqrt()).to(dtype)


def void(result: object) -> None:
    """Drop a result."""


def measure(runs: dict[str, Callable[[], None]], rounds: int, seconds: float) -> dict[str, float]:
    """Measure the median seconds a call of each, in interleaved rounds of about `seconds` each."""
    calls, times = {}, {name: list[float]() for name in runs}
    for name, run in runs.items():
        run()
        started = time.perf_counter()
        run()
        calls[name] = max(3, int(seconds / (time.perf_counter() - started)))
    for _ in range(rounds):
        for name, run in runs.items():
            started = time.perf_counter()
            for _ in range(calls[name]):
                run()
            times[name].append((time.perf_counter() - started) / calls[name])
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--widths", type=positive, nargs="+", default=[500, 1000, 2000, 4000])
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=["float32", "bfloat16"])
    parser.add_argument("--rounds", type=positive, default=7)
    parser.add_argument("--seconds", type=above_0, default=0.5, help="of one round of one contender")
    parser.add_argument("--threads", type=positive, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    table = Table(
        "precision", "width", "ours (ms)", "products", "autograd, 2 passes", "1 pass", "ours / products",
        "2 passes / ours", "1 pass / ours",
    )  # fmt: skip
    rows = []
    for precision in options.precisions:
        for width in options.widths:
            runs = {
                "ours": our_step(width, precision),
                "products": products(width, precision),
                "autograd": autograd(width, precision, passes=2),
                "autograd_one_pass": autograd(width, precision, passes=1),
            }
            seconds = measure(runs, options.rounds, options.seconds)
            over = seconds["ours"] / seconds["products"]
            gain, gain_one = (seconds[name] / seconds["ours"] for name in ("autograd", "autograd_one_pass"))
            cells = [f"{seconds[name] * 1e3:.2f}" for name in runs]
            table.add_row(precision, str(width), *cells, f"{over:.3f}", f"{gain:.2f}", f"{gain_one:.2f}")
            rows.append(
                {
                    "precision": precision,
                    "width": width,
                    "seconds": seconds,
                    "efficiency": 1 / over,
                    "autograd_over_ours": gain,
                    "autograd_one_pass_over_ours": gain_one,
                }
            )
    Console(width=130).print(table)
    print(json.dumps({"benchmark": "layer", "batch": BATCH, "threads": options.threads, "rows": rows}))


if __name__ == "__main__":
    main()

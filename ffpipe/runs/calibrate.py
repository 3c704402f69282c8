"""Measurement of what messages cost on this machine, for the forecasts that `ffpipe plan` makes here from then on."""

from __future__ import annotations

import tempfile
import time

from ffpipe.config.fields import override
from ffpipe.config.recipes import get_recipe
from ffpipe.planning.message_costs import MessageCosts, keep_costs
from ffpipe.runs.controller import train

STAGES, LARGE_CHUNK, ROUNDS = 2, 40, 3
# A network whose blocks take next to nothing, so that what is left are its messages.
TINY = {
    "training.dims": [64, 8, 8],
    "training.negatives": "random",
    "training.epochs": 10,
    "execution.engine": "local",
    "execution.stages": STAGES,
    "execution.evaluate_every": 0,
    "execution.snapshot_seconds": 0.0,
    "execution.log_steps": 1000,
}


def calibrate() -> MessageCosts:
    """Measure the costs of messages and keep them in the cache folder; it takes about half a minute. Raises UserError
    where the cache folder cannot be written, RunFailed where Ray does not start."""
    from ffpipe.engines.ray.message_costs import measure_message_costs

    keep_costs(None)  # to fail before the measurement
    costs = measure_message_costs(_item_seconds())
    keep_costs(costs)
    return costs


def _item_seconds() -> float:
    """Measure what a stage does with a message beside its blocks: the same steps in small and in large messages."""
    _seconds(LARGE_CHUNK)  # imports, and the data
    found = []
    for _ in range(ROUNDS):
        (small, steps), (large, _) = _seconds(1), _seconds(LARGE_CHUNK)
        # So many messages more pass, each of them through all stages.
        found.append((small - large) / (steps - steps / LARGE_CHUNK) / STAGES)
    # Whatever else the machine does may well come to more than the difference, which is then below zero.
    return max(min(found), 1e-6)


def _seconds(chunk: int) -> tuple[float, int]:
    """Train the tiny network. Returns seconds of a processor, and steps."""
    with tempfile.TemporaryDirectory() as folder:
        config = override(
            get_recipe("digits"), {**TINY, "execution.chunk": chunk, "execution.run_dir": f"{folder}/run"}
        )
        begun = time.process_time()
        steps = int(train(config).summary["steps"])
        return time.process_time() - begun, steps

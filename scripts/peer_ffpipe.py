"""The process of a contender that is ffpipe. Started by bench_peers.py; prints the line of JSON that peer.py prints.

    python -c 'from peer_ffpipe import main; main()' '{"network": "dense", "kind": "heads", "steps": 100, "fields": {}}'

A module that is imported, since Ray's workers import it too.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from peer_networks import WARM_UP, config_of, contrasting, exact

from ffpipe import override, train
from ffpipe.config.schema import Config, Execution
from ffpipe.data.splits import Splits
from ffpipe.engines.local import LocalEngine
from ffpipe.engines.ray.settings import prepare_ray
from ffpipe.learn.negatives import Predictions
from ffpipe.learn.shards import Exchange
from ffpipe.pipeline.delivery import Delivery
from ffpipe.pipeline.job import Engine
from ffpipe.pipeline.packet import Tensors
from ffpipe.pipeline.saver import Saver
from ffpipe.pipeline.schedule import Item, Predict, Train
from ffpipe.pipeline.stage import Leave
from ffpipe.pipeline.stage_spec import StageSpec
from ffpipe.pipeline.worker_setup import AnyFeed, Parts, ReplicatedStage, WorkerSetup, make_feed, make_own_stage
from ffpipe.telemetry.report import StageReport

CONFIGS = {"heads": config_of, "contrast": contrasting, "exact": exact}
CLOCK = "clock-"


def messages_of(spec: StageSpec, item: Item) -> int:
    """Return how many messages a stage sends for an item: a packet to each receiver, and from the last stage the answer
    with predictions."""
    return len(Delivery(spec).parts(item, {})) + (spec.is_last and spec.index > 0)


class Clock:
    """A clock that writes down when training began and ended, by the first item of it behind the warm-up and the first
    after it, the CPU time of the stage's process between these, the first minibatch of it, and the messages that the
    stage sent in all."""

    def __init__(self, setup: WorkerSetup) -> None:
        self._spec, self._began, self._first = setup.spec, (0.0, 0.0), -1
        self._messages, self._written = 0, False
        self._file = Path(setup.config.execution.run_dir) / f"{CLOCK}{setup.spec.index}.json"

    def note(self, item: Item) -> None:
        """Note an item that is about to be worked."""
        now = time.time(), time.process_time()
        if isinstance(item, (Train, Predict)):
            first = item.step if isinstance(item, Predict) else item.first
            # A run of one item has that one.
            if self._first < 0 or self._first < WARM_UP <= first:
                self._began, self._first = now, first
            self._messages += messages_of(self._spec, item)
        elif self._first >= 0 and not self._written:
            began, worked = self._began
            told = {"began": began, "ended": now[0], "cpu": now[1] - worked, "first": self._first}
            self._file.write_text(json.dumps(told | {"messages": self._messages}))
            self._written = True


class TimedStage:
    """A stage, with a clock."""

    def __init__(self, setup: WorkerSetup, saver: Saver) -> None:
        self._stage: ReplicatedStage = make_own_stage(setup, saver)
        self._clock, self.device = Clock(setup), self._stage.device

    def handle(self, item: Item, tensors: Tensors | None, leave: Leave | None = None) -> Tensors | None:
        self._clock.note(item)
        return self._stage.handle(item, tensors, leave)

    def predictions(self, item: Item) -> Predictions:
        return self._stage.predictions(item)

    def report(self) -> StageReport:
        return self._stage.report()

    def join(self, exchange: Exchange) -> None:
        self._stage.join(exchange)


class TimedFeed:
    """The feed of the only stage of a process, with the clock of this stage."""

    def __init__(self, setup: WorkerSetup, splits: Splits) -> None:
        self._feed: AnyFeed = make_feed(setup, splits)
        self._clock = Clock(setup)

    def take_predictions(self, made: Predictions) -> None:
        self._feed.take_predictions(made)

    def tensors(self, item: Item) -> Tensors | None:
        self._clock.note(item)
        return self._feed.tensors(item)


def timed_engine(execution: Execution) -> Engine:
    """Make the engine of a config, local or Ray's, with clocks."""
    if execution.engine == "local":
        return LocalEngine(TimedFeed)
    prepare_ray()
    from ffpipe.engines.ray.engine import RayEngine  # Ray reads its settings when it is imported

    return RayEngine(Parts(TimedStage), execution.object_store_bytes)


def timed(config: Config) -> dict[str, Any]:
    """Train, and return examples a second behind the warm-up, and of the process of each stage the CPU time as a share
    of the time of training, and the messages that it sends a minibatch."""
    result = train(config, engine=timed_engine)
    clocks = [json.loads(path.read_text()) for path in result.run_dir.glob(f"{CLOCK}*.json")]
    return told(result.summary["steps"], config.training.batch_size, clocks)


def told(steps: int, batch: int, clocks: list[dict[str, float]]) -> dict[str, Any]:
    """Return the figures of a run of so many minibatches by its clocks."""
    begin = min(clocks, key=lambda clock: clock["began"])
    seconds = max(clock["ended"] for clock in clocks) - begin["began"]
    return {
        "rate": (steps - begin["first"]) * batch / seconds,
        "busy": [clock["cpu"] / seconds for clock in clocks],
        "messages": [clock["messages"] / steps for clock in clocks],
    }


def main() -> None:
    """Train what the first argument says."""
    asked = json.loads(sys.argv[1])
    config = CONFIGS[asked["kind"]](asked["network"], asked["steps"] + WARM_UP)
    print(json.dumps(timed(override(config, asked["fields"]))), flush=True)

"""The world of a simulated run: chance, time, disk and faults, and what must hold whatever they do.

Time is a count of moments: every tick of the engine and every write to disk is one. Faults come due by that count.
"""

from __future__ import annotations

import errno
import os
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import safetensors.torch
import torch
from expected import Model

from ffpipe.config.schema import Config
from ffpipe.pipeline.job import Start
from ffpipe.runs.folder import RunFolder
from ffpipe.runs.interrupt import Interrupt
from ffpipe.runs.run import Result
from ffpipe.storage import checkpoint
from ffpipe.storage.store import Store
from ffpipe.system.errors import Diverged, RunFailed
from ffpipe.telemetry.report import LayerRow

if TYPE_CHECKING:
    from simengine import SimEngine

# The longest run that the tests draw takes a fifth of it.
MOST_MOMENTS = 20_000

Kind = Literal["kill", "silence", "error", "diverge", "driver", "interrupt", "full", "stuck", "room", "damage"]


@dataclass(frozen=True)
class Fault:
    """A fault that comes `after` moments after the fault before it. a, b: which stage, file and the like.

    kill: stages, by the bits of a. silence, error, diverge: stage a. driver: its process is killed. interrupt: as by
    Ctrl-C. full: no room on disk for a moments, for stages, the driver or both. stuck: a removals of a snapshot fail.
    room: only a stages find room from now on. damage: file b of the a-th newest snapshot.
    """

    after: int
    kind: Kind
    a: int = 0
    b: int = 0


class DriverDied(BaseException):
    """The driver's process is gone: nothing that it would still do happens."""


class StageDied(BaseException):
    """The stage that works is gone."""


class Pauses(Interrupt):
    """The wish that a run ends, and its pauses, which take no time."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world

    def pause(self, seconds: float) -> None:
        self._world.sleep(seconds)


class World:
    """Chance, time, disk and faults of one story, and what must hold whatever they do."""

    def __init__(self, chances: bytes, faults: list[Fault], folder: Path) -> None:
        self.folder = RunFolder(folder)
        self.moments = 0
        self.late: list[Callable[[], None]] = []  # writes of stages that were given up, but live
        self.notes: list[str] = []
        self.rows: list[LayerRow] = []  # of metrics.parquet
        self._sizes: dict[tuple[int, int], LayerRow] = {}  # as a row first had them
        self.metrics_fit = True  # whether there was room for the newest of them
        self._chances = chances
        self._draws = 0
        self._faults = deque(faults)
        self._due = faults[0].after if faults else 0
        self._damaged: set[str] = set()

    def begin(self, config: Config) -> None:
        """Begin a process of its own that works on the run."""
        self.config = config
        self.model = Model.of(config.training)
        self.interrupt = Pauses(self)
        self.engine: SimEngine | None = None
        self.dead = False
        self.diverged = False
        self.room = 4
        self.no_room = False
        self.newest = 0
        self.failures: list[tuple[str, int]] = []
        self.verdict = "again"
        self.waited: float | None = None
        self.refused: set[str] = set()
        self._full = {"stage": 0, "driver": 0}
        self._stuck = 0
        self._pruned = False  # whether all that may go has gone

    def choose(self, options: int) -> int:
        """Choose one of so many; the chances are used over and over, never twice in the same way."""
        turn, place = divmod(self._draws, len(self._chances))
        self._draws += 1
        return (self._chances[place] + turn * (place + 1)) % options

    # Time and faults

    def moment(self, who: Literal["stage", "driver"] = "driver") -> None:
        """Let faults strike now."""
        self.moments += 1
        assert self.moments < MOST_MOMENTS, "the run does not end"
        while self._faults and self.moments >= self._due:
            fault = self._faults.popleft()
            self._due = self.moments + (self._faults[0].after if self._faults else 0)
            self._strike(fault)
        if self.dead and who == "driver":
            raise DriverDied

    def _strike(self, fault: Fault) -> None:
        peers = self.engine.peers if self.engine else []
        one = peers[fault.a % len(peers)] if peers else None
        match fault.kind:
            case "kill":
                for peer in peers:
                    if fault.a >> peer.index & 1:
                        peer.die()
            case "silence" if one and not one.gone:
                one.silent = True
            case "error" if one:
                one.error = RunFailed(f"stage {one.index} failed")
            case "diverge" if one:
                one.error, self.diverged = Diverged(f"the loss of stage {one.index} is nan"), True
            case "driver":
                self.dead = True
            case "interrupt":
                self.interrupt.request()
            case "full":
                for index, who in enumerate(("stage", "driver")):
                    if fault.b % 3 != index:
                        self._full[who] = self.moments + fault.a
            case "stuck":
                self._stuck = fault.a % 4
            case "room":
                self.room = fault.a % 5
            case "damage":
                self._damage(fault)

    def _damage(self, fault: Fault) -> None:
        store = self.folder.store(self.config)
        whole = checkpoint.whole_snapshots(store)
        if not whole:
            return
        folder = whole[-1 - fault.a % len(whole)]
        paths = sorted(Path(store.root, folder).glob("[!.]*"))
        path = paths[fault.b % len(paths)]
        data = path.read_bytes()
        match fault.a // 4 % 3:
            case 0 if path.name != checkpoint.MANIFEST:
                path.write_bytes(data[:-1] + bytes([data[-1] ^ 4]))
            case 1:
                path.unlink()
            case _:
                path.write_bytes(data[: len(data) // 3])
        self._damaged.add(folder)

    # Disk

    def write(self, who: Literal["stage", "driver"], name: str) -> None:
        """Let faults strike before something is written. Raises OSError where there is no room."""
        self.moment(who)
        if self.moments < self._full[who]:
            self.refused.add(name.split("/")[0] if who == "stage" or "/" in name else "")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), name)

    def write_late(self) -> None:
        self.late.pop(0)()

    def remove(self, store: Store, name: str, work: Callable[[], None]) -> None:
        """Remove a file or a folder: never the newest good snapshot, unless a newer was whole and is damaged since."""
        self.moment()
        if self._stuck:
            self._stuck -= 1
            self.refused.add("")
            self._pruned = False
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), name)
        best = max(self.good(store), default=-1)
        work()
        assert best in (-1, *self.good(store)) or best < self.newest, "the newest good snapshot was removed"

    def good(self, store: Store) -> list[int]:
        """Return the steps of the whole snapshots that nobody has damaged."""
        return [int(f.removeprefix("step-")) for f in checkpoint.whole_snapshots(store) if f not in self._damaged]

    def written(self, store: Store, name: str) -> None:
        """Note that the driver has written a file of a snapshot: a manifest."""
        folder = name.split("/")[0]
        self.newest = int(folder.removeprefix("step-"))
        self._damaged.discard(folder)
        self._pruned = True  # it is done anew now
        self.check_snapshot(store, self.newest)

    # Conditions that must hold

    def check_snapshot(self, store: Store, step: int) -> None:
        """Check that every file is of this very step, and that a run that goes on from it finds all results until
        then."""
        folder = Path(store.root, checkpoint.folder_of(step))
        found = {path.name: safetensors.torch.load(path.read_bytes()) for path in folder.glob("*.safetensors")}
        weights = {
            name: {key: tensor.tolist() for key, tensor in state.items() if key.startswith("weight")}
            for name, state in found.items()
        }
        assert weights == self.model.weights(step)
        of_head = found.get(checkpoint.HEAD, {})
        owed = {int(k.split(".")[1]): int(v[0, 0]) for k, v in of_head.items() if k.startswith("prediction.")}
        assert owed == self.model.owed(step)
        past = self.folder.read_past()
        self.check_rows(past.rows, step)
        self.check_evaluations([vars(evaluation) for evaluation in past.evaluations], step)

    def check_pruned(self) -> None:
        """Check that no more whole snapshots are kept than the config wants, unless one could not be removed."""
        store, keep = self.folder.store(self.config), self.config.execution.keep_snapshots
        assert not self._pruned or len(checkpoint.whole_snapshots(store)) <= keep

    def check_rows(self, rows: list[LayerRow], step: int) -> None:
        """Check that metrics have every row until a step."""
        expected = [row for row in self.model.rows(self.config.execution.log_steps) if row.step <= step]
        found = sorted(rows, key=lambda row: (row.step, row.layer))
        assert self._judged([row for row in found if row.step <= step]) == expected

    def _judged(self, rows: list[LayerRow]) -> list[LayerRow]:
        """Return the rows without the sizes of weights and outputs, which the model does not know: they never
        change."""
        for row in rows:
            assert self._sizes.setdefault((row.step, row.layer), row) == row
        return [replace(row, rate=None, weight_rms=None, output_rms=None, factor=None) for row in rows]

    def check_evaluations(self, evaluations: list[dict[str, Any]], step: int) -> None:
        """Check that all evaluations before a step are there."""
        every = self.config.execution.evaluate_every
        expected = [vars(e) for e in self.model.evaluations(every) if e.step < step]
        assert [e for e in evaluations if e["step"] < step] == expected

    def check_finished(self, result: Result) -> None:
        """Check that the run is the undisturbed one: weights, every row of metrics, every evaluation, none twice."""
        steps, execution = self.model.steps, self.config.execution
        digests = {
            name: checkpoint.weights_digest({key: torch.tensor(weight) for key, weight in weights.items()})
            for name, weights in self.model.weights(steps).items()
        }
        evaluations = self.model.evaluations(execution.evaluate_every)
        assert result.weights_sha256 == checkpoint.combined_digest(digests)
        assert result.summary["steps"] == steps
        assert result.summary["status"] == "finished"
        assert result.summary["evaluations"] == [vars(e) for e in evaluations]
        assert result.test_error_goodness == evaluations[-1].error_goodness
        assert result.test_error_softmax == evaluations[-1].error_softmax
        assert self._judged(self.rows) == self.model.rows(execution.log_steps)

    def started(self, start: Start, store: Store) -> None:
        """Note that stages begin from here: never behind a good snapshot."""
        assert self.verdict == "again"
        assert start.step >= max(self.good(store), default=0)
        self.newest = start.step

    def failed(self, kind: str) -> None:
        """Check what Recovery promises, told from all failures of this process."""
        execution = self.config.execution
        best = max((step for _, step in self.failures), default=-1)
        self.failures = [*(self.failures if self.newest <= best else []), (kind, max(best, self.newest))]
        errors = sum(kind == "error" for kind, _ in self.failures)
        over = errors > 1 or len(self.failures) > execution.attempts or self.interrupt.wished
        self.verdict = "give up" if over else "again"
        self.waited = None

    def sleep(self, seconds: float) -> None:
        self.waited = seconds
        self.moment()
        if self.interrupt.wished:  # meanwhile
            self.verdict = "give up"

    def check_recovery(self) -> None:
        """Check that the stages are discarded to be built anew."""
        assert self.verdict == "again"
        assert self.waited == self.config.execution.back_off * 2 ** (len(self.failures) - 1)

    def check_gave_up(self) -> None:
        """Check that a run fails for these reasons alone; an interrupt makes any snapshot the last."""
        last = self.refused if self.interrupt.wished else {checkpoint.folder_of(self.model.steps), ""}
        assert self.verdict == "give up" or self.no_room or last & self.refused

"""The schedule as data: the messages of a run in their one order.

Every stage handles the same items in the same order, so a stage's state is a function of the items
before it. A chunk is cut wherever a marker stands:

    steps      0 . . . . 5 . . . . 10                      chunk = 4, evaluate every 5 steps
    items      Train 0-4, Train 4-5, Evaluate 5, Train 5-9, Train 9-10, Snapshot 10, Evaluate 10, Stop 10

In lock step the neutral rows of a minibatch come behind the pairs of the one before, and pass each layer when it has
trained on these; after a marker they go alone (evaluate every 2 steps):

    items      Predict 0, Train 0-1 and ahead, Train 1-2, Evaluate 2, Predict 2, Train 2-3 and ahead, ...

Nothing here knows Ray, torch or time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Train:
    """Minibatches first .. first + count - 1, one update of every layer for each.

    ahead: lock step only: behind them, what `Predict` of the next minibatch would be.
    """

    first: int
    count: int
    ahead: bool = False

    @property
    def end(self) -> int:
        return self.first + self.count

    def lead(self, lookahead: int | None) -> int | None:
        """Return by how many minibatches the neutral rows of this item are ahead of its pairs.

        lookahead: `Training.lookahead`. With a lag it is that lag; in lock step (0) 1 where the next minibatch's come
        behind, else None: the pairs come alone; 0 where no negatives need a prediction (lookahead None).
        """
        if lookahead == 0:
            return 1 if self.ahead else None
        return lookahead or 0


@dataclass(frozen=True)
class Predict:
    """Lock step only: the neutral rows of minibatch `step`, ahead of its pairs; the head trains on them."""

    step: int


@dataclass(frozen=True)
class Evaluate:
    """Examples first .. first + count - 1 of a split with the weights after `step`; `last` of that evaluation."""

    step: int
    split: str
    first: int
    count: int
    last: bool


@dataclass(frozen=True)
class Snapshot:
    """The order to write every layer as it is after `step`."""

    step: int


@dataclass(frozen=True)
class Stop:
    """The end, after `step`: of the plan, or of a run that was interrupted. The last item of every run."""

    step: int


Item = Train | Predict | Evaluate | Snapshot | Stop


@dataclass(frozen=True)
class Plan:
    """All items of a run, as a function of its sizes.

    steps: of the whole run. chunk: minibatches in a Train item at most. lockstep: whether each minibatch
    waits for its own prediction. evaluations: split -> steps between evaluations (0: at the end only).
    sizes: split -> examples. evaluation_batch: examples in one Evaluate item. snapshot_steps: 0 for the end only.
    made: splits whose evaluation at the step of the start has been made before.
    """

    steps: int
    chunk: int
    lockstep: bool
    evaluations: dict[str, int]
    sizes: dict[str, int]
    evaluation_batch: int
    snapshot_steps: int
    made: tuple[str, ...] = ()

    def items(self, start: int = 0) -> Iterator[Item]:
        """Yield the items from step `start` to the end, in order.

        With a start they are those that follow the snapshot of that step, so that a run that goes on from it
        does what the run that wrote it would have done; no evaluation is made twice.
        """
        step = start
        if start:
            yield from self._evaluations(start, self.made)
        while step < self.steps:
            stop = self._next_marker(step)
            if self.lockstep:
                yield Predict(step)
                yield from (Train(each, 1, ahead=True) for each in range(step, stop - 1))
                # With no rows behind it: else the read-out would have trained on the next minibatch by the marker, and
                # what a snapshot has would not be a function of its step.
                yield Train(stop - 1, 1)
                step = stop
            else:
                count = min(self.chunk, stop - step)
                yield Train(step, count)
                step += count
            if step == stop:
                # First, since whoever goes on from it makes the evaluations of its step that are missing.
                if self._is_due(step, self.snapshot_steps):
                    yield Snapshot(step)
                yield from self._evaluations(step)
        yield Stop(step)

    def weight(self, item: Item) -> int:
        """Return an item's weight in the window, in minibatches."""
        if isinstance(item, Train):
            return item.count
        # A batch of an evaluation is sized to have as many rows as a full chunk (planning/layout.py).
        return self.chunk if isinstance(item, Evaluate) else 1

    @property
    def longest_window(self) -> int:
        """The length of a window in which all items of the run are in flight at once, but for snapshots that it is time
        for; a longer one would hold no more."""

        def times(every: int) -> int:
            return -(-self.steps // every) if every else 1

        tests = sum(
            times(every) * -(-self.sizes[split] // self.evaluation_batch) for split, every in self.evaluations.items()
        )
        trained = self.steps * (1 + self.lockstep)
        # Beside the end there is to be room for a chunk, without which no further item may leave (`Flow`).
        return trained + times(self.snapshot_steps) + (tests + 1) * self.chunk + 1

    def _next_marker(self, step: int) -> int:
        # Multiples are counted from step 0 and not from the start: a resumed run stops where the first one would.
        every = [n for n in (*self.evaluations.values(), self.snapshot_steps) if n]
        return min([self.steps, *((step // n + 1) * n for n in every)])

    def _is_due(self, step: int, every: int) -> bool:
        return step == self.steps or bool(every and step % every == 0)

    def _evaluations(self, step: int, made: tuple[str, ...] = ()) -> Iterator[Item]:
        for split, every in self.evaluations.items():
            size = self.sizes[split] if self._is_due(step, every) and split not in made else 0
            for first in range(0, size, self.evaluation_batch):
                count = min(self.evaluation_batch, size - first)
                yield Evaluate(step, split, first, count, last=first + count == size)


class ItemStream:
    """The items as they leave the source: those of a plan, and in between what the moment asks for.

    Between two Train items it may put a snapshot, when `snapshot_seconds` have passed since the last one (0: never),
    and after `interrupt` a snapshot and the end. Neither changes what is computed.
    """

    def __init__(self, plan: Plan, start: int, snapshot_seconds: float, now: Callable[[], float]) -> None:
        self._seconds, self._now = snapshot_seconds, now
        self._interrupted = False
        self._woven = self._weave(plan.items(start), start, now())

    def interrupt(self) -> None:
        """End the run at the next step at which it can go on; may be called from another thread."""
        self._interrupted = True

    def __iter__(self) -> Iterator[Item]:
        return self

    def __next__(self) -> Item:
        return next(self._woven)

    def _weave(self, items: Iterator[Item], step: int, saved_at: float) -> Iterator[Item]:
        saved = step  # the start is a snapshot, or has nothing to save
        behind: list[Item] = []  # what goes alone in place of riding behind
        between = True  # not where neutral rows have passed whose pairs are yet to come: the read-out is ahead then
        while True:
            # Looked at again before each item: in the middle of an evaluation the run need not wait for its end.
            if self._interrupted and between:
                if saved != step:
                    yield Snapshot(step)
                yield Stop(step)
                return
            item = behind.pop() if behind else next(items)
            due = self._seconds and self._now() - saved_at >= self._seconds
            # Rows that would ride behind go alone instead: then there is a step to stop at after this minibatch.
            if isinstance(item, Train) and item.ahead and (due or self._interrupted):
                behind.append(Predict(item.end))
                item = replace(item, ahead=False)
            # Before more training alone: a snapshot of the plan would be a second one of the same step.
            if due and between and saved != step and isinstance(item, (Train, Predict)):
                saved, saved_at = step, self._now()
                yield Snapshot(step)
            match item:
                case Train():
                    step = item.end
                case Snapshot():
                    saved, saved_at = item.step, self._now()
            between = not (isinstance(item, Predict) or (isinstance(item, Train) and item.ahead))
            yield item
            if isinstance(item, Stop):
                return

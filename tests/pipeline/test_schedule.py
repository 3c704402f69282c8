"""The order of items, drawn as literal lists, and its invariants over all sizes."""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from itertools import count

from any_plan import PLANS
from hypothesis import given
from hypothesis import strategies as st

from ffpipe.pipeline.schedule import (
    Evaluate,
    Item,
    ItemStream,
    Plan,
    Predict,
    Snapshot,
    Stop,
    Train,
)
from ffpipe.pipeline.window import Flow, choose_chunk, choose_window, largest_chunk

PLAN = Plan(
    steps=10,
    chunk=4,
    lockstep=False,
    evaluations={"validation": 5, "test": 0},
    sizes={"validation": 3, "test": 2},
    evaluation_batch=2,
    snapshot_steps=0,
)


def test_the_table_in_the_module() -> None:
    assert list(PLAN.items()) == [
        Train(0, 4),
        Train(4, 1),
        Evaluate(5, "validation", 0, 2, last=False),
        Evaluate(5, "validation", 2, 1, last=True),
        Train(5, 4),
        Train(9, 1),
        Snapshot(10),
        Evaluate(10, "validation", 0, 2, last=False),
        Evaluate(10, "validation", 2, 1, last=True),
        Evaluate(10, "test", 0, 2, last=True),
        Stop(10),
    ]


def test_evaluations_at_the_start_that_have_been_made_are_left_out() -> None:
    made = replace(PLAN, made=("validation",))
    assert list(made.items(5)) == list(PLAN.items())[4:]
    assert list(made.items(10)) == [Evaluate(10, "test", 0, 2, last=True), Stop(10)]
    assert list(replace(PLAN, made=("test", "validation")).items(10)) == [Stop(10)]
    assert list(made.items()) == list(PLAN.items())


LOCKSTEP = replace(PLAN, steps=4, chunk=1, lockstep=True, evaluations={}, sizes={}, snapshot_steps=3)


def test_lock_step_predicts_each_minibatch_when_the_one_before_is_trained_on() -> None:
    assert list(LOCKSTEP.items()) == [
        Predict(0),
        Train(0, 1, ahead=True),
        Train(1, 1, ahead=True),
        Train(2, 1),
        Snapshot(3),
        Predict(3),
        Train(3, 1),
        Snapshot(4),
        Stop(4),
    ]


def test_in_lock_step_nothing_is_predicted_ahead_of_a_snapshot_that_nobody_had_planned() -> None:
    now = iter([0.0, 0.1, 0.2, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7])
    stream = ItemStream(replace(LOCKSTEP, snapshot_steps=0), 0, snapshot_seconds=1.0, now=lambda: next(now))
    assert [next(stream) for _ in range(5)] == [
        Predict(0),
        Train(0, 1, ahead=True),
        Train(1, 1),  # a second has passed
        Snapshot(2),
        Predict(2),
    ]
    stream.interrupt()
    assert list(stream) == [Train(2, 1), Snapshot(3), Stop(3)]


def test_snapshots_at_every_step_of_a_long_run_pile_nothing_up() -> None:
    now, steps = count(), 200_000
    plan = replace(LOCKSTEP, steps=steps, snapshot_steps=0)
    trained = [i.first for i in ItemStream(plan, 0, snapshot_seconds=1.0, now=now.__next__) if isinstance(i, Train)]
    assert trained == list(range(steps))


@given(PLANS)
def test_every_step_is_trained_once_and_markers_see_exactly_their_step(plan: Plan) -> None:
    trained, snapshots, predicted = 0, [], []
    for item in plan.items():
        match item:
            case Train():
                assert item.first == trained
                assert 1 <= item.count <= plan.chunk
                trained = item.end
                predicted += [trained] * item.ahead
            case Predict():
                assert item.step == trained
                predicted.append(item.step)
            case Evaluate():
                assert item.step == trained
            case Snapshot():
                assert item.step == trained
                snapshots.append(item.step)
    every = plan.snapshot_steps
    assert trained == plan.steps
    assert predicted == (list(range(plan.steps)) if plan.lockstep else [])
    assert snapshots == sorted({s for s in range(1, plan.steps) if every and s % every == 0} | {plan.steps})


@given(PLANS)
def test_an_evaluation_covers_its_split_once(plan: Plan) -> None:
    seen: dict[tuple[int, str], list[int]] = {}
    for item in plan.items():
        if isinstance(item, Evaluate):
            examples = seen.setdefault((item.step, item.split), [])
            assert item.first == len(examples)
            examples += range(item.first, item.first + item.count)
            assert item.last == (len(examples) == plan.sizes[item.split])
    assert all(len(examples) == plan.sizes[split] for (_, split), examples in seen.items())
    assert [step for step, split in seen if split == "test"] == ([plan.steps] if plan.sizes["test"] else [])


@given(PLANS)
def test_from_a_snapshot_on_the_items_are_those_of_the_whole_run(plan: Plan) -> None:
    items = list(plan.items())
    for index, item in enumerate(items):
        if isinstance(item, Snapshot):
            assert list(plan.items(item.step)) == items[index + 1 :]


@given(PLANS, st.data())
def test_a_course_adds_snapshots_and_an_end_but_trains_the_same(plan: Plan, data: st.DataObject) -> None:
    """Whatever the clock says and whenever it is interrupted, and go on as often as you like."""
    clock = iter(data.draw(st.lists(st.floats(0, 3), min_size=20, max_size=20)))
    now = [0.0]

    def tick() -> float:
        now[0] += next(clock, 1.0)
        return now[0]

    done: list[Item] = []
    start = 0
    for _ in range(100):
        stream = ItemStream(plan, start, snapshot_seconds=data.draw(st.sampled_from([0.0, 2.0])), now=tick)
        stop_after = data.draw(st.integers(0, 90))
        here: list[Item] = []
        for index, item in enumerate(stream):
            if index == stop_after:
                stream.interrupt()
            here.append(item)
        end = here[-1]
        assert isinstance(end, Stop)
        assert next(stream, None) is None
        saved = [item.step for item in here if isinstance(item, Snapshot)]
        if end.step > start:
            assert saved
            assert saved[-1] == end.step, "an end leaves nothing unsaved"
        assert saved == sorted(set(saved))
        done += [item for item in here if isinstance(item, (Train, Predict))]
        start = end.step
        if start == plan.steps:
            break
    steps = [step for item in done if isinstance(item, Train) for step in range(item.first, item.end)]
    assert steps == list(range(start))
    predicted = [
        item.step if isinstance(item, Predict) else item.end
        for item in done
        if isinstance(item, Predict) or (isinstance(item, Train) and item.ahead)
    ]
    assert predicted == (steps if plan.lockstep else [])


@given(st.integers(1, 20), st.lists(st.integers(1, 9), max_size=60), st.randoms(use_true_random=False))
def test_the_window_is_never_exceeded_and_never_stops_for_ever(window: int, weights: list[int], random: object) -> None:
    flow, flying, waiting = Flow(window), deque[int](), deque(weights)
    while waiting or flying:
        may = bool(waiting) and flow.may_send(waiting[0])
        assert may or flying, "nothing flies and nothing may leave"
        if may and (not flying or random.random() < 0.6):  # type: ignore[attr-defined]  # hypothesis' Random
            flow.sent(waiting[0])
            flying.append(waiting.popleft())
            assert sum(flying) <= window or len(flying) == 1
        else:
            flow.done()
            flying.popleft()
    assert flow.may_send(window + 1), "what is larger than the window goes when nothing else flies"


@given(st.integers(1, 32), st.none() | st.integers(0, 300), st.integers(1, 1 << 24), st.floats(0, 1), st.floats(0, 1))
def test_chosen_sizes_keep_to_lag_and_bytes(
    stages: int, lag: int | None, minibatch: int, step_seconds: float, message_seconds: float
) -> None:
    room = max(1, (64 << 20) // minibatch)
    room = room if lag is None else min(room, max(lag, 1))
    chunk = choose_chunk(stages, room, step_seconds, message_seconds)
    window = choose_window(stages, chunk, lag, minibatch, 64 << 20)
    assert 1 <= chunk <= window <= room


def test_a_chunk_is_as_long_as_its_message_costs() -> None:
    assert choose_chunk(2, None, step_seconds=0.020, message_seconds=0.0019) == 5
    assert choose_chunk(2, None, step_seconds=0.200, message_seconds=0.003) == 1
    assert choose_chunk(2, None, step_seconds=0.001, message_seconds=0.003) == 8
    assert choose_chunk(16, 48, step_seconds=0.001, message_seconds=0.003) == 2
    assert choose_chunk(2, None, step_seconds=0.001, message_seconds=0.003, largest=3) == 3


def test_a_chunk_of_large_rows_has_few_minibatches() -> None:
    sizes = (1 << 20, 4 << 20, 5 << 20, 16 << 20, 17 << 20, 64 << 20)
    assert [largest_chunk(size) for size in sizes] == [8, 8, 6, 2, 1, 1]

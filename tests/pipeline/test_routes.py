"""Routes as tables, and for any network and any cut: everything that is needed arrives once, and x never twice."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ffpipe.pipeline.packet import KEPT, LABELS, LOSS, SCORE, TAP, WRONG, X
from ffpipe.pipeline.routes import Routes

COMPANIONS = (X, LABELS, SCORE, WRONG, LOSS)


def cut(*sizes: int) -> tuple[range, ...]:
    """Return the groups of so many blocks each."""
    ends = [sum(sizes[:n]) for n in range(len(sizes) + 1)]
    return tuple(range(a, b) for a, b in pairwise(ends))


# Tensors that go from a stage to another beside x, by (sender, receiver).
Straight = dict[tuple[int, int], tuple[str, ...]]
A_OF_0 = {"a": 0}
TABLE: list[tuple[str, Routes, Straight]] = [
    ("one stage", Routes(cut(4), frozenset(range(4)), A_OF_0, {"a": (2, 3)}), {}),
    ("nothing but x", Routes(cut(1, 1, 1)), {}),
    (
        "the read-out sees all blocks",
        Routes(cut(1, 1, 1), frozenset({0, 1, 2})),
        # The output of block 1 is x of stage 2, block 2 is there.
        {(0, 2): ("tap.0",)},
    ),
    (
        "the read-out sees blocks within a stage",
        Routes(cut(3, 2, 1), frozenset({1, 2, 3, 4, 5})),
        {(0, 2): ("tap.1", "tap.2"), (1, 2): ("tap.3",)},
    ),
    ("two stages, the first of one block", Routes(cut(1, 2), frozenset({0, 1, 2})), {}),
    ("two stages, the first of two blocks", Routes(cut(2, 1), frozenset({0, 1, 2})), {(0, 1): ("tap.0",)}),
    ("the next block uses it", Routes(cut(1, 1, 1), made=A_OF_0, used={"a": (1,)}), {}),
    ("a later block uses it", Routes(cut(1, 1, 1), made=A_OF_0, used={"a": (2,)}), {(0, 2): ("kept.a",)}),
    (
        "blocks of several stages use it",
        Routes(cut(2, 1, 2, 1), made=A_OF_0, used={"a": (1, 2, 3, 4, 5)}),
        {(0, 1): ("kept.a",), (0, 2): ("kept.a",), (0, 3): ("kept.a",)},
    ),
    (
        "x of one stage, straight to another",
        Routes(cut(1, 1, 1), made=A_OF_0, used={"a": (1, 2)}),
        {(0, 2): ("kept.a",)},
    ),
    ("no block uses it", Routes(cut(1, 1, 1), made=A_OF_0), {}),
    ("blocks of its own stage use it", Routes(cut(3, 1), made=A_OF_0, used={"a": (1, 2)}), {}),
    (
        "two names",
        Routes(cut(2, 1, 1), made={"a": 0, "b": 1}, used={"a": (3,), "b": (2, 3)}),
        {(0, 2): ("kept.a", "kept.b")},
    ),
    (
        "the read-out sees what is kept",
        Routes(cut(1, 1, 1), frozenset({0, 1, 2}), A_OF_0, {"a": (2,)}),
        {(0, 2): ("tap.0", "kept.a")},
    ),
]


@pytest.mark.parametrize(("routes", "straight"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_table(routes: Routes, straight: Straight) -> None:
    stages = range(len(routes.groups))
    found = {(s, r): routes.names(s, r) for s in stages for r in stages if routes.names(s, r)}
    assert found == straight
    for stage in stages:
        others = {r for s, r in straight if s == stage}
        following = {stage + 1} if stage + 1 in stages else set()
        assert routes.receivers(stage) == (*following, *sorted(others - following))
        assert routes.senders(stage) == tuple(s for s in range(stage) if stage in routes.receivers(s))
        assert set(routes.leaving(stage)) == {
            name for (s, _), names in straight.items() if s == stage for name in names
        }


def test_parts_of_an_output() -> None:
    routes = Routes(cut(2, 1, 1, 1), frozenset({0, 4}), {"a": 0, "b": 1}, {"a": (2, 3), "b": (2, 4)})
    made = {X: 1, LABELS: 2, "tap.0": 3, "kept.a": 4, "kept.b": 5}
    assert routes.parts(0, made) == {
        1: {X: 1, LABELS: 2, "kept.a": 4},
        2: {"kept.a": 4},
        3: {"tap.0": 3, "kept.b": 5},
    }
    assert routes.parts(3, made) == {}


def test_a_message_may_carry_less_or_nothing() -> None:
    """As one without labels does, of which the read-out sees nothing, and the one that goes with a snapshot."""
    routes = Routes(cut(1, 1, 1), frozenset({0, 2}))
    assert routes.parts(0, {X: 1}) == {1: {X: 1}, 2: {}}
    assert routes.parts(0, {}) == {1: {}, 2: {}}
    assert routes.parts(1, {}) == {2: {}}


@dataclass(frozen=True)
class Drawn:
    """A network and a cut of it."""

    routes: Routes

    @property
    def stages(self) -> range:
        return range(len(self.routes.groups))

    def needed(self, stage: int) -> dict[str, int]:
        """Return what a stage must have of blocks that are not its own, beside x: the block of each, by name."""
        routes, blocks = self.routes, self.routes.groups[stage]
        last = stage == self.stages[-1]
        needed = {f"{TAP}{block}": block for block in routes.taps if last}
        needed |= {
            f"{KEPT}{name}": block
            for name, block in routes.made.items()
            if set(routes.used.get(name, ())) & set(blocks)
        }
        return {name: block for name, block in needed.items() if block < blocks.start}


@st.composite
def networks(draw: st.DrawFn) -> Drawn:
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=6))
    blocks = range(sum(sizes))
    taps = draw(st.frozensets(st.sampled_from(blocks)))
    makers = draw(st.lists(st.sampled_from(blocks), unique=True, max_size=5))
    made = {f"n{block}": block for block in makers}
    used = {
        name: tuple(draw(st.lists(st.sampled_from(blocks[block + 1 :]), unique=True).map(sorted)))
        for name, block in made.items()
        if block + 1 < len(blocks)
    }
    return Drawn(Routes(cut(*sizes), taps, made, used))


@given(networks())
def test_all_that_is_needed_arrives_once_and_x_under_no_other_name(drawn: Drawn) -> None:
    routes = drawn.routes
    for stage in drawn.stages:
        arriving = [(name, sender) for sender in drawn.stages for name in routes.names(sender, stage)]
        needed = drawn.needed(stage)
        # The output of the block before the stage comes as x, whatever else it is called.
        before = routes.groups[stage].start - 1
        wanted = [(name, routes.stage_of(block)) for name, block in needed.items() if block != before]
        assert sorted(arriving) == sorted(wanted)


@given(networks())
def test_receivers_and_senders_agree_and_messages_go_onwards(drawn: Drawn) -> None:
    routes = drawn.routes
    for stage in drawn.stages:
        receivers, senders = routes.receivers(stage), routes.senders(stage)
        assert len(set(receivers)) == len(receivers)
        assert len(set(senders)) == len(senders)
        assert all(receiver > stage for receiver in receivers)
        assert all(stage in routes.senders(receiver) for receiver in receivers)
        assert all(stage in routes.receivers(sender) for sender in senders)
        # The next stage gets a part of every message: by it the items stay in order.
        assert receivers[:1] == ((stage + 1,) if stage + 1 in drawn.stages else ())
        assert (stage - 1 in senders) == (stage > 0)


@given(networks(), st.sets(st.sampled_from(COMPANIONS)))
def test_parts_together_are_what_leaves_each_as_its_receivers_need(drawn: Drawn, companions: set[str]) -> None:
    routes = drawn.routes
    for stage in drawn.stages:
        made = {name: f"{name} of stage {stage}" for name in (*companions, *routes.leaving(stage))}
        parts = routes.parts(stage, made)
        assert tuple(parts) == routes.receivers(stage)
        for receiver, part in parts.items():
            following = companions if receiver == stage + 1 else set()
            assert part.keys() == following | set(routes.names(stage, receiver))
            assert part.items() <= made.items()
        if stage != drawn.stages[-1]:
            assert {name for part in parts.values() for name in part} == made.keys()


@given(networks())
def test_stages_that_pass_parts_on_have_all_that_their_blocks_ask_for(drawn: Drawn) -> None:
    """A run of messages: every block's output has the block as its value."""
    routes = drawn.routes
    arrived: dict[int, dict[str, int]] = {stage: {} for stage in drawn.stages}
    for stage, blocks in enumerate(routes.groups):
        got = arrived[stage]
        before = blocks.start - 1
        assert got.get(X, -1) == before
        assert before not in {block for name, block in got.items() if name != X}
        for name, block in drawn.needed(stage).items():
            assert got[X if block == before else name] == block
        own = {f"{TAP}{block}": block for block in blocks} | {
            f"{KEPT}{n}": b for n, b in routes.made.items() if b in blocks
        }
        made = {X: blocks[-1]} | {name: block for name, block in own.items() if name in routes.leaving(stage)}
        for receiver, part in routes.parts(stage, made).items():
            assert not part.keys() & arrived[receiver].keys()
            arrived[receiver] |= part

"""The rows that go from one replica to another: as a table, and for any numbers of replicas."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from ffpipe.pipeline.replicas import Replicas


def test_the_picture() -> None:
    replicas = Replicas(4, (2, 4, 1))
    assert list(replicas) == [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2), (1, 3), (2, 0)]
    assert [replicas.number(*each) for each in replicas] == list(range(7))
    assert replicas.sent(0, 0, 1) == {0: range(1), 1: range(1, 2)}
    assert replicas.sent(0, 1, 1) == {2: range(2, 3), 3: range(3, 4)}
    assert [replicas.sent(1, other, 2) for other in range(4)] == [{0: range(n, n + 1)} for n in range(4)]
    assert [replicas.senders(1, other, 0) for other in range(4)] == [[0], [0], [1], [1]]
    assert replicas.senders(2, 0, 1) == [0, 1, 2, 3]
    assert replicas.senders(2, 0, 0) == [0, 1]


def test_one_replica_a_stage_sends_all() -> None:
    assert Replicas(1, (1, 1)).sent(0, 0, 1) == {0: range(1)}


counts = st.integers(0, 3).flatmap(
    lambda height: st.tuples(
        st.just(2**height), st.lists(st.integers(0, height).map(lambda n: 2**n), min_size=2, max_size=4).map(tuple)
    )
)


@settings(deadline=None)
@given(counts)
def test_every_shard_arrives_once_in_order(drawn: tuple[int, tuple[int, ...]]) -> None:
    replicas = Replicas(*drawn)
    for sender in range(len(replicas.counts)):
        for receiver in range(len(replicas.counts)):
            for other in range(replicas.counts[receiver]):
                arriving = [
                    shard
                    for each in replicas.senders(receiver, other, sender)
                    for shard in replicas.sent(sender, each, receiver)[other]
                ]
                assert arriving == list(replicas.own(receiver, other))


@settings(deadline=None)
@given(counts)
def test_first_replicas_are_linked(drawn: tuple[int, tuple[int, ...]]) -> None:
    """By these go evaluations, and what is not a row."""
    replicas = Replicas(*drawn)
    assert all(0 in replicas.sent(0, 0, receiver) for receiver in range(len(replicas.counts)))

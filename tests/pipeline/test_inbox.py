"""Messages come out in order and whole, whatever the order in which their parts arrive."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ffpipe.pipeline.inbox import Inbox
from ffpipe.pipeline.packet import Array, Packet
from ffpipe.pipeline.schedule import Train

ITEM = Train(0, 1)
PACKET = Packet(ITEM)


def numbered(sequence: int, sender: int) -> Packet:
    return Packet(ITEM, {f"from {sender}": Array("int64", np.array(sequence))})


@given(st.permutations([(sequence, sender) for sequence in range(5) for sender in (0, 2)]))
def test_any_order_of_arrival(arrivals: list[tuple[int, int]]) -> None:
    inbox = Inbox([0, 2])
    for sequence, sender in arrivals:
        inbox.put(sequence, sender, numbered(sequence, sender))
    for sequence in range(5):
        packets = inbox.take()
        found = {sender: {name: int(array.data) for name, array in p.arrays.items()} for sender, p in packets.items()}
        assert found == {0: {"from 0": sequence}, 2: {"from 2": sequence}}


@pytest.mark.parametrize(("sequence", "sender"), [(0, 0), (1, 0), (1, 7)])
def test_a_part_that_came_before_or_that_nobody_waits_for(sequence: int, sender: int) -> None:
    inbox = Inbox([0])
    inbox.put(0, 0, PACKET)
    inbox.take()
    inbox.put(1, 0, PACKET)
    with pytest.raises(ValueError, match="unexpected"):
        inbox.put(sequence, sender, PACKET)


def test_take_waits_for_every_part() -> None:
    inbox = Inbox([0, 2])
    taken: list[object] = []
    thread = threading.Thread(target=lambda: taken.append(inbox.take()), daemon=True)
    thread.start()
    inbox.put(0, 2, PACKET)
    assert not inbox.ready
    inbox.put(0, 0, PACKET)
    thread.join(timeout=10)
    assert taken == [{0: PACKET, 2: PACKET}]


def test_a_refused_part_names_its_sender_and_changes_nothing() -> None:
    inbox = Inbox([0])
    with pytest.raises(ValueError, match="message 0 from worker 7 is unexpected"):
        inbox.put(0, 7, PACKET)
    inbox.put(0, 0, PACKET)
    assert inbox.take() == {0: PACKET}


def test_an_error_ends_a_wait_and_those_after_it() -> None:
    inbox, raised = Inbox([0]), list[BaseException]()

    def take() -> None:
        try:
            inbox.take()
        except BrokenPipeError as error:
            raised.append(error)

    thread = threading.Thread(target=take, daemon=True)
    thread.start()
    inbox.fail(BrokenPipeError())
    thread.join(timeout=10)
    take()
    assert len(raised) == 2

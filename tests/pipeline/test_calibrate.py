"""What was measured on one processor is one figure for all who share it."""

from __future__ import annotations

from ffpipe.planning.calibrate import Costs, pooled


def test_those_that_share_a_processor_have_the_median_of_what_they_found() -> None:
    found = [Costs((1.0, 4.0), 0.1), Costs((9.0, 9.0), 9.0), Costs((3.0, 2.0), 0.3), Costs((2.0, 3.0), 0.2)]
    shared = Costs((2.0, 3.0), 0.2)
    assert pooled(found, ["host", "another", "host", "host"]) == [shared, found[1], shared, shared]

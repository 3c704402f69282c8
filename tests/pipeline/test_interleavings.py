"""Orders in which things happen, and faults: a run is the undisturbed one in the end (simulation.py).

scripts/mutations.py plants mistakes that only these tests find.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from hypothesis import given, settings
from hypothesis import strategies as st
from simulation import play
from world import Fault, Kind, World

from ffpipe.config.fields import override
from ffpipe.config.schema import Config


@dataclass(frozen=True)
class Story:
    """A config by its fields, how each process works it, what chance says, and what breaks."""

    config: dict[str, Any]
    ways: list[dict[str, Any]]
    chances: bytes
    faults: list[Fault]

    def play(self) -> World:
        with tempfile.TemporaryDirectory() as folder:
            return play(override(Config(), self.config), self.ways, self.chances, self.faults, Path(folder, "run"))


@st.composite
def ways(draw: st.DrawFn, layers: int, most: int) -> dict[str, Any]:
    """Fields of `execution` that may change from one process to the next. most: minibatches in flight."""
    window = draw(st.integers(0, most))
    return {
        "execution.stages": draw(st.integers(0, layers)),
        "execution.window": window,
        "execution.chunk": draw(st.integers(0, window or most)),
        "execution.snapshot_steps": draw(st.integers(0, 6)),
        "execution.snapshot_seconds": draw(st.sampled_from([0, 40, 120])),
        "execution.keep_snapshots": draw(st.integers(1, 3)),
        "execution.attempts": draw(st.integers(0, 3)),
    }


faults = st.builds(Fault, st.integers(0, 120), st.sampled_from(get_args(Kind)), st.integers(0, 60), st.integers(0, 20))


@st.composite
def blocks(draw: st.DrawFn, layers: int, epochs: int) -> list[dict[str, Any]]:
    """Draw what each block keeps for later ones, what it uses of earlier ones, and from and before which epoch it
    learns."""
    made: list[dict[str, Any]] = []
    for index in range(layers):
        first = draw(st.integers(0, epochs - 1))
        kept = [block["keep"] for block in made if block["keep"]]
        made.append(
            {
                "kind": "chain",
                "keep": f"of {index}" if draw(st.booleans()) else "",
                "use": draw(st.lists(st.sampled_from(kept), unique=True)) if kept else [],
                "first_epoch": first,
                "last_epoch": draw(st.sampled_from([0, *range(first + 1, epochs + 1)])),
            }
        )
    return made


# Negatives and labels, and whether there must be a read-out.
RULES = [("hard", "overlay", True), ("random", "overlay", False), ("hybrid", "none", True), ("none", "overlay", False)]


@st.composite
def stories(draw: st.DrawFn) -> Story:
    layers, epochs = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    negatives, labels, head = draw(st.sampled_from(RULES))
    lag, validation = draw(st.integers(0, 6)), draw(st.integers(0, 1))
    network: dict[str, Any] = {"training.dims": [1] * (layers + 1)}
    if draw(st.booleans()):
        network = {"training.blocks": draw(blocks(layers, epochs))}
    config = {
        **network,
        "training.epochs": epochs,
        "training.batch_size": 1,
        "training.negatives": negatives,
        "training.labels": labels,
        "training.negative_lag": lag,
        "training.head": head or draw(st.booleans()),
        "training.head_from": draw(st.integers(0, layers - 1)),
        "training.goodness_from": draw(st.integers(0, layers - 1)),
        "training.data.train_limit": draw(st.integers(1, 8)),
        "training.data.validation": validation,
        "execution.evaluate_every": validation and draw(st.integers(0, 2)),
        "execution.log_steps": draw(st.integers(1, 5)),
    }
    drawn = st.lists(ways(layers, max(lag, 1) if negatives == "hard" else 9), min_size=1, max_size=3)
    chances, broken = st.binary(min_size=200, max_size=200), st.lists(faults, min_size=1, max_size=8)
    return Story(config, draw(drawn), draw(chances), draw(broken))


@given(stories())
@settings(deadline=None)
def test_whatever_happens_the_run_is_the_undisturbed_one(story: Story) -> None:
    story.play()


def test_a_disk_may_have_room_again_at_any_moment() -> None:
    """Right between what a run has to show and the manifest too, which without the former would stand for a snapshot
    without the latter's past."""
    config = {
        "training.dims": [1, 1],
        "training.batch_size": 1,
        "training.negatives": "random",
        "training.head": False,
        "training.head_from": 0,
        "training.goodness_from": 0,
        "training.epochs": 1,
        "training.data.train_limit": 4,
        "execution.log_steps": 1,
    }
    ways = [{"execution.snapshot_steps": 1, "execution.keep_snapshots": 1}]
    for length in range(2, 57):
        Story(config, ways, bytes(200), [Fault(3, "full", length)]).play()


def test_a_recovery_names_a_damaged_snapshot_and_uses_the_one_before() -> None:
    """Whenever it is damaged; a stage dies right after."""
    config = {
        "training.dims": [1, 1, 1],
        "training.batch_size": 1,
        "training.epochs": 2,
        "training.data.train_limit": 6,
        "execution.log_steps": 2,
    }
    ways = [{"execution.snapshot_steps": 2, "execution.chunk": 1}]
    notes: list[str] = []
    for after in range(20, 80, 5):
        faults = [Fault(after, "damage"), Fault(0, "kill", 1)]
        notes += Story(config, ways, bytes(range(200)), faults).play().notes
    named = [index for index, note in enumerate(notes) if "was altered" in note and "trying the snapshot" in note]
    assert named
    assert all("going on after step" in notes[index + 1] for index in named)

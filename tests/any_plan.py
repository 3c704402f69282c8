"""Plans of any small size, for properties that all have."""

from __future__ import annotations

from hypothesis import strategies as st

from ffpipe.pipeline.schedule import Plan

PLANS = st.builds(
    Plan,
    steps=st.integers(1, 40),
    chunk=st.integers(1, 9),
    lockstep=st.booleans(),
    evaluations=st.fixed_dictionaries({"validation": st.integers(0, 12), "test": st.just(0)}),
    sizes=st.fixed_dictionaries({"validation": st.integers(0, 7), "test": st.integers(0, 7)}),
    evaluation_batch=st.integers(1, 5),
    snapshot_steps=st.integers(0, 12),
)

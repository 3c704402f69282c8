"""Fields of the config in groups that a person looks for, and what a help says of each."""

from __future__ import annotations

from collections.abc import Container
from functools import reduce
from typing import Any

from ffpipe.commands.options import settable
from ffpipe.config.fields import Leaf
from ffpipe.config.schema import Config

# A name that ends with a dot stands for all fields below it. A field belongs to the first group that has it.
GROUPS = {
    "data": """
        training.data. training.inputs training.augmentation. training.jitter training.standardize training.mean
        training.deviation execution.data_dir execution.data_from
    """,
    "network": """
        training.model training.model_options training.dims training.initialization training.normalization
        training.normalization_epsilon training.normalize_inputs training.dropout training.precision
        training.memory_format training.checkpointing training.accumulation training.threads
    """,
    "objective and negatives": """
        training.method training.objective training.goodness training.threshold training.temperature
        training.negatives training.negative_lag training.labels training.label_strength training.peer
        training.peer_averaging training.pair_errors training.local_steps training.phases training.hand_on
    """,
    "optimiser and schedule": """
        training.epochs training.batch_size training.shards training.seed training.optimizer. training.schedule
        training.milestones training.decay
    """,
    "read-out": """
        training.readout training.head training.head_from training.head_bias training.head_initialization
        training.head_optimizer. training.goodness_from training.test_labels
    """,
    "engine and stages": """
        execution.engine execution.stages execution.replicas execution.chunk execution.window execution.window_bytes
        execution.chapter execution.spool execution.spool_compression execution.keep_freed
        execution.keep_largest
    """,
    "snapshots and recovery": """
        execution.snapshot_steps execution.snapshot_seconds execution.checkpoints execution.keep_snapshots
        execution.stage_timeout execution.attempts execution.back_off
    """,
    "resources": """
        execution.device execution.memory_budget execution.placement execution.cpus execution.gpus execution.memory
        execution.resources execution.labels execution.object_store_bytes execution.start_timeout
    """,
    "output": """
        execution.run_dir execution.evaluate_every execution.evaluate_train execution.log_steps execution.trace
        execution.tensorboard
    """,
}
OTHERS = "other fields"


def group_of(field: str) -> str:
    """Return the group of a field, by its dotted name."""
    for group, names in GROUPS.items():
        if any(field == name or (name.endswith(".") and field.startswith(name)) for name in names.split()):
            return group
    return OTHERS


def grouped(fields: Container[str]) -> dict[str, list[Leaf]]:
    """Sort fields into their groups, in the order of groups and of declaration."""
    found: dict[str, list[Leaf]] = {group: [] for group in (*GROUPS, OTHERS)}
    for name, leaf in settable().items():
        if name in fields:
            found[group_of(name)].append(leaf)
    return {group: some for group, some in found.items() if some}


def choices(leaf: Leaf) -> tuple[str, ...]:
    """List the words that a field may be; none where it is not a word."""
    # An empty word is not seen in a list: the field's description says what it stands for.
    return tuple(choice for choice in leaf.choices if choice) or (("true", "false") if leaf.annotation is bool else ())


def meaning(leaf: Leaf) -> str:
    """Say in a line what a field means, what it may be, and what it is by default."""
    may_be = choices(leaf)
    of = f"one of {', '.join(may_be)}; " if may_be and leaf.annotation is not bool else ""
    default: Any = reduce(getattr, leaf.path, Config())
    return f"{leaf.description} [{of}default: {_spelled(default)}]".lstrip()


def _spelled(value: Any) -> str:
    """Spell a value as a command line has it."""
    if isinstance(value, bool):
        return str(value).lower()
    if value is None or value in ((), {}):
        return "none"
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    if isinstance(value, float):
        return f"{value:g}"
    return str(value) or "empty"

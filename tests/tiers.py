"""The files of `make test-quick`: pure logic on plain data and small tensors, without Ray and other processes."""

from __future__ import annotations

from pathlib import Path

HERE = Path(__file__).resolve().parent

_NAMES = """
    data/test_gzipped data/test_idx data/test_images data/test_npz data/test_sampler data/test_source
    data/test_splits data/test_text docs/test_fenced learn/test_augmentation learn/test_class_head
    learn/test_consent learn/test_feeder learn/test_goodness learn/test_head learn/test_hybrids learn/test_kinds
    learn/test_labels learn/test_layer learn/test_model_results learn/test_named_programs learn/test_negatives
    learn/test_normalization learn/test_rates learn/test_steps learn/test_trials learn/test_updates
    learn/test_user_objective learn/test_workspace pipeline/test_chapters pipeline/test_inbox pipeline/test_packet
    pipeline/test_partition pipeline/test_recovery pipeline/test_routes pipeline/test_schedule
    pipeline/test_simulate pipeline/test_spool telemetry/test_metrics telemetry/test_spans test_checkpoint
    test_config test_covering test_given_data test_memory test_mutations test_plain_english test_recipes
    test_results_table test_store test_tensorfile test_tiers test_units
"""
QUICK = frozenset(HERE / f"{name}.py" for name in _NAMES.split())
# Words that such a file may not have in it.
SLOW = ("cluster", "import ray", "subprocess", "warm")

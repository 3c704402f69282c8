"""The mistakes that mutations.py plants: a line of the core each, and the tests that should find it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutation:
    """A mistake. old stands once in `file`; new takes its place. tests: fast ones that should fail then."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


STORIES = "tests/pipeline/test_interleavings.py"
SCHEDULE, ROUTES, RATES = (
    "tests/pipeline/test_schedule.py",
    "tests/pipeline/test_routes.py",
    "tests/learn/test_rates.py",
)
LAYER, STEPS, GOODNESS, NEGATIVES = (
    "tests/learn/test_layer.py",
    "tests/learn/test_steps.py",
    "tests/learn/test_goodness.py",
    "tests/learn/test_negatives.py",
)
RECOVERY, CHECKPOINT, FILES = "tests/pipeline/test_recovery.py", "tests/test_checkpoint.py", "tests/test_tensorfile.py"
WORKER, PARTITION, INBOX, REPLICAS = (
    "tests/pipeline/test_worker.py",
    "tests/pipeline/test_partition.py",
    "tests/pipeline/test_inbox.py",
    "tests/pipeline/test_replicated_workers.py",
)


def _of(file: str, *tests: str, **mistakes: tuple[str, str]) -> list[Mutation]:
    """Return the mistakes of a module of ffpipe, by name: what stands there, and what shall."""
    return [
        Mutation(name.replace("_", " "), f"ffpipe/{file}", old, new, tests) for name, (old, new) in mistakes.items()
    ]


MUTATIONS = [
    *_of(
        "pipeline/schedule.py",
        SCHEDULE,
        a_chunk_over_a_marker=("count = min(self.chunk, stop - step)", "count = min(self.chunk, self.steps - step)"),
        no_snapshot_at_the_end=("return step == self.steps or bool(", "return bool("),
        evaluations_made_twice=(" and split not in made else 0", " else 0"),
        the_last_batch_of_an_evaluation_left_out=("last=first + count == size", "last=first + count > size"),
        a_snapshot_between_rows_and_pairs=("if due and between and saved", "if due and saved"),
    ),
    *_of(
        "pipeline/routes.py",
        ROUTES,
        x_sent_twice=("block == self.groups[stage].start - 1", "block == self.groups[stage].start"),
        kept_outputs_to_the_last_stage_alone=(
            "{self.stage_of(user) for user in self.used.get(name, ())}",
            "[last]",
        ),
        a_stage_that_is_no_sender=("for s in range(receiver) if", "for s in range(1, receiver) if"),
    ),
    *_of(
        "learn/rows.py",
        REPLICAS,
        rows_that_begin_anywhere=("return rows.clone() if rows.data_ptr() % LINE else rows", "return rows"),
    ),
    *_of(
        "pipeline/inbox.py",
        INBOX,
        an_incomplete_message=("== len(self._senders)", ">= 1"),
        a_message_that_came_twice=(" or sender in arrived:", ":"),
        messages_out_of_turn=("self._parts.pop(self._next - 1)", "self._parts.pop(max(self._parts))"),
    ),
    *_of(
        "pipeline/worker_setup.py",
        STORIES,
        predictions_forgotten=(
            "feed.take_predictions(predictions_in(_reader(setup)(checkpoint.HEAD)))",
            "feed.take_predictions({})",
        ),
    ),
    *_of(
        "pipeline/feed.py",
        REPLICAS,
        rows_of_the_first_replica=("[:, :, own.start : own.stop]", "[:, :, : len(own)]"),
    ),
    *_of(
        "pipeline/delivery.py",
        REPLICAS,
        predictions_kept_from_other_replicas=("for step, made in predictions.items()}", "for step, made in ()}"),
    ),
    *_of(
        "pipeline/publisher.py",
        STORIES,
        a_result_overwritten_before_it_is_sent=("PUBLISH_AHEAD + 2", "PUBLISH_AHEAD + 1"),
    ),
    *_of(
        "pipeline/partition.py",
        PARTITION,
        a_cut_that_is_not_the_best=("worst = max(best[k], own)", "worst = own"),
    ),
    *_of(
        "pipeline/window.py",
        STORIES,
        no_window=("not self._flying or self._load + weight <= self.window", "True"),
    ),
    *_of(
        "pipeline/passage.py",
        STORIES,
        a_kept_output_overwritten_before_it_is_sent=(
            "self._made[name] = tensor.clone(memory_format=torch.contiguous_format)",
            "self._made[name] = tensor",
        ),
        a_read_out_of_negative_rows=(
            "return rows[:, rows.shape[1] - count :] if self._neutral_last else rows[:, :count]",
            "return rows[:, rows.shape[1] - count :]",
        ),
        kept_outputs_in_another_order=(
            "for name in block.use]",
            "for name in sorted(block.use)]",
        ),
    ),
    *_of(
        "pipeline/saver.py",
        STORIES,
        a_snapshot_of_a_later_moment=('tensor.detach().to("cpu", copy=True)', "tensor.detach()"),
    ),
    *_of(
        "learn/contrast.py",
        GOODNESS,
        LAYER,
        a_threshold_of_the_wrong_sign=("above = (negative - self.threshold)", "above = (negative + self.threshold)"),
        a_loss_without_temperature=("slope = self.weight / self.temperature", "slope = self.weight"),
        pairs_taken_the_other_way=("found = [(negative > positive).sum()]", "found = [(negative < positive).sum()]"),
    ),
    *_of(
        "learn/dense.py",
        LAYER,
        STEPS,
        peer_normalisation_of_all_rows=("mean(activity[:positive], 0)", "mean(activity, 0)"),
        dropout_that_is_not_made_up_for=(".div_(1.0 - dropout)", ""),
        weights_that_ignore_the_seed=('generator(seed, "weights", index)', 'generator(0, "weights", index)'),
    ),
    *_of(
        "learn/updates.py",
        LAYER,
        STEPS,
        decay_that_ignores_the_schedule=(
            "self.weight.mul_(1.0 - rate * self.settings.weight_decay).add_(self.weight_average, alpha=-rate)\n\n"
            "    def apply",
            "self.weight.mul_(1.0 - self.settings.weight_decay).add_(self.weight_average, alpha=-rate)\n\n"
            "    def apply",
        ),
    ),
    *_of(
        "learn/class_head.py",
        "tests/learn/test_class_head.py",
        channel_groups_that_are_interleaved=("unflatten(1, (self.classes, -1))", "unflatten(1, (-1, self.classes)).mT"),
        similarities_of_rows_that_are_not_centred=("centred = rows - rows.mean(1, keepdim=True)", "centred = rows"),
        a_similarity_that_ignores_the_batch=("self.similarity * len(h) * between", "self.similarity * between"),
    ),
    *_of(
        "learn/kinds.py",
        "tests/learn/test_kinds.py",
        attention_to_later_positions=("is_causal=True", "is_causal=False"),
        fields_with_the_weights_of_another_place=("fields.permute(2, 0, 1)", "fields.permute(2, 0, 1).flip(0)"),
    ),
    *_of(
        "learn/local.py",
        "tests/test_memory_of_training.py",
        parts_of_a_minibatch_that_weigh_as_much_as_all=(
            "mean = learned.loss / layout.batch",
            "mean = learned.loss / size",
        ),
    ),
    *_of(
        "learn/augmentation.py",
        "tests/learn/test_augmentation.py",
        an_edge_that_is_mirrored_with_its_pixel=(
            "return last - (last - place.abs()).abs()",
            "return place.clamp(0, last)",
        ),
        holes_beside_their_centres=("centre - self.cutout // 2", "centre"),
    ),
    *_of(
        "data/sampler.py",
        "tests/data/test_sampler.py",
        one_order_for_all_epochs=("self._purpose, epoch)", "self._purpose, 0)"),
    ),
    *_of(
        "learn/rates.py",
        RATES,
        blocks_that_learn_in_all_epochs=("if not self.first <= epoch < last:", "if epoch >= last:"),
    ),
    *_of(
        "learn/negatives.py",
        NEGATIVES,
        negatives_that_are_right=(
            "integers(1, classes, size=len(labels))",
            "integers(0, classes, size=len(labels))",
        ),
    ),
    *_of(
        "learn/optim.py",
        "tests/learn/test_optimizers.py",
        state_as_a_file_has_it=("if parameter.dim() > 1 and kept.shape == parameter.shape:", "if False:"),
    ),
    *_of(
        "learn/batchnorm.py",
        REPLICAS,
        gradients_that_meet_in_another_order=("if not joined:", "if False:"),
    ),
    *_of(
        "pipeline/reducer.py",
        REPLICAS,
        sums_as_a_message_has_them=("each if each.stride() == own.stride() else", "each if True else"),
    ),
    *_of(
        "pipeline/stage.py",
        "tests/pipeline/test_order_of_dimensions.py",
        an_order_that_torch_cannot_tell=(" and min(shape[2], shape[3] * shape[4]) > 1", ""),
    ),
    *_of(
        "runs/recovery.py",
        RECOVERY,
        no_giving_up=("if self._failures > self._attempts:", "if False:"),
        progress_that_forgives_nothing=("= snapshot, 0, 0", "= snapshot, self._failures, self._errors"),
    ),
    *_of(
        "runs/log.py",
        STORIES,
        rows_kept_that_were_not_saved=("past.rows = [row for row in past.rows if row.step <= step]", "pass"),
    ),
    *_of(
        "runs/folder.py",
        STORIES,
        snapshots_without_their_past=('return store.folder == self.path.absolute() / "checkpoints"', "return False"),
    ),
    *_of(
        "storage/checkpoint.py",
        CHECKPOINT,
        damage_that_is_not_seen=("if hashlib.sha256(found).hexdigest() != entry.sha256:", "if False:"),
        old_snapshots_kept=("kept = whole_snapshots(store)[-keep:]", "kept = whole_snapshots(store)"),
        snapshots_without_a_manifest=('if store.exists(f"{folder}/{MANIFEST}")]', "]"),
        a_digest_that_ignores_names=(
            'f"{name} {dtype} {tuple(tensor.shape)}\\n"',
            'f"{dtype} {tuple(tensor.shape)}\\n"',
        ),
    ),
    *_of(
        "storage/store.py",
        "tests/test_store.py",
        files_larger_than_was_asked_for=(" and info.size <= most", ""),
        folders_behind_links=(" if not (self.is_local and os.path.islink(i.path))", ""),
    ),
    *_of(
        "storage/tensorfile.py",
        FILES,
        tensors_out_of_order=("key=lambda name: (-state[name].dtype.itemsize, name)", "key=lambda name: name"),
    ),
]

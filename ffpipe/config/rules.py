"""The rules between the fields of a config that need no data and no cluster."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from ffpipe.config.schema import (
    LABEL_NAME,
    LARGEST_FLOAT,
    LARGEST_INTEGER,
    LEAST_OBJECT_STORE,
    SELECTOR,
    Config,
    Execution,
    Optimizer,
    Training,
    of_stage,
)
from ffpipe.system.errors import UserError, nearest
from ffpipe.system.files import scheme_of
from ffpipe.system.units import parse_size

# Optimisers of our own (learn/optim.py), and the class of torch.optim whose options each takes.
OWN_FORMS = {"KerasAdam": "Adam"}
# The kind of block that is Forward-Forward's layer in closed form (learn/dense.py).
FF_DENSE = "ff-dense"


def check(config: Config) -> None:
    """The rules between fields that need no data and no cluster. Raises UserError."""
    training, execution = config.training, config.execution
    layers = training.depth
    if 0 in training.dims[1:]:
        raise UserError("training.dims has a layer of width 0: only the first number, of features, may be 0")
    _check_values(dataclasses.asdict(config))
    readouts = (
        ("head_from", training.head_from, training.head and training.method != "backprop"),
        ("goodness_from", training.goodness_from, training.reads_goodness or training.readout == "sum"),
    )
    for name, start, used in readouts:
        if layers is not None and used and start >= layers:
            raise UserError(
                f"training.{name} is {start}, but training.{'blocks' if training.blocks else 'dims'} gives {layers} "
                f"layer(s), counted from 0: give 0 to {layers - 1}"
            )
    for name, optimizer in (("optimizer", training.optimizer), ("head_optimizer", training.head_optimizer)):
        check_optimizer(f"training.{name}", optimizer)
    _check_rule(training)
    _check_shards(training, execution)
    if taken := {"CPU", "GPU", "memory", "object_store_memory"} & set(execution.resources):
        raise UserError(f"execution.resources names {min(taken)!r}, which is no custom resource of Ray: leave it out")
    _check_size("memory_budget", execution.memory_budget)
    for name in ("spool", "run_dir", "data_dir"):
        if scheme_of(given := getattr(execution, name)):
            raise UserError(f"execution.{name} is {given!r}, but it is on this host: give the path of a folder")
    stages = execution.stages or execution.listed
    # Backpropagation is of one stage, whatever the recipe has for its blocks.
    if layers is not None and stages > layers and training.method != "backprop":
        raise UserError(f"execution.stages is {stages}, but there are {layers} layers: give 1 to {layers}")
    _check_places(execution)
    if training.lookahead is not None:
        _check_lag(training.lookahead, execution)
    layerwise = execution.engine == "layerwise" or execution.memory_budget  # which may choose it
    for name, most in (("window", execution.window), ("chapter", execution.chapter if layerwise else 0)):
        if most and execution.chunk > most:
            raise UserError(
                f"execution.chunk is {execution.chunk}, more than execution.{name} {most}: "
                f"give a chunk of at most {most}"
            )
    if 0 < execution.object_store_bytes < LEAST_OBJECT_STORE:
        raise UserError(
            f"execution.object_store_bytes is {execution.object_store_bytes}, but Ray's least object store has "
            f"{LEAST_OBJECT_STORE}: give that or more, or 0 for Ray's choice"
        )
    if execution.evaluate_every and not (training.data.validation or execution.evaluate_train):
        raise UserError(
            "execution.evaluate_every needs a validation split: set training.data.validation, or evaluate_every 0"
        )


def _check_shards(training: Training, execution: Execution) -> None:
    """What minibatches, shards and replicas ask of each other."""
    shards = training.shards
    if shards & (shards - 1):
        raise UserError(f"training.shards is {shards}: give a power of 2, as {1 << shards.bit_length() - 1}")
    if training.batch_size % shards:
        raise UserError(
            f"training.shards is {shards}, which does not divide training.batch_size {training.batch_size}: give "
            f"{math.gcd(shards, training.batch_size)}, or another batch size"
        )
    if shards > 1 and training.accumulation > 1:
        raise UserError(
            "training.shards and training.accumulation both cut minibatches: give one of them, and 1 for the other"
        )
    for stage in range(execution.listed or 1):
        replicas = of_stage(execution.replicas, stage)
        if shards % replicas:
            raise UserError(
                f"execution.replicas is {replicas}, which does not divide training.shards {shards}: give "
                f"{math.gcd(replicas, shards)}, or --training.shards {1 << (replicas - 1).bit_length()}"
            )


def _check_places(execution: Execution) -> None:
    """What is given for each stage: as much of everything, and all of it such as can be asked for."""
    named = ("replicas", "device", "cpus", "gpus", "memory")
    fields: dict[str, Any] = {name: getattr(execution, name) for name in named}
    fields |= {f"resources.{name}": each for name, each in execution.resources.items()}
    fields |= {f"labels.{name}": each for name, each in execution.labels.items()}
    stages = execution.stages or execution.listed
    for name, each in fields.items():
        if isinstance(each, tuple) and len(each) != stages:
            raise UserError(
                f"execution.{name} has values for {len(each)} stage(s), but there are {stages}: give one for each, or "
                "one for all"
            )
    if isinstance(execution.device, tuple) and execution.engine != "ray":
        raise UserError(
            f"execution.device names {len(execution.device)} devices, but engine {execution.engine!r} is one process: "
            "give one device, or --engine ray"
        )
    for index in range(execution.listed or 1):
        device, gpus = of_stage(execution.device, index), of_stage(execution.gpus, index)
        if device == "cpu" and gpus:
            raise UserError(f"execution.gpus is {gpus:g} with execution.device 'cpu': give --device cuda")
        if gpus > 1 and gpus != int(gpus):
            raise UserError(f"execution.gpus is {gpus:g}: give a share of one GPU, or a whole number of them")
        _check_size("memory", of_stage(execution.memory, index))
        for name, value in execution.labels.items():
            if not LABEL_NAME.fullmatch(name):
                raise UserError(
                    f"execution.labels has {name!r}, which is no name of a label: give letters, digits, - _ ."
                )
            selector = of_stage(value, index)
            if selector and not SELECTOR.fullmatch(selector):
                raise UserError(
                    f"execution.labels has {selector!r} for {name!r}: give a label's value, !VALUE, in(A,B) or !in(A,B)"
                )


def _check_size(name: str, text: str) -> None:
    if text:
        try:
            parse_size(text)
        except ValueError as error:
            raise UserError(f"execution.{name} is {error}") from None


def check_text(value: Any, name: str = "") -> None:
    """Hold every word of a tree, and every name of a field, against what text can be a path. Raises UserError."""
    match value:
        case Mapping():
            for key, inner in value.items():
                check_text(key, name)
                check_text(inner, f"{name}.{key}" if name else str(key))
        case list() | tuple():
            for index, inner in enumerate(value):
                check_text(inner, f"{name}[{index}]")
        # Bytes of a command line that are not UTF-8 come as what cannot be encoded.
        case str() if "\0" in value or value != value.encode("utf-8", "replace").decode():
            raise UserError(f"{name} is {value!r}, which has a character that no name can have: give another")


def _check_values(value: Any, name: str = "") -> None:
    """Hold every field against what numbers can be counted with."""
    match value:
        case Mapping():
            for key, inner in value.items():
                _check_values(inner, f"{name}.{key}" if name else str(key))
        case list() | tuple():
            for index, inner in enumerate(value):
                _check_values(inner, f"{name}[{index}]")
        case int() if abs(value) > LARGEST_INTEGER:
            raise UserError(f"{name} is beyond {LARGEST_INTEGER}: give a smaller number")
        case float() if not abs(value) <= LARGEST_FLOAT:
            raise UserError(f"{name} is {value}: give a finite number, at most {LARGEST_FLOAT:.3g}")


def _check_rule(training: Training) -> None:
    """What labels, negatives and objective ask of each other."""
    negatives = training.negatives
    if training.readout == "softmax" and not (training.labelled and training.head):
        raise UserError(
            "training.readout 'softmax' leaves goodness out, which takes negatives with labels in their rows and a "
            "head that is read in its place: set training.readout last"
        )
    if training.schedule == "steps" and not training.milestones:
        raise UserError("training.schedule 'steps' needs training.milestones: name the epochs after which rates fall")
    if training.batch_size % training.accumulation:
        raise UserError(
            f"training.accumulation is {training.accumulation}, which does not divide training.batch_size "
            f"{training.batch_size}: give one that does"
        )
    if training.accumulation > 1 and training.contrasts:
        raise UserError(
            "training.accumulation cuts minibatches of examples, not of pairs: set training.negatives none, or 1"
        )
    if training.data.order == "file" and training.data.split_seed != -1:
        raise UserError(
            "training.data.order is 'file', but training.data.split_seed shuffles the examples before they are split: "
            "set it to -1"
        )
    if training.data.source == "text" and training.inputs != "tokens":
        raise UserError("training.data.source 'text' has rows of ids: set training.inputs tokens")
    if negatives == "none" or training.method == "backprop":
        return
    if training.inputs == "tokens":
        raise UserError("training.inputs 'tokens' have no label to be wrong: set training.negatives none")
    if training.lookahead is not None and not training.head:
        raise UserError(f"training.negatives {negatives!r} come from the head's predictions: set training.head true")
    if training.takes_others != bool(training.data.positive_classes):
        raise UserError(
            f"training.negatives is {negatives!r} and training.data.positive_classes {training.data.positive_classes}: "
            "'others' takes its images from the classes beyond the positive ones, so give both or neither"
        )
    if training.labelled and negatives == "hybrid":
        raise UserError(
            "training.negatives 'hybrid' mixes two images, so there is no one label: set training.labels none"
        )
    if not training.labelled and negatives != "hybrid" and not training.takes_others:
        raise UserError(
            f"training.negatives {negatives!r} are wrong labels, but training.labels is 'none': "
            "set training.negatives hybrid, or training.labels overlay"
        )
    if training.labelled and training.test_labels != "none":
        raise UserError(
            f"training.test_labels are for rows that carry none, but training.labels is {training.labels!r}: set one "
            "of them to none"
        )
    if not training.labelled and not training.head:
        raise UserError("training.labels 'none' leaves only the head to tell classes apart: set training.head true")
    if training.phases != "together" and training.objective == "symba":
        raise UserError("training.objective 'symba' compares each pair: set training.phases together")
    if training.in_turns:
        _check_turns(training)


def _check_turns(training: Training) -> None:
    """What steps of one role ask of negatives and blocks."""
    if training.lookahead is not None:
        raise UserError(
            f"training.phases 'by-epoch' has no pairs, for which training.negatives {training.negatives!r} are made of "
            "predictions: set training.negatives random or fixed"
        )
    if training.shards > 1:
        raise UserError(f"training.shards is {training.shards}, but training.phases 'by-epoch' takes 1")
    others = [block.kind for block in training.blocks if block.kind != FF_DENSE]
    if training.model or others:
        raise UserError(
            f"training.phases 'by-epoch' is for dense Forward-Forward layers, but the network has "
            f"{training.model or others[0]!r}: give training.dims, or blocks of kind {FF_DENSE}"
        )


def _check_lag(lag: int, execution: Execution) -> None:
    longest = max(lag, 1)
    for name, value in (("chunk", execution.chunk), ("window", execution.window), ("chapter", execution.chapter)):
        if value > longest:
            raise UserError(
                f"execution.{name} is {value}, but negatives with training.negative_lag {lag} allow at most "
                f"{longest}: give a smaller {name} or a larger lag"
            )


def torch_optimizers() -> list[str]:
    """What `kind` of an optimiser may be beside "averaging"."""
    import torch  # a second, which `ffpipe --help` does not need

    # These need a closure, sparse gradients, or (Muon) refuse the biases.
    unsupported = {torch.optim.Optimizer, torch.optim.LBFGS, torch.optim.SparseAdam, getattr(torch.optim, "Muon", None)}
    return sorted(
        n
        for n, c in vars(torch.optim).items()
        if isinstance(c, type) and issubclass(c, torch.optim.Optimizer) and c not in unsupported
    )


def check_optimizer(name: str, optimizer: Optimizer) -> None:
    """Hold an optimiser against torch. name: what messages call it. Raises UserError."""
    if optimizer.kind == "averaging":
        if optimizer.options:
            instead = f"give --{name}.options and nothing after it" if name.startswith("training.") else "give none"
            raise UserError(f"{name}.options are for torch.optim classes, 'averaging' takes none: {instead}")
        return
    for option, field in (("lr", "learning_rate"), ("weight_decay", "weight_decay")):
        if option in optimizer.options:
            raise UserError(f"{name}.options has {option!r}: give it as {name}.{field}")
    import torch

    classes = torch_optimizers()
    if optimizer.kind not in (*classes, *OWN_FORMS):
        known = ["averaging", *OWN_FORMS, *classes]
        raise UserError(f"{name}.kind is {optimizer.kind!r}; {nearest(optimizer.kind, known)}")
    cls = getattr(torch.optim, OWN_FORMS.get(optimizer.kind, optimizer.kind))
    weight = torch.nn.Parameter(torch.zeros(2, 2))
    weight.grad = torch.zeros(2, 2)
    decay = {"weight_decay": optimizer.weight_decay} if optimizer.weight_decay else {}  # some know none
    try:
        cls([weight], lr=optimizer.learning_rate, **decay, **optimizer.options).step()
    except Exception as error:  # torch's optimisers have as many ways to refuse an option as there are of them
        raise UserError(f"{name} does not fit torch.optim.{optimizer.kind}: {error}") from None

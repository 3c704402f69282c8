"""What a run is: `training` says what is computed, `execution` says how.

Nothing under `execution` changes one bit of the final weights on the same kind of device. Both halves
are plain frozen dataclasses: a recipe is a function that returns a `Config`, a run folder keeps one as
`config.toml`, and the command line overrides fields by their dotted names. Types and ranges stand in
the annotations, rules between fields in `check`.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import tomllib
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import tomli_w
import torch
from msgspec import Meta

from ffpipe.errors import UserError, nearest
from ffpipe.files import read_whole
from ffpipe.memory import parse_size

# A config may come from a stranger. These bounds are far beyond what can be trained, and within what can be counted,
# allocated for and named.
LARGEST_FILE = 256 << 10
LARGEST_INTEGER = 2**53
LARGEST_FLOAT = torch.finfo(torch.float32).max
MOST_UNITS = 1 << 24  # of a layer, features of an image, classes
MOST_LAYERS = 1000  # files of layers are numbered with three digits
MOST_LAG = 1 << 16  # a snapshot keeps a prediction for each
MOST_SECONDS = 1_000_000
# Our keys have four parts. The time that tomllib takes for one grows with the square of their number.
_PART = r"""(?:[\w-]++|"(?:\\.|[^"\\\n])*+"|'[^'\n]*+')[ \t]*+"""
_DEEP_KEY = re.compile(rf"(?:^|[\[{{,])[ \t]*+(?:{_PART}\.[ \t]*+){{8}}", re.MULTILINE)

# Ray starts with no less.
LEAST_OBJECT_STORE = 75 << 20


@dataclass(frozen=True, kw_only=True)
class Data:
    """Where the examples come from and how they are split."""

    source: Annotated[
        Literal["digits", "mnist", "idx", "npz", "parquet"],
        Meta(
            description="digits and mnist are known sets; idx, npz and parquet read the files named in train and test"
        ),
    ] = "digits"
    train: Annotated[
        tuple[str, ...],
        Meta(description="training files: idx takes IMAGES LABELS, npz one file, parquet one file or more"),
    ] = ()
    test: Annotated[
        tuple[str, ...], Meta(description="test files, in the form of train; none: test_count examples are set aside")
    ] = ()
    image_column: Annotated[str, Meta(description="parquet: column of the images; empty: the only image column")] = ""
    label_column: Annotated[str, Meta(description="parquet: column of the labels")] = "label"
    classes: Annotated[
        int,
        Meta(
            ge=0,
            le=MOST_UNITS,
            description="number of classes; 0: that of the known set, else the largest training label + 1",
        ),
    ] = 0
    validation: Annotated[int, Meta(ge=0, description="examples set aside from the training set for validation")] = 0
    test_count: Annotated[int, Meta(ge=0, description="examples set aside for the test where the set has none")] = 0
    split_seed: Annotated[
        int, Meta(ge=-1, description="shuffles the training set before it is split; -1: the order of the file")
    ] = 0
    train_limit: Annotated[int, Meta(ge=0, description="use only the first N training examples; 0: all")] = 0
    positive_classes: Annotated[
        int,
        Meta(ge=0, description="the first N classes alone are to be told apart, the rest are negatives; 0: all"),
    ] = 0


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """How a gradient becomes an update. One instance a layer."""

    kind: Annotated[
        str, Meta(description="'averaging' (Hinton's exponential averaging) or the name of a torch.optim class")
    ] = "averaging"
    learning_rate: Annotated[float, Meta(gt=0)] = 0.01
    averaging: Annotated[
        float, Meta(ge=0, lt=1, description="share of the old average kept at each step (kind 'averaging')")
    ] = 0.9
    weight_decay: Annotated[float, Meta(ge=0, description="of the weights, not of the biases")] = 0.0
    options: Annotated[
        dict[str, float | bool], Meta(description="further keyword arguments of the torch.optim class, as NAME=VALUE")
    ] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Training:
    """What is computed. Every field may change the weights."""

    dims: Annotated[
        tuple[Annotated[int, Meta(ge=1, le=MOST_UNITS)], ...],
        Meta(
            min_length=2,
            max_length=MOST_LAYERS + 1,
            description="input features (labels appended not counted), then the width of each layer",
        ),
    ] = (64, 500, 500)
    epochs: Annotated[int, Meta(ge=1)] = 10
    batch_size: Annotated[int, Meta(ge=1, description="examples in a minibatch")] = 100
    seed: Annotated[int, Meta(ge=0)] = 1
    precision: Annotated[
        Literal["float32", "bfloat16", "float64"],
        Meta(description="of weights and products; bfloat16: products and streams, with weights and sums in float32"),
    ] = "float32"
    labels: Annotated[
        Literal["overlay", "append", "none"],
        Meta(description="labels replace the first features, or follow the last one, or stay out: the image alone"),
    ] = "overlay"
    label_strength: Annotated[float, Meta(gt=0, description="value of a label's feature")] = 1.0
    normalization: Annotated[
        Literal["rms", "l2"], Meta(description="rows are divided by their root mean square or by their L2 norm")
    ] = "rms"
    goodness: Annotated[Literal["sum", "mean"], Meta(description="of the squared activities of a layer")] = "sum"
    objective: Annotated[
        Literal["hinton", "softplus", "symba"],
        Meta(
            description="hinton: half the logistic loss of (goodness - threshold); softplus: the whole of it; "
            "symba: that of (positive goodness - negative goodness)"
        ),
    ] = "hinton"
    threshold: Annotated[
        float | None, Meta(description="of the goodness; none given: the layer's width for sum, 1 for mean")
    ] = None
    temperature: Annotated[
        float, Meta(gt=0, description="divides what the objective takes the logistic loss of; symba: 1 / alpha")
    ] = 1.0
    initialization: Annotated[
        Literal["normal", "glorot"],
        Meta(description="of the weights: normal deviates over sqrt(fan-in), or uniform as Glorot and Bengio have it"),
    ] = "normal"
    dropout: Annotated[float, Meta(ge=0, lt=1, description="share of a layer's activities dropped in training")] = 0.0
    local_steps: Annotated[int, Meta(ge=1, description="updates that a layer makes on each minibatch")] = 1
    phases: Annotated[
        Literal["together", "apart"],
        Meta(description="one update for positive and negative rows together, or first one for the positive"),
    ] = "together"
    hand_on: Annotated[
        Literal["before", "after"], Meta(description="activities go on from before a layer's update or from after it")
    ] = "before"
    peer: Annotated[float, Meta(ge=0, description="strength of peer normalisation; 0: off")] = 0.03
    peer_averaging: Annotated[float, Meta(ge=0, lt=1, description="share of the old mean activity kept")] = 0.9
    optimizer: Annotated[Optimizer, Meta(description="of the layers")] = field(default_factory=Optimizer)
    schedule: Annotated[
        Literal["constant", "hinton"],
        Meta(description="hinton: learning rates constant for half the epochs, then linearly towards zero"),
    ] = "hinton"
    negatives: Annotated[
        Literal["random", "fixed", "shuffled", "hard", "adaptive", "hybrid", "others"],
        Meta(
            description="wrong labels: drawn each time (random) or once (fixed), the minibatch's own in another "
            "order (shuffled), drawn from the head's predictions (hard), what it believes in most (adaptive); or other "
            "images: two mixed under a mask (hybrid), classes beyond data.positive_classes (others)"
        ),
    ] = "hard"
    negative_lag: Annotated[
        int,
        Meta(
            ge=0,
            le=MOST_LAG,
            description="minibatches between a prediction and the negatives it makes; 0: Hinton's lock step",
        ),
    ] = 48
    jitter: Annotated[
        int, Meta(ge=0, description="pixels by which training images are shifted at most, anew at each step")
    ] = 0
    head: Annotated[bool, Meta(description="train the softmax head")] = True
    head_from: Annotated[int, Meta(ge=0, description="first layer that the head sees; 1 leaves the first out")] = 1
    head_optimizer: Annotated[Optimizer, Meta(description="of the head")] = field(
        default_factory=lambda: Optimizer(learning_rate=0.1, weight_decay=0.003)
    )
    goodness_from: Annotated[
        int, Meta(ge=0, description="first layer whose goodness counts in classification; 1 leaves the first out")
    ] = 1
    data: Data = field(default_factory=Data)

    @property
    def labelled(self) -> bool:
        """Whether rows carry a label, so that goodness can be read under each."""
        return self.labels != "none"

    @property
    def roles(self) -> int:
        """Streams of a minibatch: positive, negative and, for the head of rows with labels, neutral ones."""
        return 3 if self.head and self.labelled else 2

    @property
    def updates(self) -> int:
        """That a layer makes in a step."""
        return self.local_steps * (2 if self.phases == "apart" else 1)

    @property
    def lookahead(self) -> int | None:
        """How many minibatches ahead the head must predict; None where negatives do not ask it."""
        return self.negative_lag if self.negatives in ("hard", "adaptive") else None

    @property
    def head_layers(self) -> range:
        """Layers that the head sees."""
        return range(self.head_from, len(self.dims) - 1) if self.head else range(0)


@dataclass(frozen=True, kw_only=True)
class Execution:
    """How it is computed. No field changes the weights."""

    engine: Annotated[
        Literal["ray", "local", "layerwise"],
        Meta(
            description="ray: one actor a stage; local: one process, the reference; layerwise: one process, one stage "
            "in memory at a time"
        ),
    ] = "ray"
    stages: Annotated[int, Meta(ge=0, description="0: as many as layers and CPUs allow")] = 0
    chunk: Annotated[int, Meta(ge=0, description="minibatches in one message; 0: chosen")] = 0
    window: Annotated[int, Meta(ge=0, description="minibatches in flight at most; 0: chosen")] = 0
    window_bytes: Annotated[
        int, Meta(ge=1 << 20, description="bytes in flight at most, for a window that is chosen")
    ] = 512 << 20
    chapter: Annotated[
        int, Meta(ge=0, description="engine layerwise: minibatches that a stage works before the next one; 0: chosen")
    ] = 0
    spool: Annotated[
        str, Meta(description="engine layerwise: folder for activations and parked stages; empty: the run folder")
    ] = ""
    spool_compression: Annotated[
        Literal["none", "lz4", "zstd"], Meta(description="engine layerwise: of activations on disk; loses nothing")
    ] = "none"
    memory_budget: Annotated[
        str,
        Meta(
            description="of each stage, as 2GiB or 800MB, on the host or on its GPU; engine, stages, chunk and window "
            "are chosen to fit; empty: none",
        ),
    ] = ""
    device: Annotated[Literal["cpu", "cuda"], Meta(description="of every stage")] = "cpu"
    cpus: Annotated[float, Meta(ge=0, description="CPUs of each stage; 0: one, or a share where there are fewer")] = 0.0
    gpus: Annotated[float, Meta(ge=0, description="GPUs of each stage; 0: one where device is cuda")] = 0.0
    resources: Annotated[
        dict[str, Annotated[float, Meta(ge=0)]], Meta(description="custom Ray resources of each stage, as NAME=AMOUNT")
    ] = field(default_factory=dict)
    start_timeout: Annotated[
        float, Meta(gt=0, le=MOST_SECONDS, description="seconds to wait for the stages to be placed")
    ] = 30.0
    evaluate_every: Annotated[
        int, Meta(ge=0, description="epochs between evaluations on the validation split; 0: none")
    ] = 0
    log_steps: Annotated[
        int, Meta(ge=0, description="steps between rows of metrics.parquet; 0: an epoch, at most 100")
    ] = 0
    object_store_bytes: Annotated[
        int, Meta(ge=0, description="of Ray's object store, where ffpipe starts Ray itself; 0: Ray's choice")
    ] = 0
    trace: Annotated[bool, Meta(description="write trace.json, a Chrome trace of what every stage did when")] = False
    snapshot_steps: Annotated[int, Meta(ge=0, description="steps between snapshots; 0: only at the end")] = 0
    snapshot_seconds: Annotated[float, Meta(ge=0, description="seconds between snapshots, beside those; 0: none")] = 0.0
    checkpoints: Annotated[
        str, Meta(description="where snapshots go, a path or a URI such as s3://bucket/run; empty: the run folder")
    ] = ""
    stage_timeout: Annotated[
        float, Meta(gt=0, le=MOST_SECONDS, description="seconds after which a silent stage is taken for lost")
    ] = 60.0
    attempts: Annotated[
        int, Meta(ge=0, le=100, description="recoveries in a row from the same step before giving up")
    ] = 3
    back_off: Annotated[
        float, Meta(ge=0, le=3600, description="seconds to wait before a recovery, doubled each time in a row")
    ] = 1.0
    keep_snapshots: Annotated[int, Meta(ge=1, description="newest snapshots kept")] = 2
    run_dir: Annotated[str, Meta(description="folder of the run, made new; empty: runs/RECIPE-TIMESTAMP")] = ""
    data_dir: Annotated[str, Meta(description="folder with local copies of the data; empty: $FFPIPE_DATA")] = ""


@dataclass(frozen=True, kw_only=True)
class Config:
    """All that is needed to run again."""

    recipe: Annotated[
        str, Meta(pattern=r"^[A-Za-z0-9][\w.-]{0,63}\Z", description="name of the recipe that it started from")
    ] = "custom"
    training: Training = field(default_factory=Training)
    execution: Execution = field(default_factory=Execution)

    def to_toml(self) -> str:
        return tomli_w.dumps(_without_none(dataclasses.asdict(self)))

    @staticmethod
    def from_toml(text: str, *, where: str) -> Config:
        """Read and check a config. Raises UserError naming `where`, the field and what it may be."""
        if _DEEP_KEY.search(text):
            raise UserError(f"{where} is no config: it has a key of more than 8 parts")
        try:
            tree = tomllib.loads(text)
        # Beside its own errors: arrays in arrays without end, integers of thousands of digits, impossible dates.
        except (ValueError, RecursionError, OverflowError) as error:
            raise UserError(f"{where} is no valid TOML: {error}") from None
        return from_tree(tree, where=where)

    @staticmethod
    def read(path: Path) -> Config:
        try:
            text = read_whole(path, LARGEST_FILE).decode("utf-8")
        except (FileNotFoundError, UnicodeDecodeError) as error:
            raise UserError(f"cannot read {path}: {error}") from None
        return Config.from_toml(text, where=str(path))


@dataclass(frozen=True)
class Leaf:
    """One settable field: its dotted path, annotation and meaning."""

    path: tuple[str, ...]
    annotation: Any
    description: str

    @property
    def name(self) -> str:
        return ".".join(self.path)

    @property
    def is_sequence(self) -> bool:
        return typing.get_origin(self.annotation) is tuple

    @property
    def is_mapping(self) -> bool:
        return typing.get_origin(self.annotation) is dict


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    """Annotations by field; evaluating them takes a millisecond."""
    return typing.get_type_hints(cls, include_extras=True)


def leaves(cls: type = Config, prefix: tuple[str, ...] = ()) -> list[Leaf]:
    """Every settable field below `cls`, in order of declaration."""
    found = []
    for name, hint in _hints(cls).items():
        annotation, description = hint, ""
        if typing.get_origin(hint) is Annotated:
            annotation, *metas = typing.get_args(hint)
            description = next((m.description for m in metas if isinstance(m, Meta) and m.description), "")
        if dataclasses.is_dataclass(annotation):
            found += leaves(typing.cast(type, annotation), (*prefix, name))
        else:
            found.append(Leaf((*prefix, name), annotation, description))
    return found


def from_tree(tree: Mapping[str, Any], *, where: str, strict: bool = True) -> Config:
    """A checked Config from nested mappings. With strict=False strings are converted ("50" to 50).

    Raises UserError: an unknown field (with the nearest right one), a wrong type, a value out of range.
    """
    _refuse_unknown(tree, Config, where)
    try:
        config = msgspec.convert(tree, Config, strict=strict)
    except msgspec.ValidationError as error:
        raise UserError(f"{where}: {_plain(error)}") from None
    try:
        check(config)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    return config


def override(config: Config, values: Mapping[str, Any], *, where: str = "options") -> Config:
    """`config` with fields replaced by dotted name; values may be strings. Raises UserError as `from_tree`."""
    tree = _without_none(dataclasses.asdict(config))
    names = {leaf.name for leaf in leaves()}
    for name, value in values.items():
        if name not in names:
            raise UserError(f"{where}: unknown field {name!r}; {nearest(name, sorted(names))}")
        *folders, last = name.split(".")
        branch = tree
        for folder in folders:
            branch = branch[folder]
        branch[last] = value
    return from_tree(tree, where=where, strict=False)


def checked(config: Config, *, where: str = "config") -> Config:
    """A config that was put together in Python, held against types, ranges and rules. Raises UserError."""
    return from_tree(_without_none(dataclasses.asdict(config)), where=where)


def check(config: Config) -> None:
    """The rules between fields that need no data and no cluster. Raises UserError."""
    training, execution = config.training, config.execution
    layers = len(training.dims) - 1
    _check_values(dataclasses.asdict(config))
    for name, start in (("head_from", training.head_from), ("goodness_from", training.goodness_from)):
        if start >= layers:
            raise UserError(
                f"training.{name} is {start}, but training.dims gives {layers} layer(s), counted from 0: "
                f"give 0 to {layers - 1}"
            )
    for name, optimizer in (("optimizer", training.optimizer), ("head_optimizer", training.head_optimizer)):
        _check_optimizer(f"training.{name}", optimizer)
    _check_rule(training)
    if taken := {"CPU", "GPU", "memory", "object_store_memory"} & set(execution.resources):
        raise UserError(f"execution.resources names {min(taken)!r}, which is no custom resource of Ray: leave it out")
    if execution.memory_budget:
        try:
            parse_size(execution.memory_budget)
        except ValueError as error:
            raise UserError(f"execution.memory_budget is {error}") from None
    if execution.stages > layers:
        raise UserError(f"execution.stages is {execution.stages}, but there are {layers} layers: give 1 to {layers}")
    if training.lookahead is not None:
        _check_lag(training.lookahead, execution)
    if execution.window and execution.chunk > execution.window:
        raise UserError(
            f"execution.chunk is {execution.chunk}, more than execution.window {execution.window}: "
            f"give a chunk of at most {execution.window}"
        )
    if 0 < execution.object_store_bytes < LEAST_OBJECT_STORE:
        raise UserError(
            f"execution.object_store_bytes is {execution.object_store_bytes}, but Ray's least object store has "
            f"{LEAST_OBJECT_STORE}: give that or more, or 0 for Ray's choice"
        )
    if execution.device == "cpu" and execution.gpus:
        raise UserError(f"execution.gpus is {execution.gpus} with execution.device 'cpu': give --device cuda")
    if execution.evaluate_every and not training.data.validation:
        raise UserError("execution.evaluate_every needs a validation split: set training.data.validation")


def _check_values(value: Any, name: str = "") -> None:
    """What holds for every field: numbers that can be counted with and text that can be a path."""
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
        case str() if "\0" in value:
            raise UserError(f"{name} holds the character NUL: leave it out")


def _check_rule(training: Training) -> None:
    """What labels, negatives and objective ask of each other."""
    negatives = training.negatives
    if training.lookahead is not None and not training.head:
        raise UserError(f"training.negatives {negatives!r} come from the head's predictions: set training.head true")
    if (negatives == "others") != bool(training.data.positive_classes):
        raise UserError(
            f"training.negatives is {negatives!r} and training.data.positive_classes {training.data.positive_classes}: "
            "'others' takes its images from the classes beyond the positive ones, so give both or neither"
        )
    if training.labelled and negatives == "hybrid":
        raise UserError(
            "training.negatives 'hybrid' mixes two images, so there is no one label: set training.labels none"
        )
    if not training.labelled and negatives not in ("hybrid", "others"):
        raise UserError(
            f"training.negatives {negatives!r} are wrong labels, but training.labels is 'none': "
            "set training.negatives hybrid, or training.labels overlay"
        )
    if not training.labelled and not training.head:
        raise UserError("training.labels 'none' leaves only the head to tell classes apart: set training.head true")
    if training.phases == "apart" and training.objective == "symba":
        raise UserError("training.objective 'symba' compares each pair: set training.phases together")


def _check_lag(lag: int, execution: Execution) -> None:
    longest = max(lag, 1)
    for name, value in (("chunk", execution.chunk), ("window", execution.window), ("chapter", execution.chapter)):
        if value > longest:
            raise UserError(
                f"execution.{name} is {value}, but negatives with training.negative_lag {lag} allow at most "
                f"{longest}: give a smaller {name} or a larger lag"
            )


def _check_optimizer(name: str, optimizer: Optimizer) -> None:
    if optimizer.kind == "averaging":
        if optimizer.options:
            raise UserError(f"{name}.options are for torch.optim classes; 'averaging' takes none")
        return
    classes = sorted(
        n
        for n, c in vars(torch.optim).items()
        if isinstance(c, type) and issubclass(c, torch.optim.Optimizer) and c not in _UNSUPPORTED_OPTIMIZERS
    )
    if optimizer.kind not in classes:
        raise UserError(f"{name}.kind is {optimizer.kind!r}; {nearest(optimizer.kind, ['averaging', *classes])}")
    cls = getattr(torch.optim, optimizer.kind)
    weight = torch.nn.Parameter(torch.zeros(2, 2))
    weight.grad = torch.zeros(2, 2)
    try:
        cls(
            [weight], **{"lr": optimizer.learning_rate, "weight_decay": optimizer.weight_decay, **optimizer.options}
        ).step()
    except Exception as error:  # torch's optimisers have as many ways to refuse an option as there are of them
        raise UserError(f"{name} does not fit torch.optim.{optimizer.kind}: {error}") from None


# These need a closure, sparse gradients, or (Muon) refuse the biases.
_UNSUPPORTED_OPTIMIZERS = {
    torch.optim.Optimizer,
    torch.optim.LBFGS,
    torch.optim.SparseAdam,
    getattr(torch.optim, "Muon", torch.optim.LBFGS),
}


def _refuse_unknown(tree: Mapping[str, Any], cls: type, where: str, prefix: str = "") -> None:
    hints = _hints(cls)
    for name, value in tree.items():
        if name not in hints:
            raise UserError(f"{where}: unknown field {prefix + str(name)!r}; {nearest(str(name), hints)}")
        if dataclasses.is_dataclass(hints[name]) and isinstance(value, Mapping):
            _refuse_unknown(value, typing.cast(type, hints[name]), where, f"{prefix}{name}.")


def _without_none(tree: dict[str, Any]) -> dict[str, Any]:
    """TOML has no null: a field that is None is left out and comes back as its default, None."""
    return {k: _without_none(v) if isinstance(v, dict) else v for k, v in tree.items() if v is not None}


def _plain(error: msgspec.ValidationError) -> str:
    """msgspec's "Expected `int` >= 1 - at `$.training.epochs`" as "training.epochs: expected int >= 1"."""
    text, _, path = str(error).replace("`", "").partition(" - at ")
    text = text[:1].lower() + text[1:]
    place = path.removeprefix("$.")
    choices = next((typing.get_args(leaf.annotation) for leaf in leaves() if leaf.name == place), ())
    if text.startswith("invalid enum value"):
        text += f"; give {' or '.join(repr(choice) for choice in choices)}"
    return f"{place}: {text}" if place else text

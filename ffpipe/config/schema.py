"""What a run is: `training` says what is computed, `execution` says how.

Nothing under `execution` changes one bit of the final weights on the same kind of device. Both halves
are plain frozen dataclasses: a recipe is a function that returns a `Config`, a run folder keeps one as
`config.toml`, and the command line overrides fields by their dotted names. Types and ranges stand in
the annotations, rules between fields in rules.py; what comes
from outside is read in fields.py.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Annotated, Literal, TypeVar

from msgspec import Meta

# Bounds far beyond what can be trained, and within what can be counted, allocated for and named, since a config may
# come from a stranger.
LARGEST_INTEGER = 2**53
LARGEST_FLOAT = (2.0 - 2.0**-23) * 2.0**127
MOST_UNITS = 1 << 24  # of a layer, features of an image, classes
MOST_LAYERS = 1000  # files of layers are numbered with three digits
MOST_SHARDS = 1 << 10
MOST_LAG = 1 << 16  # a snapshot keeps a prediction for each
MOST_SECONDS = 1_000_000

# Ray starts with no less.
LEAST_OBJECT_STORE = 75 << 20

_LABEL = r"[A-Za-z0-9](?:[\w.-]{0,61}[A-Za-z0-9])?"
SELECTOR = re.compile(rf"!?{_LABEL}|!?in\({_LABEL}(?:, ?{_LABEL})*\)", re.ASCII)
# A label's name may have a prefix of host names before a slash.
LABEL_NAME = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*/)?{_LABEL}", re.ASCII)

T = TypeVar("T")

Device = Literal["cpu", "cuda"]
Amount = Annotated[float, Meta(ge=0)]
Count = Annotated[int, Meta(ge=1, le=MOST_SHARDS)]


@dataclass(frozen=True, kw_only=True)
class Data:
    """Where the examples come from and how they are split."""

    source: Annotated[
        Literal[
            "digits",
            "mnist",
            "fashion-mnist",
            "cifar10",
            "folder",
            "csv",
            "npz",
            "npy",
            "parquet",
            "arrow",
            "idx",
            "text",
        ],
        Meta(
            description="digits, mnist, fashion-mnist and cifar10 are known sets; the others read what is named in "
            "train and test: folder has a folder of pictures for each class, arrow is of Hugging Face's datasets, "
            "text reads one file, or tiny shakespeare where none is named"
        ),
    ] = "digits"
    train: Annotated[
        tuple[str, ...],
        Meta(
            description="training files: idx, npy and npz take IMAGES LABELS (npz one archive, too); csv, parquet and "
            "arrow files, folders of them or patterns in quotes; folder one folder"
        ),
    ] = ()
    test: Annotated[
        tuple[str, ...], Meta(description="test files, in the form of train; none: test_count examples are set aside")
    ] = ()
    image_column: Annotated[
        str,
        Meta(
            description="parquet, arrow, csv: column of the images; empty: the only image column, or a column a pixel"
        ),
    ] = ""
    label_column: Annotated[str, Meta(description="parquet, arrow, csv: column of the labels")] = "label"
    arrays: Annotated[
        tuple[str, ...],
        Meta(description="npz: arrays of images and labels, of training and then of test; none: by usual names"),
    ] = ()
    shape: Annotated[
        tuple[Annotated[int, Meta(ge=1, le=MOST_UNITS)], ...],
        Meta(description="shape of one image, height width [channels]; none: as the data have it"),
    ] = ()
    mode: Annotated[
        Literal["", "L", "RGB", "RGBA"], Meta(description="pictures: colours to read; empty: what all have in common")
    ] = ""
    size: Annotated[
        tuple[Annotated[int, Meta(ge=1, le=4096)], ...],
        Meta(max_length=2, description="pictures: height and width to resize to, or one for both; none: as they are"),
    ] = ()
    scale: Annotated[
        float,
        Meta(ge=0, description="what numbers of images are divided by; 0: 255 where they are bytes, else 1"),
    ] = 0.0
    symbols: Annotated[
        Literal["characters", "bytes"], Meta(description="text: what an id stands for; characters are 256 at most")
    ] = "characters"
    length: Annotated[
        int, Meta(ge=1, le=MOST_UNITS, description="text: symbols of a sequence, of which each predicts the next")
    ] = 64
    classes: Annotated[
        int,
        Meta(
            ge=0,
            le=MOST_UNITS,
            description="number of classes; 0: that of the known set, else what the training labels are",
        ),
    ] = 0
    validation: Annotated[
        int, Meta(ge=-1, description="examples set aside from the training set for validation; -1: a tenth of it")
    ] = 0
    test_count: Annotated[
        int,
        Meta(ge=-1, description="examples set aside for the test where the set has none; -1: a tenth of it"),
    ] = 0
    split_seed: Annotated[
        int, Meta(ge=-1, description="shuffles the training set before it is split; -1: the order of the file")
    ] = 0
    order: Annotated[
        Literal["shuffled", "file"],
        Meta(description="of the training examples in an epoch: drawn anew for each, or that of the file in all"),
    ] = "shuffled"
    train_limit: Annotated[int, Meta(ge=0, description="use only the first N training examples; 0: all")] = 0
    positive_classes: Annotated[
        int,
        Meta(ge=0, description="the first N classes alone are to be told apart, the rest are negatives; 0: all"),
    ] = 0


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """How a gradient becomes an update. One instance a layer."""

    kind: Annotated[
        str,
        Meta(
            description="'averaging' (Hinton's exponential averaging), the name of a torch.optim class, or KerasAdam, "
            "which adds epsilon before the bias is corrected"
        ),
    ] = "averaging"
    learning_rate: Annotated[float, Meta(gt=0, description="before the factors of the schedule")] = 0.01
    averaging: Annotated[
        float, Meta(ge=0, lt=1, description="share of the old average kept at each step (kind 'averaging')")
    ] = 0.9
    weight_decay: Annotated[float, Meta(ge=0, description="of the weights, not of the biases")] = 0.0
    options: Annotated[
        dict[str, float | bool | tuple[float, ...]],
        Meta(description="further keyword arguments of the torch.optim class, as NAME=VALUE or betas=0.9,0.99"),
    ] = field(default_factory=dict)


# Keyword arguments of a function, as a config can hold them.
Options = dict[str, bool | int | float | str]


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """How training images are changed, anew at each step."""

    crop: Annotated[
        int, Meta(ge=0, description="pixels put around an image before a piece of its own size is cut out; 0: off")
    ] = 0
    padding: Annotated[Literal["zero", "reflect"], Meta(description="what crop puts around an image")] = "zero"
    flip: Annotated[bool, Meta(description="flip every second image, drawn by chance, from left to right")] = False
    cutout: Annotated[int, Meta(ge=0, description="side of a square hole at a random place; 0: off")] = 0


@dataclass(frozen=True, kw_only=True)
class BlockConfig:
    """One block of a network: a kind that ffpipe ships, its local objective and its optimiser."""

    kind: Annotated[str, Meta(description="name of a kind of block (ffpipe/learn/kinds.py)")]
    options: Annotated[Options, Meta(description="keyword arguments of the kind")] = field(default_factory=dict)
    objective: Annotated[
        Literal["", "goodness", "class-head"],
        Meta(description="empty: goodness where there are negatives, else class-head"),
    ] = ""
    objective_options: Annotated[Options, Meta(description="keyword arguments of the objective")] = field(
        default_factory=dict
    )
    optimizer: Annotated[Optimizer | None, Meta(description="none: training.optimizer")] = None
    schedule: Annotated[
        Literal["", "constant", "hinton", "cosine", "onecycle", "steps"], Meta(description="empty: training.schedule")
    ] = ""
    first_epoch: Annotated[int, Meta(ge=0, description="epochs before which the block only passes rows on")] = 0
    last_epoch: Annotated[int, Meta(ge=0, description="epoch after which it only passes rows on; 0: the end")] = 0
    keep: Annotated[str, Meta(description="name under which later blocks find the output of this one")] = ""
    use: Annotated[
        tuple[str, ...], Meta(description="names of kept outputs that the block gets as further arguments")
    ] = ()
    hand_on: Annotated[
        Literal["", "before", "after"], Meta(description="as training.hand_on, which it is where empty")
    ] = ""


@dataclass(frozen=True, kw_only=True)
class Training:
    """What is computed. Every field may change the weights."""

    method: Annotated[
        Literal["forward-forward", "backprop"],
        Meta(description="backprop: the same blocks as one, trained end to end by the last one's class head"),
    ] = "forward-forward"
    dims: Annotated[
        tuple[Annotated[int, Meta(ge=0, le=MOST_UNITS)], ...],
        Meta(
            min_length=2,
            max_length=MOST_LAYERS + 1,
            description="input features (labels appended not counted; 0: those that the data have), then the width of "
            "each dense layer",
        ),
    ] = (64, 500, 500)
    blocks: Annotated[
        tuple[BlockConfig, ...],
        Meta(max_length=MOST_LAYERS, description="tables [[training.blocks]]: the network, in the place of dims"),
    ] = ()
    model: Annotated[
        str,
        Meta(
            description="package.module:function or file.py:function that returns the network as a list of blocks, in "
            "the place of blocks and dims"
        ),
    ] = ""
    model_options: Annotated[Options, Meta(description="keyword arguments of that function, as NAME=VALUE")] = field(
        default_factory=dict
    )
    inputs: Annotated[
        Literal["images", "tokens"],
        Meta(description="tokens: examples are rows of integers, of which each is to predict the next"),
    ] = "images"
    threads: Annotated[
        int, Meta(ge=1, le=1024, description="CPU threads of blocks whose bits may depend on their number")
    ] = 1
    epochs: Annotated[int, Meta(ge=1, description="passes over the training examples")] = 10
    batch_size: Annotated[int, Meta(ge=1, description="examples in a minibatch")] = 100
    shards: Annotated[
        int,
        Meta(
            ge=1,
            le=MOST_SHARDS,
            description="fixed parts of every minibatch, a power of 2, whose gradients are added up along one tree; "
            "execution.replicas divides them among processes",
        ),
    ] = 1
    seed: Annotated[int, Meta(ge=0, description="of all that is drawn by chance")] = 1
    precision: Annotated[
        Literal["float32", "bfloat16", "float64"],
        Meta(description="of weights and products; bfloat16: products and streams, with weights and sums in float32"),
    ] = "float32"
    labels: Annotated[
        Literal["overlay", "append", "planes", "none"],
        Meta(
            description="labels replace the first features, or follow the last one, or are further channels (planes), "
            "or stay out: the image alone"
        ),
    ] = "overlay"
    label_strength: Annotated[float, Meta(gt=0, description="value of a label's feature")] = 1.0
    normalization: Annotated[
        Literal["rms", "l2"], Meta(description="rows are divided by their root mean square or by their L2 norm")
    ] = "rms"
    normalization_epsilon: Annotated[
        float, Meta(gt=0, description="added to that, so that a row of zeros stays one")
    ] = 1e-20
    normalize_inputs: Annotated[
        bool, Meta(description="divide the rows before the first layer too, or only those between layers")
    ] = True
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
        Literal["together", "apart", "by-epoch"],
        Meta(
            description="one update for positive and negative rows together, or first one for the positive (apart); "
            "by-epoch: a step has rows of one role, all positive minibatches of an epoch come first, and the head "
            "learns from these"
        ),
    ] = "together"
    hand_on: Annotated[
        Literal["before", "after"], Meta(description="activities go on from before a layer's update or from after it")
    ] = "before"
    pair_errors: Annotated[
        Literal["goodness", "logistic"],
        Meta(
            description="an error of a pair is a negative row with the higher goodness, or with the higher probability "
            "of being positive, which float32 has alike where both are near 1"
        ),
    ] = "goodness"
    peer: Annotated[float, Meta(ge=0, description="strength of peer normalisation; 0: off")] = 0.03
    peer_averaging: Annotated[float, Meta(ge=0, lt=1, description="share of the old mean activity kept")] = 0.9
    optimizer: Annotated[Optimizer, Meta(description="of the layers")] = field(default_factory=Optimizer)
    schedule: Annotated[
        Literal["constant", "hinton", "ff-py", "cosine", "onecycle", "steps"],
        Meta(
            description="hinton: learning rates constant for half the epochs, then linearly towards zero; ff-py: the "
            "same with epochs counted from 0; cosine: half a period of it; onecycle: linearly up for a quarter of the "
            "steps, then down to zero; steps: times decay after each of the milestones"
        ),
    ] = "hinton"
    milestones: Annotated[
        tuple[Annotated[int, Meta(ge=1)], ...], Meta(description="schedule steps: numbers of epochs that are done")
    ] = ()
    decay: Annotated[float, Meta(gt=0, le=1, description="schedule steps: what rates are multiplied by")] = 0.1
    negatives: Annotated[
        Literal["random", "fixed", "shuffled", "hard", "adaptive", "hybrid", "others", "others-fixed", "none"],
        Meta(
            description="wrong labels: drawn each time (random) or once (fixed), the minibatch's own in another "
            "order (shuffled), drawn from the head's predictions (hard), what it believes in most (adaptive); or other "
            "images: two mixed under a mask (hybrid), classes beyond data.positive_classes under labels drawn each "
            "time (others) or once (others-fixed); none: no negatives"
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
    augmentation: Augmentation = field(default_factory=Augmentation)
    standardize: Annotated[
        bool, Meta(description="subtract a mean and divide by a deviation for each channel of an image")
    ] = False
    mean: Annotated[
        tuple[float, ...], Meta(description="the mean of each channel; none: that of the training split")
    ] = ()
    deviation: Annotated[
        tuple[float, ...], Meta(description="the deviation of each channel; none: that of the training split")
    ] = ()
    memory_format: Annotated[
        Literal["contiguous", "channels-last"], Meta(description="how blocks that are trained by autograd keep images")
    ] = "contiguous"
    checkpointing: Annotated[
        bool, Meta(description="method backprop: keep the activations of no block, and make them again")
    ] = False
    accumulation: Annotated[
        int,
        Meta(
            ge=1,
            description="blocks without negatives that are trained by autograd: parts of a minibatch, worked one after "
            "the other, whose gradients are summed for one update; batch normalisation is over a part",
        ),
    ] = 1
    readout: Annotated[
        Literal["last", "sum", "softmax"],
        Meta(
            description="negatives none: the answer is that of the last block, or of the sum over blocks; otherwise "
            "softmax: tests leave goodness out, which takes a forward pass for each class"
        ),
    ] = "last"
    head: Annotated[bool, Meta(description="train a linear softmax head on the outputs of blocks")] = True
    head_from: Annotated[int, Meta(ge=0, description="first layer that the head sees; 1 leaves the first out")] = 1
    head_bias: Annotated[bool, Meta(description="the head has a bias for each class")] = False
    head_initialization: Annotated[
        Literal["zeros", "glorot"],
        Meta(description="of the head's weights; glorot: as those of one layer on all that it sees"),
    ] = "zeros"
    head_optimizer: Annotated[Optimizer, Meta(description="of the head")] = field(
        default_factory=lambda: Optimizer(learning_rate=0.1, weight_decay=0.003)
    )
    goodness_from: Annotated[
        int,
        Meta(ge=0, description="first block whose goodness or logits count in their sum; 1 leaves the first out"),
    ] = 1
    test_labels: Annotated[
        Literal["none", "overlay"],
        Meta(description="labels none: tests read goodness all the same, with each label over the image (overlay)"),
    ] = "none"
    data: Data = field(default_factory=Data)

    @property
    def contrasts(self) -> bool:
        """Whether blocks learn from positive against negative rows, or else from the examples alone."""
        return self.negatives != "none" and self.method != "backprop"

    @property
    def labelled(self) -> bool:
        """Whether rows carry a label, so that goodness can be read under each."""
        return self.contrasts and self.labels != "none"

    @property
    def reads_goodness(self) -> bool:
        """Whether tests read goodness under each label, which takes as many passes as there are classes."""
        labelled = self.labelled or (self.contrasts and self.test_labels != "none")
        return labelled and self.readout != "softmax"

    @property
    def read_labels(self) -> str:
        """How tests put labels into rows."""
        return self.labels if self.labels != "none" else self.test_labels

    @property
    def takes_others(self) -> bool:
        """Whether the negatives are images of further classes."""
        return self.negatives in ("others", "others-fixed")

    @property
    def in_turns(self) -> bool:
        """Whether a step has rows of one role alone."""
        return self.contrasts and self.phases == "by-epoch"

    @property
    def updates(self) -> int:
        """That a layer makes in a step."""
        return self.local_steps * (2 if self.phases == "apart" else 1)

    @property
    def lookahead(self) -> int | None:
        """How many minibatches ahead the head must predict; None where negatives do not ask it."""
        return self.negative_lag if self.contrasts and self.negatives in ("hard", "adaptive") else None

    @property
    def depth(self) -> int | None:
        """Number of blocks; None where only the model's function knows."""
        if self.method == "backprop":
            return 1
        if self.model:
            return None
        return len(self.blocks) or len(self.dims) - 1


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
    replicas: Annotated[
        Count | tuple[Count, ...],
        Meta(
            description="engine ray: processes that divide training.shards of each stage among them, one number or one "
            "a stage; the other engines compute all shards in one"
        ),
    ] = 1
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
            description="of each stage, as 2GiB or 800MB, on the host or on its GPU; chunk, more stages and the engine "
            "are chosen to fit, and the window for them; empty: none",
        ),
    ] = ""
    keep_freed: Annotated[
        bool,
        Meta(
            description="blocks trained by autograd: a stage keeps the memory that a step frees, for the next one; "
            "faster, but its peak is larger, grows with the number of blocks and is foretold roughly"
        ),
    ] = False
    device: Annotated[
        Device | tuple[Device, ...], Meta(description="of every stage; engine ray: or one for each, as: cuda cuda cpu")
    ] = "cpu"
    placement: Annotated[
        Literal["pack", "spread", "one-host-each"],
        Meta(description="engine ray: stages on few hosts, over as many as there are, or no two on one"),
    ] = "pack"
    cpus: Annotated[
        Amount | tuple[Amount, ...],
        Meta(description="CPUs of each stage, one number or one a stage; 0: one, or a share where there are fewer"),
    ] = 0.0
    gpus: Annotated[
        Amount | tuple[Amount, ...],
        Meta(description="GPUs of each stage, one number or one a stage; 0: one where its device is cuda"),
    ] = 0.0
    memory: Annotated[
        str | tuple[str, ...],
        Meta(
            description="memory that each stage asks of its host, as 4GiB, one size or one a stage; Ray only counts "
            "it; empty: none"
        ),
    ] = ""
    resources: Annotated[
        dict[str, Amount | tuple[Amount, ...]],
        Meta(description="custom Ray resources of each stage, as NAME=AMOUNT, or NAME=0,1,1 with one a stage"),
    ] = field(default_factory=dict)
    labels: Annotated[
        dict[str, str | tuple[str, ...]],
        Meta(
            description="labels that the host of each stage must have, as NAME=VALUE, !VALUE or in(A,B); or "
            "NAME=A,B,A with one a stage"
        ),
    ] = field(default_factory=dict)
    data_from: Annotated[
        Literal["host", "driver"],
        Meta(
            description="host: the host of the first stage finds the data at the same path, its own copy or a shared "
            "one; driver: they are sent to it"
        ),
    ] = "host"
    start_timeout: Annotated[
        float, Meta(gt=0, le=MOST_SECONDS, description="seconds to wait for the stages to be placed")
    ] = 30.0
    evaluate_every: Annotated[
        int, Meta(ge=0, description="epochs between evaluations on the validation split; 0: none")
    ] = 0
    evaluate_train: Annotated[
        int, Meta(ge=0, description="training examples, the first, that are tested with each of these too; 0: none")
    ] = 0
    log_steps: Annotated[
        int,
        Meta(ge=0, description="steps between rows of metrics.parquet; 0: an epoch, at most 100; long runs: more"),
    ] = 0
    object_store_bytes: Annotated[
        int, Meta(ge=0, description="of Ray's object store, where ffpipe starts Ray itself; 0: Ray's choice")
    ] = 0
    trace: Annotated[bool, Meta(description="write trace.json, a Chrome trace of what every stage did when")] = False
    tensorboard: Annotated[
        bool, Meta(description="write event files for TensorBoard into the folder tensorboard of the run")
    ] = False
    snapshot_steps: Annotated[
        int, Meta(ge=0, description="steps between snapshots, beside those by seconds and that at the end; 0: none")
    ] = 0
    snapshot_seconds: Annotated[
        float, Meta(ge=0, description="seconds between snapshots, beside those by steps and that at the end; 0: none")
    ] = 600.0
    checkpoints: Annotated[
        str, Meta(description="where snapshots go, a path or a URI (s3://, gs://, hdfs://); empty: the run folder")
    ] = ""
    stage_timeout: Annotated[
        float,
        Meta(
            gt=0,
            le=MOST_SECONDS,
            description="seconds after which a silent stage is taken for lost, or a message if all wait for one",
        ),
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

    @property
    def first_device(self) -> Device:
        """Of the first stage, and of all where they are alike."""
        return self.device if isinstance(self.device, str) else self.device[0]

    @property
    def listed(self) -> int:
        """How many stages the fields with one value a stage speak of; 0 where there is no such field."""
        fields = (
            self.replicas,
            self.device,
            self.cpus,
            self.gpus,
            self.memory,
            *self.resources.values(),
            *self.labels.values(),
        )
        return max((len(each) for each in fields if isinstance(each, tuple)), default=0)


@dataclass(frozen=True, kw_only=True)
class Config:
    """All that is needed to run again."""

    recipe: Annotated[
        str, Meta(pattern=r"^[A-Za-z0-9][\w.-]{0,63}\Z", description="name of the recipe that it started from")
    ] = "custom"
    training: Training = field(default_factory=Training)
    execution: Execution = field(default_factory=Execution)


def of_stage(value: T | tuple[T, ...], index: int) -> T:
    """The value of one stage: its own, or that of all."""
    return value[index] if isinstance(value, tuple) else value

"""Named runs. Each is a function that returns a config, which gets the function's name; its docstring says where it
comes from and what to expect.

Comments give what was measured; LOG.md is scripts/results/LOG.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ffpipe.config import five_digits, local_recipes
from ffpipe.config.schema import BlockConfig, Config, Data, Execution, Optimizer, Training
from ffpipe.system.errors import UserError, nearest


def digits() -> Config:
    """UCI handwritten digits, shipped with the package: 64-500-500-500, two stages, hard negatives.

    1,400 training, 97 validation and 300 test images of 8 x 8. Expected: at least 97 % right by goodness
    and by softmax (three nearest neighbours give 98.9 %), in well under a minute on two cores.
    """
    return Config(
        training=Training(
            dims=(64, 500, 500, 500),
            epochs=60,
            batch_size=50,
            labels="append",
            optimizer=Optimizer(learning_rate=0.01, weight_decay=0.001),
            negative_lag=24,
            data=Data(source="digits", validation=97, test_count=300),
        ),
        execution=Execution(stages=2, evaluate_every=5),
    )


def digits_cnn() -> Config:
    """The digits by three convolutional blocks with class heads, no negatives: a start for a network of one's own.

    Expected: at least 97 % right, in well under a minute on two cores.
    """
    training = replace(
        digits().training,
        blocks=tuple(
            BlockConfig(kind="conv", options={"channels": channels, "pool": pool})
            for channels, pool in ((16, 1), (32, 2), (32, 1))
        ),
        epochs=6,
        labels="none",
        negatives="none",
        head=False,
        goodness_from=0,
        optimizer=Optimizer(kind="Adam", learning_rate=0.003),
        schedule="onecycle",
    )
    return Config(training=training, execution=Execution(stages=2, evaluate_every=2))


def mnist() -> Config:
    """MNIST with hard negatives: 784-1000-1000-1000, batch 100, the constants of Hinton's program (ffnew.m).

    Expected: at most 2.2 % test error by goodness after 10 epochs.
    """
    return Config(
        training=Training(
            dims=(784, 1000, 1000, 1000),
            epochs=10,
            batch_size=100,
            optimizer=Optimizer(learning_rate=0.01, weight_decay=0.001),
            data=Data(source="mnist", split_seed=-1),
        ),
    )


def hinton() -> Config:
    """Hinton's own program and its NumPy and JAX ports: 784-1000-1000-1000, 50,000 examples, 125 epochs.

    The constants of ffnew.m and ff-py, a weight decay between theirs (.001, .002), a fresh shuffle in each epoch; hard
    negatives come 16 minibatches after the prediction. Products in bfloat16. Published test errors by goodness /
    softmax: 1.44 / 1.47 % (MATLAB); 1.33 / 1.38 % (NumPy) and 1.30 / 1.45 % (JAX) by versions whose peer normalisation
    did nothing (`ff-py`). Expected: 1.38 / 1.39 %, the mean of three seeds (the worst: 1.41 / 1.51 %).
    """
    return Config(
        training=replace(
            mnist().training,
            epochs=125,
            precision="bfloat16",
            optimizer=Optimizer(learning_rate=0.01, weight_decay=0.0015),
            # Validation errors by goodness of 1.40 to 1.55 %; at a lag of 48 they were 1.46 to 1.62 % (LOG.md).
            negative_lag=16,
            data=Data(source="mnist", split_seed=-1, validation=10_000),
        ),
        execution=Execution(stages=3, evaluate_every=2, snapshot_steps=2_500),
    )


def hinton_exact() -> Config:
    """The same in lock step: each minibatch's negatives come from the head's prediction for it, as in Hinton's program.

    Every layer waits for the head, so two stages take turns. The learning rate, .015, is what the validation split
    prefers. Products in bfloat16. Expected: 1.35 / 1.45 % by goodness / softmax, the mean of three seeds.
    """
    config = hinton()
    optimizer = replace(config.training.optimizer, learning_rate=0.015)
    training = replace(config.training, negative_lag=0, optimizer=optimizer)
    return replace(config, training=training, execution=replace(config.execution, stages=2))


def ff_py() -> Config:
    """Hinton's program as its NumPy and JAX ports had it when their figures were published: no peer normalisation (the
    running means of the units were one number, so that it did nothing), the examples in the order of the file in every
    epoch, epochs of the schedule counted from 0, pair errors by logistic probabilities too, float32, lock step.

    Rate .01, weight decay .002. Published: 1.33 / 1.38 % test error by goodness / softmax (NumPy), 1.30 / 1.45 (JAX).
    Expected: 1.30 / 1.37 %, the mean of three seeds (1.30 / 1.44, 1.39 / 1.39, 1.22 / 1.29), in 45 minutes on one
    core.
    """
    config = hinton()
    training = replace(
        config.training,
        negative_lag=0,
        peer=0.0,
        precision="float32",
        schedule="ff-py",
        pair_errors="logistic",
        optimizer=replace(config.training.optimizer, learning_rate=0.01, weight_decay=0.002),
        data=replace(config.training.data, order="file"),
    )
    return replace(config, training=training, execution=replace(config.execution, stages=2))


def paper_supervised() -> Config:
    """Section 3.3 of the paper (arXiv 2212.13345): four layers of 2000, labels in the image, 60 epochs.

    Published: 1.36 % test error by goodness, all 60,000 examples. Products in bfloat16. Expected: no more.
    """
    return Config(
        # Constants that the paper does not give are those of Hinton's program.
        training=replace(mnist().training, dims=(784, 2000, 2000, 2000, 2000), epochs=60, precision="bfloat16"),
        # More stages gain nothing on two cores, whose memory is what limits layers of 2000 (LOG.md).
        execution=Execution(stages=2, snapshot_steps=3_000),
    )


def paper_unsupervised() -> Config:
    """Section 3.2 of the paper: four layers of 2000 without labels, negatives mixed from two digits, 100 epochs.

    The softmax head sees the normalised activities of the last three layers. Published: 1.37 % test error.
    Products in bfloat16. Expected: 1.38 %.
    """
    config = paper_supervised()
    # Other rates, decays and numbers of blurs differ by no more than 10,000 validation images can show (LOG.md).
    return replace(config, training=replace(config.training, epochs=100, labels="none", negatives="hybrid"))


def augmented() -> Config:
    """Jittered images (section 3.3 of the paper) with dropout as in the Rust port: 784-1000-1000-1000, 200 epochs.

    Published: 0.64 % (4 x 2000, 500 epochs, two pixels) and 0.69-0.71 % (the Rust port, 3 x 1000, one pixel, dropout).
    Products in bfloat16. Expected: 0.66 % by softmax, 0.78 % by goodness.
    """
    return Config(
        training=replace(
            mnist().training,
            epochs=200,
            precision="bfloat16",
            # One pixel does not vary the images enough: .76 and .77 % by softmax, in two full runs (LOG.md).
            jitter=2,
            # With .15 the head fitted too little: after 40 epochs 1.29 / 1.18 % for 1.15 / 1.05 % (LOG.md).
            dropout=0.05,
            optimizer=Optimizer(learning_rate=0.01, weight_decay=0.002),
        ),
        # On two cores 5,341 examples/s; two stages, of which the second has half as much to do, make 4,482 (LOG.md).
        execution=Execution(stages=3, snapshot_steps=3_000),
    )


def keras() -> Config:
    """The network of the Keras example, 784-500-500 with labels over the image, read by goodness, trained better.

    Hinton's objective, hard negatives and minibatches of 100. Published (the example to the letter): 2.44 %.
    Products in bfloat16. Expected: 1.52 %, the mean of three seeds (the worst: 1.59 %), in four to seven minutes on two
    cores.
    """
    return Config(
        # The example counts the goodness of both layers.
        training=replace(
            mnist().training, dims=(784, 500, 500), epochs=120, precision="bfloat16", head_from=0, goodness_from=0
        ),
        execution=Execution(stages=2, snapshot_steps=6_000),
    )


def keras_exact() -> Config:
    """The Keras example's algorithm: full batch, 50 Adam steps of a layer on it, activations sent on after them.

    Mean of squares as goodness, threshold 1.5, inputs over their L2 norm + 1e-4, Glorot's start, wrong labels by
    shuffling. A label is 1, where the example writes the image's maximum. On fewer images give --training.batch-size
    too.
    Its printed loss is the mean over all steps of both layers so far: 0.7247, 0.7089, 0.6978, 0.6827, 0.6644, 0.6462
    after epochs 1 to 6. Adam adds epsilon as Keras does. Expected: these, within 0.0012.
    """
    return Config(
        training=Training(
            dims=(784, 500, 500),
            epochs=250,
            batch_size=60_000,
            initialization="glorot",
            normalization="l2",
            normalization_epsilon=1e-4,
            goodness="mean",
            threshold=1.5,
            peer=0.0,
            # Epsilon is Keras's own, and added where Keras adds it: with torch's Adam losses were .006 and .004 lower.
            optimizer=Optimizer(kind="KerasAdam", learning_rate=0.03, options={"eps": 1e-7}),
            schedule="constant",
            local_steps=50,
            hand_on="after",
            negatives="shuffled",
            head=False,
            goodness_from=0,
            data=Data(source="mnist", split_seed=-1),
        ),
        # A minibatch is the whole training set: room for one on each stage and one on its way.
        execution=Execution(stages=2, window=3, snapshot_steps=10),
    )


def pff() -> Config:
    """Pipeline Forward-Forward (arXiv 2404.08573): 784-2000 x 4, batch 64, AdamW, adaptive negatives, 100 epochs.

    Learning rates .01 and .0001 (head), cooled down from epoch 50 on. Adam's epsilon, 1, is far above the gradients
    here: a step is then rate / epsilon times a gradient, against which the decay is as strong as in Hinton's program.
    With smaller ones the layers over-fit (scripts/results/LOG.md). Published accuracies: 98.52 % with adaptive
    negatives, 98.33 % with random, 97.95 % with fixed ones (`--training.negatives`). Products in bfloat16.
    Expected: 1.31 / 1.27 % errors by goodness / softmax (98.69 and 98.73 %).
    """
    return Config(
        training=Training(
            dims=(784, 2000, 2000, 2000, 2000),
            epochs=100,
            batch_size=64,
            precision="bfloat16",
            negatives="adaptive",
            optimizer=Optimizer(
                kind="AdamW", learning_rate=0.01, weight_decay=0.0015, options={"fused": True, "eps": 1.0}
            ),
            head_optimizer=Optimizer(kind="Adam", learning_rate=0.0001),
            data=Data(source="mnist", split_seed=-1),
        ),
        # Three and four make 1,378 and 1,255 examples/s on two cores, two 1,381 (LOG.md).
        execution=Execution(stages=2, snapshot_steps=3_000),
    )


def symba() -> Config:
    """The symmetric objective of SymBa (arXiv 2303.08418), which has no threshold: 784-1000-1000-1000, hard negatives.

    softplus(-alpha (positive goodness - negative goodness)), alpha 1 on the sum of squares.
    Expected: 3.08 / 2.52 % errors by goodness / softmax after 10 epochs.
    """
    # On the mean of squares, even at 4, gradients were 125 times smaller than Hinton's, and decay and peer
    # normalisation had the layers to themselves (LOG.md).
    return Config(training=replace(mnist().training, objective="symba", temperature=1.0))


_ALL = (
    digits,
    digits_cnn,
    mnist,
    local_recipes.mnist_cnn,
    hinton,
    hinton_exact,
    ff_py,
    paper_supervised,
    paper_unsupervised,
    augmented,
    keras,
    keras_exact,
    *five_digits.RECIPES,
    pff,
    symba,
    *local_recipes.RECIPES,
)
RECIPES: dict[str, Callable[[], Config]] = {recipe.__name__.replace("_", "-"): recipe for recipe in _ALL}


def get_recipe(name: str) -> Config:
    """Return the config of a recipe. Raises UserError with the nearest right name."""
    if name not in RECIPES:
        raise UserError(f"unknown recipe {name!r}; {nearest(name, RECIPES)}")
    return replace(RECIPES[name](), recipe=name)

"""Recipes of networks that people train by local losses other than Forward-Forward's dense layers.

As in recipes.py: each is a function that returns a config; its docstring says where it comes from and what to expect.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from ffpipe.config.schema import Augmentation, BlockConfig, Config, Data, Execution, Optimizer, Options, Training

Known = Literal["mnist", "fashion-mnist", "cifar10"]
Scale = tuple[float, ...]

# Means and deviations of the channels, as the sources of the recipes give them.
CIFAR = {"mean": (0.4914, 0.4822, 0.4465), "deviation": (0.2023, 0.1994, 0.2010)}
MNIST = {"mean": (0.1307,), "deviation": (0.3081,)}
FASHION = {"mean": (0.2860,), "deviation": (0.3530,)}
# As both networks of convolutions on CIFAR-10 learn (LOG.md).
SGD_ON_CIFAR10: dict[str, object] = {
    "optimizer": Optimizer(
        kind="SGD", learning_rate=0.1, weight_decay=0.0005, options={"momentum": 0.9, "nesterov": True}
    ),
    "schedule": "onecycle",
    "augmentation": Augmentation(crop=4, flip=True),
    "data": Data(source="cifar10", split_seed=-1, validation=1_000),
    **CIFAR,
}


def _no_negatives(blocks: tuple[BlockConfig, ...], execution: Execution, **fields: object) -> Config:
    """Configure blocks that learn by class heads from standardised images, without negatives and without a linear
    read-out. fields: of training, beside these."""
    plain = Training(
        blocks=blocks,
        labels="none",
        negatives="none",
        head=False,
        goodness_from=0,
        standardize=True,
        batch_size=128,
        # Contiguous images made a step 1.2 times as long, that of dgl as long within 5 % (LOG.md).
        memory_format="channels-last",
    )
    training = replace(plain, **fields)  # type: ignore[arg-type]  # names are checked by replace
    return Config(training=training, execution=execution)


def mnist_cnn() -> Config:
    """Four convolutional blocks on MNIST, each with a linear class head of its own; no negatives, no backward pass
    between blocks.

    Images are shifted by up to two pixels; Adam, a rate that rises and falls over 6 epochs. 5,000 training images
    validate. The answer is that of the last block. Expected: 0.53 % test error, 6 minutes on two cores.
    """

    def conv(channels: int, shrink: int, head: int) -> BlockConfig:
        return BlockConfig(
            kind="conv", options={"channels": channels, "pool": shrink}, objective_options={"pool": head}
        )

    return _no_negatives(
        (conv(32, 2, 7), conv(64, 2, 7), conv(128, 1, 7), conv(128, 2, 3)),
        # With freed memory kept two stages make 960 examples/s, without 600 (LOG.md).
        Execution(stages=2, keep_freed=True, evaluate_every=1),
        epochs=6,
        batch_size=100,
        optimizer=Optimizer(kind="Adam", learning_rate=0.003),
        schedule="onecycle",
        augmentation=Augmentation(crop=2),
        data=Data(source="mnist", split_seed=-1, validation=5_000),
    )


def mono_forward() -> Config:
    """Mono-Forward on CIFAR-10: 3 x 2000 ReLU units, each layer with a learned projection to the classes and
    cross-entropy; no negatives.

    Network, rows and their normalisation are those of the BeyondBackpropagation study (arXiv 2511.01061,
    configs/mf/cifar10_mlp_3x2000.yaml): crops from images padded by reflection, flips, batches of 128. Its layers learn
    one after another, here all at once; the rate falls along a cosine. 5,000 training images validate. Published:
    62.34 % accuracy (backpropagation 61.13). Expected: 63.8 % by the last layer and 64.5 % by the sum of all (seed 1,
    44 minutes on two cores beside other work).
    """
    # Projections are matrices alone, as in the paper (arXiv 2501.09238).
    block = BlockConfig(kind="dense", options={"width": 2000}, objective_options={"bias": False})
    return _no_negatives(
        (block,) * 3,
        Execution(stages=2, evaluate_every=2, snapshot_steps=1_500),
        epochs=40,
        optimizer=Optimizer(kind="Adam", learning_rate=0.0005),
        schedule="cosine",
        memory_format="contiguous",
        augmentation=Augmentation(crop=4, padding="reflect", flip=True),
        # A tenth, as in the study.
        data=Data(source="cifar10", split_seed=-1, validation=5_000),
        **CIFAR,
    )


def hinton_lrf() -> Config:
    """Section 3.2 of Hinton's paper (arXiv 2212.13345) with local receptive fields that share no weights: 4 x 4 places
    of 128 units, 3 x 3 of 220, 2 x 2 of 512, no labels, negatives mixed from two digits, peer normalisation.

    The softmax read-out sees the normalised activities of the last two layers. Weight decay is of the biases too.
    Published: 1.16 % test error after 60 epochs, by no public program. Expected: 1.06 % (seed 1; two and a half hours
    on two cores beside other work).
    """

    def fields(channels: int, kernel: int, stride: int) -> BlockConfig:
        return BlockConfig(
            kind="receptive-fields",
            options={"channels": channels, "kernel": kernel, "stride": stride, "activation": "none"},
            objective_options={"rectify": True, "peer": 0.03},
        )

    return Config(
        training=Training(
            # Fields of 10 x 10 pixels, 6 apart, have 4 x 4 places in 28 x 28; the others see 2 x 2 neighbours.
            blocks=(fields(128, 10, 6), fields(220, 2, 1), fields(512, 2, 1)),
            epochs=60,
            labels="none",
            negatives="hybrid",
            optimizer=Optimizer(learning_rate=0.01, weight_decay=0.001),
            data=Data(source="mnist", split_seed=-1, validation=5_000),
        ),
        execution=Execution(stages=2, evaluate_every=5, snapshot_steps=3_000),
    )


def nokland_mlp() -> Config:
    """Nøkland and Eidnes (ICML 2019, arXiv 1901.06656), predsim: 3 x 1024 on MNIST, each layer with a linear decoder
    and a similarity loss, and a linear layer that answers.

    Linear, batch normalisation, LeakyReLU, dropout .1 of what goes on; .01 of the cross-entropy of a decoder that
    starts at zero and .99 of the similarity loss; Adam at .0005; images shifted by up to 2 pixels (their train.py).
    The rate falls to a quarter after 50, 75, 89 and 94 of 100 epochs. Published: 0.62 % test error (backpropagation
    .75). 5,000 training images validate. Expected: 0.60 % by the last block, 0.58 % by the sum of all (seed 1; 80
    minutes on two cores alone, three and a half hours beside other work).
    """
    return _nokland_mlp(0.99)


def nokland_mlp_pred() -> Config:
    """Nøkland and Eidnes (ICML 2019, arXiv 1901.06656), pred: `nokland-mlp` by the decoders alone, without the loss of
    similarity. Theirs has ReLU here, and LeakyReLU with that loss alone; this has LeakyReLU in both.

    Published: 0.68 % test error (backpropagation .75). Expected: .71 % (seed 1; 33 minutes on two cores).
    """
    return _nokland_mlp(0.0)


def _nokland_mlp(similarity: float) -> Config:
    """Configure their 3 x 1024 on MNIST. similarity: the share of the similarity loss."""

    # Their decoders see activities before dropout, so it is that of the next one's input here.
    def layer(dropout: float) -> BlockConfig:
        options: Options = {"width": 1024, "norm": True, "activation": "leaky-relu", "input_dropout": dropout}
        return BlockConfig(kind="dense", options=options, objective_options={"zero": True, "similarity": similarity})

    answer = BlockConfig(kind="readout", options={"dropout": 0.1}, objective_options={"zero": True})
    return _no_negatives(
        (layer(0.0), layer(0.1), layer(0.1), answer),
        Execution(stages=2, evaluate_every=5, snapshot_steps=4_000),
        epochs=100,
        optimizer=Optimizer(kind="Adam", learning_rate=0.0005),
        schedule="steps",
        milestones=(50, 75, 89, 94),
        decay=0.25,
        memory_format="contiguous",
        augmentation=Augmentation(crop=2),
        data=Data(source="mnist", split_seed=-1, validation=5_000),
        **MNIST,
    )


# Its program's read-out applies a softmax twice. With one, its SGD settles on MNIST alone.
_OF_ITS_PROGRAM = BlockConfig(kind="readout", optimizer=Optimizer(kind="SGD", learning_rate=0.01))
_SETTLING = BlockConfig(kind="readout", optimizer=Optimizer(kind="Adam", learning_rate=0.0001), schedule="cosine")


def _cwcomp(
    last_epochs: tuple[int, int, int, int], epochs: int, readout: BlockConfig, source: Known, **scale: Scale
) -> Config:
    """Configure CwComp on one set. last_epochs: before which each convolution learns (windows "Acc" of its program)."""

    def layer(channels: int, groups: int, last_epoch: int) -> BlockConfig:
        options: Options = {"channels": channels, "groups": groups, "pool": 2 if groups > 1 else 1, "norm_last": True}
        return BlockConfig(
            kind="conv", options=options, objective_options={"kind": "groups-squared"}, last_epoch=last_epoch
        )

    sizes = ((20, 1), (80, 10), (240, 1), (480, 10))
    return _no_negatives(
        (*(layer(*size, last) for size, last in zip(sizes, last_epochs, strict=True)), readout),
        Execution(stages=2, keep_freed=True, evaluate_every=1, snapshot_steps=2_000),
        epochs=epochs,
        optimizer=Optimizer(kind="Adam", learning_rate=0.01),
        schedule="constant",
        data=Data(source=source, split_seed=-1, validation=5_000),
        **scale,
    )


def cwcomp() -> Config:
    """CwComp (AAAI 2024, arXiv 2312.12668) on MNIST: four convolutions whose channels compete by groups of a class.

    Channels 20, 80, 240, 480, every second layer grouped by class and pooled, batch normalisation last; the goodness of
    a class is the mean square of its group; Adam at .01; layer i learns in the first 2 + i of 20 epochs (its program's
    windows "Acc"). A linear read-out on the last layer answers. 5,000 training images validate. Published: .58 % test
    error, chosen by test error. Expected: .77 % (seed 1; an hour on two cores).
    """
    return _cwcomp((2, 3, 4, 5), 20, _OF_ITS_PROGRAM, "mnist", **MNIST)


def cwcomp_fashion() -> Config:
    """CwComp on Fashion-MNIST: the network of `cwcomp`, whose layers learn in the first 4, 6, 8 and 9 of 20 epochs.

    Its program's windows "Acc" are 10, 15, 19 and 23 of 50 epochs, three hours on two cores: here they end after the
    same share of the run.
    Published: 7.69 % test error, chosen by test error. Expected: 7.79 % (seed 1; 45 minutes on two cores).
    """
    return _cwcomp((4, 6, 8, 9), 20, _SETTLING, "fashion-mnist", mean=(0.5,), deviation=(0.5,))


def cwcomp_cifar10() -> Config:
    """CwComp on CIFAR-10: the network of `cwcomp`, whose layers learn in the first 4, 6, 8 and 10 of 20 epochs.

    Its program's windows "Acc" are 11, 16, 21 and 25 of 50 epochs, as with `cwcomp-fashion`.
    Published: 21.89 % test error, chosen by test error; others get 25 %. Expected: 23.91 % (seed 1; 78
    minutes on two cores beside other work).
    """
    # ImageNet's, as its program has them for these images too.
    scale = {"mean": (0.485, 0.456, 0.406), "deviation": (0.229, 0.224, 0.225)}
    return _cwcomp((4, 6, 8, 10), 20, _SETTLING, "cifar10", **scale)


def dgl() -> Config:
    """Decoupled greedy learning (ICML 2020, arXiv 1901.08164) on CIFAR-10: four convolutions of 64, 128, 128, 256
    channels, 520 k weights, each with a small network of its own that tells the classes.

    The network and heads of the authors' learning_curves (three pointwise convolutions and three hidden layers; two
    hidden layers on the last), SGD with Nesterov's momentum .9 and decay .0005, crops padded by 4 and flips, batches
    of 128. The rate rises and falls over 20 epochs; theirs is constant for 15 of 50, their momentum not Nesterov's.
    Published: 89.86 % accuracy after 50 epochs. Expected: 88.4 % (seed 1; 86 minutes on two cores).
    """

    def layer(channels: int, pool: int) -> BlockConfig:
        options: Options = {"channels": channels, "pool": pool, "pool_first": True}
        return BlockConfig(kind="conv", options=options, objective_options={"kind": "mlp"})

    last = replace(layer(256, 2), objective_options={"kind": "mlp", "convolutions": 0, "depth": 2})
    return _no_negatives(
        (layer(64, 1), layer(128, 2), layer(128, 1), last),
        # Three or four stages make 149 to 172 examples/s on two cores, two 162 to 168 (LOG.md). With tensors of 16 and
        # 32 MiB kept too, they are 1 to 4 % faster and the largest process has 930 MB in place of 785.
        Execution(stages=2, keep_freed=True, keep_largest="4MiB", evaluate_every=1, snapshot_steps=350),
        # With 15 it got 86.76 %, its training error still falling; 21 fit into 90 minutes (LOG.md).
        epochs=20,
        **SGD_ON_CIFAR10,
    )


def fashion_cnn() -> Config:
    """Convolutional blocks with class heads on Fashion-MNIST: our own network of the kind that does best there.

    Three blocks of two convolutions, each with a linear class head, crops padded by 2 and flips. Published, by other
    networks: 93.13 % (DeeperForward), 94.55 % (CAW-Conv), 95.35 % (vgg8b with predsim). Expected: 93.96 % after 81
    minutes on two cores of an AMD EPYC.
    """

    def layer(channels: int, head: int) -> BlockConfig:
        options: Options = {"channels": channels, "layers": 2, "pool": 2, "dropout": 0.1}
        return BlockConfig(kind="conv", options=options, objective_options={"pool": head})

    return _no_negatives(
        (layer(48, 7), layer(96, 7), layer(192, 3)),
        # As fast as with 32 MiB, by a fifth less memory.
        Execution(stages=2, keep_freed=True, keep_largest="4MiB", evaluate_every=1, snapshot_steps=400),
        # As many as fit into 90 minutes on two cores: it wants more (LOG.md).
        epochs=17,
        optimizer=Optimizer(kind="AdamW", learning_rate=0.003, weight_decay=0.01),
        schedule="onecycle",
        augmentation=Augmentation(crop=2, flip=True),
        data=Data(source="fashion-mnist", split_seed=-1, validation=5_000),
        **FASHION,
    )


def cifar10_local() -> Config:
    """CIFAR-10 by two blocks of three and four convolutions, each with a head of its own: our own network.

    Two stages take about as long, .84 and .97 s for a minibatch on a core of an AMD EPYC. Published, by other networks:
    86.22 % (DeeperForward), 91.8 % (DTG-FF), 94.4 % (vgg8b with predsim, strictly local). Expected: 90.5 % (seed 1; 139
    minutes on two cores); cut into four blocks, with cutout, it had 88.6 % (LOG.md).
    """

    def several(plan: str) -> BlockConfig:
        head: Options = {"kind": "mlp", "depth": 1, "smoothing": 0.1}
        return BlockConfig(kind="vgg", options={"plan": plan}, objective_options=head)

    return _no_negatives(
        (several("64 M 128 128 M"), several("256 256 M 256 256")),
        Execution(stages=2, keep_freed=True, evaluate_every=1, snapshot_steps=200),
        epochs=20,
        **SGD_ON_CIFAR10,
    )


def char_lm() -> Config:
    """A character model of tiny shakespeare: two blocks of two transformer layers, each with a next-character head.

    Sequences of 128 characters, width 128, 4 heads; the last 5 % of the text test, 5 % before them validate. The
    yardstick is `--backprop`, the same blocks end to end. Expected: 2.372 bits a character on the test part, where the
    yardstick has 2.335; 119 minutes on two cores beside other work.
    """
    options: Options = {"width": 128, "heads": 4, "layers": 2, "symbols": 65, "dropout": 0.1}
    block = BlockConfig(kind="transformer", options=options)
    return _no_negatives(
        (block,) * 2,
        Execution(stages=2, keep_freed=True, evaluate_every=1, snapshot_steps=400),
        inputs="tokens",
        epochs=30,
        batch_size=32,
        standardize=False,
        memory_format="contiguous",
        optimizer=Optimizer(kind="AdamW", learning_rate=0.002, weight_decay=0.1),
        schedule="onecycle",
        # Each 5 % of the 8,714 sequences of tiny shakespeare.
        data=Data(source="text", length=128, split_seed=-1, validation=435, test_count=435),
    )


RECIPES = (
    mono_forward,
    hinton_lrf,
    nokland_mlp,
    nokland_mlp_pred,
    cwcomp,
    cwcomp_fashion,
    cwcomp_cifar10,
    dgl,
    fashion_cnn,
    cifar10_local,
    char_lm,
)

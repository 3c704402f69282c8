"""The known results of training by local objectives, row by row, and how each row is run here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ffpipe.config.fields import override
from ffpipe.config.recipes import get_recipe
from ffpipe.config.schema import Config


@dataclass(frozen=True)
class Row:
    """One line of the table.

    published: as its source gives it. differs: what is not to the letter of that source; "-" where there is no one
    source. ours: which figures of a run are compared: "goodness", "softmax" (test errors), "losses" (the running mean
    of the training loss after each epoch) or "bits" (test loss a character). fields: on top of the recipe. seeds: run
    unless others are asked for. backprop: the yardstick and not the trainer.
    """

    name: str
    recipe: str
    setting: str
    published: str
    ours: tuple[str, ...]
    seeds: tuple[int, ...] = (1, 2, 3)
    fields: dict[str, Any] = field(default_factory=dict)
    backprop: bool = False
    differs: str = "-"

    def command(self, seed: int) -> list[str]:
        """Return the command that a person would type."""
        words = ["ffpipe", "train", self.recipe, *["--backprop"] * self.backprop, "--seed", str(seed)]
        for name, value in self.fields.items():
            option = f"--{name.replace('_', '-')}"
            if isinstance(value, dict):
                value = [f"{key}={each}" for key, each in value.items()]
            words += [option, *map(str, value)] if isinstance(value, list | tuple) else [f"{option}={value}"]
        return words

    def config(self, seed: int) -> Config:
        """Return the config that the command trains."""
        return override(get_recipe(self.recipe), {**self.fields, "training.seed": seed})


def _lag(lag: int, stages: int = 0) -> Row:
    """Add one more lag beside that of `hinton` (16). stages: 0: as many as that has."""
    fields = {"training.negative_lag": lag} | ({"execution.stages": stages} if stages else {})
    return Row(
        f"lag-{lag}",
        "hinton",
        f"`hinton`, negative_lag {lag}",
        "-",
        BOTH,
        (1,),
        fields,
        differs="as `hinton`, and the lag",
    )


def _cell(name: str, recipe: str, setting: str, accuracy: float, fields: dict[str, Any]) -> Row:
    """Make one cell of the table of the TensorFlow program's later notebook, where the softmax learns at .001.

    name: the cell's; A and B have the same settings, without labels and with them. fields: of the training.
    """
    ours = SOFTMAX if name in ("A1", "A2", "A3", "A4", "A5", "A6", "C13", "D15") else ("goodness",)
    published = f"{100 - accuracy:.2f} ({accuracy:.2f} % accuracy, best epoch)"
    differs = "the shuffle, of all examples (its: within 4,096 at a time); the last epoch for the best of 200"
    if fields.get("data.order") == "file":
        differs = LAST_EPOCH
    if recipe == "tf-layer-by-layer":
        differs += "; the softmax learns in all epochs"
    setting = f"cell {name} of the TensorFlow program: {setting}"
    fields = {f"training.{field}": value for field, value in fields.items()}
    return Row(f"tf-{name}", recipe, setting, published, ours, (1,), fields, differs=differs)


def _cells() -> list[Row]:
    """Make all cells of that table: without labels (read by softmax), and with them (by goodness)."""
    base: dict[str, Any] = {"data.order": "shuffled", "head_optimizer.learning_rate": 0.001}
    wide = {"batch_size": 512}
    settings: tuple[tuple[str, dict[str, Any], tuple[str, float], tuple[str, float]], ...] = (
        ("4 x 100, batch 128", {}, ("A1", 96.64), ("B7", 76.41)),
        ("4 x 500", _units(500), ("A2", 98.40), ("B8", 92.56)),
        ("batch 512", wide, ("A3", 97.09), ("B9", 80.10)),
        ("no shuffling", {"data.order": "file"}, ("A4", 96.05), ("B10", 77.71)),
        ("batch 32", {"batch_size": 32}, ("A5", 96.64), ("B11", 71.45)),
        ("4 x 500, batch 512", _units(500) | wide, ("C13", 98.44), ("C14", 95.76)),
        ("4 x 2000, batch 512", _units(2000) | wide, ("D15", 99.06), ("D16", 97.42)),
    )
    recipes = ("tf-five-digits", "tf-five-digits-supervised")
    labels = {"labels": "overlay", "test_labels": "none"}
    return [
        *(
            _cell(name, recipe, setting, accuracy, {**base, **fields})
            for setting, fields, *cells in settings
            for recipe, (name, accuracy) in zip(recipes, cells, strict=True)
        ),
        _cell("A6", "tf-layer-by-layer", "one layer after another", 94.61, {}),
        _cell("B12", "tf-layer-by-layer", "one layer after another", 70.78, labels),
    ]


def _units(width: int) -> dict[str, Any]:
    """Return fields of four layers of a width."""
    return {"dims": (784, *[width] * 4)}


LAST_EPOCH = "the last epoch for the best of 200 on the test split"
NO_PROGRAM = "no public program: the constants of Hinton's; products in bfloat16"
OWN_NETWORK = "our own network"
BEST_BY_TEST = (
    "the last epoch for the best by test error; 5,000 training images validate; the read-out has one softmax (its: two)"
)
DGL_DIFFERS = (
    "decay of matrices and kernels alone; convolutions without the biases that normalisation makes void; no last, "
    "smaller minibatch; 1,000 training images validate"
)
BOTH = ("goodness", "softmax")
SOFTMAX = ("softmax",)

ROWS = {
    row.name: row
    for row in (
        Row(
            "hinton",
            "hinton",
            "784-1000-1000-1000, 50,000 examples, 125 epochs",
            "1.44 / 1.47 (MATLAB)",
            BOTH,
            differs="negatives 16 minibatches late, decay .0015 (.001, .002), bfloat16, a fresh shuffle in each epoch",
        ),
        Row(
            "hinton-exact",
            "hinton-exact",
            "the same in lock step, rate .015",
            "the same",
            BOTH,
            differs="rate .015 (.01), decay .0015, bfloat16, a fresh shuffle in each epoch",
        ),
        Row(
            "ff-py",
            "ff-py",
            "as its figures were published: no peer normalisation",
            "1.33 / 1.38 (NumPy), 1.30 / 1.45 (JAX)",
            BOTH,
            differs="its random numbers; float32 throughout (the weights of the published version are in float64)",
        ),
        Row(
            "paper-supervised",
            "paper-supervised",
            "4 x 2000, 60 epochs",
            "1.36 by goodness",
            BOTH,
            (1,),
            differs=NO_PROGRAM,
        ),
        Row(
            "paper-unsupervised",
            "paper-unsupervised",
            "4 x 2000, no labels, 100 epochs",
            "1.37",
            SOFTMAX,
            (1,),
            differs=NO_PROGRAM,
        ),
        Row(
            "augmented",
            "augmented",
            "3 x 1000, shifted images, 200 epochs",
            "0.64 (4 x 2000, 500 epochs), 0.69-0.71 (Rust)",
            BOTH,
            (1,),
            differs="3 layers of 1000 for 4 of 2000, 200 epochs for 500, dropout as in the Rust port, bfloat16",
        ),
        Row(
            "keras",
            "keras",
            "784-500-500, read by goodness",
            "2.44",
            ("goodness",),
            differs="its network and read-out alone: Hinton's objective, hard negatives, minibatches of 100, bfloat16",
        ),
        Row(
            "keras-exact",
            "keras-exact",
            "the Keras example's algorithm, 6 epochs",
            "losses 0.7247, 0.7089, 0.6978, 0.6827, 0.6644, 0.6462",
            ("losses",),
            (1,),
            {"training.epochs": 6, "execution.log_steps": 1},
            differs="6 of 250 epochs; labels of 1 (an image's maximum)",
        ),
        Row(
            "five-digits-unsupervised",
            "five-digits-unsupervised",
            "digits 0-4 against 5-9, our own network, 4 x 500, 200 epochs",
            "1.56 (98.44 % accuracy)",
            SOFTMAX,
            (1,),
            differs="rate, threshold, normalisation, start, peer term, read-out, order of updates: all but the task",
        ),
        Row(
            "five-digits-supervised",
            "five-digits-supervised",
            "the same with labels",
            "4.24 (95.76 % accuracy)",
            BOTH,
            (1,),
            differs="the same; the softmax learns from neutral rows",
        ),
        Row(
            "five-digits-backprop",
            "five-digits-unsupervised",
            "the same network by backpropagation",
            "-",
            SOFTMAX,
            (1,),
            backprop=True,
            differs="its task alone: Adam at .001 on our network",
        ),
        Row(
            "tf-five-digits",
            "tf-five-digits",
            "the TensorFlow program's algorithm, 4 x 100, 200 epochs",
            "77.3 / 3.8 (22.7 / 96.2 % accuracy, best epoch)",
            BOTH,
            (1,),
            differs=LAST_EPOCH,
        ),
        Row(
            "tf-five-digits-supervised",
            "tf-five-digits-supervised",
            "the same with labels",
            "23.3 / 3.9 (76.7 / 96.1 % accuracy, best epoch)",
            BOTH,
            (1,),
            differs=LAST_EPOCH,
        ),
        *_cells(),
        Row(
            "pff",
            "pff",
            "784-2000 x 4, AdamW with epsilon 1, adaptive negatives",
            "1.48 (98.52 % accuracy)",
            BOTH,
            (1,),
            differs="Adam's epsilon 1; every layer learns at each minibatch (its: in chapters of epochs); bfloat16",
        ),
        Row(
            "mnist-cnn", "mnist-cnn", "four convolutions with class heads, 6 epochs", "-", SOFTMAX, differs=OWN_NETWORK
        ),
        Row(
            "mono-forward",
            "mono-forward",
            "CIFAR-10, 3 x 2000, a projection a layer, 40 epochs",
            "37.66 (62.34 % accuracy)",
            SOFTMAX,
            (1,),
            differs="layers learn at once for 40 epochs and not one after another for up to 15 each; the rate falls "
            "from .0005 along a cosine (.000324); biases start as torch has them and not at 0",
        ),
        Row(
            "mono-forward-backprop",
            "mono-forward",
            "the same blocks end to end, by the last one's projection",
            "38.87 (61.13 % accuracy)",
            SOFTMAX,
            (1,),
            backprop=True,
            differs="its network alone: the same blocks end to end, with the recipe's optimiser and schedule",
        ),
        Row(
            "hinton-lrf",
            "hinton-lrf",
            "local receptive fields without shared weights, no labels, 60 epochs",
            "1.16",
            SOFTMAX,
            (1,),
            differs="no public program: the places and widths of the paper, the constants of Hinton's program; decay "
            "of biases too",
        ),
        Row(
            "nokland-mlp",
            "nokland-mlp",
            "3 x 1024, predsim, shifted images, 100 epochs",
            "0.62",
            SOFTMAX,
            (1,),
            differs="5,000 training images validate; the answer's cross-entropy has the weight 1 (.01)",
        ),
        Row(
            "nokland-mlp-pred",
            "nokland-mlp-pred",
            "the same without the loss of similarity (pred)",
            "0.68",
            SOFTMAX,
            (1,),
            differs="5,000 training images validate; LeakyReLU (ReLU)",
        ),
        Row(
            "cwcomp",
            "cwcomp",
            "channels that compete, 20 epochs",
            "0.58 (chosen by test error)",
            SOFTMAX,
            (1,),
            differs=BEST_BY_TEST,
        ),
        Row(
            "cwcomp-fashion",
            "cwcomp-fashion",
            "the same on Fashion-MNIST, 20 epochs",
            "7.69 (chosen by test error)",
            SOFTMAX,
            (1,),
            differs=f"20 epochs and windows to match (50); {BEST_BY_TEST} and learns by Adam along a cosine (SGD)",
        ),
        Row(
            "cwcomp-cifar10",
            "cwcomp-cifar10",
            "the same on CIFAR-10, 20 epochs",
            "21.89 (chosen by test error), 25 (others)",
            SOFTMAX,
            (1,),
            differs=f"20 epochs and windows to match (50); {BEST_BY_TEST} and learns by Adam along a cosine (SGD)",
        ),
        Row(
            "dgl",
            "dgl",
            "CIFAR-10, four convolutions with small networks as heads, 20 epochs",
            "10.14 (89.86 % accuracy, 50 epochs)",
            SOFTMAX,
            (1,),
            differs=f"20 epochs of a rising and falling rate for 50 in steps; Nesterov's momentum; {DGL_DIFFERS}",
        ),
        Row(
            "dgl-curve",
            "dgl",
            "`dgl`'s first five epochs at its own constant rate",
            "34.69 (65.31 % accuracy after 5 of 50 epochs; 67.07 after 4)",
            SOFTMAX,
            (1, 2),
            {
                "training.epochs": 5,
                "training.schedule": "constant",
                "training.optimizer.options": {"momentum": 0.9},
            },
            differs=DGL_DIFFERS,
        ),
        *(
            Row(
                f"dgl-{name}",
                "dgl",
                f"the 20 epochs of `dgl` on 6,400 of its images, {how}",
                "-",
                SOFTMAX,
                (1,),
                {"training.data.train_limit": 6400, "execution.stages": stages},
                differs="a seventh of the images: the time that stages save is the question",
            )
            for stages, name, how in ((1, "one-stage", "by one stage"), (2, "two-stages", "through two stages"))
        ),
        Row(
            "dgl-backprop",
            "dgl",
            "the same blocks end to end, by the last one's head",
            "-",
            SOFTMAX,
            (1,),
            backprop=True,
            differs="its network alone: the same blocks end to end, with the recipe's optimiser and schedule",
        ),
        Row(
            "fashion-cnn",
            "fashion-cnn",
            "Fashion-MNIST, three blocks of two convolutions, 17 epochs",
            "6.87 (DeeperForward), 5.45 (CAW-Conv)",
            SOFTMAX,
            (1,),
            differs=OWN_NETWORK,
        ),
        Row(
            "cifar10-local",
            "cifar10-local",
            "CIFAR-10, two blocks of three and four convolutions, 20 epochs",
            "13.78 (DeeperForward), 8.2 (DTG-FF)",
            SOFTMAX,
            (1,),
            differs=OWN_NETWORK,
        ),
        Row(
            "char-lm",
            "char-lm",
            "tiny shakespeare, two blocks of two transformer layers, 30 epochs",
            "-",
            ("bits",),
            (1,),
            differs=OWN_NETWORK,
        ),
        Row(
            "char-lm-backprop",
            "char-lm",
            "the same blocks end to end, by the last one's head",
            "-",
            ("bits",),
            (1,),
            backprop=True,
            differs=OWN_NETWORK,
        ),
        Row(
            "symba",
            "symba",
            "784-1000-1000-1000, SymBa's objective, 10 epochs",
            "-",
            BOTH,
            (1,),
            differs="our network, 10 epochs: its objective alone",
        ),
        _lag(0, stages=2),  # more would wait for each other all the same
        *map(_lag, (48, 64, 256)),
    )
}
# Rows that differ in `negative_lag` alone.
LAGS = {"lag-0": 0, "hinton": 16, "lag-48": 48, "lag-64": 64, "lag-256": 256}

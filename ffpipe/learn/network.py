"""A trained network as a torch module: examples in, class scores out. Made of the very blocks that were trained.

It needs no Ray and no run folder, has true parameters, can be trained further and converted to another dtype, and goes
through torch.export and torch.jit.trace. (Where it computes, `tensor.shape[0]` stands for `len(tensor)`, which both
take for a constant.)
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from ffpipe.learn.block import Block
from ffpipe.learn.blueprint import Blueprint
from ffpipe.learn.images import channels_first
from ffpipe.learn.labels import LabelCode
from ffpipe.learn.normalization import Normalization
from ffpipe.learn.precision import PRECISIONS, Formats, wide
from ffpipe.learn.readout import Head
from ffpipe.learn.rows import normalize_inputs_
from ffpipe.learn.trials import is_traced
from ffpipe.telemetry.report import GOODNESS, LAST, SOFTMAX, SUM

NO_ANSWER = (
    "no block has scores and there is no softmax head, so the network gives no answer: give a loss function a score "
    "(ffpipe.Local), or train images with --training.head true"
)


class Silent(ValueError):
    """No block says anything of the answer by a read-out, as where all learn by a loss of the user's own."""


def readouts_of(blueprint: Blueprint) -> tuple[str, ...]:
    """Return the read-outs that a network has, the default first; none where no block says anything of the answer."""
    training, outlines = blueprint.training, blueprint.outlines
    softmax = (SOFTMAX,) if blueprint.has_head else ()
    # No block counts in the sum where it begins behind the last one.
    summed = not all(outline.silent for outline in outlines[training.goodness_from :])
    if training.contrasts:
        return (*softmax, *((GOODNESS,) if training.reads_goodness and summed else ()))
    last, total = ((LAST,) if not outlines[-1].silent else ()), ((SUM,) if summed else ())
    return (*((*last, *total) if training.readout == "last" else (*total, *last)), *softmax)


class Network(nn.Module):
    """The blocks and the linear read-out of a finished run.

    readout: "softmax" gives the read-out's logits in one pass, "goodness" the goodness under every label, summed over
    the blocks from `training.goodness_from` on; of networks without negatives "last" gives the last block's logits and
    "sum" those of all blocks from there on, summed. The largest score is the answer in all.
    """

    def __init__(self, blueprint: Blueprint, blocks: Sequence[Block], head: Head | None, readout: str) -> None:
        super().__init__()
        training, takes = blueprint.training, blueprint.takes
        self.blueprint, self.training_config = blueprint, training
        self.shape, self.classes, self.readout = tuple(takes.shape), takes.classes, readout
        self.features = torch.Size(takes.shape).numel()
        self.blocks, self.head = nn.ModuleList(blocks), head
        sizes = (self.features, takes.classes, training.label_strength, tuple(takes.shape))
        # Tests may put labels over images where training does not (training.test_labels).
        self._labels, self._read_labels = LabelCode(training.labels, *sizes), LabelCode(training.read_labels, *sizes)
        self._normalization = Normalization(training.mean, training.deviation) if training.standardize else None
        self._formats = Formats(PRECISIONS[training.precision])

    @property
    def has_head(self) -> bool:
        """True where there is a linear read-out."""
        return self.head is not None

    def forward(self, images: Tensor) -> Tensor:
        """Return the scores (n, classes) of images (n, features) or (n, *shape): floats as in training (0 to 1), or
        uint8, or bools.

        A network on tokens gives scores (n, T, classes) of rows of ids (n, T). Weights that were converted (`double`,
        `half`, `to`) are computed with as they are; scores have their dtype, float32 at least. Raises
        ValueError where the examples are of another shape or dtype.
        """
        return self.scores(images, self.readout)

    def softmax_scores(self, images: Tensor) -> Tensor:
        """Return `scores(images, "softmax")`. Deprecated since 0.2.0."""
        return self._renamed("softmax_scores", images, SOFTMAX)

    def goodness_scores(self, images: Tensor) -> Tensor:
        """Return `scores(images, "goodness")`. Deprecated since 0.2.0."""
        return self._renamed("goodness_scores", images, GOODNESS)

    def _renamed(self, name: str, images: Tensor, readout: str) -> Tensor:
        # A level of 3 shows the line of the user's that calls the old name.
        warnings.warn(f"{name}(images) is scores(images, {readout!r}) now", DeprecationWarning, stacklevel=3)
        return self.scores(images, readout)

    def scores(self, images: Tensor, readout: str) -> Tensor:
        """Return the scores by a read-out. Raises ValueError where the network does not have it, or for another shape,
        and Silent where its blocks have no scores."""
        if readout == SOFTMAX and self.head is None:
            raise ValueError("this network has no softmax head; read it by another read-out")
        known = readouts_of(self.blueprint)
        if not known:
            raise Silent(NO_ANSWER)
        if readout not in known:
            raise ValueError(f"this network cannot be read by {readout}; read it by {' or '.join(known)}")
        taps: list[Tensor] = []
        total: Tensor | None = None
        for block, x, said in self.passed(self._encoded(self._rows(images), readout)):
            if block.index in self.blueprint.taps:
                taps.append(x)
            if readout == LAST:
                total = said
            elif said is not None and block.index >= self.training_config.goodness_from:
                total = said if total is None else total + said
        if readout == SOFTMAX:
            assert self.head is not None
            return wide(self.head.logits(taps))
        if total is None:
            instead = "" if self.head is None else "; read it by softmax"
            raise Silent(f"no block that is read by {readout} has scores{instead}")
        return total.view(-1, self.classes) if readout == GOODNESS else total

    def features_of(self, images: Tensor, block: int) -> Tensor:
        """Return what a block hands on of images, as `forward` takes them: its features, to train something else on.

        block: its index, or a negative one, counted from the end as in lists. Rows of networks with negatives get the
        neutral label, as for the softmax head. Raises ValueError where there is no such block, or as `forward` does.
        """
        count = len(self.blueprint)
        if not -count <= block < count:
            raise ValueError(f"block is {block}; give 0 to {count - 1}, or -1 for the last of the {count}")
        # Neither the labels nor the blocks behind it are needed.
        last = block % count
        return next(x for each, x, _ in self.passed(self._encoded(self._rows(images), SOFTMAX)) if each.index == last)

    def passed(self, x: Tensor) -> Iterator[tuple[Block, Tensor, Tensor | None]]:
        """Pass rows through all blocks; yields each block, what it hands on, and what it says of the answer."""
        kept: dict[str, Tensor] = {}
        for block in self._each():
            x, said = self._score(block, x, [kept[name] for name in block.use])
            if block.keep:
                kept[block.keep] = x
            yield block, x, said

    def _score(self, block: Block, x: Tensor, kept: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
        """Return what one block hands on of rows x, and what it says of the answer."""
        return block.score(x, *kept)

    def _each(self) -> Iterator[Block]:
        """Yield the blocks in turn."""
        for block in self.blocks:
            assert isinstance(block, Block)
            yield block

    def _rows(self, images: Tensor) -> Tensor:
        """Return rows (n, features) of the weights' dtype, or of tokens their ids."""
        device = next((parameter.device for parameter in self.parameters()), images.device)
        if self.training_config.inputs == "tokens":
            if not self._is_one_of(images, {self.blueprint.inputs.shape}) or images.is_floating_point():
                raise ValueError(f"tokens are {tuple(images.shape)}; give integers (n, {self.blueprint.inputs.size})")
            return images.to(device, torch.int64)
        if not self._is_one_of(images, {(self.features,), self.shape}):
            shapes = dict.fromkeys([(self.features,), self.shape])
            right = " or ".join(f"(n, {', '.join(map(str, shape))})" for shape in shapes)
            raise ValueError(f"images are {tuple(images.shape)}; give {right}")
        # Only all of a file tells what other whole numbers are to be divided by.
        if not (images.is_floating_point() or images.dtype in (torch.uint8, torch.bool)):
            right = f"uint8, which is divided by {self._divisor:g}, or floats as in training"
            raise ValueError(f"images are {images.dtype}; give {right}")
        rows = images.reshape(images.shape[0], self.features).to(device)
        rows = rows.to(self._formats.now.weights)
        if images.dtype == torch.uint8:
            if self.blueprint.takes.scale.beyond_bytes and not self.training_config.data.scale:
                raise ValueError("images are uint8, but the network was trained on floats beyond 0 to 1; give such")
            rows = rows / self._divisor
        return rows if self._normalization is None else self._normalization.apply(rows, self.shape)

    @property
    def _divisor(self) -> float:
        """The number that bytes are divided by: that of the images that the network was trained on."""
        return self.blueprint.takes.scale.divisor_of_bytes(self.training_config.data.scale)

    @staticmethod
    def _is_one_of(examples: Tensor, shapes: set[tuple[int, ...]]) -> bool:
        """Return whether each example has one of these shapes; true where they are traced."""
        # A trace keeps no check of sizes, but warns of each.
        return is_traced() or tuple(examples.shape[1:]) in shapes

    def _encoded(self, rows: Tensor, readout: str) -> Tensor:
        """Return what the first block gets: with every label, the neutral one, or as they are."""
        inputs, training = self.blueprint.inputs, self.training_config
        if training.inputs == "tokens":
            return rows
        if len(inputs.shape) == 3:
            rows = channels_first(rows, self.shape)
        if training.contrasts:
            rows = self._read_labels.every_label(rows) if readout == GOODNESS else self._labels.neutral(rows)
            rows = normalize_inputs_(rows, training)
        return rows.to(self._formats.now.products).view(-1, *inputs.shape)


class StreamedNetwork(Network):
    """A network whose blocks do not fit into memory together: each is read when it is its turn, on the CPU. read: gives
    block `index`. Many rows at once make up for it."""

    def __init__(self, blueprint: Blueprint, read: Callable[[int], Block], head: Head | None, readout: str) -> None:
        super().__init__(blueprint, (), head, readout)
        self._read = read

    def _each(self) -> Iterator[Block]:
        yield from map(self._read, range(len(self.blueprint)))

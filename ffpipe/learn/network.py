"""A trained network as a plain torch module: images in, class scores out. It needs no Ray and no run folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from ffpipe.config.schema import Training
from ffpipe.learn.labels import LabelCode
from ffpipe.learn.precision import PRECISIONS
from ffpipe.learn.products import accumulate, addmm, mm
from ffpipe.learn.rows import normalize_rows_, row_scale
from ffpipe.learn.threads import sum_of_squares

LayerWeights = tuple[Tensor, Tensor]


class Network(nn.Module):
    """The layers and the head of a finished run.

    readout: "softmax" gives the head's logits in one pass, "goodness" the goodness under every label,
    summed over the layers from `training.goodness_from` on. The largest score is the answer in both.
    """

    def __init__(
        self,
        training: Training,
        shape: Sequence[int],
        classes: int,
        layers: Sequence[LayerWeights],
        head: Mapping[str, Tensor] | None,
        readout: str,
    ) -> None:
        super().__init__()
        self.training_config = training
        self.shape = tuple(shape)
        self.classes = classes
        self.readout = readout
        self.features = training.dims[0]
        self._labels = LabelCode(training.labels, self.features, classes, training.label_strength)
        self._dtype, self._products = PRECISIONS[training.precision]
        for index, (weight, bias) in enumerate(layers):
            self.register_buffer(f"layer{index}_weight", weight)
            self.register_buffer(f"layer{index}_bias", bias)
        for index in training.head_layers if head is not None else ():
            assert head is not None
            self.register_buffer(f"head{index}_weight", head[f"weight.{index}"])
        self.has_head = head is not None

    def forward(self, images: Tensor) -> Tensor:
        """Scores (n, classes) of images (n, features) or (n, *shape): floats as in training (0 to 1), or uint8.

        They have the dtype of the weights, float32 or float64. Raises ValueError where the images are of another shape.
        """
        return self.softmax_scores(images) if self.readout == "softmax" else self.goodness_scores(images)

    @torch.no_grad()
    def softmax_scores(self, images: Tensor) -> Tensor:
        """The head's logits (n, classes), from one pass under the neutral label. Raises ValueError without a head."""
        if not self.has_head:
            raise ValueError("this network has no softmax head; read it by goodness")
        rows = normalize_rows_(self._labels.neutral(self._rows(images)), self.training_config.normalization)
        logits = rows.new_zeros(len(rows), self.classes)
        for index, activities, _ in self._layers(rows):
            if index in self.training_config.head_layers:
                accumulate(logits, activities, self.get_buffer(f"head{index}_weight"))
        return logits

    @torch.no_grad()
    def goodness_scores(self, images: Tensor) -> Tensor:
        """The goodness (n, classes) accumulated under every label. Raises ValueError where rows have no labels."""
        if not self.training_config.labelled:
            raise ValueError("this network was trained without labels in its rows; read it by softmax")
        images = self._rows(images)
        rows = normalize_rows_(self._labels.every_label(images), self.training_config.normalization)
        total = rows.new_zeros(len(rows))
        for index, _, goodness in self._layers(rows):
            if index >= self.training_config.goodness_from:
                total += goodness
        return total.view(len(images), self.classes)

    def _layers(self, rows: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Index, normalised activities and goodness of each layer in turn."""
        for index, (weight, bias) in enumerate(self._weights()):
            width = len(bias)
            if self._products == self._dtype:
                activity = addmm(bias, rows, weight).relu_()
            else:
                activity = torch.add(mm(rows.to(self._products), weight.to(self._products)), bias).relu_()
            squares = sum_of_squares(activity)
            goodness = squares if self.training_config.goodness == "sum" else squares / width
            scale = row_scale(squares, width, self.training_config.normalization)
            rows = activity.mul_(scale).to(self._products).to(self._dtype)
            yield index, rows, goodness

    def _weights(self) -> Iterator[LayerWeights]:
        """Of each layer in turn."""
        for index in range(len(self.training_config.dims) - 1):
            yield self.get_buffer(f"layer{index}_weight"), self.get_buffer(f"layer{index}_bias")

    def _rows(self, images: Tensor) -> Tensor:
        if tuple(images.shape[1:]) not in {(self.features,), self.shape}:
            raise ValueError(f"images are {tuple(images.shape)}; give (n, {self.features}) or (n, *{self.shape})")
        device = next((buffer.device for buffer in self.buffers()), images.device)
        rows = images.reshape(len(images), self.features).to(device)
        return rows.to(self._dtype) / 255 if images.dtype == torch.uint8 else rows.to(self._dtype)


class StreamedNetwork(Network):
    """A network whose layers do not fit into memory together: each is read when it is its turn, on the CPU.

    read: gives layer `index`. Many rows at once make up for it.
    """

    def __init__(
        self,
        training: Training,
        shape: Sequence[int],
        classes: int,
        read: Callable[[int], LayerWeights],
        head: Mapping[str, Tensor] | None,
        readout: str,
    ) -> None:
        super().__init__(training, shape, classes, (), head, readout)
        self._read = read

    def _weights(self) -> Iterator[LayerWeights]:
        yield from map(self._read, range(len(self.training_config.dims) - 1))

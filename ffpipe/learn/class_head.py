"""Class scores as a local objective: a small head reads a block's output, and cross-entropy teaches both.

    logits = head(h) / temperature,  L = (1 - beta) CE(logits, labels) + beta similarity(h, labels)

There are no negatives, and h is handed on as it is. A head knows the shape of one row and the number of classes, not
the block.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, cross_entropy, mse_loss, one_hot

from ffpipe.config.limits import MOST_LAYERS
from ffpipe.learn.batchnorm import over_minibatch
from ffpipe.learn.kinds import relu
from ffpipe.learn.objectives import Learned, Objective
from ffpipe.learn.precision import wide
from ffpipe.learn.spec import EXAMPLES, PLAIN, RowLayout, RowSpec
from ffpipe.learn.threads import total
from ffpipe.system.errors import UserError, nearest

HEAD_KINDS = ("linear", "groups", "groups-squared", "mlp")
# Hidden layers and pointwise convolutions of kind mlp where a config says nothing of them.
DEPTH, CONVOLUTIONS = 3, 3


class ClassHead(Objective):
    """Cross-entropy over classes, read from a block's output.

    kind "linear": a linear map of the flattened and perhaps pooled row (Mono-Forward, arXiv 2501.09238; with `dim` the
    decoder of Nøkland and Eidnes, arXiv 1901.06656), of tokens at every position. "groups": the mean activity of each
    class's share of the channels (DeeperForward, ICLR 2025); "groups-squared": its mean square (CwComp, arXiv
    2312.12668). "mlp": the auxiliary network of decoupled greedy learning (DGL, arXiv 1901.08164).

    Its parameters come from torch's default generator, those of the decoder first. Scores and losses are float32 at
    least, also under autocast.
    """

    roles = PLAIN

    def __init__(
        self,
        outputs: RowSpec,
        *,
        classes: int,
        kind: str = "linear",
        pool: int = 0,
        dim: int = 0,
        bias: bool = True,
        zero: bool = False,
        hidden: int = 0,
        depth: int = DEPTH,
        convolutions: int = CONVOLUTIONS,
        temperature: float = 1.0,
        smoothing: float = 0.0,
        similarity: float = 0.0,
    ) -> None:
        """Make the head of rows `outputs`: a vector (F,), an image (C, H, W) or tokens (T, D).

        pool: the largest side to which kind linear averages an image; 0: none. dim: instead of it, the most values that
        pooling leaves, by `kernel_for`. bias, zero: the last linear map has a bias; its weights start at zero. hidden,
        depth: width (0: that of its input) and number of hidden layers of kind mlp, after `convolutions` pointwise ones
        where the row is an image. smoothing: of labels. similarity: beta, the share of the similarity loss. Raises
        UserError for what does not fit.
        """
        super().__init__()
        shape = outputs.shape
        _check_kind(outputs, kind, classes, zero)
        _check_pooling(outputs, kind, pool, dim)
        if min(hidden, depth, convolutions) < 0:
            raise UserError(
                f"class head: hidden, depth, convolutions are {hidden}, {depth}, {convolutions}: give 0 or more"
            )
        _check_void(outputs, kind, bias, hidden, depth, convolutions)
        # A config may come from a stranger, and the head is made before anything else could find it too large.
        if max(depth, convolutions) > MOST_LAYERS:
            raise UserError(f"class head: depth, convolutions are {depth}, {convolutions}: give at most {MOST_LAYERS}")
        # Not `<= 0`, which NaN passes.
        if not temperature > 0:
            raise UserError(f"class head: temperature is {temperature:g}: give a positive number")
        if not 0 <= smoothing < 1:
            raise UserError(f"class head: smoothing is {smoothing:g}: give 0 (none) to less than 1")
        if not 0 <= similarity <= (len(shape) != 2):
            allowed = "0: it does not compare tokens" if len(shape) == 2 else "0 (none) to 1"
            raise UserError(f"class head: similarity is {similarity:g} for rows {outputs}: give {allowed}")
        self.classes = classes
        self.temperature = temperature
        self.smoothing = smoothing
        self.similarity = similarity
        self.decoder: nn.Module
        if kind == "mlp":
            self.decoder = over_minibatch(_perceptron(shape, classes, hidden, depth, convolutions, bias))
        elif kind == "linear":
            self.decoder = _linear(shape, classes, pool, dim, bias)
        else:
            self.decoder = GroupMeans(classes, 2 if kind == "groups-squared" else 1)
        # The weights alone, as in the program of Nøkland and Eidnes, whose decoders' biases are drawn.
        if zero:
            last = list(self.decoder.modules())[-1]
            assert isinstance(last, nn.Linear)
            nn.init.zeros_(last.weight)
        self.projection: nn.Module | None = None
        if similarity:
            self.undivided = "compares the examples of a minibatch with each other (similarity)"
            images = len(shape) == 3
            make = partial(nn.Conv2d, kernel_size=3, padding=1) if images else nn.Linear
            self.projection = make(shape[0], shape[0], bias=False)

    def forward(self, h: Tensor, layout: RowLayout, labels: Tensor | None) -> Learned:
        """Judge h (layout.batch, ...) by labels (layout.batch,), or (layout.batch, T) of tokens.

        Sums over examples; loss and errors of an example of tokens are means over its positions. Raises UserError
        without labels.
        """
        if labels is None:
            raise UserError("class head: there are no labels to learn from: give data with labels or another objective")
        rows = layout[EXAMPLES]
        # The gradient of a slice is a copy, of all rows as well.
        h = h if len(h) == rows.stop else h[rows]
        logits = self.logits(h)
        # A sum for each example first: torch's own sum would be cut up among its threads.
        each = cross_entropy(logits.flatten(0, -2), labels.flatten(), reduction="none", label_smoothing=self.smoothing)
        loss, errors = total(each), (logits.argmax(-1) != labels).sum()
        if labels.dim() == 2:
            loss, errors = loss / labels.shape[1], errors / labels.shape[1]
        if self.projection is not None:
            # A mean over pairs of examples, where losses are sums over examples.
            between = similarity_loss(self.projection(h), labels, self.classes)
            loss = (1 - self.similarity) * loss + self.similarity * len(h) * between
        return Learned(loss, errors)

    def score(self, h: Tensor) -> Tensor:
        return self.logits(h)

    def logits(self, h: Tensor) -> Tensor:
        """Read h (n, ...): (n, classes), or (n, T, classes) of tokens; float32 or float64."""
        return wide(self.decoder(h)) / self.temperature


class GroupMeans(nn.Module):
    """Mean over each of `classes` consecutive groups of channels or units, of the activities to a power."""

    def __init__(self, classes: int, power: int) -> None:
        super().__init__()
        self.classes = classes
        self.power = power

    def forward(self, h: Tensor) -> Tensor:
        """Average h (n, C, ...), where `classes` divides C: (n, classes), float32 or float64."""
        activities: Tensor = wide(h).flatten(1).unflatten(1, (self.classes, -1))
        return torch.pow(activities, self.power).mean(2)


class AverageTo(nn.Module):
    """Adaptive average pooling of images to given sides.

    The numbers are those of torch's adaptive_avg_pool2d, whose gradient on GPUs depends on the order of additions.
    """

    def __init__(self, taken: Sequence[int], height: int, width: int) -> None:
        """taken: height and width of the images that come, which do not change: what is recorded hangs on neither."""
        super().__init__()
        self.taken, self.sides = tuple(taken), (height, width)

    def forward(self, images: Tensor) -> Tensor:
        """Average images (n, C, H, W): (n, C, height, width). Parts overlap where the sides do not divide."""
        if self.taken == self.sides:
            return images
        # Equal parts are made by one operation, and so is their gradient.
        factors = [divmod(side, parts) for side, parts in zip(self.taken, self.sides, strict=True)]
        if all(rest == 0 for _, rest in factors):
            return avg_pool2d(images, [factor for factor, _ in factors])
        for dim, side, parts in zip((2, 3), self.taken, self.sides, strict=True):
            cuts = [(part * side // parts, -(-(part + 1) * side // parts)) for part in range(parts)]
            images = torch.stack([images.narrow(dim, low, high - low).mean(dim) for low, high in cuts], dim)
        return images


def kernel_for(shape: tuple[int, ...], dim: int) -> tuple[int, int]:
    """Find the pooling kernel (height, width) that leaves at most `dim` values of an image (C, H, W).

    Height and width double in turn until they do, or until the kernel is as high as the image (Nøkland and Eidnes, from
    their program); so more are left where there are more channels than `dim`.
    """
    channels, height, width = shape
    kernel, left, turn = [1, 1], [height, width], 0
    while channels * math.prod(left) > dim and (turn or kernel[0] < height):
        kernel[turn] *= 2
        left[turn] = math.ceil((height, width)[turn] / kernel[turn])
        turn = 1 - turn
    return kernel[0], kernel[1]


def similarity_matrix(rows: Tensor) -> Tensor:
    """Correlate each of the rows (B, F) or (B, C, H, W) with each: (B, B), float32 or float64, from -1 to 1.

    An image with more than 3 channels and 1 pixel counts as the standard deviations of its channels (Nøkland and
    Eidnes, arXiv 1901.06656, with the limits of their program).
    """
    rows = wide(rows)
    if rows.dim() == 4 and rows.shape[1] > 3 and rows.shape[2:].numel() > 1:
        rows = rows.flatten(2).std(2)
    rows = rows.flatten(1)
    centred = rows - rows.mean(1, keepdim=True)
    # 1e-8 as in their program: a row without contrast resembles nothing, in place of NaN.
    unit = centred / (torch.linalg.vector_norm(centred, dim=1, keepdim=True) + 1e-8)
    # Not rounded to bfloat16. Meta tensors have no autocast to turn off, and torch refuses the attempt.
    with nullcontext() if unit.is_meta else torch.autocast(unit.device.type, enabled=False):
        return torch.mm(unit, unit.T).clamp(-1, 1)


def similarity_loss(rows: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Compare the similarities of rows (B, ...) with those of their one-hot labels (B,): mean square over all B x B."""
    found = similarity_matrix(rows)
    return mse_loss(found, similarity_matrix(one_hot(labels, classes).to(found.dtype)))


def _check_kind(outputs: RowSpec, kind: str, classes: int, zero: bool) -> None:
    if len(outputs.shape) not in (1, 2, 3):
        raise UserError(f"class head: rows are {outputs}: give vectors (F,), tokens (T, D) or images (C, H, W)")
    if kind not in HEAD_KINDS:
        raise UserError(f"class head: kind is {kind!r}: {nearest(kind, HEAD_KINDS)}")
    if classes < 2:
        raise UserError(f"class head: classes is {classes}: give 2 or more")
    if len(outputs.shape) == 2 and kind != "linear":
        raise UserError(f"class head: kind {kind!r} does not read tokens ({outputs}): give 'linear'")
    channels, groups = outputs.shape[0], kind in ("groups", "groups-squared")
    if groups and channels % classes:
        below = channels // classes * classes
        fitting = f"{below} or {below + classes}" if below else f"{classes}"
        raise UserError(f"class head: {channels} channels do not make {classes} equal groups: give {fitting} channels")
    if groups and zero:
        raise UserError(f"class head: kind {kind!r} has no weights that could start at zero: leave out zero")


def _check_pooling(outputs: RowSpec, kind: str, pool: int, dim: int) -> None:
    if (pool or dim) and (kind != "linear" or len(outputs.shape) != 3):
        raise UserError(f"class head: pool and dim are for kind 'linear' of images, not for {kind!r} of {outputs}")
    if (pool and dim) or min(pool, dim) < 0:
        raise UserError(f"class head: pool is {pool} and dim is {dim}: give one of both, positive, or 0 for both")


def _check_void(outputs: RowSpec, kind: str, bias: bool, hidden: int, depth: int, convolutions: int) -> None:
    """Refuse options that a head of this kind has nothing for. A number of 0, or of the default, leaves it as it is."""
    layers = depth if kind == "mlp" else 0
    void = {
        "hidden": hidden and not layers,
        "depth": depth not in (0, DEPTH) and not layers,
        "convolutions": convolutions not in (0, CONVOLUTIONS) and not (kind == "mlp" and len(outputs.shape) == 3),
        "bias": not bias and kind not in ("linear", "mlp"),
    }
    if names := [name for name, is_void in void.items() if is_void]:
        raise UserError(f"class head: kind {kind!r} of rows {outputs} has no {' and no '.join(names)}: leave it out")


def _linear(shape: tuple[int, ...], classes: int, pool: int, dim: int, bias: bool) -> nn.Module:
    if len(shape) == 2:
        return nn.Linear(shape[1], classes, bias=bias)
    channels, *sides = shape[0], *shape[1:]
    parts: list[nn.Module] = []
    if pool:
        smaller = [min(pool, side) for side in sides]
        parts, sides = [AverageTo(sides, *smaller)], smaller
    elif dim:
        kernel = kernel_for(shape, dim)
        # If a side is not divided, half a kernel of zeros goes before and after it, which count in the average.
        above, beside = (extent // 2 if side % extent else 0 for side, extent in zip(sides, kernel, strict=True))
        parts = [nn.AvgPool2d(kernel, padding=(above, beside))]
        sides = [math.ceil(side / extent) for side, extent in zip(sides, kernel, strict=True)]
    return nn.Sequential(*parts, nn.Flatten(), nn.Linear(channels * math.prod(sides), classes, bias=bias))


def _perceptron(
    shape: tuple[int, ...], classes: int, hidden: int, depth: int, convolutions: int, bias: bool
) -> nn.Module:
    """Make DGL's auxiliary network: a quarter of the sides, pointwise convolutions, 2 x 2, hidden layers, logits."""
    parts: list[nn.Module] = []
    width = shape[0]
    if len(shape) == 3:
        quarter = (math.ceil(shape[1] / 4), math.ceil(shape[2] / 4))
        parts.append(AverageTo(shape[1:], *quarter))
        # Without a bias, which the batch normalisation behind would take out again; so it is in the authors' program.
        for _ in range(convolutions):
            parts += [nn.Conv2d(shape[0], shape[0], 1, bias=False), nn.BatchNorm2d(shape[0]), relu()]
        parts += [AverageTo(quarter, 2, 2), nn.Flatten()]
        width *= 4
    for _ in range(depth):
        parts += [nn.Linear(width, hidden or width), nn.BatchNorm1d(hidden or width), relu()]
        width = hidden or width
    return nn.Sequential(*parts, nn.Linear(width, classes, bias=bias))

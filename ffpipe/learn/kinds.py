"""The kinds of block that ffpipe ships: functions that make a block's body for what it takes.

Each gets the row spec of its input and keyword arguments from the config (`[[training.blocks]]`, `options`), and
returns a module that maps (n, *inputs.shape) to a tensor of n rows. A body ends where its local objective begins.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ffpipe.config.blocks import FF_DENSE
from ffpipe.config.limits import MOST_LAYERS, MOST_UNITS
from ffpipe.learn.spec import RowSpec
from ffpipe.system.errors import UserError, nearest

# In place: products and normalisation, which come before, keep for the gradient what they take, not what they give.
relu = partial(nn.ReLU, inplace=True)
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": relu,
    "leaky-relu": partial(nn.LeakyReLU, inplace=True),
    "gelu": nn.GELU,
    "none": nn.Identity,
}


def dense(
    inputs: RowSpec,
    *,
    width: int,
    norm: bool = False,
    activation: str = "relu",
    dropout: float = 0.0,
    input_dropout: float = 0.0,
) -> nn.Module:
    """Make a fully connected layer on flattened rows: dropout of what comes in, Linear, batch normalisation,
    activation, dropout; gives (n, width)."""
    layers = [nn.Flatten(), *_dropout(input_dropout, nn.Dropout), nn.Linear(inputs.size, width)]
    norms = [nn.BatchNorm1d(width)] if norm else []
    return nn.Sequential(*layers, *norms, _activation(activation), *_dropout(dropout, nn.Dropout))


def readout(inputs: RowSpec, *, dropout: float = 0.0) -> nn.Module:
    """Make no layer at all, but dropout of what comes in: its objective reads what the block before hands on."""
    return nn.Sequential(*_dropout(dropout, nn.Dropout))


def conv(
    inputs: RowSpec,
    *,
    channels: int,
    kernel: int = 3,
    stride: int = 1,
    groups: int = 1,
    layers: int = 1,
    norm: bool = True,
    activation: str = "relu",
    pool: int = 1,
    pool_first: bool = False,
    norm_last: bool = False,
    dropout: float = 0.0,
    input_dropout: float = 0.0,
) -> nn.Module:
    """Make convolutions with padding on images (C, H, W), each with batch normalisation and activation, then max
    pooling and dropout of whole channels; gives (n, channels, H', W'). layers: convolutions, of which the first has the
    stride.

    pool_first: pool before the first convolution. norm_last: one batch normalisation at the end, with epsilon 1e-4, in
    place of those before the activations (CwComp, arXiv 2312.12668). input_dropout: of channels that come in.
    """
    taken = _channels(inputs, "conv")
    if taken % groups or channels % groups:
        raise UserError(f"groups is {groups}, which does not divide {taken} and {channels} channels: give a divisor")
    inner = norm and not norm_last
    pooling = [nn.MaxPool2d(pool)] if pool > 1 else []
    parts: list[nn.Module] = [*_dropout(input_dropout, nn.Dropout2d), *(pooling if pool_first else [])]
    for index in range(layers):
        given = taken if index == 0 else channels
        step = stride if index == 0 else 1
        # Batch normalisation that comes next would take a bias out again.
        parts += [nn.Conv2d(given, channels, kernel, step, kernel // 2, groups=groups, bias=not inner)]
        parts += [*([nn.BatchNorm2d(channels)] if inner else []), _activation(activation)]
    parts += [] if pool_first else pooling
    parts += [nn.BatchNorm2d(channels, eps=1e-4)] if norm_last else []
    return nn.Sequential(*parts, *_dropout(dropout, nn.Dropout2d))


def vgg(inputs: RowSpec, *, plan: str) -> nn.Module:
    """Make several layers on images (C, H, W) that learn as one block; gives (n, channels, H', W').

    plan: channels of each 3 x 3 convolution with padding, batch normalisation and ReLU, and M for max pooling by two,
    as "64 M 128 128 M" (the columns of Simonyan and Zisserman's table 1, arXiv 1409.1556). Raises UserError.
    """
    taken, sides = _channels(inputs, "vgg"), inputs.shape[1:]
    words = plan.split()
    if len(words) > MOST_LAYERS:
        raise UserError(f"kind 'vgg': plan has {len(words):,} words: give 1 to {MOST_LAYERS} words")
    if not words or words[0] == "M":
        raise UserError(f"kind 'vgg': plan is {plan!r}: give channels and M, such as '64 M 128 128 M'")
    parts: list[nn.Module] = []
    for word in words:
        if word == "M":
            sides = tuple(side // 2 for side in sides)
            if not all(sides):
                raise UserError(f"kind 'vgg': plan {plan!r} leaves no pixel of rows of {inputs}: give fewer M")
            # Before normalisation and ReLU, which then work on, and keep for the gradient, a quarter of the pixels.
            parts.insert(-2, nn.MaxPool2d(2))
            continue
        # By its letters: int() also takes signs, underscores and the digits of other scripts.
        if not (re.fullmatch("[0-9]{1,8}", word) and 1 <= int(word) <= MOST_UNITS):
            raise UserError(f"kind 'vgg': plan has {word!r}: give channels from 1 to {MOST_UNITS}, or M to pool")
        parts += [nn.Conv2d(taken, int(word), 3, padding=1, bias=False), nn.BatchNorm2d(int(word)), relu()]
        taken = int(word)
    return nn.Sequential(*parts)


class Residual(nn.Module):
    """relu(f(x) + s(x)): f two convolutions with batch normalisation, s the identity or a pointwise convolution where
    the shape changes (He et al., arXiv 1512.03385)."""

    def __init__(self, taken: int, channels: int, stride: int) -> None:
        super().__init__()
        self.f = nn.Sequential(
            nn.Conv2d(taken, channels, 3, stride, 1, bias=False),
            nn.BatchNorm2d(channels),
            relu(),
            nn.Conv2d(channels, channels, 3, 1, 1, bias=False),
            nn.BatchNorm2d(channels),
        )
        same = taken == channels and stride == 1
        self.s = nn.Identity() if same else nn.Conv2d(taken, channels, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = (self.f(x) + self.s(x)).relu_()
        return made


def residual(inputs: RowSpec, *, channels: int, stride: int = 1, layers: int = 1) -> nn.Module:
    """Make residual layers on images (C, H, W); gives (n, channels, H', W'). The first has the stride."""
    taken = _channels(inputs, "residual")
    parts = [Residual(channels if i else taken, channels, 1 if i else stride) for i in range(layers)]
    # Not as a Sequential of one, in which names of weights in snapshots would be others.
    return parts[0] if layers == 1 else nn.Sequential(*parts)


class ReceptiveFields(nn.Module):
    """Unshared local receptive fields: at each place a dense layer of its own sees kernel x kernel pixels.

    weight: (places, C kernel^2, channels). bias: (places, 1, channels), which weight decay is of too, as it goes by the
    number of dimensions (optim.py). Gives (n, channels, H', W'), as Hinton, arXiv 2212.13345, section 3.2.
    """

    def __init__(self, inputs: RowSpec, channels: int, kernel: int, stride: int, activation: nn.Module) -> None:
        super().__init__()
        taken, height, width = inputs.shape
        self.activation = activation
        self.kernel, self.stride = kernel, stride
        self.size = ((height - kernel) // stride + 1, (width - kernel) // stride + 1)
        fan_in = taken * kernel * kernel
        # Drawn as the weights of Hinton's layers are (dense.initial_weight).
        self.weight = nn.Parameter(torch.randn(self.size[0] * self.size[1], fan_in, channels) / fan_in**0.5)
        self.bias = nn.Parameter(torch.zeros(self.size[0] * self.size[1], 1, channels))

    def forward(self, x: Tensor) -> Tensor:
        fields = nn.functional.unfold(x, self.kernel, stride=self.stride)  # (n, fan_in, places)
        total = torch.baddbmm(self.bias, fields.permute(2, 0, 1), self.weight)  # (places, n, channels)
        made: Tensor = self.activation(total)
        return made.permute(1, 2, 0).reshape(x.shape[0], -1, *self.size)


def receptive_fields(
    inputs: RowSpec, *, channels: int, kernel: int, stride: int = 1, activation: str = "relu"
) -> nn.Module:
    """See ReceptiveFields. Takes images (C, H, W)."""
    _channels(inputs, "receptive-fields")
    if kernel > min(inputs.shape[1:]):
        raise UserError(f"kernel is {kernel}, larger than rows of {inputs}: give at most {min(inputs.shape[1:])}")
    return ReceptiveFields(inputs, channels, kernel, stride, _activation(activation))


class TransformerLayer(nn.Module):
    """Pre-normalised self-attention, then a perceptron of four times the width, each added to what it sees; position t
    attends to positions up to t (Radford et al. 2019)."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.before, self.after = nn.LayerNorm(width), nn.LayerNorm(width)
        self.project, self.join = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        # A module, by which LocalBlock knows that the block draws: attention, a function, drops too.
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        # Without a size that is read off x, which torch.jit.trace would take for a constant.
        parts = self.project(self.before(x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        query, key, value = parts.unbind()
        # As a function it has no mode, and would drop in evaluations.
        seen = nn.functional.scaled_dot_product_attention(
            query, key, value, is_causal=True, dropout_p=self.dropout if self.training else 0.0
        )
        x = x + self.drop(self.join(seen.transpose(1, 2).flatten(2)))
        made: Tensor = x + self.drop(self.mlp(self.after(x)))
        return made


class Embedding(nn.Module):
    """Token ids (n, tokens) as vectors (n, tokens, width), with a learned vector for each position."""

    def __init__(self, symbols: int, tokens: int, width: int) -> None:
        super().__init__()
        self.symbols, self.places = nn.Embedding(symbols, width), nn.Parameter(torch.zeros(tokens, width))
        nn.init.normal_(self.symbols.weight, std=0.02)  # as GPT-2 has it

    def forward(self, ids: Tensor) -> Tensor:
        made: Tensor = self.symbols(ids) + self.places
        return made


def transformer(
    inputs: RowSpec, *, width: int, heads: int = 4, layers: int = 1, symbols: int = 256, dropout: float = 0.0
) -> nn.Module:
    """Make causal transformer layers on token vectors (T, width), or on token ids (T,), which they embed first.

    symbols: how many there are, where they are embedded. Gives (n, T, width).
    """
    if width % heads:
        raise UserError(f"width is {width}, which {heads} heads do not divide: give a multiple of {heads}")
    ids = len(inputs.shape) == 1 and not inputs.dtype.is_floating_point
    if not ids and (len(inputs.shape) != 2 or inputs.shape[1] != width):
        raise UserError(f"a transformer of width {width} takes token ids, or vectors of {width}; it gets {inputs}")
    first = [Embedding(symbols, inputs.shape[0], width)] if ids else []
    parts = [*first, *(TransformerLayer(width, heads, dropout) for _ in range(layers))]
    return parts[0] if len(parts) == 1 else nn.Sequential(*parts)


class Added(nn.Module):
    """A body that gets the sum of its input and of kept outputs, all of one shape."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor, *kept: Tensor) -> Tensor:
        for each in kept:
            x = x + each
        made: Tensor = self.body(x)
        return made


BLOCK_KINDS: dict[str, Callable[..., nn.Module]] = {
    "dense": dense,
    "readout": readout,
    "conv": conv,
    "vgg": vgg,
    "residual": residual,
    "receptive-fields": receptive_fields,
    "transformer": transformer,
}


def check_counts(name: str, options: Mapping[str, Any]) -> None:
    """Refuse a size or a number of layers that no block of a kind can have. Raises UserError."""
    for option, value in options.items():
        # Annotations are text in this module, which puts off their evaluation.
        if BLOCK_KINDS[name].__annotations__.get(option) == "int":
            most = MOST_LAYERS if option == "layers" else MOST_UNITS
            # A bool is an int too.
            if type(value) is not int or not 1 <= value <= most:
                raise UserError(f"kind {name!r}: {option} is {value}: give a whole number from 1 to {most}")


def kind_of(name: str) -> Callable[..., nn.Module]:
    """Return the function of a kind. Raises UserError with the nearest right name."""
    if name not in BLOCK_KINDS:
        raise UserError(f"there is no kind of block {name!r}; {nearest(name, [*BLOCK_KINDS, FF_DENSE])}")
    return BLOCK_KINDS[name]


def _channels(inputs: RowSpec, kind: str) -> int:
    if len(inputs.shape) != 3 or not inputs.dtype.is_floating_point:
        raise UserError(f"a block of kind {kind!r} takes images (channels, height, width); it gets {inputs}")
    return inputs.shape[0]


def _activation(name: str) -> nn.Module:
    if name not in ACTIVATIONS:
        raise UserError(f"activation is {name!r}: give {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]()


def _dropout(share: float, kind: Callable[[float], nn.Module]) -> list[nn.Module]:
    return [kind(share)] if share else []

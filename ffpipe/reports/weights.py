"""Weights that can be looked at: what the units of a layer see, and the kernels of convolutions."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ffpipe.learn.block import Block
from ffpipe.learn.dense import FFDense
from ffpipe.learn.kinds import ReceptiveFields
from ffpipe.reports.network import Trained
from ffpipe.system.errors import UserError

# Fields of a layer that are shown, convolutions of a network, and pixels of a field that is worth a look.
MOST_FIELDS = 48
MOST_LAYERS = 6
LEAST_PIXELS = 9


class Fields(NamedTuple):
    """Fields of one layer. values: (n, height, width[, 3]); zero is in the middle of each one's range."""

    title: str
    what: str
    values: NDArray[np.float32]
    in_all: int


def fields(trained: Trained) -> list[Fields]:
    """Find the layers that see pixels and the convolutions after them. Raises UserError where there is none."""
    shape = trained.job.splits.shape
    if trained.training.inputs == "tokens":
        raise UserError("the network takes tokens, and no layer of it sees pixels")
    found = []
    for index in range(len(trained.saved.network)):
        found += _of_block(trained.block(index), index, shape)
        if len(found) >= MOST_LAYERS:
            break
    if not found:
        raise UserError("no layer sees pixels side by side, and there are no convolutions")
    return found[:MOST_LAYERS]


def _of_block(block: Block, index: int, shape: tuple[int, ...]) -> list[Fields]:
    if isinstance(block, FFDense):
        return _of_dense(block.weight.detach().T, f"block {index}, dense", shape, False) if index == 0 else []
    found = []
    # Without the layers of its objective, which see no images.
    body = getattr(block, "body", block)
    for module in body.modules():
        title = f"block {index}, {type(module).__name__}"
        if isinstance(module, ReceptiveFields) and module.kernel**2 >= LEAST_PIXELS:
            found += [_of_places(module, f"block {index}, receptive fields")]
        elif isinstance(module, nn.Conv2d) and min(module.kernel_size) > 1:  # one pixel shows nothing
            found += [_of_kernels(module.weight.detach(), title)]
        # Only the first layer sees pixels.
        elif isinstance(module, nn.Linear) and index == 0 and not found:
            first = len(block.inputs.shape) == 3
            found += _of_dense(module.weight.detach(), title, shape, first)
    return found


def _of_dense(weight: Tensor, title: str, shape: tuple[int, ...], channels_first: bool) -> list[Fields]:
    """Take the fields of the units (units, inputs) of a layer that sees the pixels and perhaps a label behind them."""
    features = math.prod(shape)
    if len(shape) not in (2, 3) or features < LEAST_PIXELS or weight.shape[1] < features:
        return []
    chosen = _strongest(weight[:, :features])
    seen = weight[chosen, :features].float()
    if len(shape) == 3 and channels_first:
        seen = seen.view(-1, shape[2], *shape[:2]).permute(0, 2, 3, 1)
    else:
        seen = seen.view(-1, *shape)
    return [Fields(title, "weights from the pixels to the units with the longest ones", _of_colours(seen), len(weight))]


def _of_places(module: ReceptiveFields, title: str) -> Fields:
    """Take the fields of a grid: those of the strongest channels, place after place."""
    places, fan_in, channels = module.weight.shape
    # Not of the block's inputs: by backpropagation the block is the whole network, with several grids.
    taken = fan_in // module.kernel**2
    weight = module.weight.detach().view(places, taken, module.kernel, module.kernel, channels).float()
    weight = weight if taken == 3 else weight.mean(1, keepdim=True)
    each = max(1, MOST_FIELDS // places)
    chosen = weight.flatten(1, 3).norm(dim=1).topk(min(each, channels), dim=1).indices  # (places, each)
    seen = torch.stack([weight[place, ..., one] for place in range(places) for one in chosen[place].tolist()])
    what = "strongest channels, place after place" + ("" if taken in (1, 3) else f"; mean over {taken} channels")
    return Fields(title, what, _of_colours(seen[:MOST_FIELDS].permute(0, 2, 3, 1)), places * channels)


def _of_kernels(weight: Tensor, title: str) -> Fields:
    """Take kernels (out, in, height, width) of a convolution: whole ones of one or three channels, else single ones."""
    out, taken = weight.shape[:2]
    if taken in (1, 3):
        seen = weight[_strongest(weight.flatten(1))].float().permute(0, 2, 3, 1)
        return Fields(title, "kernels, the longest first", _of_colours(seen), out)
    flat = weight.flatten(0, 1)
    seen = flat[_strongest(flat.flatten(1))].float().unsqueeze(3)
    what = "kernels from one channel to one, the longest first"
    return Fields(title, what, _of_colours(seen), out * taken)


def _strongest(rows: Tensor) -> Tensor:
    found: Tensor = rows.float().norm(dim=1).topk(min(MOST_FIELDS, len(rows))).indices
    return found


def _of_colours(seen: Tensor) -> NDArray[np.float32]:
    """Give (n, height, width[, channels]) as (n, height, width[, 3]); two or four channels become their mean."""
    if seen.dim() == 4 and seen.shape[3] != 3:
        seen = seen.mean(3)
    # A run that has diverged has weights that are not finite.
    made: NDArray[np.float32] = np.nan_to_num(seen.numpy().astype(np.float32))
    return made

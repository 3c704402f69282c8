"""Kinds of block by examples that were computed by hand: what each row comes to, number by number."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ffpipe.learn.kinds import (
    Added,
    Embedding,
    ReceptiveFields,
    Residual,
    TransformerLayer,
    conv,
    receptive_fields,
    transformer,
    vgg,
)
from ffpipe.learn.spec import RowSpec


def images(*shape: int) -> RowSpec:
    return RowSpec(shape, torch.float32)


def put(module: nn.Module, **values: Any) -> None:
    """Set parameters by their names, with `_` for the dots."""
    named = {name.replace(".", "_"): parameter for name, parameter in module.named_parameters()}
    with torch.no_grad():
        for name, value in values.items():
            named[name].copy_(torch.as_tensor(value, dtype=torch.float32).view_as(named[name]))


def test_each_place_of_receptive_fields_sees_its_own_pixels_by_its_own_weights() -> None:
    # Two channels of 3 x 3 pixels, 0 to 8 and 10 to 18; fields of 2 x 2 with stride 1 have four places.
    x = torch.stack([torch.arange(9.0).view(3, 3), torch.arange(10.0, 19.0).view(3, 3)])[None]
    fields = ReceptiveFields(images(2, 3, 3), 1, 2, 1, nn.Identity())
    assert fields.weight.shape == (4, 8, 1)
    weight = torch.zeros(4, 8)
    # By place: all pixels of the first channel; its lower left; the second channel's upper right; nothing.
    weight[0, :4], weight[1, 2], weight[2, 5] = 1.0, 1.0, 1.0
    put(fields, weight=weight, bias=[0.0, 0.5, 0.0, -7.0])
    # 0 + 1 + 3 + 4; pixel (1, 1) of the first; (1, 1) of the second; the bias.
    assert fields(x).tolist() == [[[[8.0, 4.5], [14.0, -7.0]]]]


def test_strides_and_channels_of_receptive_fields() -> None:
    x = torch.arange(16.0).view(1, 1, 4, 4)
    body = receptive_fields(images(1, 4, 4), channels=2, kernel=2, stride=2)
    weight = torch.zeros(4, 4, 2)
    weight[:, 0, 0], weight[:, 3, 1] = 1.0, -1.0
    put(body, weight=weight, bias=torch.tensor([0.0, 11.0]).repeat(4, 1))
    # The upper left pixel of each place; 11 less the lower right one, where that is left of ReLU.
    assert body(x).tolist() == [[[[0.0, 2.0], [8.0, 10.0]], [[6.0, 4.0], [0.0, 0.0]]]]


def test_groups_of_a_convolution_see_their_own_channels() -> None:
    body = conv(images(2, 1, 2), channels=2, kernel=1, groups=2, norm=False, pool=1)
    put(body, **{"0_weight": [2.0, 3.0], "0_bias": [0.0, -40.0]})
    assert body(torch.tensor([[[[1.0, 2.0]], [[10.0, 20.0]]]])).tolist() == [[[[2.0, 4.0]], [[0.0, 20.0]]]]


def test_vgg_pools_before_it_normalises() -> None:
    body = vgg(images(1, 2, 2), plan="1 M").eval()
    kinds = [type(part) for part in body.children()]
    assert kinds == [nn.Conv2d, nn.MaxPool2d, nn.BatchNorm2d, nn.ReLU]
    kernel = torch.zeros(3, 3)
    kernel[1, 1], kernel[1, 2] = 1.0, 10.0  # a pixel, and ten times its right neighbour
    put(body, **{"0_weight": kernel})
    made = body(torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]]))
    # The largest of 21, 2, 43 and 4, by the running statistics of a fresh normalisation: mean 0, variance 1 + 1e-5.
    torch.testing.assert_close(made, torch.tensor([[[[43 / (1 + 1e-5) ** 0.5]]]]))


def test_a_residual_layer_adds_what_it_sees() -> None:
    layer = Residual(1, 1, 1).eval()
    first, second = torch.zeros(3, 3), torch.zeros(3, 3)
    first[1, 1], second[1, 1] = 2.0, -1.0
    put(layer, f_0_weight=first, f_3_weight=second)
    # x - 2 max(x, 0) by the running statistics of fresh normalisations, and ReLU of it: |x| where x < 0 is not.
    made = layer(torch.tensor([[[[3.0, -2.0]]]]))
    torch.testing.assert_close(made, torch.zeros(1, 1, 1, 2))
    put(layer, f_3_weight=-second)
    made = layer(torch.tensor([[[[3.0, -2.0]]]]))
    torch.testing.assert_close(made, torch.tensor([[[[3 + 6 / (1 + 1e-5), 0.0]]]]))
    wider = Residual(1, 2, 2)
    assert [tuple(parameter.shape) for parameter in wider.s.parameters()] == [(2, 1, 1, 1)]
    assert wider(torch.zeros(1, 1, 4, 4)).shape == (1, 2, 2, 2)


def test_attention_by_hand() -> None:
    """With queries of 0 each position sees the mean of the values up to it; the perceptron gives nothing."""
    layer = TransformerLayer(2, 1, 0.0)
    project = torch.zeros(6, 2)
    project[4, 0] = project[5, 1] = 1.0  # the values are what comes in, normalised
    zero = {name.replace(".", "_"): torch.zeros_like(p) for name, p in layer.named_parameters() if "bias" in name}
    put(layer, **zero, project_weight=project, join_weight=torch.eye(2), mlp_2_weight=torch.zeros(2, 8))
    x = torch.tensor([[[1.0, -1.0], [-1.0, 1.0], [1.0, -1.0]]])
    n = 1 / (1 + 1e-5) ** 0.5  # of LayerNorm
    seen = torch.tensor([[[n, -n], [0.0, 0.0], [n / 3, -n / 3]]])
    torch.testing.assert_close(layer(x), x + seen)


@pytest.mark.parametrize("changed", [0, 2, 4])
def test_no_position_sees_a_later_one(changed: int) -> None:
    torch.manual_seed(1)
    body = transformer(RowSpec((5,), torch.int64), width=8, heads=2, layers=2, symbols=7)
    ids = torch.tensor([[1, 2, 3, 4, 5]])
    other = ids.clone()
    other[0, changed] = 6
    before, after = body(ids), body(other)
    assert torch.equal(before[:, :changed], after[:, :changed])
    assert all(not torch.equal(before[:, t], after[:, t]) for t in range(changed, 5))


def test_an_embedding_adds_the_vector_of_the_position() -> None:
    layer = Embedding(3, 2, 2)
    put(layer, symbols_weight=[[0.0, 0.0], [1.0, 2.0], [3.0, 4.0]], places=[[10.0, 20.0], [30.0, 40.0]])
    assert layer(torch.tensor([[2, 1]])).tolist() == [[[13.0, 24.0], [31.0, 42.0]]]


def test_kept_outputs_are_added_before_the_body() -> None:
    def ones(value: float) -> Tensor:
        return torch.full((1, 2), value)

    assert Added(nn.ReLU())(ones(1.0), ones(2.0), ones(-4.0)).tolist() == [[0.0, 0.0]]
    assert Added(nn.ReLU())(ones(1.0), ones(2.0)).tolist() == [[3.0, 3.0]]

"""Class heads: numbers worked out by hand, gradients against finite differences, and sizes that were published."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from covering import only
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from ffpipe.learn.class_head import AverageTo, ClassHead, kernel_for, similarity_loss, similarity_matrix
from ffpipe.learn.spec import EXAMPLES, NEUTRAL, PAIRS, PLAIN, RowLayout, RowSpec
from ffpipe.system.errors import UserError

LN3 = math.log(3)


def spec(*shape: int) -> RowSpec:
    return RowSpec(shape, torch.float32)


def plain(batch: int) -> RowLayout:
    return RowLayout(batch=batch, learning=PLAIN)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def set_weights(head: ClassHead, *values: Any) -> ClassHead:
    """Put values in the place of the parameters, in their order."""
    with torch.no_grad():
        for parameter, value in zip(head.parameters(), values, strict=True):
            parameter.copy_(torch.as_tensor(value).view(parameter.shape))
    return head


@pytest.mark.parametrize(
    ("kind", "temperature", "expected"),
    [("groups", 1, [2.5, 6.5]), ("groups-squared", 1, [7.5, 43.5]), ("groups", 2, [1.25, 3.25])],
)
def test_groups_are_consecutive_channels(kind: str, temperature: float, expected: list[float]) -> None:
    h = torch.arange(1.0, 9.0)  # channels 1 2, 3 4 | 5 6, 7 8
    for shape in ((4, 1, 2), (8,)):
        head = ClassHead(spec(*shape), classes=2, kind=kind, temperature=temperature)
        assert head.logits(h.view(1, *shape)).tolist() == [expected]
        assert list(head.parameters()) == []


@pytest.mark.parametrize(
    ("smoothing", "loss"),
    [
        # Probabilities are 3/4 and 1/4. With smoothed labels 1 - s + s/2 fall on the right class and s/2 on the other.
        (0.0, math.log(4 / 3) + math.log(4)),
        (0.2, (0.9 * math.log(4 / 3) + 0.1 * math.log(4)) + (0.9 * math.log(4) + 0.1 * math.log(4 / 3))),
    ],
)
def test_loss_is_a_sum_of_cross_entropies(smoothing: float, loss: float) -> None:
    h = torch.tensor([[LN3, 0.0], [0.0, LN3]])
    head = ClassHead(spec(2), classes=2, kind="groups", smoothing=smoothing)
    learned = head(h, plain(2), torch.tensor([0, 0]))
    assert learned.loss.item() == pytest.approx(loss, rel=1e-6)
    assert (learned.loss.shape, learned.errors.shape, int(learned.errors)) == ((), (), 1)
    assert head.hand_on(h) is h


def test_loss_of_tokens_is_a_mean_over_positions() -> None:
    head = set_weights(ClassHead(spec(2, 3), classes=2, bias=False), [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    h = torch.tensor([LN3, 0.0, 7.0]).expand(2, 2, 3)  # probabilities 3/4 and 1/4 at each position
    learned = head(h, plain(2), torch.tensor([[0, 1], [0, 0]]))
    assert learned.loss.item() == pytest.approx((math.log(4 / 3) + math.log(4)) / 2 + math.log(4 / 3), rel=1e-6)
    assert (learned.errors.item(), learned.errors.shape) == (0.5, ())
    torch.testing.assert_close(head.score(h), torch.tensor([LN3, 0.0]).expand(2, 2, 2))


def test_linear_head_by_hand() -> None:
    head = ClassHead(spec(1, 2, 2), classes=2, pool=1, temperature=0.5)
    set_weights(head, [[1.0], [-1.0]], [0.0, 3.0])
    assert head.logits(torch.tensor([[[[1.0, 2.0], [3.0, 6.0]]]])).tolist() == [[6.0, 0.0]]  # the mean is 3
    head = ClassHead(spec(1, 1, 2), classes=2)
    set_weights(head, [[1.0, 10.0], [0.0, 1.0]], [0.5, 0.0])
    assert head.logits(torch.tensor([[[[1.0, 2.0]]]])).tolist() == [[21.5, 2.0]]


def test_a_head_that_starts_at_zero_knows_nothing() -> None:
    h = random(6, 4).float()
    head = ClassHead(spec(4), classes=3, zero=True, bias=False)
    assert head(h, plain(6), torch.arange(6) % 3).loss.item() == pytest.approx(6 * LN3, rel=1e-6)
    mlp = ClassHead(spec(4), classes=3, kind="mlp", zero=True)
    last = list(mlp.modules())[-1]
    assert isinstance(last, nn.Linear)
    assert not last.weight.any()
    assert torch.equal(mlp.logits(h), last.bias.expand(6, 3))
    assert last.bias.any()


@pytest.mark.parametrize(
    ("shape", "dim", "kernel", "left"),
    [
        ((2, 3, 3), 18, (1, 1), 18),
        ((128, 32, 32), 2048, (8, 8), 2048),  # vgg8b on CIFAR-10
        ((256, 32, 32), 2048, (16, 8), 2048),
        ((512, 16, 16), 2048, (8, 8), 2048),
        ((512, 4, 4), 2048, (2, 2), 2048),
        ((128, 28, 28), 1024, (16, 8), 1024),  # on MNIST: 2 x 4 places
        ((512, 7, 7), 1024, (8, 4), 1024),  # 1 x 2 places
        ((1, 3, 3), 4, (2, 2), 4),
        ((1, 3, 3), 6, (2, 1), 6),
        ((8, 2, 2), 4, (2, 2), 8),  # more channels than dim
        ((1, 2, 8), 2, (2, 2), 4),  # as high as the image
    ],
)
def test_kernel_that_leaves_few_values(shape: tuple[int, ...], dim: int, kernel: tuple[int, int], left: int) -> None:
    assert kernel_for(shape, dim) == kernel
    head = ClassHead(spec(*shape), classes=10, dim=dim)
    assert sum(p.numel() for p in head.parameters()) == left * 10 + 10
    assert head.logits(torch.zeros(1, *shape)).shape == (1, 10)


def test_zeros_around_an_image_count_in_its_averages() -> None:
    head = ClassHead(spec(1, 3, 3), classes=4, dim=4, bias=False)
    set_weights(head, torch.eye(4))
    assert head.logits(torch.ones(1, 1, 3, 3)).tolist() == [[0.25, 0.5, 0.5, 1.0]]


@pytest.mark.parametrize(
    ("side", "parts"), [((8, 8), (2, 2)), ((7, 7), (2, 2)), ((28, 14), (7, 4)), ((5, 6), (3, 3)), ((1, 1), (2, 2))]
)
def test_average_is_the_adaptive_one(side: tuple[int, int], parts: tuple[int, int]) -> None:
    images = random(2, 3, *side)
    torch.testing.assert_close(AverageTo(images.shape[2:], *parts)(images), adaptive_avg_pool2d(images, parts))


def test_similarity_of_rows_by_hand() -> None:
    # Centred: (-1, 0, 1), (1, -1, 0) and (-2, 0, 2).
    rows = torch.tensor([[1.0, 2.0, 3.0], [3.0, 1.0, 2.0], [2.0, 4.0, 6.0]])
    expected = torch.tensor([[1.0, -0.5, 1.0], [-0.5, 1.0, -0.5], [1.0, -0.5, 1.0]])
    torch.testing.assert_close(similarity_matrix(rows), expected)
    assert similarity_matrix(rows).max() <= 1
    # With 3 classes, equal one-hot labels have a similarity of 1 and others of -1/2.
    assert similarity_loss(rows, torch.tensor([0, 1, 0]), 3).item() == pytest.approx(0, abs=1e-12)
    # The second and third differ by 1.5 from the first's 1 and -1/2: four entries of nine.
    assert similarity_loss(rows, torch.tensor([0, 0, 1]), 3).item() == pytest.approx(4 * 1.5**2 / 9, rel=1e-6)


def test_similarity_of_images_is_that_of_their_deviations() -> None:
    deviations = torch.tensor([[1.0, 2.0, 3.0, 6.0], [6.0, 3.0, 2.0, 1.0]])
    images = torch.stack([deviations, -deviations], 2).view(2, 4, 1, 2) + 5
    torch.testing.assert_close(similarity_matrix(images), similarity_matrix(deviations))
    for few in (images[:, :3], images[:, :, :, :1]):  # up to 3 channels, or one pixel: as a flat row
        torch.testing.assert_close(similarity_matrix(few), similarity_matrix(few.flatten(1)))


def test_a_row_without_contrast_resembles_nothing() -> None:
    rows = torch.tensor([[2.0, 2.0], [0.0, 1.0]], requires_grad=True)
    matrix = similarity_matrix(rows)
    assert matrix[0].tolist() == [0.0, 0.0]
    (gradient,) = torch.autograd.grad(matrix.sum(), rows)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("beta", [0.25, 1.0])
def test_loss_is_shared_between_cross_entropy_and_similarity(beta: float) -> None:
    head = ClassHead(spec(3), classes=3, bias=False, similarity=beta)
    set_weights(head, torch.zeros(3, 3), torch.eye(3))
    rows = torch.tensor([[1.0, 2.0, 3.0], [3.0, 1.0, 2.0], [2.0, 4.0, 6.0]])
    learned = head(rows, plain(3), torch.tensor([0, 0, 1]))
    # The mean cross-entropy is ln 3, and the similarity loss 1, both times 3 examples.
    assert learned.loss.item() == pytest.approx(3 * ((1 - beta) * LN3 + beta), rel=1e-6)


def test_similarity_of_channels_comes_from_a_convolution() -> None:
    head = ClassHead(spec(4, 3, 3), classes=2, kind="groups", similarity=1.0)
    assert isinstance(head.projection, nn.Conv2d)
    nn.init.dirac_(head.projection.weight)
    images = random(3, 4, 3, 3).float()
    labels = torch.tensor([0, 1, 1])
    expected = 3 * similarity_loss(images, labels, 2)
    torch.testing.assert_close(head(images, plain(3), labels).loss, expected)


HEADS: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "linear": ((6,), {}),
    "pooled": ((4, 5, 5), {"pool": 3, "temperature": 0.7}),
    "dim": ((4, 5, 5), {"dim": 24, "smoothing": 0.1}),
    "tokens": ((4, 3), {"smoothing": 0.1}),
    "groups": ((4, 2, 3), {"kind": "groups"}),
    "groups-squared": ((4, 2, 3), {"kind": "groups-squared", "temperature": 2.0}),
    "mlp": ((2, 4, 4), {"kind": "mlp", "hidden": 3, "depth": 1, "convolutions": 1}),
    "predsim": ((5,), {"similarity": 0.6}),
    "predsim of images": ((4, 3, 3), {"similarity": 0.6, "pool": 1}),
}


def labels_of(shape: tuple[int, ...], batch: int) -> Tensor:
    count = shape[0] if len(shape) == 2 else 1
    labels = torch.arange(batch * count) % 2
    return labels.view(batch, count) if len(shape) == 2 else labels


@pytest.mark.parametrize("head", only(list(HEADS)[::2], HEADS))
def test_gradients_are_those_of_finite_differences(head: str) -> None:
    shape, arguments = HEADS[head]
    torch.manual_seed(0)
    made = ClassHead(RowSpec(shape, torch.float64), classes=2, **arguments).double()
    h = random(4, *shape).requires_grad_()
    labels = labels_of(shape, 4)
    names = [name for name, _ in made.named_parameters()]

    def loss(rows: Tensor, *parameters: Tensor) -> Tensor:
        learned = torch.func.functional_call(made, dict(zip(names, parameters, strict=True)), (rows, plain(4), labels))
        value: Tensor = learned.loss
        return value

    assert torch.autograd.gradcheck(loss, (h, *made.parameters()))


@pytest.mark.parametrize(("shape", "arguments"), HEADS.values(), ids=HEADS)
def test_a_head_is_built_on_meta_and_under_autocast(shape: tuple[int, ...], arguments: dict[str, Any]) -> None:
    torch.manual_seed(0)
    head = ClassHead(spec(*shape), classes=2, **arguments)
    with torch.device("meta"):
        described = ClassHead(spec(*shape), classes=2, **arguments)
    assert {name: value.shape for name, value in described.state_dict().items()} == {
        name: value.shape for name, value in head.state_dict().items()
    }
    assert all(value.is_meta for value in described.state_dict().values())
    h = random(8, *shape).float()
    assert described.logits(h.to("meta")).shape == head.logits(h).shape
    exact = head(h, plain(8), labels_of(shape, 8))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        learned = head(h.bfloat16(), plain(8), labels_of(shape, 8))
        assert head.score(h.bfloat16()).dtype == torch.float32
    assert learned.loss.dtype == torch.float32
    torch.testing.assert_close(learned.loss, exact.loss, rtol=0.05, atol=0.05)


def test_similarities_are_not_rounded_under_autocast() -> None:
    rows = random(4, 7).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under_autocast = similarity_matrix(rows)
    assert torch.equal(under_autocast, similarity_matrix(rows))


def test_parameters_come_from_the_default_generator() -> None:
    def make(seed: int) -> list[Tensor]:
        torch.manual_seed(seed)
        head = ClassHead(spec(4, 8, 8), classes=3, kind="mlp", similarity=0.5)
        return [value.clone() for value in head.parameters()]

    once, again, other = make(1), make(1), make(2)
    assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(once, other, strict=True))


def parameters(*shape: int, **arguments: Any) -> int:
    return sum(p.numel() for p in ClassHead(spec(*shape), classes=10, **arguments).parameters())


@pytest.mark.parametrize(
    ("shape", "arguments", "count"),
    [
        # Mono-Forward's maps behind the pools of its convolutional network, and on the image.
        ((64, 16, 16), {"bias": False}, 163_840),
        ((3, 32, 32), {"bias": False}, 30_720),
    ],
)
def test_published_sizes(shape: tuple[int, ...], arguments: dict[str, Any], count: int) -> None:
    with torch.device("meta"):
        assert parameters(*shape, **arguments) == count


def test_published_sizes_of_predsim() -> None:
    with torch.device("meta"):
        vgg8b = [(128, 32), (256, 32), (256, 16), (512, 16), (512, 8), (512, 4)]
        # A weight of a similarity convolution is used at each pixel, the biggest part of the cost: 1,699 million.
        heads = [(ClassHead(spec(c, s, s), classes=10, dim=2048, similarity=0.99), s) for c, s in vgg8b]
    convolutions = [(head.projection, side) for head, side in heads]
    products = sum(sum(p.numel() for p in f.parameters()) * side**2 for f, side in convolutions if f is not None)
    assert round(products / 1e6) == 1699


def test_depth_and_width_of_the_perceptron() -> None:
    # 5 -> 4 -> 4 -> 10, with a scale and a shift for each hidden unit.
    assert parameters(5, kind="mlp", hidden=4, depth=2) == (20 + 4 + 8) + (16 + 4 + 8) + 50
    assert parameters(5, kind="mlp", depth=0, bias=False) == 50


def test_a_head_learns_from_examples_with_labels() -> None:
    head = ClassHead(spec(4), classes=2)
    with pytest.raises(UserError, match="no labels to learn from"):
        head(torch.zeros(2, 4), plain(2), None)
    with pytest.raises(ValueError, match="not in tuple"):
        head(torch.zeros(2, 4), RowLayout(batch=1, learning=PAIRS), torch.tensor([0]))
    h, labels = random(4, 4).float(), torch.tensor([0, 1])
    layout = RowLayout(batch=2, learning=(EXAMPLES,), passing=(NEUTRAL,))
    assert torch.equal(head(h, layout, labels).loss, head(h[:2], plain(2), labels).loss)


@pytest.mark.parametrize(
    ("shape", "arguments", "message"),
    [
        ((2, 2, 2, 2), {}, r"rows are 2x2x2x2 float32: give vectors \(F,\)"),
        ((), {}, "rows are scalar float32"),
        ((4,), {"kind": "group"}, "kind is 'group': did you mean 'groups'"),
        ((4,), {"classes": 1}, "classes is 1: give 2 or more"),
        ((4, 2), {"kind": "groups"}, r"kind 'groups' does not read tokens \(4x2 float32\): give 'linear'"),
        ((4, 2), {"kind": "mlp"}, "kind 'mlp' does not read tokens"),
        ((100, 2, 2), {"kind": "groups", "classes": 7}, "100 channels do not make 7 equal groups: give 98 or 105"),
        ((5,), {"kind": "groups-squared", "classes": 7}, "5 channels do not make 7 equal groups: give 7 channels"),
        ((4,), {"kind": "groups", "zero": True}, "no weights that could start at zero"),
        ((4,), {"pool": 1}, "pool and dim are for kind 'linear' of images, not for 'linear' of 4 float32"),
        ((4, 2, 2), {"dim": 4, "kind": "mlp"}, "pool and dim are for kind 'linear' of images, not for 'mlp'"),
        ((4, 2, 2), {"dim": 4, "pool": 1}, "pool is 1 and dim is 4: give one of both, positive, or 0 for both"),
        ((4, 2, 2), {"pool": -1}, "pool is -1"),
        ((4, 2, 2), {"dim": -1}, "dim is -1"),
        ((4,), {"kind": "mlp", "depth": -1}, "hidden, depth, convolutions are 0, -1, 3: give 0 or more"),
        ((4,), {"hidden": 8, "depth": 4}, "kind 'linear' of rows 4 float32 has no hidden and no depth: leave it out"),
        ((4, 2, 2), {"convolutions": 1}, "kind 'linear' of rows 4x2x2 float32 has no convolutions"),
        ((4, 2, 2), {"kind": "groups", "hidden": 8, "bias": False}, "kind 'groups' of .* has no hidden and no bias"),
        ((4,), {"kind": "mlp", "convolutions": 1}, "kind 'mlp' of rows 4 float32 has no convolutions"),
        ((4,), {"kind": "mlp", "hidden": 8, "depth": 0}, "kind 'mlp' of rows 4 float32 has no hidden"),
        ((4,), {"temperature": 0.0}, "temperature is 0: give a positive number"),
        ((4,), {"smoothing": 1.0}, r"smoothing is 1: give 0 \(none\) to less than 1"),
        ((4,), {"similarity": 1.5}, r"similarity is 1.5 for rows 4 float32: give 0 \(none\) to 1"),
        ((4, 2), {"similarity": 0.5}, "similarity is 0.5 for rows 4x2 float32: give 0: it does not compare tokens"),
    ],
)
def test_what_does_not_fit(shape: tuple[int, ...], arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ClassHead(spec(*shape), **{"classes": 2, **arguments})


def test_an_image_that_is_smaller_than_the_pool_is_read_as_it_is() -> None:
    head = ClassHead(spec(4, 3, 2), classes=2, pool=3)
    assert [parameter.shape for parameter in head.parameters()] == [(2, 4 * 3 * 2), (2,)]

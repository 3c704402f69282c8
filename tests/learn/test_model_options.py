"""Options of a model's function: converted by its annotations or defaults, and refused where they do not fit."""

from __future__ import annotations

import typing
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import pytest
from torch import nn
from user_code import refused

from ffpipe.learn.items import call


def takes(
    width: int,
    *,
    dropout: float = 0.0,
    bias: bool = True,
    kind: str = "a",
    widths: tuple[int, ...] = (),
    pair: tuple[int, int] = (1, 2),
    rates: list[float] | None = None,
    act: Literal["relu", "gelu"] = "relu",
    depth: int | None = None,
    size: int | str = 0,
    plain: Any = None,
    layers: list[int] = [],  # noqa: B006
    order: Sequence[int] = (),
    old: typing.Sequence = (),  # type: ignore[type-arg]
    listed: typing.List = [],  # type: ignore[type-arg]  # noqa: B006, UP006
    pairs: typing.Tuple = (),  # type: ignore[type-arg]  # noqa: UP006
    bare_list: list = [],  # type: ignore[type-arg]  # noqa: B006
    bare_tuple: tuple = (),  # type: ignore[type-arg]
    bare_rows: Iterable = (),  # type: ignore[type-arg]
) -> list[Any]:
    values = {key: value for key, value in locals().items() if key != "width"}
    return [lambda: {"width": width, **values}]


HALF = [0.5]


# No annotation says anything here: the defaults do.
def bare(width, count=3, flag=False, shape=(3, 3), name=None, rates=HALF, names=("a", "b"), none=()):  # type: ignore[no-untyped-def]
    values = dict(locals())
    return [lambda: values]


CONVERTED: list[tuple[str, Any, Any]] = [
    ("width", "12", 12),
    ("width", 12, 12),
    ("dropout", "0.5", 0.5),
    ("bias", "False", False),
    ("bias", "1", True),
    ("bias", False, False),
    ("kind", "12", "12"),
    ("kind", 12, "12"),
    ("kind", True, "true"),
    ("size", 3, 3),
    ("widths", "1, 2", (1, 2)),
    ("widths", "", ()),
    ("widths", (4, 5), (4, 5)),
    ("pair", "3,4", (3, 4)),
    ("rates", "0.5,1", [0.5, 1.0]),
    ("rates", "none", None),
    ("act", "gelu", "gelu"),
    ("depth", "3", 3),
    ("depth", "None", None),
    ("size", "3", 3),
    ("size", "big", "big"),
    ("plain", "3", "3"),
    ("plain", (3, 4), (3, 4)),
    ("layers", "48,32", [48, 32]),
    ("widths", [48, 32], (48, 32)),
    ("widths", ("48", "32"), (48, 32)),
    ("order", "48,32", (48, 32)),
    ("rates", (0.5, 1), [0.5, 1]),
    ("old", "1", (1,)),
    ("listed", "1,0.5,a", [1, 0.5, "a"]),
    ("pairs", "1,2", (1, 2)),
    ("bare_list", "1,2", [1, 2]),
    ("bare_tuple", "1", (1,)),
    ("bare_rows", (1, 2.5), (1, 2.5)),
    ("dropout", 1, 1),
    ("bias", 0, False),
    ("depth", None, None),
]


@pytest.mark.parametrize(("option", "given", "value"), CONVERTED)
def test_options_are_converted(option: str, given: Any, value: Any) -> None:
    [item] = call(takes, {"width": 1, option: given}, "takes")
    got = item()[option]
    assert (got, type(got)) == (value, type(value))


BARE: list[tuple[str, Any, Any]] = [
    ("width", "4", "4"),
    ("count", "4", 4),
    ("count", "4.5", 4.5),
    ("flag", "true", True),
    ("shape", "5,5", (5, 5)),
    ("name", "5", "5"),
    ("rates", "1,.5", [1.0, 0.5]),
    ("names", "c,d", ("c", "d")),
    ("none", "3,d", (3, "d")),
]


@pytest.mark.parametrize(("option", "given", "value"), BARE)
def test_options_without_an_annotation_are_as_their_defaults(option: str, given: Any, value: Any) -> None:
    [item] = call(bare, {"width": 1, option: given}, "bare")
    got = item()[option]
    assert (got, type(got)) == (value, type(value))


WRONG_OPTIONS: list[tuple[dict[str, Any], str]] = [
    (
        {"width": 1, "widht": 2},
        "takes does not take the option 'widht': it takes width, dropout, bias, kind, widths, pair, rates, act, depth, "
        "size, plain, layers, order, old, listed, pairs, bare_list, bare_tuple, bare_rows; did you mean 'width'?",
    ),
    ({}, "takes needs the option width: give --training.model-options width=VALUE; it takes width, dropout, "),
    ({"width": "12.5"}, "takes: the option width is '12.5', expected int"),
    ({"width": "9" * 5000}, "expected int"),
    ({"width": 1, "dropout": "half"}, "takes: the option dropout is 'half', expected float"),
    ({"width": 1, "bias": "yes"}, "takes: the option bias is 'yes', expected bool (true or false)"),
    ({"width": 1, "widths": "1,b"}, "takes: the option widths is '1,b', expected tuple[int, ...] (such as 1,2,3)"),
    ({"width": 1, "pair": "1,2,3"}, "takes: the option pair is '1,2,3', expected tuple[int, int]"),
    ({"width": 1, "act": "tanh"}, "takes: the option act is 'tanh', expected Literal['relu', 'gelu']"),
    ({"width": 1, "rates": "fast"}, "takes: the option rates is 'fast', expected list[float] | None"),
    ({"width": 2.5}, "takes: the option width is 2.5, expected int"),
    ({"width": True}, "takes: the option width is True, expected int"),
    ({"width": 1, "bias": 2}, "takes: the option bias is 2, expected bool (true or false)"),
    ({"width": 1, "depth": 2.5}, "takes: the option depth is 2.5, expected int | None"),
    ({"width": 1, "kind": ("a",)}, "takes: the option kind is ('a',), expected str"),
    ({"width": 1, "widths": 64}, "takes: the option widths is 64, expected tuple[int, ...] (such as 1,2,3)"),
    ({"width": 1, "widths": (1, 2.5)}, "takes: the option widths is (1, 2.5), expected tuple[int, ...]"),
]


@pytest.mark.parametrize(("options", "says"), WRONG_OPTIONS)
def test_options_that_do_not_fit(options: dict[str, Any], says: str) -> None:
    assert says in refused(lambda: call(takes, options, "takes"))


def test_signatures() -> None:
    def anything(**options: Any) -> list[Any]:
        return [lambda: options]

    def nothing() -> list[Any]:
        return [nn.ReLU]

    async def later() -> list[Any]:
        return [nn.ReLU]

    def by_position(width: int, /) -> list[Any]:
        return [width]

    def for_checkers(width: int, device: Missing = None) -> list[Any]:  # type: ignore[name-defined] # noqa: F821
        return [lambda: (width, device)]

    assert call(anything, {"a": "1"}, "anything")[0]() == {"a": "1"}
    assert call(for_checkers, {"width": "3", "device": "cpu"}, "x")[0]() == (3, "cpu")
    assert refused(lambda: call(nothing, {"a": 1}, "my")) == "my does not take the option 'a': it takes none"
    assert refused(lambda: call(later, {}, "my")) == "my is a coroutine: define it with def, not with async def"
    assert "my takes width by position" in refused(lambda: call(by_position, {"width": 1}, "my"))
    assert "my does not say which options it takes" in refused(lambda: call(max, {}, "my"))
    assert "my is of type int and not a function" in refused(lambda: call(3, {}, "my"))
    assert "my is of type ReLU and not a function" in refused(lambda: call(nn.ReLU(), {}, "my"))
